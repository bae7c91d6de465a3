//! The key that all nodes of a private swarm share, and its file.
//!
//! Owns reading and writing the file (protocols.md §6): we take the three encodings and both line ends that Go takes,
//! and write one. It does not encrypt anything: `private` does.
//!
//! Invariant: no text that can reach a log or a screen holds the key or a part of it. [`SwarmKey`] shows itself only by
//! its fingerprint, the errors name a place in the file and never what stands there, and the only ways out are
//! [`SwarmKey::to_text`] and, for the cipher, the bytes.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use salsa20::Salsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use shake::{ExtendableOutput, Shake128, Update, XofReader};

/// The first line of every file.
const HEADER: &[u8] = b"/key/swarm/psk/1.0.0/";

/// Length of the key, in bytes (XSalsa20).
const KEY_BYTES: usize = 32;

/// Membership of a private swarm: 32 secret bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmKey([u8; KEY_BYTES]);

/// By what a node belongs to its private swarm: one key, or two while the swarm changes from one to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmKeys {
    /// The key that is dialled with.
    pub first: SwarmKey,
    /// One that is accepted too, and dialled with where the first is not taken.
    pub next: Option<SwarmKey>,
}

impl SwarmKeys {
    /// All of them, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SwarmKey> {
        std::iter::once(&self.first).chain(&self.next)
    }
}

impl From<SwarmKey> for SwarmKeys {
    fn from(first: SwarmKey) -> Self {
        Self { first, next: None }
    }
}

/// Why a file is not a swarm key. Never tells what the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SwarmKeyError {
    /// The first line is another one, or there is none.
    #[error("its first line has to be /key/swarm/psk/1.0.0/")]
    Header,
    /// The second line names no encoding that there is.
    #[error("its second line has to be /base16/, /base64/ or /bin/")]
    Encoding,
    /// The third line has characters which that encoding lacks, or half a byte.
    #[error("its third line is not written in the encoding that the second line names")]
    Text,
    /// The key is too short or too long.
    #[error("the key has to be {KEY_BYTES} bytes long (64 characters in base16) and is {0}")]
    Length(usize),
}

impl SwarmKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Reads a key file. Lines may end as on Windows, and white space may follow the key; Go takes anything after it, but
    /// a longer key is a mistake that its owner wants to hear of.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(file: &[u8]) -> Result<Self, SwarmKeyError> {
        let (header, rest) = split_line(file).ok_or(SwarmKeyError::Header)?;
        if header != HEADER {
            return Err(SwarmKeyError::Header);
        }
        let (encoding, rest) = split_line(rest).ok_or(SwarmKeyError::Encoding)?;
        let text = rest.trim_ascii_end();
        let key = match encoding {
            b"/base16/" => HEXLOWER_PERMISSIVE.decode(text).map_err(|_| SwarmKeyError::Text)?,
            b"/base64/" => {
                BASE64.decode(text).or_else(|_| BASE64_NOPAD.decode(text)).map_err(|_| SwarmKeyError::Text)?
            }
            // White space may be part of a binary key: only what follows the key is cut.
            b"/bin/" => match rest.split_at_checked(KEY_BYTES) {
                Some((key, tail)) if tail.trim_ascii().is_empty() => key.to_vec(),
                Some(_) | None => return Err(SwarmKeyError::Length(rest.len())),
            },
            _ => return Err(SwarmKeyError::Encoding),
        };
        <[u8; KEY_BYTES]>::try_from(key).map(Self).map_err(|key| SwarmKeyError::Length(key.len()))
    }

    /// The file in its usual form: base16, one line feed after each line. This is the secret itself.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", HEXLOWER.encode(&self.0))
    }

    /// Tells keys apart without giving them away: 32 hexadecimal characters, the same that Kubo prints.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut keystream = [0; 64];
        Salsa20::new(&self.0.into(), b"finprint".into()).apply_keystream(&mut keystream);
        let mut fingerprint = [0; 16];
        Shake128::default().chain(keystream).finalize_xof().read(&mut fingerprint);
        HEXLOWER.encode(&fingerprint)
    }

    /// The secret itself.
    pub(super) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SwarmKey").field(&self.fingerprint()).finish()
    }
}

/// The first line without its end, and what follows it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683";

    fn file(encoding: &str, key: &[u8]) -> Vec<u8> {
        let mut file = format!("/key/swarm/psk/1.0.0/\n/{encoding}/\n").into_bytes();
        file.extend_from_slice(key);
        file
    }

    #[test]
    fn the_fingerprint_is_kubos() {
        // The pair is the one that rust-libp2p checked against go-ipfs.
        let key = SwarmKey::parse(&file("base16", HEX.as_bytes())).unwrap();
        assert_eq!(key.fingerprint(), "45fc986bbc9388a11d939df26f730f0c");
    }

    #[test]
    fn the_three_encodings_and_both_line_ends_give_one_key() {
        let bytes = HEXLOWER.decode(HEX.as_bytes()).unwrap();
        let key = SwarmKey::parse(&file("base16", HEX.as_bytes())).unwrap();
        let windows = format!("/key/swarm/psk/1.0.0/\r\n/base16/\r\n{HEX}\r\n");
        for same in [
            file("base16", HEX.to_uppercase().as_bytes()),
            file("base64", BASE64.encode(&bytes).as_bytes()),
            file("base64", format!("{}\n", BASE64_NOPAD.encode(&bytes)).as_bytes()),
            file("bin", &bytes),
            file("bin", &[bytes.as_slice(), b"\r\n"].concat()),
            windows.into_bytes(),
            key.to_text().into_bytes(),
        ] {
            assert_eq!(SwarmKey::parse(&same), Ok(key.clone()));
        }
        assert_eq!(key.to_text(), format!("/key/swarm/psk/1.0.0/\n/base16/\n{HEX}\n"));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_key_is_not() {
        let bytes = HEXLOWER.decode(HEX.as_bytes()).unwrap();
        for (wrong, why) in [
            (Vec::new(), SwarmKeyError::Header),
            (HEX.as_bytes().to_vec(), SwarmKeyError::Header),
            (format!("{HEX}\n/base16/\n{HEX}\n").into_bytes(), SwarmKeyError::Header),
            (b"/key/swarm/psk/1.0.0/".to_vec(), SwarmKeyError::Header),
            (b"/key/swarm/psk/1.0.0/\n/base16/".to_vec(), SwarmKeyError::Encoding),
            (file("base58", HEX.as_bytes()), SwarmKeyError::Encoding),
            (file("base16", &HEX.as_bytes()[1..]), SwarmKeyError::Text),
            (file("base16", format!("x{}", &HEX[1..]).as_bytes()), SwarmKeyError::Text),
            (file("base16", &HEX.as_bytes()[2..]), SwarmKeyError::Length(31)),
            (file("base16", format!("{HEX}00").as_bytes()), SwarmKeyError::Length(33)),
            (file("base64", BASE64.encode(&bytes[1..]).as_bytes()), SwarmKeyError::Length(31)),
            (file("base16", b""), SwarmKeyError::Length(0)),
            (file("bin", &bytes[1..]), SwarmKeyError::Length(31)),
            (file("bin", &[bytes.as_slice(), b"x"].concat()), SwarmKeyError::Length(33)),
        ] {
            let error = SwarmKey::parse(&wrong).unwrap_err();
            assert_eq!(error, why);
            for shown in [format!("{error}"), format!("{error:?}")] {
                assert!(!shown.contains(&HEX[2..8]), "{shown}");
            }
        }
    }

    #[test]
    fn a_key_shows_itself_by_its_fingerprint() {
        let key = SwarmKey::parse(&file("base16", HEX.as_bytes())).unwrap();
        assert_eq!(format!("{key:?}"), "SwarmKey(\"45fc986bbc9388a11d939df26f730f0c\")");
    }

    #[test]
    fn generated_keys_differ_and_can_be_read_back() {
        let key = SwarmKey::generate();
        assert_ne!(key, SwarmKey::generate());
        assert_eq!(SwarmKey::parse(key.to_text().as_bytes()), Ok(key));
    }
}
