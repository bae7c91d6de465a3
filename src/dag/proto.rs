//! The little of protobuf that dag-pb and UnixFS need: fields in, fields out, nothing copied.
//!
//! Not a protobuf library: no schema, no groups. Varints may be longer than needed, because Go and JavaScript read such
//! blocks too and their CIDs are over the bytes as they are; what we write is always minimal.

use bytes::Bytes;

use crate::block::push_varint;

/// One field's value.
#[derive(Debug)]
pub(super) enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, which nothing here uses but unknown fields may.
    Fixed64,
    /// Wire type 2, a slice of the message.
    Bytes(Bytes),
    /// Wire type 5.
    Fixed32(u32),
}

/// Takes fields off the front of a message.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
}

const CUT_SHORT: &str = "a field is cut short";

impl Reader {
    pub(super) fn new(bytes: &Bytes) -> Self {
        Self { bytes: bytes.clone() }
    }

    /// The next field's number and value, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value)>, &'static str> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)?;
                Value::Bytes(self.take(length)?)
            }
            5 => match *self.take(4)? {
                [a, b, c, d] => Value::Fixed32(u32::from_le_bytes([a, b, c, d])),
                _ => return Err(CUT_SHORT),
            },
            _ => return Err("a field has an unknown wire type"),
        };
        match key >> 3 {
            0 => Err("a field has the number 0"),
            field => Ok(Some((field, value))),
        }
    }

    /// The next bare varint (of a packed list), or `None` at the end.
    pub(super) fn next_varint(&mut self) -> Result<Option<u64>, &'static str> {
        if self.bytes.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, &'static str> {
        if length > self.bytes.len() {
            return Err(CUT_SHORT);
        }
        Ok(self.bytes.split_to(length))
    }

    /// Up to ten bytes, as protobuf has it: negative int64 values need all of them.
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for (i, &byte) in self.bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if i == 9 && bits > 1 {
                return Err("a varint does not fit 64 bits");
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                let _ = self.bytes.split_to(i + 1);
                return Ok(value);
            }
        }
        Err("a varint is cut short or too long")
    }
}

/// Appends a varint field.
pub(super) fn push_number(out: &mut Vec<u8>, field: u64, value: u64) {
    push_varint(out, field << 3);
    push_varint(out, value);
}

/// Appends a length-delimited field.
pub(super) fn push_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// How many bytes `value` takes as a varint.
pub(super) const fn varint_bytes(value: u64) -> u64 {
    let bits = u64::BITS - value.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(7) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_of_ten_bytes_hold_64_bits_and_no_more() {
        let read = |bytes: &[u8]| Reader::new(&Bytes::copy_from_slice(bytes)).next_varint();
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(read(&max), Ok(Some(u64::MAX)));
        max[9] = 2;
        assert!(read(&max).is_err());
        assert_eq!(read(&[0x80, 0x00]), Ok(Some(0)));
        assert!(read(&[0x80]).is_err());
        assert!(read(&[0x80; 11]).is_err());
    }

    #[test]
    fn fields_never_reach_beyond_the_message() {
        let next = |bytes: &[u8]| Reader::new(&Bytes::copy_from_slice(bytes)).next().map(|_| ());
        assert!(next(&[0x0a, 0x02, 1]).is_err());
        assert!(next(&[0x0a, 0x02, 1, 2]).is_ok());
        assert!(next(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
        assert!(next(&[0x0d, 1, 2, 3]).is_err());
        assert!(next(&[0x09, 1, 2, 3, 4, 5, 6, 7]).is_err());
        assert!(next(&[0x0b]).is_err());
        assert!(next(&[0x00, 0x00]).is_err());
    }

    #[test]
    fn the_length_of_a_varint_is_the_length_written() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            push_varint(&mut out, value);
            assert_eq!(out.len() as u64, varint_bytes(value));
        }
    }
}
