//! A disk that stops at the n-th step, with any part of what was not made durable lost: no bit that the index shows after
//! that may lie, and every file must be in a state from which work goes on.

use std::fs::File;
use std::io;
use std::sync::Mutex;

use super::*;
use crate::store::file::platform;

/// Counts every step; from `stops_at` on each fails, and what was written since the last sync is put back to what was
/// there before, or half of it, or stays, by a seed: the disk may have done any of it.
#[derive(Debug)]
struct CrashingDisk {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    steps: u64,
    stops_at: u64,
    seed: u64,
    stopped: bool,
    /// File, offset, and what was there before, of writes since the last sync.
    unsynced: Vec<(File, u64, Vec<u8>)>,
}

impl CrashingDisk {
    fn new(stops_at: u64) -> Arc<Self> {
        let state = State { steps: 0, stops_at, seed: stops_at, stopped: false, unsynced: Vec::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn step(&self, state: &mut State) -> io::Result<()> {
        state.steps += 1;
        if state.steps < state.stops_at {
            return Ok(());
        }
        if !std::mem::replace(&mut state.stopped, true) {
            for (file, offset, before) in std::mem::take(&mut state.unsynced).into_iter().rev() {
                state.seed = state.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let lost = match state.seed >> 62 {
                    0 => 0,
                    1 => before.len() / 2,
                    _ => before.len(),
                };
                platform::write_all_at(&file, offset, &before[..lost]).unwrap();
            }
        }
        Err(io::Error::other("crashed"))
    }

    fn stopped(&self) -> bool {
        self.state.lock().unwrap().stopped
    }
}

impl Disk for CrashingDisk {
    fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        let mut before = vec![0; data.len()];
        platform::read_exact_at(file, offset, &mut before)?;
        state.unsynced.push((file.try_clone()?, offset, before));
        platform::write_all_at(file, offset, data)
    }

    fn sync_data(&self, _file: &File) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        state.unsynced.clear();
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        platform::rename_new(from, to)?;
        // The step after the rename, before its durability: both names are possible after that crash.
        self.step(&mut state)
    }

    fn sync_many(&self, _folders: &[&Path], _files: &[&File]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.step(&mut state)?;
        state.unsynced.clear();
        Ok(())
    }

    fn rename_many(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(&mut self.state.lock().unwrap())?;
        platform::rename_new(from, to)
    }

    fn before_commit(&self) -> io::Result<()> {
        self.step(&mut self.state.lock().unwrap())
    }
}

/// Pulls as far as the disk lets it, a few leaves an epoch, in an order of its own.
fn pull(store: &Store, path: &Path, data: &[u8]) -> Result<(), WriteError> {
    let found = store.files().unwrap().into_iter().find(|file| file.final_path == path);
    let file = match found {
        Some(file) if file.state == FileState::Complete => return Ok(()),
        Some(file) => file.id,
        None => {
            let file = store.create_part(&root_of(data), path, data.len() as u64, Preallocate::Sparse, None)?;
            store.put_refs(file, &mut refs(file, data))?;
            store.activate(file, Activation { root: &root_of(data), leaves: leaves(data), extents: &[0] })?;
            file
        }
    };
    let writer = store.writer(file)?;
    let missing: Vec<u64> = writer.missing(0..leaves(data)).collect();
    for (i, leaf) in missing.iter().rev().enumerate() {
        write_leaf(&writer, data, *leaf)?;
        if i % 3 == 2 {
            writer.commit_epoch()?;
        }
    }
    writer.finish()
}

/// Looks, with a disk that works, whether all that the index says is true.
fn check(place: &Place, path: &Path, data: &[u8]) {
    let store = place.open();
    let names = || std::fs::read_dir(place.dir.path()).unwrap().count();
    match &store.files().unwrap()[..] {
        [] => assert_eq!(names(), 1, "a part that no index knows"),
        [file] => {
            let on_disk = std::fs::read(&file.path).unwrap();
            match file.state {
                FileState::Complete => assert!(file.path == path && on_disk == data),
                FileState::Partial => {
                    assert_eq!(file.path, part_path(path));
                    let writer = store.writer(file.id).unwrap();
                    let present: Vec<u64> = (0..leaves(data)).filter(|leaf| writer.has(*leaf)).collect();
                    assert_eq!(present.len() as u64, file.present_leaves);
                    for at in present {
                        assert!(leaf(&on_disk, at) == leaf(data, at), "the bit of leaf {at} lies");
                        assert_eq!(store.read(&hash(leaf(data, at))).unwrap().unwrap(), leaf(data, at));
                    }
                }
                ref other => panic!("{other:?}"),
            }
            assert_eq!(names(), 2);
        }
        more => panic!("{more:?}"),
    }
}

#[test]
fn a_crash_at_any_step_leaves_only_the_truth() {
    let data = content(11, LEAF * 13 + 100);
    let mut stops_at = 1;
    loop {
        let place = Place::new();
        let path = place.path("f");
        let disk = CrashingDisk::new(stops_at);
        let outcome = Store::open_on(&place.repo(), options(), Arc::<CrashingDisk>::clone(&disk))
            .map_err(WriteError::from)
            .and_then(|store| pull(&store, &path, &data));
        assert_eq!(outcome.is_err(), disk.stopped(), "step {stops_at}: {outcome:?}");
        check(&place, &path, &data);
        // Whatever it was, pulling goes on from there to the end.
        pull(&place.open(), &path, &data).unwrap();
        assert!(std::fs::read(&path).unwrap() == data);
        check(&place, &path, &data);
        if !disk.stopped() {
            break;
        }
        stops_at += 1;
    }
    assert!(stops_at > 30, "only {stops_at} steps");
}

#[test]
fn crashes_in_a_row_lose_nothing_that_was_durable() {
    let data = content(12, LEAF * 30);
    let place = Place::new();
    let path = place.path("f");
    let mut durable = 0;
    for life in 0.. {
        let disk = CrashingDisk::new(9 + life % 7);
        let store = Store::open_on(&place.repo(), options(), Arc::<CrashingDisk>::clone(&disk)).unwrap();
        let done = pull(&store, &path, &data).is_ok();
        drop(store);
        check(&place, &path, &data);
        let now = place.open().files().unwrap().first().map_or(0, |file| file.present_leaves);
        assert!(now >= durable);
        durable = now;
        if done {
            break;
        }
        assert!(life < 200, "no progress");
    }
}

/// Fails what it is told to, once each.
#[derive(Debug, Default)]
struct FailingDisk {
    fail_sync: Mutex<bool>,
    fail_commit: Mutex<Option<io::ErrorKind>>,
}

impl Disk for FailingDisk {
    fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        platform::write_all_at(file, offset, data)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        match std::mem::take(&mut *self.fail_sync.lock().unwrap()) {
            true => Err(io::Error::other("a bad sector")),
            false => file.sync_data(),
        }
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        platform::rename_new(from, to)
    }

    fn sync_many(&self, folders: &[&Path], files: &[&File]) -> io::Result<()> {
        platform::sync_many(folders, files)
    }

    fn rename_many(&self, from: &Path, to: &Path) -> io::Result<()> {
        platform::rename_new(from, to)
    }

    fn before_commit(&self) -> io::Result<()> {
        self.fail_commit.lock().unwrap().take().map_or(Ok(()), |kind| Err(kind.into()))
    }
}

#[test]
fn leaves_whose_sync_failed_are_missing_again() {
    let place = Place::new();
    let disk = Arc::new(FailingDisk::default());
    let store = Store::open_on(&place.repo(), options(), Arc::<FailingDisk>::clone(&disk)).unwrap();
    let data = content(13, LEAF * 5);
    let file = start_pull(&store, &place.path("f"), &data);
    let writer = store.writer(file).unwrap();
    write_leaf(&writer, &data, 0).unwrap();
    writer.commit_epoch().unwrap();
    write_leaf(&writer, &data, 1).unwrap();
    write_leaf(&writer, &data, 2).unwrap();
    *disk.fail_sync.lock().unwrap() = true;
    assert!(matches!(writer.commit_epoch(), Err(WriteError::Sync { .. })));
    assert_eq!(writer.missing(0..5).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(store.has(&hash(leaf(&data, 1))).unwrap(), None);
    writer.commit_epoch().unwrap();
    drop(writer);
    drop(store);
    assert_eq!(place.open().file(file).unwrap().unwrap().present_leaves, 1);
}

#[test]
fn a_commit_that_fails_is_made_up_for_by_the_next() {
    let place = Place::new();
    let disk = Arc::new(FailingDisk::default());
    let store = Store::open_on(&place.repo(), options(), Arc::<FailingDisk>::clone(&disk)).unwrap();
    let data = content(14, LEAF * 5);
    let file = start_pull(&store, &place.path("f"), &data);
    let writer = store.writer(file).unwrap();
    write_leaf(&writer, &data, 3).unwrap();
    *disk.fail_commit.lock().unwrap() = Some(io::ErrorKind::Other);
    assert!(matches!(writer.commit_epoch(), Err(WriteError::Store(_))));
    assert!(writer.has(3) && writer.unsynced_bytes() == LEAF as u64);
    writer.commit_epoch().unwrap();
    // A disk that is full takes the reserve, and the commit goes through.
    let reserve = place.repo().join("index/reserve");
    assert!(reserve.exists());
    write_leaf(&writer, &data, 4).unwrap();
    *disk.fail_commit.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    writer.commit_epoch().unwrap();
    assert!(!reserve.exists());
    write_leaf(&writer, &data, 0).unwrap();
    *disk.fail_commit.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    assert!(writer.commit_epoch().unwrap_err().is_no_space());
    writer.commit_epoch().unwrap();
    drop(writer);
    drop(store);
    let store = place.open();
    assert!(reserve.exists());
    assert_eq!(store.file(file).unwrap().unwrap().present_leaves, 3);
}

#[test]
fn what_was_planned_or_half_forgotten_is_gone_at_the_next_open() {
    let place = Place::new();
    let (kept, planned, parted) = (content(15, LEAF * 3), content(16, LEAF * 3), content(17, LEAF * 3));
    let store = place.open();
    add(&store, &place.path("kept"), &kept);
    std::fs::write(place.path("planned"), &planned).unwrap();
    let source = SourceFile::open(&place.path("planned")).unwrap();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    store.put_refs(file, &mut refs(file, &planned)).unwrap();
    let path = place.path("parted");
    let part = store.create_part(&root_of(&parted), &path, parted.len() as u64, Preallocate::Sparse, None).unwrap();
    store.put_refs(part, &mut refs(part, &parted)).unwrap();
    let forgotten = add(&store, &place.path("forgotten"), &content(18, LEAF));
    let mut stored = store.inner.find(forgotten).unwrap().unwrap().stored().clone();
    stored.state = FileState::Forgetting;
    store.put_stored(forgotten, &stored).unwrap();
    drop(store);

    let store = place.open();
    assert_eq!(store.files().unwrap().len(), 1);
    assert!(place.path("planned").exists() && place.path("forgotten").exists());
    assert!(!part_path(&path).exists());
    let left = store.inner.index.read(|txn, tables| Ok(tables.refs.len(txn)?)).unwrap();
    assert_eq!(left, 3);
    assert_eq!(store.roots().unwrap().len(), 1);
    assert!(store.read(&hash(&kept[..LEAF])).unwrap().is_some());
}

#[test]
fn a_part_that_is_gone_or_other_is_broken_and_heals_when_it_is_back() {
    let place = Place::new();
    let data = content(19, LEAF * 3);
    let path = place.path("f");
    let part = part_path(&path);
    let store = place.open();
    let file = start_pull(&store, &path, &data);
    let writer = store.writer(file).unwrap();
    write_leaf(&writer, &data, 1).unwrap();
    drop(writer);
    drop(store);
    let state = || {
        let store = place.open();
        let served = store.read(&hash(leaf(&data, 1))).unwrap().is_some();
        (store.file(file).unwrap().unwrap().state, served)
    };
    assert_eq!(state(), (FileState::Partial, true));
    let aside = place.path("aside");
    std::fs::rename(&part, &aside).unwrap();
    assert!(matches!(state(), (FileState::Broken(reason), false) if reason.contains("is gone")));
    std::fs::write(&part, &data).unwrap();
    assert!(matches!(state(), (FileState::Broken(reason), false) if reason.contains("another file")));
    std::fs::rename(&aside, &part).unwrap();
    assert_eq!(state(), (FileState::Partial, true));
    File::options().write(true).open(&part).unwrap().set_len(LEAF as u64).unwrap();
    assert!(matches!(state(), (FileState::Broken(reason), false) if reason.contains("bytes instead of")));
}

#[test]
fn a_crash_around_the_rename_is_settled_by_the_name_that_exists() {
    for renamed in [false, true] {
        let place = Place::new();
        let data = content(20, LEAF * 3);
        let path = place.path("f");
        let store = place.open();
        let file = start_pull(&store, &path, &data);
        let writer = store.writer(file).unwrap();
        (0..3).for_each(|leaf| assert!(write_leaf(&writer, &data, leaf).unwrap()));
        drop(writer);
        let mut stored = store.inner.find(file).unwrap().unwrap().stored().clone();
        stored.state = FileState::Finishing;
        store.put_stored(file, &stored).unwrap();
        drop(store);
        if renamed {
            std::fs::rename(part_path(&path), &path).unwrap();
        }
        let store = place.open();
        let record = store.file(file).unwrap().unwrap();
        assert_eq!(record.present_leaves, 3);
        if renamed {
            assert_eq!((record.state, record.path), (FileState::Complete, path.clone()));
        } else {
            assert_eq!(record.state, FileState::Partial);
            store.writer(file).unwrap().finish().unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == data);
        assert!(store.read(&hash(leaf(&data, 2))).unwrap().is_some());
    }
}

/// Small files in lots: after a crash at any step the same lot goes through, and every file has its bytes.
#[test]
fn lots_of_whole_files_survive_a_crash_at_every_step() {
    let mut steps = 1;
    loop {
        let place = Place::new();
        let disk = CrashingDisk::new(steps);
        let lot = |id| -> Vec<WholeFile> {
            (0..5_u32)
                .map(|entry| {
                    let data = content(u64::from(entry) + 40, 100 + entry as usize * 300);
                    WholeFile {
                        path: place.path(&format!("small{entry}")),
                        member: Member { collection: id, entry },
                        root: root_of(&data),
                        leaves: vec![LeafAt { multihash: hash(&data), offset: 0, len: data.len() as u32 }],
                        pieces: data.chunks(64).map(Bytes::copy_from_slice).collect(),
                        wrap: Vec::new(),
                        restore: Restore { mode: None, mtime: Some(std::time::UNIX_EPOCH) },
                        replace: false,
                    }
                })
                .collect()
        };
        let begun = NewCollection { root: Some(root_of(b"dir")), path: Some(place.path("")), partial: true };
        {
            let store = Store::open_on(&place.repo(), options(), Arc::clone(&disk) as Arc<dyn Disk>);
            if let Ok(store) = store
                && let Ok(id) = store.begin_collection(&begun)
            {
                let _ = store.place_whole(&lot(id), &[]);
            }
        }
        let store = place.open();
        let id = match store.collections().unwrap().first() {
            Some(found) => found.id,
            None => store.begin_collection(&begun).unwrap(),
        };
        let mut known = 0;
        store
            .members(id, &mut |_| {
                known += 1;
                true
            })
            .unwrap();
        assert!(known == 0 || known == 5, "a lot is whole or absent, not {known} files");
        if known == 0 {
            store.place_whole(&lot(id), &[]).unwrap();
        }
        for whole in lot(id) {
            let expected: Vec<u8> = whole.pieces.concat();
            assert_eq!(std::fs::read(&whole.path).unwrap(), expected, "crash at step {steps}");
            assert_eq!(store.read(&hash(&expected)).unwrap().as_deref(), Some(&expected[..]));
            assert!(!place.path(&format!("{}.part", whole.path.display())).exists());
        }
        if !disk.stopped() {
            break;
        }
        steps += 1;
    }
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn a_file_of_another_content_is_not_overwritten_by_a_lot_unless_it_is_asked_for() {
    let place = Place::new();
    let store = place.open();
    let id = store.begin_collection(&NewCollection { root: None, path: None, partial: true }).unwrap();
    let data = content(50, 1000);
    let mut whole = WholeFile {
        path: place.path("taken"),
        member: Member { collection: id, entry: 0 },
        root: root_of(&data),
        leaves: vec![LeafAt { multihash: hash(&data), offset: 0, len: 1000 }],
        pieces: vec![Bytes::from(data.clone())],
        wrap: Vec::new(),
        restore: Restore::default(),
        replace: false,
    };
    std::fs::write(&whole.path, b"the user's own").unwrap();
    let refused = store.place_whole(std::slice::from_ref(&whole), &[]);
    assert!(matches!(refused, Err(WriteError::Exists(path)) if path == whole.path));
    assert_eq!(std::fs::read(&whole.path).unwrap(), b"the user's own");
    std::fs::write(place.path("taken.part"), b"somebody's").unwrap();
    whole.replace = true;
    assert!(matches!(store.place_whole(std::slice::from_ref(&whole), &[]), Err(WriteError::Exists(_))));
    assert_eq!(std::fs::read(place.path("taken.part")).unwrap(), b"somebody's");
    std::fs::write(place.path("taken.part"), &data[..10]).unwrap();
    store.place_whole(std::slice::from_ref(&whole), &[]).unwrap();
    assert_eq!(std::fs::read(&whole.path).unwrap(), data);
}
