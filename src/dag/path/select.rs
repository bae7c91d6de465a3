//! Which entries of a tree the user selected (`--select GLOB`).

use globset::{Candidate, Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

/// Why a glob cannot select anything, or is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// The syntax is wrong.
    #[error("{glob:?} is not a glob: {reason}")]
    Syntax {
        /// As it was given.
        glob: String,
        /// In the parser's words.
        reason: String,
    },
    /// Nothing to match, or `.` or `..`.
    #[error("{0:?} can match nothing: paths are relative to what is pulled, without `.` and `..`")]
    Nothing(String),
    /// All of them together are more than the matcher takes.
    #[error("the globs are too many or too large: {0}")]
    TooLarge(String),
}

/// One or more globs on paths relative to the root of a tree, or everything.
///
/// Paths are the foreign names, not those on disk, with slashes between them. A glob matches the whole path, with
/// regard to case: `*` and `?` stop at slashes, `**/` is any number of directories, `[a-z]` and `{a,b}` are as in a
/// shell, `\` takes the next character literally. What is below a match is selected, too, so that `dir`, `dir/` and
/// `dir/**` select the same files. Names are bytes, and so is what `?` stands for: an `é` is two. (On Windows a foreign
/// name's backslash counts as a slash here.)
#[derive(Debug, Clone)]
pub struct Select {
    /// Every glob, and every glob with `/**` behind it.
    set: GlobSet,
    /// For each glob its leading segments that stand for one name each.
    prefixes: Vec<Vec<GlobMatcher>>,
    everything: bool,
}

impl Select {
    /// Selects what any of `globs` matches, or everything if there are none.
    ///
    /// # Errors
    /// [`BadGlob`].
    pub fn parse<S: AsRef<str>>(globs: &[S]) -> Result<Self, BadGlob> {
        let mut set = GlobSetBuilder::new();
        let mut prefixes = Vec::with_capacity(globs.len());
        for text in globs.iter().map(AsRef::as_ref) {
            let glob = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
            if glob.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
                return Err(BadGlob::Nothing(text.into()));
            }
            let syntax = |e: globset::Error| BadGlob::Syntax { glob: text.into(), reason: e.kind().to_string() };
            set.add(parse(glob).map_err(syntax)?);
            set.add(parse(&format!("{glob}/**")).map_err(syntax)?);
            prefixes.push(prefix(glob));
        }
        let set = set.build().map_err(|e| BadGlob::TooLarge(e.kind().to_string()))?;
        Ok(Self { set, prefixes, everything: globs.is_empty() })
    }

    /// Whether the entry at `path` is selected. The root itself, the empty path, is only when everything is.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.everything || self.set.is_match_candidate(&Candidate::from_bytes(path))
    }

    /// Whether the directory at `path` could contain something that [`Self::matches`]; true may be wrong, false is not.
    #[must_use]
    pub fn may_contain(&self, path: &[u8]) -> bool {
        let segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
        let segments: Vec<Candidate<'_>> = segments.map(Candidate::from_bytes).collect();
        let fits = |prefix: &Vec<GlobMatcher>| {
            prefix.iter().zip(&segments).all(|(matcher, segment)| matcher.is_match_candidate(segment))
        };
        self.everything || self.prefixes.iter().any(fits)
    }
}

fn parse(glob: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()
}

/// The segments before the first that holds `**` or is no glob by itself, as when braces or brackets hold a slash.
fn prefix(glob: &str) -> Vec<GlobMatcher> {
    glob.split('/')
        .take_while(|segment| !segment.contains("**"))
        .map_while(|segment| parse(segment).ok())
        .map(|segment| segment.compile_matcher())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(globs: &[&str]) -> Select {
        Select::parse(globs).unwrap()
    }

    #[test]
    fn globs_match_whole_paths_and_what_is_below() {
        for (glob, yes, no) in [
            ("*.bin", &["a.bin", ".bin", "x.bin/below"][..], &["a.bin2", "sub/a.bin", "a.BIN"][..]),
            ("sub/**", &["sub/a", "sub/a/b"], &["sub", "subx/a", "x/sub/a"]),
            ("**/x?", &["xa", "a/xb", "a/b/xc", "a/xb/below"], &["x", "x\u{e9}", "a/x", "a/xbc"]),
            ("dir", &["dir", "dir/a", "dir/a/b"], &["dirx", "a/dir", "Dir"]),
            ("dir/", &["dir", "dir/a"], &["dirx"]),
            ("./dir", &["dir/a"], &["a/dir"]),
            ("a/*/c", &["a/b/c", "a/b/c/d"], &["a/c", "a/b/b/c"]),
            ("a/**/c", &["a/c", "a/b/c", "a/b/b/c"], &["a/b", "c"]),
            ("{a,b/c}/x", &["a/x", "b/c/x"], &["b/x", "c/x"]),
            ("v[0-9]/w", &["v1/w"], &["va/w", "v/w"]),
            ("[!/]/w", &["a/w"], &["ab/w"]),
            ("a\\*", &["a*"], &["ab"]),
            ("**", &["a", "a/b"], &[]),
        ] {
            let select = select(&[glob]);
            for path in yes {
                assert!(select.matches(path.as_bytes()), "{glob} {path}");
            }
            for path in no {
                assert!(!select.matches(path.as_bytes()), "{glob} {path}");
            }
        }
    }

    #[test]
    fn names_that_are_not_utf8_can_be_matched() {
        assert!(select(&["*.bin"]).matches(b"\xff\xfe.bin"));
        assert!(select(&["dir"]).matches(b"dir/\xff"));
        assert!(select(&["*/x"]).may_contain(b"\xff"));
    }

    #[test]
    fn any_of_several_globs_is_enough_and_none_is_everything() {
        let both = select(&["*.bin", "doc/*.md"]);
        assert!(both.matches(b"a.bin") && both.matches(b"doc/a.md") && !both.matches(b"a.md"));
        assert!(both.may_contain(b"doc") && both.may_contain(b"") && !both.may_contain(b"src"));
        let all = Select::parse::<&str>(&[]).unwrap();
        assert!(all.matches(b"any/thing") && all.matches(b"") && all.may_contain(b"any"));
    }

    #[test]
    fn directories_without_a_match_are_pruned() {
        for (glob, yes, no) in [
            ("a/b/*.bin", &["", "a", "a/b"][..], &["b", "a/c", "a/c/b", "ab"][..]),
            ("*.bin", &["", "x.bin"], &["x", "x/y"]),
            ("sub/**/x", &["sub", "sub/any/thing"], &["other", "other/sub"]),
            ("**/x", &["any", "any/thing"], &[]),
            ("dir", &["dir", "dir/below"], &["other"]),
            ("a?/[bc]/{d,e}/f", &["ax", "ax/b", "ax/c/e"], &["a", "ax/d", "ax/b/f"]),
            ("a/{b/c,d}/e", &["a", "a/b", "a/d"], &["b"]),
        ] {
            let select = select(&[glob]);
            for path in yes {
                assert!(select.may_contain(path.as_bytes()), "{glob} {path}");
            }
            for path in no {
                assert!(!select.may_contain(path.as_bytes()), "{glob} {path}");
            }
        }
    }

    #[test]
    fn globs_that_cannot_match_are_refused() {
        for nothing in ["", "/", "/dir", "a//b", ".", "..", "../x", "a/../b", "./", "a/."] {
            assert_eq!(Select::parse(&[nothing]).unwrap_err(), BadGlob::Nothing(nothing.into()));
        }
        for broken in ["[a", "{a", "a\\", "[z-a]", "a}"] {
            assert!(matches!(Select::parse(&[broken]), Err(BadGlob::Syntax { .. })), "{broken}");
        }
        let huge = "[a-z]{x,y}*".repeat(20_000);
        assert!(Select::parse(&[huge]).is_err(), "no panic, no endless work");
    }

    /// The oracle for globs of whole-segment `**`, `*` and `?`: tries every way.
    fn naive(glob: &[&str], path: &[&str]) -> bool {
        fn segment(glob: &[u8], name: &[u8]) -> bool {
            match (glob.split_first(), name.split_first()) {
                (None, None) => true,
                (Some((b'*', after)), _) => {
                    segment(after, name) || name.split_first().is_some_and(|(_, rest)| segment(glob, rest))
                }
                (Some((b'?', after)), Some((_, rest))) => segment(after, rest),
                (Some((byte, after)), Some((first, rest))) => byte == first && segment(after, rest),
                _ => false,
            }
        }
        match (glob.split_first(), path.split_first()) {
            // What is below a match is selected.
            (None, _) => true,
            (Some((&"**", [])), path) => path.is_some(),
            (Some((&"**", after)), _) => (0..=path.len()).any(|skip| naive(after, &path[skip..])),
            (Some((glob, after)), Some((name, rest))) => {
                segment(glob.as_bytes(), name.as_bytes()) && naive(after, rest)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn matching_agrees_with_a_naive_oracle_and_pruning_loses_nothing(
            glob in prop::collection::vec(prop::sample::select(vec!["**", "*", "?", "a", "b", "a*", "*b", "?a"]), 1..4),
            paths in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "ba", "aab"]), 1..5),
                8,
            ),
        ) {
            let select = select(&[&glob.join("/")]);
            for path in paths {
                let matches = select.matches(path.join("/").as_bytes());
                prop_assert_eq!(matches, naive(&glob, &path), "{:?} {:?}", glob, path);
                for depth in 0..path.len() {
                    let above = path[..depth].join("/");
                    prop_assert!(!matches || select.may_contain(above.as_bytes()), "{:?} {:?}", glob, path);
                }
            }
        }
    }
}
