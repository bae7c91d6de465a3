//! From names in foreign directories to paths that are safe on this platform.
//!
//! A directory's entry may be called anything. What comes out of here is proof against that: a [`SafeName`] is one
//! component that names one plain file, a [`SafePath`] is made of nothing else, [`link_is_inside`] tells the symbolic
//! links that cannot lead out of the pulled tree, and [`Siblings`] finds the names that would meet in one file.
//! [`Select`] and [`parse_ipfs_path`] read what the user typed, and see the foreign names as they are.
//!
//! Everything is lexical. Whether a directory on the disk is really a directory, and whether its file system folds
//! case, is for whoever opens it; two names that are one to the file system, and not to [`Siblings`], end in a refusal
//! as long as files and directories are only ever made new.
//!
//! # Names on Windows
//!
//! What Windows cannot hold, or reads as something else, is replaced by `%` and two hexadecimal digits, byte by byte.
//! Decoding every such triple gives the foreign name back, so that different names stay different:
//!
//! | foreign | here | why |
//! |---|---|---|
//! | `a:b`, `x\y`, `<`, `>`, `"`, `\|`, `?`, `*`, bytes below 0x20 | `a%3Ab` … | streams, separators, wildcards |
//! | `x.`, `x ` | `x%2E`, `x%20` | the last dots and spaces vanish |
//! | `CON`, `nul.txt`, `COM1` … | `%43ON`, `%6Eul.txt`, `%43OM1` | devices, whatever their extension |
//! | `LONGNA~1.TXT` | `LONGNA%7E1.TXT` | may be the short name of another file |
//! | bytes that are not UTF-8 | `%FF` | names are UTF-16 |
//! | `100%25` | `100%2525` | or it would be read as an escape |

use std::fmt;
use std::path::{Path, PathBuf};

mod ipfs;
mod select;
mod siblings;

pub use ipfs::{BadIpfsPath, parse_ipfs_path};
pub use select::{BadGlob, Select};
pub use siblings::{BadSiblings, Siblings};

/// The longest name: bytes on Unix (`NAME_MAX` of all common file systems), UTF-16 units on Windows (NTFS and exFAT).
pub const NAME_UNITS_MAX: usize = 255;

/// The most directories in one another that are followed. Real trees end near 30; each level costs a call of the walk.
pub const DEPTH_MAX: usize = 256;

/// What the store puts behind a file's name until the file is complete.
const PART: &[u8] = b".part";

/// Whose names are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rules {
    /// Names are bytes without slash and NUL.
    Unix,
    /// Names are UTF-16 and full of traps. Whatever is safe here is safe by the other rules, too, but for its length.
    Windows,
}

/// Why an entry's name can have no place in a tree on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No name at all.
    #[error("an entry has an empty name")]
    Empty,
    /// `.` or `..`.
    #[error("an entry is called `.` or `..`, which lead out of its directory")]
    Dots,
    /// `/` in the name.
    #[error("an entry has a slash in its name")]
    Slash,
    /// A zero byte in the name.
    #[error("an entry has a zero byte in its name")]
    Nul,
    /// Longer than [`NAME_UNITS_MAX`] once it is mapped.
    #[error("an entry's name is longer than the {NAME_UNITS_MAX} {} that a file's name can have", .0.unit())]
    TooLong(Rules),
}

/// Why a path of good names is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// More than [`DEPTH_MAX`] components.
    #[error("directories are nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Longer than [`Rules::path_units_max`].
    #[error("a path is longer than {} {}; pull to a folder with a shorter one", .0.path_units_max(), .0.unit())]
    TooLong(Rules),
}

/// One component of a path: never empty, never `.` or `..`, and by its rules one plain name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafeName {
    bytes: Box<[u8]>,
    rules: Rules,
}

/// A relative path of [`SafeName`]s; the empty one is the root of the pulled tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath {
    /// Joined by slashes, which no name holds.
    bytes: Vec<u8>,
    depth: usize,
    rules: Rules,
}

impl Rules {
    /// Those of the platform that this was built for.
    #[must_use]
    pub const fn native() -> Self {
        if cfg!(windows) { Self::Windows } else { Self::Unix }
    }

    /// The name on disk of an entry called `name`. Different names have different results.
    ///
    /// # Errors
    /// [`BadName`]; nothing can be done about it, the directory that holds it cannot be pulled.
    pub fn component(self, name: &[u8]) -> Result<SafeName, BadName> {
        match name {
            [] => return Err(BadName::Empty),
            b"." | b".." => return Err(BadName::Dots),
            _ if name.contains(&b'/') => return Err(BadName::Slash),
            _ if name.contains(&0) => return Err(BadName::Nul),
            // A UTF-16 unit takes three bytes at most, and mapping makes nothing shorter.
            _ if name.len() > 3 * NAME_UNITS_MAX => return Err(BadName::TooLong(self)),
            _ => {}
        }
        let bytes: Box<[u8]> = match self {
            Self::Unix => name.into(),
            Self::Windows => escape_for_windows(name).into_bytes().into(),
        };
        if self.units(&bytes) > NAME_UNITS_MAX {
            return Err(BadName::TooLong(self));
        }
        Ok(SafeName { bytes, rules: self })
    }

    /// The longest path that the system takes: `PATH_MAX` without its NUL; with `\\?\`, which the standard library puts
    /// in front of long paths, as many as a `UNICODE_STRING` can have, without prefix and NUL.
    #[must_use]
    pub const fn path_units_max(self) -> usize {
        match self {
            Self::Unix => 4095,
            Self::Windows => 32_762,
        }
    }

    /// What the limits count.
    const fn unit(self) -> &'static str {
        match self {
            Self::Unix => "bytes",
            Self::Windows => "UTF-16 units",
        }
    }

    /// Length in [`Self::unit`]s; bytes that are not UTF-8 count one or more.
    fn units(self, bytes: &[u8]) -> usize {
        match self {
            Self::Unix => bytes.len(),
            Self::Windows => String::from_utf8_lossy(bytes).encode_utf16().count(),
        }
    }
}

impl SafeName {
    /// UTF-8 by the rules of Windows, any bytes by those of Unix.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl SafePath {
    /// The root of a pulled tree, to join names onto.
    #[must_use]
    pub const fn root(rules: Rules) -> Self {
        Self { bytes: Vec::new(), depth: 0, rules }
    }

    /// The path of the entry `name` in this directory.
    ///
    /// # Errors
    /// [`BadPath`]. The limits hold for the relative path alone; see [`Self::fits_below`].
    ///
    /// # Panics
    /// When the name was made by other rules, which is a bug.
    pub fn join(&self, name: &SafeName) -> Result<Self, BadPath> {
        assert!(name.rules == self.rules, "one path has one set of rules");
        if self.depth == DEPTH_MAX {
            return Err(BadPath::TooDeep);
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + 1 + name.bytes.len());
        bytes.extend_from_slice(&self.bytes);
        if self.depth > 0 {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.bytes);
        if self.rules.units(&bytes) > self.rules.path_units_max() {
            return Err(BadPath::TooLong(self.rules));
        }
        Ok(Self { bytes, depth: self.depth + 1, rules: self.rules })
    }

    /// The directory that it lies in; none of the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        let end = self.bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self { bytes: self.bytes[..end].to_vec(), depth, rules: self.rules })
    }

    /// Whether `folder` is one of the directories that it lies in.
    fn is_below(&self, folder: &Self) -> bool {
        let rest = self.bytes.strip_prefix(folder.bytes.as_slice());
        folder.depth == 0 || rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// Where this is on disk when the tree's root is `target`. It is always `target` itself or below it.
    ///
    /// # Panics
    /// On Windows for paths made by the rules of Unix, which is a bug.
    #[must_use]
    pub fn join_onto(&self, target: &Path) -> PathBuf {
        assert!(self.rules == Rules::Windows || Rules::native() == Rules::Unix, "these names are not safe on Windows");
        let mut path = target.to_path_buf();
        path.extend(self.components().map(os_str));
        path
    }

    /// Checks that the path has a length that the system takes when the tree's root is `target`, for a file also while
    /// it is a part.
    ///
    /// # Errors
    /// [`BadPath::TooLong`].
    pub fn fits_below(&self, target: &Path) -> Result<(), BadPath> {
        let above = self.rules.units(target.as_os_str().as_encoded_bytes());
        let units = above + 1 + self.rules.units(&self.bytes) + PART.len();
        if units > self.rules.path_units_max() { Err(BadPath::TooLong(self.rules)) } else { Ok(()) }
    }

    /// Its names' bytes from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|byte| *byte == b'/').take(self.depth)
    }

    /// How many names it has.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }
}

/// Control characters, and bytes that are no characters, are escaped: a name must not steer the user's terminal.
impl fmt::Display for SafeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.bytes, f)
    }
}

/// As [`SafeName`]'s, with slashes.
impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.bytes, f)
    }
}

impl fmt::Debug for SafeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafeName({self})")
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafePath({self})")
    }
}

/// Whether a symbolic link at `at` (the link's own path) with this target stays in the tree, as far as the target's
/// text tells, by the rules of `at`.
///
/// The target must be relative and not climb above the root. A `..` behind a name counts only where `is_folder` knows
/// that what was named is a directory of the tree: `..` of a link is anywhere. Its names must be such that they name
/// themselves, so that on Windows nothing that is mapped, such as a backslash or a drive, can be in it. If all links of a
/// tree are inside, no path through them leaves the tree. A link may dangle, or point to a sibling that had to be renamed.
#[must_use]
pub fn link_is_inside(at: &SafePath, target: &[u8], is_folder: &dyn Fn(&SafePath) -> bool) -> bool {
    let rules = at.rules;
    if target.is_empty() || target.starts_with(b"/") || rules.units(target) > rules.path_units_max() {
        return false;
    }
    let Some(mut here) = at.parent() else { return false };
    let mut descended = false;
    for segment in target.split(|byte| *byte == b'/') {
        let next = match segment {
            b"" | b"." => continue,
            b".." if descended && !at.is_below(&here) && !is_folder(&here) => None,
            b".." => here.parent(),
            name => {
                descended = true;
                let safe = rules.component(name).ok().filter(|safe| safe.as_bytes() == name);
                safe.and_then(|safe| here.join(&safe).ok())
            }
        };
        let Some(next) = next else { return false };
        here = next;
    }
    true
}

/// The mapping of the table above, of a name that is not empty.
fn escape_for_windows(name: &[u8]) -> String {
    let device = is_device(name);
    let last = name.len() - 1;
    let mut out = String::with_capacity(name.len());
    let mut start = 0;
    for chunk in name.utf8_chunks() {
        for (i, c) in chunk.valid().char_indices() {
            let at = start + i;
            let escaped = match c {
                '\0'..='\x1f' | '<' | '>' | ':' | '"' | '\\' | '|' | '?' | '*' => true,
                // Windows drops all of them at the end; when the last is none, the others are not at the end.
                '.' | ' ' => at == last,
                '%' => name.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)),
                _ => at == 0 && device,
            };
            if escaped { push_escape(&mut out, c as u32) } else { out.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| push_escape(&mut out, u32::from(*byte)));
        start += chunk.valid().len() + chunk.invalid().len();
    }
    if let Some(tilde) = short_name_tilde(&out) {
        out.replace_range(tilde..=tilde, "%7E");
    }
    out
}

fn push_escape(out: &mut String, byte: u32) {
    out.push_str(&format!("%{byte:02X}"));
}

/// Whether Windows opens a device, not a file, by this name: up to the first dot, without regard to case or to spaces
/// before the dot (`CON .txt`). Superscript digits count as digits; `CLOCK$` is one of old versions only.
fn is_device(name: &[u8]) -> bool {
    let base = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    match base.trim_ascii_end().to_ascii_uppercase().as_slice() {
        b"CON" | b"PRN" | b"AUX" | b"NUL" | b"CONIN$" | b"CONOUT$" | b"CLOCK$" => true,
        [b'C', b'O', b'M', number @ ..] | [b'L', b'P', b'T', number @ ..] => {
            matches!(number, [b'0'..=b'9'] | [0xc2, 0xb2 | 0xb3 | 0xb9])
        }
        _ => false,
    }
}

/// Where the tilde is in a name that has the form of a generated short name: at most 8 + 3 characters, the base of
/// which ends with a tilde and digits. To open it may open a sibling with a longer name.
fn short_name_tilde(name: &str) -> Option<usize> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let (before, digits) = base.rsplit_once('~')?;
    let short = base.chars().count() <= 8 && extension.chars().count() <= 3;
    (short && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(before.len())
}

#[cfg(unix)]
fn os_str(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

/// Names by the rules of Windows are UTF-8; no others get here.
#[cfg(not(unix))]
fn os_str(name: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(name).into_owned().into()
}

fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                // Line ends, and what reverses the order of the text around it.
                '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "{}", c.escape_unicode())?;
                }
                _ if c.is_control() => write!(f, "{}", c.escape_default())?,
                _ => write!(f, "{c}")?,
            }
        }
        write!(f, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
