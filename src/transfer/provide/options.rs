//! From the options of a request to what an import works with, under the rules of `ipfs add`.

use super::rules::Rules;
use crate::dag::builder::{HashFunction, Layout, Profile, Version};
use crate::dag::chunker::Chunker;
use crate::dag::directory::DirOptions;
use crate::dag::unixfs::{Metadata, Mtime};
use crate::store::Attributes;
use crate::transfer::api::AddOptions;
use crate::transfer::failure::Failure;

/// How large a block is inlined when nothing is said, in bytes. Kubo's default.
const INLINE_BYTES: usize = 32;
/// The largest limit, in bytes: identity CIDs end there everywhere.
const INLINE_BYTES_MAX: usize = 128;

/// How an import makes its DAG, and what it leaves out.
#[derive(Debug, Clone)]
pub struct Import {
    /// Of files.
    pub profile: Profile,
    /// Of directories and symbolic links.
    pub directory: DirOptions,
    /// What of a file's attributes goes into the DAG.
    pub keep: Keep,
    /// What is left out of folders.
    pub rules: Rules,
}

/// Which attributes go into the DAG.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Everything's own permissions.
    pub mode: bool,
    /// Everything's own time of change.
    pub mtime: bool,
    /// The same for everything.
    pub fixed: Metadata,
}

impl Keep {
    /// Whether a file's own attributes count.
    pub(super) const fn own(&self) -> bool {
        self.mode || self.mtime
    }

    /// What the DAG says of a file or a folder with those attributes. The times that Go calls zero are not written.
    pub(super) fn metadata(&self, attributes: Option<&Attributes>) -> Metadata {
        let mut metadata = self.fixed;
        if let Some(attributes) = attributes {
            if self.mode {
                metadata.mode = Some(attributes.mode).filter(|mode| *mode != 0);
            }
            if self.mtime {
                metadata.mtime = Some(Mtime { seconds: attributes.mtime_seconds, nanos: attributes.mtime_nanos });
            }
        }
        metadata
    }

    /// Of a symbolic link, which has a time but no permissions.
    pub(super) fn link_metadata(&self, attributes: Option<&Attributes>) -> Metadata {
        Metadata { mode: None, ..self.metadata(attributes) }
    }

    const fn anything(&self) -> bool {
        self.own() || self.fixed.mode.is_some() || self.fixed.mtime.is_some()
    }
}

impl Import {
    /// What options mean.
    ///
    /// # Errors
    /// `bad-option` with the option, what is wrong with it and what would be right.
    pub fn new(options: &AddOptions) -> Result<Self, Failure> {
        let version = match options.cid_version {
            None => None,
            Some(0) => Some(Version::V0),
            Some(1) => Some(Version::V1),
            Some(other) => return Err(bad(format!("--cid-version {other}: CID versions are 0 and 1"))),
        };
        let (mut profile, mut directory) = match (options.profile.as_deref(), version) {
            (Some(name), _) => Profile::named(name)
                .zip(DirOptions::named(name))
                .ok_or_else(|| bad(format!("--profile {name}: profiles are unixfs-v1-2025 and unixfs-v0-2015")))?,
            (None, None) => (Profile::V1_2025, DirOptions::V1_2025),
            (None, Some(version)) => (Profile::kubo_defaults(version), DirOptions::kubo_defaults(version)),
        };
        if let Some(version) = version {
            profile.cid_version = version;
            if options.profile.is_some() {
                profile.raw_leaves = version == Version::V1;
            }
        }
        let keep = keep(options);
        set_leaves(&mut profile, options, &keep)?;
        set_hash(&mut profile, options)?;
        if let Some(chunker) = &options.chunker {
            profile.chunker = Chunker::parse(chunker).map_err(|e| bad(format!("--chunker {chunker}: {e}")))?;
        }
        if options.trickle {
            profile.layout = Layout::Trickle;
        }
        profile.inline = inline_limit(options)?;
        if let Some(width) = options.max_file_links {
            if !(2..=profile.width_max()).contains(&width) {
                return Err(bad(format!("--max-file-links {width}: from 2 to {}", profile.width_max())));
            }
            profile.width = width;
        }
        (directory.cid_version, directory.hash, directory.inline) = (profile.cid_version, profile.hash, profile.inline);
        directory.max_links = options.max_directory_links.filter(|links| *links > 0);
        if let Some(fanout) = options.max_hamt_fanout {
            if !(8..=1024).contains(&fanout) || !fanout.is_power_of_two() {
                return Err(bad(format!("--max-hamt-fanout {fanout}: a power of two from 8 to 1024")));
            }
            directory.fanout = fanout as u64;
        }
        Ok(Self { profile, directory, keep, rules: Rules::new(options.hidden, &options.ignore)? })
    }
}

/// Raw leaves have no room for a mode or a time; Kubo gives them up then, unless they were asked for.
fn set_leaves(profile: &mut Profile, options: &AddOptions, keep: &Keep) -> Result<(), Failure> {
    match options.raw_leaves {
        Some(true) if keep.anything() => Err(bad(
            "--raw-leaves cannot be had together with a mode or a time, for which raw leaves have no place".into(),
        )),
        Some(raw) => {
            profile.raw_leaves = raw;
            Ok(())
        }
        None if keep.anything() => {
            *profile = profile.for_metadata();
            Ok(())
        }
        None => Ok(()),
    }
}

/// Version 0 has one hash. Kubo goes over to version 1 for any other, and refuses what was asked for to be 0.
fn set_hash(profile: &mut Profile, options: &AddOptions) -> Result<(), Failure> {
    let Some(name) = &options.hash else { return Ok(()) };
    profile.hash = HashFunction::parse(name).map_err(|e| bad(format!("--hash {name}: {e}")))?;
    if profile.hash != HashFunction::SHA2_256 {
        if options.cid_version == Some(0) {
            return Err(bad(format!("--hash {name}: CID version 0 is always hashed with sha2-256")));
        }
        profile.cid_version = Version::V1;
    }
    Ok(())
}

fn inline_limit(options: &AddOptions) -> Result<Option<u32>, Failure> {
    let limit = options.inline_limit.unwrap_or(INLINE_BYTES);
    if limit > INLINE_BYTES_MAX {
        return Err(bad(format!("--inline-limit {limit}: up to {INLINE_BYTES_MAX}, as identity CIDs are not longer")));
    }
    Ok(options.inline.then(|| u32::try_from(limit).unwrap_or(0)))
}

fn keep(options: &AddOptions) -> Keep {
    let nanos = options.mtime_nsecs.unwrap_or(0);
    let mtime = options.mtime.map(|seconds| Mtime { seconds, nanos });
    let fixed = Metadata { mode: options.mode.filter(|mode| *mode != 0), mtime };
    Keep { mode: options.preserve_mode, mtime: options.preserve_mtime, fixed }
}

fn bad(what: String) -> Failure {
    Failure::new("bad-option", what)
}
