//! Which entries of a folder an import leaves out: hidden ones, unless they are wanted, and what a list in the language
//! of `.gitignore` names.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::transfer::failure::Failure;

/// What is left out of folders. What is named on the command line itself is never left out.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Entries whose name begins with a dot are imported too.
    hidden: bool,
    ignored: Gitignore,
}

impl Rules {
    /// Rules of which later ones outdo earlier ones. Paths in them are relative to the folder that is imported.
    ///
    /// # Errors
    /// `bad-option` with the rule that cannot be understood.
    pub fn new(hidden: bool, ignored: &[String]) -> Result<Self, Failure> {
        let mut rules = GitignoreBuilder::new("");
        for line in ignored {
            rules.add_line(None, line).map_err(|e| Failure::new("bad-option", format!("--ignore {line}: {e}")))?;
        }
        let ignored = rules.build().map_err(|e| Failure::new("bad-option", format!("--ignore: {e}")))?;
        Ok(Self { hidden, ignored })
    }

    /// Whether hidden entries stay out.
    pub(super) const fn skips_hidden(&self) -> bool {
        !self.hidden
    }

    /// Whether an entry, in the folder `within` relative to the one that is imported, is ignored.
    pub(super) fn ignores(&self, within: &Path, name: &OsStr, is_folder: bool) -> bool {
        if self.ignored.is_empty() {
            return false;
        }
        let path: PathBuf = within.join(name);
        self.ignored.matched(&path, is_folder).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Rules {
        Rules::new(false, &lines.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn rules_are_those_of_gitignore() {
        let rules = rules(&["# comment", "", "*.tmp", "!keep.tmp", "/top", "target/", "a/b"]);
        for (within, name, is_folder, ignored) in [
            ("", "x.tmp", false, true),
            ("deep/er", "x.tmp", false, true),
            ("", "keep.tmp", false, false),
            ("", "top", false, true),
            ("sub", "top", false, false),
            ("sub", "target", true, true),
            ("sub", "target", false, false),
            ("a", "b", false, true),
            ("c/a", "b", false, false),
            ("", "ordinary", false, false),
        ] {
            assert_eq!(rules.ignores(Path::new(within), OsStr::new(name), is_folder), ignored, "{within}/{name}");
        }
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        let failure = Rules::new(true, &["[z-a]".to_owned()]).unwrap_err();
        assert_eq!(failure.code, "bad-option");
    }
}
