//! Files that come, are served, change and go.

use super::*;

#[test]
fn an_added_file_is_served_from_where_it_lies() {
    let place = Place::new();
    let store = place.open();
    let data = content(1, LEAF * 20 + 77);
    let path = place.path("f");
    let file = add(&store, &path, &data);
    for chunk in data.chunks(LEAF) {
        assert_eq!(store.has(&hash(chunk)).unwrap(), Some(chunk.len() as u32));
        assert_eq!(store.read(&hash(chunk)).unwrap().unwrap(), chunk);
    }
    assert_eq!(store.read(&hash(b"something else")).unwrap(), None);
    let record = store.file(file).unwrap().unwrap();
    assert_eq!((record.state, record.present_leaves, record.trouble), (FileState::Complete, 21, None));
    assert_eq!(store.root(&root_of(&data)).unwrap().unwrap().files, [file]);
    // Nothing is lost by closing.
    drop(store);
    let store = place.open();
    assert_eq!(store.read(&hash(&data[..LEAF])).unwrap().unwrap(), &data[..LEAF]);
    assert_eq!(store.roots().unwrap().len(), 1);
    assert_eq!(store.extents(file).unwrap(), [0]);
}

#[test]
fn many_files_hold_one_block_and_any_of_them_serves_it() {
    let place = Place::new();
    let store = place.open();
    let shared = content(2, LEAF);
    let mut files = Vec::new();
    for i in 0..50 {
        let data = [&content(100 + i, LEAF)[..], &shared, &shared].concat();
        files.push((add(&store, &place.path(&format!("f{i}")), &data), data));
    }
    let places = store.places(&hash(&shared)).unwrap();
    assert_eq!(places.len(), 50);
    // One reference per file, to the first place.
    assert!(places.iter().all(|p| p.leaf == 1 && p.offset == LEAF as u64));
    for (i, (file, data)) in files.iter().enumerate().take(49) {
        remove(&place.path(&format!("f{i}")));
        assert_eq!(store.read(&hash(&shared)).unwrap().unwrap(), shared);
        assert_eq!(store.read(&hash(&data[..LEAF])).unwrap(), None);
        if i % 2 == 0 {
            store.forget_file(*file).unwrap();
        }
    }
    assert_eq!(store.places(&hash(&shared)).unwrap().len(), 25);
    assert!(store.file(files[1].0).unwrap().unwrap().trouble.is_some());
    remove(&place.path("f49"));
    assert_eq!(store.read(&hash(&shared)).unwrap(), None);
}

#[test]
fn the_lowest_offset_wins_whatever_the_order_of_calls() {
    let place = Place::new();
    let store = place.open();
    let path = place.path("f");
    std::fs::write(&path, content(3, LEAF * 4)).unwrap();
    let source = SourceFile::open(&path).unwrap();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    let key = hash(b"x");
    let at = |leaf: u64, wrap: usize| {
        let place = LeafPlace { file, leaf, offset: leaf * 10, len: 10, wrap: vec![9; wrap] };
        (key, place)
    };
    assert_eq!(store.put_refs(file, &mut vec![at(5, 0), at(3, 0), at(4, 0)]).unwrap(), 1);
    assert_eq!(store.put_refs(file, &mut vec![at(2, 500)]).unwrap(), 0);
    assert_eq!(store.put_refs(file, &mut vec![at(7, 0)]).unwrap(), 0);
    assert_eq!(store.places(&key).unwrap(), [], "nothing of a planned file is live");
    let root = *block(b"r").cid();
    store.activate(file, Activation { root: &root, leaves: 8, extents: &[] }).unwrap();
    assert_eq!(store.places(&key).unwrap(), [at(2, 500).1]);
    assert!(matches!(store.put_refs(file, &mut vec![at(1, 0)]), Err(StoreError::UnknownFile(_))));
    store.forget(&root).unwrap();
    assert_eq!(store.places(&key).unwrap(), []);
}

#[test]
fn wraps_are_put_around_the_file_data() {
    fn affixes(tag: &[u8], len: u32) -> (Vec<u8>, Vec<u8>) {
        (tag.to_vec(), len.to_be_bytes().to_vec())
    }
    let place = Place::new();
    let store = Store::open(&place.repo(), Options { affixes, ..options() }).unwrap();
    let path = place.path("f");
    std::fs::write(&path, b"0123456789").unwrap();
    let source = SourceFile::open(&path).unwrap();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    let whole = b"<<2345\0\0\0\x04";
    let place = LeafPlace { file, leaf: 0, offset: 2, len: 4, wrap: b"<<".to_vec() };
    store.put_refs(file, &mut vec![(hash(whole), place)]).unwrap();
    let root = *block(b"r").cid();
    store.activate(file, Activation { root: &root, leaves: 1, extents: &[0] }).unwrap();
    assert_eq!(store.has(&hash(whole)).unwrap(), Some(whole.len() as u32));
    assert_eq!(store.read(&hash(whole)).unwrap().unwrap(), &whole[..]);
}

#[test]
fn what_is_left_of_a_changed_file_is_served_and_the_rest_is_not() {
    for reader in [ReaderKind::Mmap, ReaderKind::Pread] {
        let place = Place::new();
        let store = Store::open(&place.repo(), Options { reader, ..options() }).unwrap();
        let mut data = content(4, LEAF * 10);
        let path = place.path("f");
        let file = add(&store, &path, &data);
        // What is mapped cannot be changed so on Windows.
        let let_go = || {
            if cfg!(windows) {
                store.close_idle(std::time::Duration::ZERO);
            }
        };
        assert!(store.read(&hash(leaf(&data, 9))).unwrap().is_some());
        let_go();
        let old = leaf(&data, 3).to_vec();
        // The time of the change must differ, on file systems that count it coarsely, too.
        data[LEAF * 3 + 5] ^= 1;
        std::fs::write(&path, &data).unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
        assert_eq!(store.read(&hash(&old)).unwrap(), None);
        assert_eq!(store.read(&hash(leaf(&data, 4))).unwrap().unwrap(), leaf(&data, 4));
        assert!(store.file(file).unwrap().unwrap().trouble.is_some());
        // Cut short: what is beyond the end is gone, what is before is served.
        let_go();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(LEAF as u64 * 6 + 10).unwrap();
        assert_eq!(store.read(&hash(leaf(&data, 6))).unwrap(), None);
        assert_eq!(store.read(&hash(leaf(&data, 9))).unwrap(), None);
        assert_eq!(store.read(&hash(leaf(&data, 5))).unwrap().unwrap(), leaf(&data, 5));
        // Replaced by a copy: each block is right again.
        let copy = place.path("copy");
        data[LEAF * 3 + 5] ^= 1;
        std::fs::write(&copy, &data).unwrap();
        // While it is open it can be replaced only where renames are POSIX's.
        if cfg!(windows) {
            remove(&path);
            assert_eq!(store.read(&hash(leaf(&data, 5))).unwrap(), None);
        }
        std::fs::rename(&copy, &path).unwrap();
        assert_eq!(store.read(&hash(&old)).unwrap().unwrap(), old);
        assert_eq!(store.read(&hash(leaf(&data, 9))).unwrap().unwrap(), leaf(&data, 9));
    }
}

#[test]
fn a_file_without_bytes_has_one_leaf_without_bytes() {
    let place = Place::new();
    let store = place.open();
    let path = place.path("empty");
    std::fs::write(&path, b"").unwrap();
    let source = SourceFile::open(&path).unwrap();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    let only = LeafPlace { file, leaf: 0, offset: 0, len: 0, wrap: Vec::new() };
    store.put_refs(file, &mut vec![(hash(b""), only)]).unwrap();
    store.activate(file, Activation { root: block(b"").cid(), leaves: 1, extents: &[0] }).unwrap();
    assert_eq!(store.has(&hash(b"")).unwrap(), Some(0));
    assert_eq!(store.read(&hash(b"")).unwrap().unwrap(), &b""[..]);

    let file = store.create_part(block(b"").cid(), &place.path("pulled"), 0, Preallocate::Full, None).unwrap();
    let only = LeafPlace { file, leaf: 0, offset: 0, len: 0, wrap: Vec::new() };
    store.put_refs(file, &mut vec![(hash(b""), only)]).unwrap();
    store.activate(file, Activation { root: block(b"").cid(), leaves: 1, extents: &[0] }).unwrap();
    let writer = store.writer(file).unwrap();
    assert!(writer.write(0, 0, b"").unwrap());
    writer.finish().unwrap();
    assert_eq!(std::fs::read(place.path("pulled")).unwrap(), b"");
    assert_eq!(store.root(block(b"").cid()).unwrap().unwrap().files.len(), 2);
}

#[test]
fn leaves_are_served_as_soon_as_they_are_written() {
    let place = Place::new();
    let store = place.open();
    let data = content(5, LEAF * 40 + 9);
    let path = place.path("f");
    let file = start_pull(&store, &path, &data);
    let writer = store.writer(file).unwrap();
    assert!(matches!(store.writer(file), Err(StoreError::Busy(_))));
    assert_eq!(store.has(&hash(leaf(&data, 7))).unwrap(), None);
    assert!(write_leaf(&writer, &data, 7).unwrap());
    assert!(!write_leaf(&writer, &data, 7).unwrap());
    assert_eq!(store.read(&hash(leaf(&data, 7))).unwrap().unwrap(), leaf(&data, 7));
    assert!(matches!(writer.write(41, 0, b"x"), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.write(3, data.len() as u64, b"x"), Err(WriteError::OutOfRange { .. })));
    assert_eq!(writer.unsynced_bytes(), LEAF as u64);
    writer.commit_epoch().unwrap();
    assert_eq!(writer.unsynced_bytes(), 0);
    assert_eq!((writer.present(), writer.missing_count(0..41)), (1, 40));
    assert_eq!(writer.missing(5..10).collect::<Vec<_>>(), [5, 6, 8, 9]);
    assert!(matches!(writer.finish(), Err(WriteError::Incomplete { missing: 40 })));
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (writer, data) = (&writer, &data);
            scope.spawn(move || {
                for leaf in (part..41).step_by(4) {
                    write_leaf(writer, data, leaf).unwrap();
                    if leaf % 9 == 0 {
                        writer.commit_epoch().unwrap();
                    }
                }
            });
        }
    });
    assert!(part_path(&path).exists() && !path.exists());
    writer.finish().unwrap();
    writer.finish().unwrap();
    assert!(!part_path(&path).exists());
    assert!(std::fs::read(&path).unwrap() == data);
    drop(writer);
    assert!(matches!(store.writer(file), Err(StoreError::UnknownFile(_))));
    let check = |store: Store| {
        let record = store.file(file).unwrap().unwrap();
        assert_eq!((record.state, record.path, record.trouble), (FileState::Complete, path.clone(), None));
        assert!(data.chunks(LEAF).all(|chunk| store.read(&hash(chunk)).unwrap().unwrap() == chunk));
    };
    check(store);
    check(place.open());
}

#[test]
fn a_part_whose_name_is_taken_stays_partial_until_it_is_free() {
    let place = Place::new();
    let store = place.open();
    let data = content(6, LEAF);
    let path = place.path("f");
    let file = start_pull(&store, &path, &data);
    let writer = store.writer(file).unwrap();
    write_leaf(&writer, &data, 0).unwrap();
    std::fs::write(&path, b"mine").unwrap();
    assert!(matches!(writer.finish(), Err(WriteError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert_eq!(store.file(file).unwrap().unwrap().state, FileState::Partial);
    assert!(store.read(&hash(&data)).unwrap().is_some());
    std::fs::remove_file(&path).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), data);
}

#[test]
fn parts_are_refused_where_they_cannot_be_and_leave_nothing() {
    let place = Place::new();
    let store = place.open();
    let root = *block(b"r").cid();
    let make = |name: &str, len| store.create_part(&root, &place.path(name), len, Preallocate::Sparse, None);
    std::fs::write(place.path("taken"), b"").unwrap();
    assert!(matches!(make("taken", 1), Err(WriteError::Exists(_))));
    std::fs::write(place.path("half.part"), b"").unwrap();
    assert!(matches!(make("half", 1), Err(WriteError::Exists(_))));
    assert!(matches!(make("no/folder", 1), Err(WriteError::ParentMissing(_))));
    assert!(matches!(make("taken/below", 1), Err(WriteError::ParentMissing(_))));
    let error = make("huge", 1 << 60).unwrap_err();
    assert!(error.is_no_space() || matches!(error, WriteError::TooLarge { .. }), "{error}");
    assert_eq!(store.files().unwrap(), []);
    assert!(!place.path("huge.part").exists());
}

#[test]
#[cfg(unix)]
fn sparse_parts_take_no_space_and_full_ones_take_all() {
    let place = Place::new();
    let store = place.open();
    let taken = |name: &str, policy| {
        store.create_part(block(name.as_bytes()).cid(), &place.path(name), 8 << 20, policy, None).unwrap();
        let file = std::fs::File::open(part_path(&place.path(name))).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8 << 20);
        file::platform::allocated_bytes(&file).unwrap()
    };
    assert!(taken("sparse", Preallocate::Sparse) < 1 << 20);
    assert!(taken("full", Preallocate::Full) >= 8 << 20);
}

#[test]
fn adding_a_path_again_replaces_what_was_known_of_it() {
    let place = Place::new();
    let store = place.open();
    let path = place.path("f");
    let (old, new) = (content(7, LEAF * 3), content(8, LEAF * 2));
    let first = add(&store, &path, &old);
    let second = add(&store, &path, &new);
    assert!(first != second && store.file(first).unwrap().is_none());
    assert_eq!(store.read(&hash(leaf(&old, 0))).unwrap(), None);
    assert_eq!(store.root(&root_of(&old)).unwrap(), None);
    assert!(store.read(&hash(leaf(&new, 1))).unwrap().is_some());
}

#[test]
fn jobs_and_nodes_stay() {
    let place = Place::new();
    let store = place.open();
    let blocks: Vec<Block> = (0..40).map(|i| block(&content(i, 400_000))).collect();
    store.put_nodes(&blocks).unwrap();
    let (one, two) = (store.next_job_id().unwrap(), store.next_job_id().unwrap());
    store.put_job(one, b"pull").unwrap();
    store.put_job(two, b"other").unwrap();
    store.put_job(one, b"pull!").unwrap();
    assert!(store.delete_job(two).unwrap() && !store.delete_job(two).unwrap());
    drop(store);
    let store = place.open();
    assert_eq!(store.jobs().unwrap(), [(one, b"pull!".to_vec())]);
    assert!(store.next_job_id().unwrap() > two);
    for block in &blocks {
        assert_eq!(store.node(block.cid().hash()).unwrap().as_ref(), Some(block.bytes()));
        assert_eq!(store.read(block.cid().hash()).unwrap().as_ref(), Some(block.bytes()));
        assert_eq!(store.has(block.cid().hash()).unwrap(), Some(400_000));
    }
}

/// Bytes go from the file into a buffer that comes back, and are what is sent: no memory is taken for each block.
#[test]
fn blocks_in_turn_are_read_into_one_buffer() {
    const LARGE: usize = 1 << 20;
    for reader in [ReaderKind::Mmap, ReaderKind::Pread, ReaderKind::Direct] {
        let place = Place::new();
        let store = Store::open(&place.repo(), Options { reader, ..Options::default() }).unwrap();
        let data = content(11, LARGE * 24);
        std::fs::write(place.path("f"), &data).unwrap();
        let source = SourceFile::open(&place.path("f")).unwrap();
        let file = store.register(&NewFile::in_place(&source)).unwrap();
        let places = (0..).zip(data.chunks(LARGE)).map(|(leaf, chunk)| {
            let place =
                LeafPlace { file, leaf, offset: leaf * LARGE as u64, len: chunk.len() as u32, wrap: Vec::new() };
            (hash(chunk), place)
        });
        store.put_refs(file, &mut places.collect()).unwrap();
        store.activate(file, Activation { root: block(b"root").cid(), leaves: 24, extents: &[0] }).unwrap();
        let mut buffers = std::collections::BTreeSet::new();
        for chunk in data.chunks(LARGE) {
            let read = store.read(&hash(chunk)).unwrap().unwrap();
            assert_eq!(read, chunk);
            buffers.insert(read.as_ptr());
        }
        assert_eq!(buffers.len(), 1, "{reader:?}");
        assert!(store.memory().idle_bytes < 2 * LARGE as u64);
    }
}

#[test]
fn a_file_that_nobody_reads_is_let_go_and_may_be_replaced() {
    for reader in [ReaderKind::Mmap, ReaderKind::Pread, ReaderKind::Direct] {
        let place = Place::new();
        let store = Store::open(&place.repo(), Options { reader, ..options() }).unwrap();
        let (data, path, new) = (content(1, LEAF * 20), place.path("f"), place.path("new"));
        add(&store, &path, &data);
        std::fs::write(&new, &data).unwrap();
        assert_eq!(store.read(&hash(&data[..LEAF])).unwrap().unwrap(), &data[..LEAF]);
        if cfg!(windows) {
            let cut = std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1);
            let expected = (reader == ReaderKind::Mmap).then_some(1224);
            assert_eq!(cut.err().and_then(|e| e.raw_os_error()), expected);
            std::fs::copy(&new, place.path("whole")).unwrap();
            assert_eq!(std::fs::rename(place.path("whole"), &path).unwrap_err().raw_os_error(), Some(5));
        }
        store.close_idle(std::time::Duration::ZERO);
        assert!(store.memory().files.is_empty() && store.memory().windows_bytes == 0, "{reader:?}");
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(store.read(&hash(&data[..LEAF])).unwrap().unwrap(), &data[..LEAF]);
    }
}
