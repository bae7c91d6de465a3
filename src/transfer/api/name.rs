//! The name of a directory's entry on its way through JSON: any bytes, because directories of others hold any.
//!
//! Not a path: nothing may be written under it before [`crate::dag::path`] has looked at it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name that survives JSON even when it is not UTF-8: a string where it is, else `{"hex": …}` of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WireName(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Hex { hex: String },
}

impl Serialize for WireName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Hex { hex: data_encoding::HEXLOWER.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for WireName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into_bytes())),
            Form::Hex { hex } => {
                data_encoding::HEXLOWER.decode(hex.as_bytes()).map(Self).map_err(serde::de::Error::custom)
            }
        }
    }
}

impl std::fmt::Display for WireName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_survive_json() {
        for (name, json) in [(&b"a b"[..], r#""a b""#), (b"", r#""""#), (b"a\xff", r#"{"hex":"61ff"}"#)] {
            let name = WireName(name.to_vec());
            assert_eq!(serde_json::to_string(&name).unwrap(), json);
            assert_eq!(serde_json::from_str::<WireName>(json).unwrap(), name);
        }
        assert!(serde_json::from_str::<WireName>(r#"{"hex":"6"}"#).is_err());
    }
}
