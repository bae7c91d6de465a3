//! A CID and a path below it, as the user gives them: `CID/a/b`, `/ipfs/CID/a/b`, `ipfs://CID/a/b`.

use crate::block::{BlockError, Cid, parse_cid};

/// Why a text is no path to something in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIpfsPath {
    /// It does not begin with a CID.
    #[error(transparent)]
    Cid(#[from] BlockError),
    /// `.` or `..` in it.
    #[error("{0:?} has a `.` or `..` in it; give the path from the CID down")]
    Dots(String),
    /// An escape in a URL that is none.
    #[error("{0:?} has a % without two hexadecimal digits behind it; a % in a name is %25 in a URL")]
    Escape(String),
    /// `?` or `#` in a URL.
    #[error("{0:?} has a query or a fragment, which nothing here knows; in a name write %3F for ? and %23 for #")]
    Query(String),
    /// A name with a slash or a zero byte.
    #[error("{0:?} asks for a name with a slash or a zero byte in it, which cannot be")]
    Name(String),
}

/// Reads a CID, in the forms that [`parse_cid`] takes, and the names that lead down from it.
///
/// Names are compared byte by byte with those of the tree. Only after `ipfs://` are they percent-decoded, once
/// (protocols.md §3.10). Empty segments, as of a slash at the end, are nothing.
///
/// # Errors
/// [`BadIpfsPath`].
pub fn parse_ipfs_path(text: &str) -> Result<(Cid, Vec<Vec<u8>>), BadIpfsPath> {
    let (is_url, path) = match (text.strip_prefix("ipfs://"), text.strip_prefix("/ipfs/")) {
        (Some(path), _) => (true, path),
        (None, Some(path)) => (false, path),
        (None, None) => (false, text),
    };
    if is_url && path.contains(['?', '#']) {
        return Err(BadIpfsPath::Query(text.into()));
    }
    let (cid, below) = path.split_once('/').unwrap_or((path, ""));
    let cid = parse_cid(cid)?;
    let mut names = Vec::new();
    for segment in below.split('/').filter(|segment| !segment.is_empty()) {
        let name = if is_url {
            percent_decode(segment.as_bytes()).ok_or_else(|| BadIpfsPath::Escape(text.into()))?
        } else {
            segment.as_bytes().to_vec()
        };
        if matches!(name.as_slice(), b"." | b"..") {
            return Err(BadIpfsPath::Dots(text.into()));
        }
        if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(BadIpfsPath::Name(text.into()));
        }
        names.push(name);
    }
    Ok((cid, names))
}

/// None when a `%` stands without two hexadecimal digits behind it.
fn percent_decode(segment: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = segment.iter().copied();
    let mut out = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            _ => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn names(text: &str) -> Result<Vec<Vec<u8>>, BadIpfsPath> {
        let (cid, names) = parse_ipfs_path(&text.replace("CID", CID))?;
        assert_eq!(cid.to_string(), CID);
        Ok(names)
    }

    #[test]
    fn all_forms_lead_to_the_same_place() {
        for text in ["CID/a/b", "/ipfs/CID/a/b", "ipfs://CID/a/b", "CID/a/b/", "CID//a///b//", "ipfs://CID//%61/b/"] {
            assert_eq!(names(text).unwrap(), [b"a", b"b"], "{text}");
        }
        for text in ["CID", "CID/", "/ipfs/CID", "/ipfs/CID//", "ipfs://CID", "ipfs://CID/"] {
            assert_eq!(names(text).unwrap(), Vec::<Vec<u8>>::new(), "{text}");
        }
        let v0 = parse_ipfs_path("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n/x").unwrap();
        assert_eq!((v0.0.version(), v0.1), (cid::Version::V0, vec![b"x".to_vec()]));
    }

    #[test]
    fn only_urls_are_percent_decoded_and_once() {
        assert_eq!(names("CID/a%20b?c#d").unwrap(), [b"a%20b?c#d"]);
        assert_eq!(names("/ipfs/CID/100%").unwrap(), [b"100%"]);
        assert_eq!(names("ipfs://CID/a%20b%3Fc%2520").unwrap(), [b"a b?c%20"]);
        assert_eq!(names("ipfs://CID/%ff%C3%a9").unwrap(), [b"\xff\xc3\xa9"]);
        assert_eq!(names("ipfs://CID/\u{e9}+").unwrap(), ["\u{e9}+".as_bytes()]);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "",
            "/",
            "/CID",
            "/ipfs/",
            "/ipfs//CID",
            "ipfs://",
            "ipfs:///CID",
            "a/CID",
            "/ipns/CID",
            "IPFS://CID",
            "%62CID",
        ] {
            assert!(matches!(names(text), Err(BadIpfsPath::Cid(_))), "{text}");
        }
        for text in ["CID/.", "CID/..", "CID/a/../b", "ipfs://CID/%2e%2E", "ipfs://CID/a/%2e"] {
            assert!(matches!(names(text), Err(BadIpfsPath::Dots(_))), "{text}");
        }
        for text in ["ipfs://CID/%", "ipfs://CID/%4", "ipfs://CID/%zz", "ipfs://CID/%4/1", "ipfs://CID/%+1"] {
            assert!(matches!(names(text), Err(BadIpfsPath::Escape(_))), "{text}");
        }
        for text in ["ipfs://CID?x", "ipfs://CID/a?filename=b", "ipfs://CID/a#b"] {
            assert!(matches!(names(text), Err(BadIpfsPath::Query(_))), "{text}");
        }
        for text in ["ipfs://CID/a%2Fb", "ipfs://CID/%00", "CID/a\0"] {
            assert!(matches!(names(text), Err(BadIpfsPath::Name(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_url_can_ask_for_any_names(names in prop::collection::vec(prop::collection::vec(1_u8.., 1..6), 0..5)) {
            let allowed = |name: &Vec<u8>| !name.contains(&b'/') && !matches!(name.as_slice(), b"." | b"..");
            prop_assume!(names.iter().all(allowed));
            let encoded = |name: &Vec<u8>| name.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let url = format!("ipfs://{CID}/{}", names.iter().map(encoded).collect::<Vec<_>>().join("/"));
            prop_assert_eq!(parse_ipfs_path(&url).unwrap().1, names);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(ipfs://|/ipfs/)?(bafkqaaa)?[%/.a-f0-9\u{e9}?]{0,12}") {
            let _ = parse_ipfs_path(&text);
        }
    }
}
