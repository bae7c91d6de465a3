//! Small files of a pulled directory, written many at a time with all their bytes in hand.
//!
//! A file of a few kilobytes does not deserve the life of a large one, with its planning, its epochs and its five
//! commits. Order of writes of one lot: (1) every file under `NAME.part` with its times and permissions, (2) all of it
//! durable, (3) renames that overwrite nothing (unless the caller asked for it), (4) the names durable, (5) one commit of
//! records, references and nodes. A crash before (3) leaves parts that the next attempt knows by their bytes, a crash
//! before (5) leaves whole files that the next attempt finds equal and takes over; either costs one lot.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;

use super::file::part::part_path;
use super::file::platform;
use super::{CompleteFile, NewFile, Restore, Stamp, Store, WholeFile, WriteError, Writer};
use crate::block::Block;

/// Bytes compared at once with what is in a file already.
const COMPARE_BYTES: usize = 64 << 10;

impl Store {
    /// Writes files whole and enters them, with blocks that lie in no file, in one commit. A file that is there already
    /// with the same bytes is taken over as it is.
    ///
    /// # Errors
    /// [`WriteError::Exists`] when another file has the name and is not to be replaced, [`WriteError::NoSpace`],
    /// [`WriteError::Permission`], what else the disk or the index says. Files of the lot may be there by then; none is
    /// in the index.
    pub fn place_whole(&self, lot: &[WholeFile], nodes: &[Block]) -> Result<(), WriteError> {
        let mut placed = Vec::with_capacity(lot.len());
        let made = self.write_parts(lot, &mut placed).and_then(|()| self.give_names(lot, &placed));
        if let Err(error) = made {
            let ours = lot.iter().zip(&placed).filter(|(_, placed)| placed.is_some());
            for (whole, _) in ours {
                let _ = std::fs::remove_file(part_path(&whole.path));
            }
            return Err(error);
        }
        let mut complete = Vec::with_capacity(lot.len());
        for whole in lot.iter().filter(|whole| !whole.leaves.is_empty()) {
            let stamp = platform::stamp_at(&whole.path).map_err(WriteError::io(&whole.path))?;
            complete.push(entry(whole, stamp));
        }
        self.add_complete(&complete, nodes)?;
        for (file, whole) in placed.iter().zip(lot).filter_map(|(file, whole)| Some((file.as_ref()?, whole))) {
            platform::drop_cache(file, &(0..whole.len()));
        }
        Ok(())
    }

    /// Writes each file's part, or finds that the file is there: `None` in `placed`.
    fn write_parts(&self, lot: &[WholeFile], placed: &mut Vec<Option<File>>) -> Result<(), WriteError> {
        for whole in lot {
            if is_there(whole)? {
                placed.push(None);
                continue;
            }
            let part = part_path(&whole.path);
            let file = create_part(&part, whole)?;
            let written = self.fill(&file, whole).map_err(WriteError::io(&part));
            placed.push(Some(file));
            written?;
        }
        self.sync(lot, placed)
    }

    fn fill(&self, file: &File, whole: &WholeFile) -> io::Result<()> {
        file.set_len(whole.len())?;
        let mut offset = 0;
        for piece in &whole.pieces {
            self.inner.disk.write_at(file, offset, piece)?;
            offset += piece.len() as u64;
        }
        platform::restore(file, &whole.restore)
    }

    fn give_names(&self, lot: &[WholeFile], placed: &[Option<File>]) -> Result<(), WriteError> {
        for (whole, _) in lot.iter().zip(placed).filter(|(_, placed)| placed.is_some()) {
            let part = part_path(&whole.path);
            let named = if whole.replace {
                std::fs::rename(&part, &whole.path)
            } else {
                self.inner.disk.rename_many(&part, &whole.path)
            };
            named.map_err(WriteError::io(&whole.path))?;
        }
        self.sync(lot, placed)
    }

    fn sync(&self, lot: &[WholeFile], placed: &[Option<File>]) -> Result<(), WriteError> {
        let files: Vec<&File> = placed.iter().flatten().collect();
        let folders: BTreeSet<&Path> = lot.iter().filter_map(|whole| whole.path.parent()).collect();
        let Some(first) = lot.first().filter(|_| !files.is_empty()) else { return Ok(()) };
        self.inner.disk.sync_many(&folders.into_iter().collect::<Vec<_>>(), &files).map_err(WriteError::io(&first.path))
    }
}

impl Writer {
    /// Gives the file what it is to have besides its bytes; to be called before [`Writer::finish`], which remembers how
    /// the file looks.
    ///
    /// # Errors
    /// [`WriteError::Permission`], [`WriteError::Io`].
    pub fn restore(&self, restore: &Restore) -> Result<(), WriteError> {
        self.commit_epoch()?;
        platform::restore(self.handle(), restore).map_err(WriteError::io(&self.path()))
    }
}

fn entry(whole: &WholeFile, stamp: Stamp) -> CompleteFile {
    CompleteFile {
        file: NewFile {
            path: whole.path.clone(),
            final_path: whole.path.clone(),
            root: Some(whole.root),
            stamp,
            partial: false,
            member: Some(whole.member),
        },
        root: whole.root,
        leaves: whole.leaves.clone(),
        wrap: whole.wrap.clone(),
    }
}

/// Whether the file is there with these bytes already.
fn is_there(whole: &WholeFile) -> Result<bool, WriteError> {
    let found = match whole.path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(WriteError::io(&whole.path))?,
    };
    if !found.is_file() {
        return Err(WriteError::Exists(whole.path.clone()));
    }
    match holds(&whole.path, &whole.pieces, false).map_err(WriteError::io(&whole.path))? {
        true => Ok(true),
        false if whole.replace => Ok(false),
        false => Err(WriteError::Exists(whole.path.clone())),
    }
}

/// Makes the part. One that an earlier attempt left has nothing but the beginning of these bytes, or zeros where they
/// were not written yet, and no other file is taken for it.
fn create_part(part: &Path, whole: &WholeFile) -> Result<File, WriteError> {
    let create = || OpenOptions::new().read(true).write(true).create_new(true).open(part);
    match create() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let ours = part.symlink_metadata().is_ok_and(|found| found.is_file())
                && holds(part, &whole.pieces, true).map_err(WriteError::io(part))?;
            if !ours {
                return Err(WriteError::Exists(part.to_path_buf()));
            }
            std::fs::remove_file(part).and_then(|()| create()).map_err(WriteError::io(part))
        }
        made => made.map_err(WriteError::io(part)),
    }
}

/// Whether a file has exactly these bytes; with `unfinished`, whether it could become them: it is not longer, and what
/// differs is zero.
fn holds(path: &Path, pieces: &[Bytes], unfinished: bool) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let found = file.metadata()?.len();
    if found > len || (found < len && !unfinished) {
        return Ok(false);
    }
    let mut buffer = vec![0; COMPARE_BYTES];
    for expected in pieces.iter().flat_map(|piece| piece.chunks(COMPARE_BYTES)) {
        let read = read_up_to(&mut file, buffer.get_mut(..expected.len()).unwrap_or_default())?;
        let same = read.iter().zip(expected).all(|(is, should)| is == should || (unfinished && *is == 0));
        if !same || (read.len() < expected.len() && !unfinished) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_up_to<'a>(file: &mut File, out: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&out[..filled])
}
