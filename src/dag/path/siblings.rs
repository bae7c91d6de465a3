//! Names of one directory that would meet in one file.
//!
//! Knows no disk: whether the target's file system folds case is the caller's to find out.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use icu_normalizer::DecomposingNormalizerBorrowed;

use super::{NAME_UNITS_MAX, PART, Rules, SafeName};

/// Why the entries of a directory cannot lie side by side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSiblings {
    /// No program writes that, and one would hide the other.
    #[error("two entries of one directory are called {0}")]
    Twice(SafeName),
    /// A renamed entry's name would be longer than a name can be.
    #[error("the name {0} is one with a sibling's on this disk, and too long to get a number")]
    NoRoomForNumber(SafeName),
}

/// Collects the names of one directory, all of them, and gives each a place of its own.
///
/// A file takes two places: its name and, until it is complete, `NAME.part` where that is no longer than a name can be;
/// where it is, the part gets a name that no sibling has by chance. Where case is folded, names are one place
/// if they are equal after canonical decomposition, folding of case and removal of invisible characters. This covers
/// what NTFS, APFS, HFS+ and folding directories of ext4 take for equal, by the Unicode tables that this was built
/// with. It is wider than each of them (NTFS tells composed from decomposed letters; `ß` is `ss` on ext4 only), which
/// costs a number behind a name at worst. Not covered: characters that a file system's older tables or the locale
/// (Turkish `I` on exotic servers) fold otherwise, and compatibility forms, which none of them folds.
#[derive(Debug)]
pub struct Siblings {
    fold: bool,
    /// In block order, with whether it is a file.
    names: Vec<(SafeName, bool)>,
}

impl Siblings {
    /// An empty directory. Windows always folds; elsewhere the target's file system may.
    #[must_use]
    pub fn new(rules: Rules, fold: bool) -> Self {
        Self { fold: fold || rules == Rules::Windows, names: Vec::new() }
    }

    /// Adds an entry. Also those that are not selected must be added, or a later pull would name the rest otherwise.
    pub fn push(&mut self, name: SafeName, is_file: bool) {
        self.names.push((name, is_file));
    }

    /// Each entry's name on disk, in the order in which they were added.
    ///
    /// In the order of their bytes, names take their places; what finds one taken becomes `NAME (2).EXT`, or the next
    /// number with which all its places are free. This depends on nothing but the names and kinds.
    ///
    /// # Errors
    /// [`BadSiblings`].
    pub fn resolve(self) -> Result<Vec<SafeName>, BadSiblings> {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        order.sort_by(|&a, &b| self.names[a].0.cmp(&self.names[b].0));
        if let Some(pair) = order.windows(2).find(|pair| self.names[pair[0]].0 == self.names[pair[1]].0) {
            return Err(BadSiblings::Twice(self.names[pair[0]].0.clone()));
        }
        let mut places = HashSet::with_capacity(2 * self.names.len());
        let mut late = Vec::new();
        for i in order {
            let (name, is_file) = &self.names[i];
            if !take(&mut places, self.places(name, *is_file)) {
                late.push(i);
            }
        }
        let renamed = self.number(&late, &mut places)?;
        let mut names: Vec<SafeName> = self.names.into_iter().map(|(name, _)| name).collect();
        for (i, name) in late.into_iter().zip(renamed) {
            names[i] = name;
        }
        Ok(names)
    }

    /// New names for those that came late.
    fn number(&self, late: &[usize], places: &mut HashSet<Vec<u8>>) -> Result<Vec<SafeName>, BadSiblings> {
        // Names of one place go on counting where the last of them stopped, so that the work is linear in the names
        // however hostile they are.
        let mut next: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut renamed = Vec::with_capacity(late.len());
        for &i in late {
            let (name, is_file) = &self.names[i];
            let number = match next.entry(self.place(name.as_bytes())) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(2),
            };
            loop {
                let candidate = numbered(name, *number);
                *number += 1;
                let candidate = candidate.ok_or_else(|| BadSiblings::NoRoomForNumber(name.clone()))?;
                if take(places, self.places(&candidate, *is_file)) {
                    renamed.push(candidate);
                    break;
                }
            }
        }
        Ok(renamed)
    }

    /// All places of an entry.
    fn places(&self, name: &SafeName, is_file: bool) -> Vec<Vec<u8>> {
        let mut places = vec![self.place(name.as_bytes())];
        let part = [name.as_bytes(), PART].concat();
        if is_file && name.rules.units(&part) <= NAME_UNITS_MAX {
            places.push(self.place(&part));
        }
        places
    }

    fn place(&self, name: &[u8]) -> Vec<u8> {
        if self.fold { fold(name) } else { name.to_vec() }
    }
}

/// Takes all places or none.
fn take(places: &mut HashSet<Vec<u8>>, wanted: Vec<Vec<u8>>) -> bool {
    let free = wanted.iter().all(|place| !places.contains(place));
    if free {
        places.extend(wanted);
    }
    free
}

/// The name with ` (number)` before its extension. It stays safe: the new text holds nothing that any rule minds, a
/// name that is no device before its first dot stays none, and the end stays what it was or becomes a parenthesis.
fn numbered(name: &SafeName, number: u64) -> Option<SafeName> {
    let bytes = name.as_bytes();
    // A leading dot hides a file on Unix and begins no extension.
    let dot = bytes.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0).unwrap_or(bytes.len());
    let (stem, extension) = bytes.split_at(dot);
    let bytes = [stem, format!(" ({number})").as_bytes(), extension].concat();
    let fits = name.rules.units(&bytes) <= NAME_UNITS_MAX;
    fits.then(|| SafeName { bytes: bytes.into(), rules: name.rules })
}

/// What equal names have in common. Bytes that are not UTF-8 stand for themselves.
fn fold(name: &[u8]) -> Vec<u8> {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let nfd = DecomposingNormalizerBorrowed::new_nfd();
    let mut key = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        // Up and down, since several small letters have one capital (`ς` and `σ`); down first, since `ß` becomes `SS`
        // and not its capital `ẞ`.
        let folded: String = nfd
            .normalize(chunk.valid())
            .chars()
            .filter(|c| !is_invisible(*c))
            .flat_map(char::to_lowercase)
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect();
        key.extend_from_slice(nfd.normalize(&folded).as_bytes());
        key.extend_from_slice(chunk.invalid());
    }
    key
}

/// `Default_Ignorable_Code_Point` of Unicode 16, which ext4 and partly HFS+ skip when they compare.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use icu_normalizer::ComposingNormalizerBorrowed;
    use proptest::prelude::*;

    use super::*;

    fn resolve(rules: Rules, fold: bool, names: &[(&str, bool)]) -> Result<Vec<String>, BadSiblings> {
        let mut siblings = Siblings::new(rules, fold);
        for (name, is_file) in names {
            siblings.push(rules.component(name.as_bytes()).unwrap(), *is_file);
        }
        Ok(siblings.resolve()?.iter().map(ToString::to_string).collect())
    }

    fn files(fold: bool, names: &[&str]) -> Vec<String> {
        resolve(Rules::Unix, fold, &names.iter().map(|name| (*name, true)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_differs_by_case_gets_a_number_in_byte_order() {
        assert_eq!(files(false, &["readme.md", "README.md"]), ["readme.md", "README.md"]);
        assert_eq!(files(true, &["readme.md", "README.md"]), ["readme (2).md", "README.md"]);
        assert_eq!(files(true, &["aB", "ab", "AB", "Ab"]), ["aB (3)", "ab (4)", "AB", "Ab (2)"]);
        let windows = resolve(Rules::Windows, false, &[("x:y", true), ("X:Y", false)]).unwrap();
        assert_eq!(windows, ["x%3Ay (2)", "X%3AY"]);
    }

    #[test]
    fn the_number_comes_before_the_extension() {
        assert_eq!(files(true, &["A.tar.gz", "a.tar.gz"])[1], "a.tar (2).gz");
        assert_eq!(files(true, &[".ENV", ".env"])[1], ".env (2)");
        assert_eq!(files(true, &["A.", "a."])[1], "a (2).");
    }

    #[test]
    fn a_name_that_is_there_is_no_number_to_give() {
        assert_eq!(files(true, &["A", "a", "a (2)", "a (3)"]), ["A", "a (4)", "a (2)", "a (3)"]);
        assert_eq!(files(true, &["A", "a", "A (2)"]), ["A", "a (3)", "A (2)"]);
        assert_eq!(files(true, &["A", "a", "a (2).part"]), ["A", "a (3)", "a (2).part"]);
    }

    #[test]
    fn composed_and_decomposed_names_are_one_where_case_is_folded() {
        assert_eq!(
            files(true, &["caf\u{e9}", "cafe\u{301}"]),
            ["caf\u{e9}", "cafe\u{301}"].map(|s| s.replace("\u{e9}", "\u{e9} (2)"))
        );
        assert_eq!(files(true, &["stra\u{df}e", "STRASSE"])[0], "stra\u{df}e (2)");
        assert_eq!(files(true, &["a\u{200d}b", "ab"])[0], "a\u{200d}b (2)");
        assert_eq!(files(false, &["caf\u{e9}", "cafe\u{301}"]), ["caf\u{e9}", "cafe\u{301}"]);
    }

    #[test]
    fn parts_meet_no_sibling() {
        assert_eq!(files(false, &["x", "x.part"]), ["x", "x (2).part"]);
        assert_eq!(files(true, &["x", "X.part"]), ["x (2)", "X.part"]);
        let mixed = |names: &[(&str, bool)]| resolve(Rules::Unix, false, names).unwrap();
        assert_eq!(mixed(&[("x", true), ("x.part", false)]), ["x", "x (2).part"]);
        assert_eq!(mixed(&[("x", false), ("x.part", true)]), ["x", "x.part"]);
        assert_eq!(mixed(&[("x.part", true), ("x.part.part", true)]), ["x.part", "x.part (2).part"]);
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        for kinds in [[true, true], [true, false], [false, false]] {
            let twice = resolve(Rules::Unix, false, &[("a", kinds[0]), ("b", true), ("a", kinds[1])]);
            assert!(matches!(twice, Err(BadSiblings::Twice(name)) if name.as_bytes() == b"a"));
        }
    }

    #[test]
    fn names_without_room_are_refused() {
        let (at, over) = ("x".repeat(250), "x".repeat(251));
        for rules in [Rules::Unix, Rules::Windows] {
            assert!(resolve(rules, false, &[(&at, true), (&"y".repeat(255), false)]).is_ok());
            assert!(resolve(rules, false, &[(&over, true)]).is_ok(), "its part has a shorter name");
            let over = "x".repeat(252);
            let refused = resolve(rules, true, &[(&over, true), (&over.to_uppercase(), true)]);
            assert!(matches!(refused, Err(BadSiblings::NoRoomForNumber(_))));
        }
    }

    #[test]
    fn hostile_names_are_numbered_in_linear_time() {
        let mut names: Vec<(String, bool)> = (0..1_u32 << 14)
            .map(|bits| ((0..14).map(|i| if bits >> i & 1 == 1 { 'A' } else { 'a' }).collect(), true))
            .collect();
        names.extend((2..10_000).map(|n| (format!("{} ({n})", "a".repeat(14)), false)));
        let names: Vec<(&str, bool)> = names.iter().map(|(name, is_file)| (name.as_str(), *is_file)).collect();
        let resolved = resolve(Rules::Unix, true, &names).unwrap();
        assert_eq!(resolved.iter().map(|name| name.to_lowercase()).collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn every_character_is_one_with_its_cases_and_forms() {
        let (nfc, nfd) = (ComposingNormalizerBorrowed::new_nfc(), DecomposingNormalizerBorrowed::new_nfd());
        for c in (0..=0x0010_ffff).filter_map(char::from_u32) {
            let name = format!("x{c}");
            for other in
                [name.to_lowercase(), name.to_uppercase(), nfc.normalize(&name).into(), nfd.normalize(&name).into()]
            {
                if other != name {
                    assert_eq!(fold(name.as_bytes()), fold(other.as_bytes()), "{}", c.escape_unicode());
                }
            }
        }
    }

    fn any_siblings() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
        let piece = prop::sample::select(vec!["a", "A", ".part", ".PART", " (2)", ".x", "\u{e9}", "e\u{301}", "(2"]);
        let name = prop_oneof![
            prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat().into_bytes()),
            prop::collection::vec(prop::sample::select(b"aA\xff\xfe.".to_vec()), 1..4),
        ];
        prop::collection::btree_map(name, any::<bool>(), 0..24)
            .prop_map(|names| names.into_iter().filter(|(name, _)| Rules::Unix.component(name).is_ok()).collect())
    }

    proptest! {
        #[test]
        fn no_two_meet_and_order_does_not_matter(
            names in any_siblings(),
            (windows, folds) in any::<(bool, bool)>(),
            turn in any::<prop::sample::Index>(),
        ) {
            let rules = if windows { Rules::Windows } else { Rules::Unix };
            let safe: Vec<(SafeName, bool)> =
                names.iter().map(|(name, is_file)| (rules.component(name).unwrap(), *is_file)).collect();
            let mut siblings = Siblings::new(rules, folds);
            safe.iter().for_each(|(name, is_file)| siblings.push(name.clone(), *is_file));
            let resolved = siblings.resolve().unwrap();

            // The oracle: all places of all entries, one list.
            let key = |name: &[u8]| if folds || windows { fold(name) } else { name.to_vec() };
            let places = |name: &SafeName, is_file: bool| {
                let part = is_file.then(|| key(&[name.as_bytes(), b".part"].concat()));
                std::iter::once(key(name.as_bytes())).chain(part).collect::<Vec<_>>()
            };
            let all: Vec<Vec<u8>> =
                resolved.iter().zip(&safe).flat_map(|(name, (_, is_file))| places(name, *is_file)).collect();
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());

            // Who meets nobody keeps the name.
            for (i, (name, is_file)) in safe.iter().enumerate() {
                let mine = places(name, *is_file);
                let alone = safe.iter().enumerate().all(|(j, (other, other_is_file))| {
                    i == j || places(other, *other_is_file).iter().all(|place| !mine.contains(place))
                });
                if alone {
                    prop_assert_eq!(name, &resolved[i]);
                }
            }

            let mut turned: Vec<(SafeName, SafeName, bool)> =
                safe.into_iter().zip(resolved).map(|((name, is_file), new)| (name, new, is_file)).collect();
            if !turned.is_empty() {
                let by = turn.index(turned.len());
                turned.rotate_left(by);
                turned.reverse();
            }
            let mut siblings = Siblings::new(rules, folds);
            turned.iter().for_each(|(name, _, is_file)| siblings.push(name.clone(), *is_file));
            let expected: Vec<SafeName> = turned.into_iter().map(|(_, new, _)| new).collect();
            prop_assert_eq!(siblings.resolve().unwrap(), expected);
        }
    }
}
