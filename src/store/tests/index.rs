//! The index itself: its lock, its format, its growth, its size.

use super::*;

#[test]
fn a_repository_has_one_holder_and_says_which() {
    let place = Place::new();
    let store = place.open();
    match Store::open(&place.repo(), options()) {
        Err(StoreError::InUse { pid, .. }) if cfg!(unix) => assert_eq!(pid, Some(std::process::id())),
        Err(StoreError::InUse { .. }) => {}
        other => panic!("{other:?}"),
    }
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(&place.repo(), options()), Err(StoreError::InUse { .. })));
    drop(clone);
    place.open();
}

#[test]
fn the_map_grows_by_itself_while_others_read() {
    let place = Place::new();
    let store = Store::open(&place.repo(), Options { map_bytes: 0, ..options() }).unwrap();
    let before = store.inner.index.map_bytes();
    let known = block(b"known");
    store.put_nodes(std::slice::from_ref(&known)).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(store.read(known.cid().hash()).unwrap().as_ref(), Some(known.bytes()));
                }
            });
        }
        for i in 0..40 {
            store.put_nodes(&[block(&content(i, 200_000))]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(store.inner.index.map_bytes() >= before * 8);
    drop(store);
    // The small map of the options is no limit for what is there already.
    let store = Store::open(&place.repo(), Options { map_bytes: 0, ..options() }).unwrap();
    for i in 0..40 {
        assert!(store.node(&hash(&content(i, 200_000))).unwrap().is_some());
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let place = Place::new();
    let store = place.open();
    let put = |store: &Store, format: u32| {
        store
            .inner
            .index
            .write(|txn, tables| Ok(tables.meta.put(txn, tables::META_FORMAT, &format.to_be_bytes())?))
            .unwrap();
    };
    put(&store, tables::FORMAT + 1);
    drop(store);
    for _ in 0..2 {
        match Store::open(&place.repo(), options()) {
            Err(StoreError::NewerFormat { found, supported }) => {
                assert_eq!((found, supported), (tables::FORMAT + 1, tables::FORMAT));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_index_of_many_leaves_is_small() {
    const LEAVES: u64 = 60_000;
    let place = Place::new();
    let store = place.open();
    let path = place.path("f");
    std::fs::write(&path, b"x").unwrap();
    let source = SourceFile::open(&path).unwrap();
    // Two files in one index: the second's references go between the first's.
    for round in 0..2_u64 {
        let file = store.register(&NewFile::in_place(&source)).unwrap();
        let mut all: Vec<_> = (0..LEAVES)
            .map(|leaf| {
                let place = LeafPlace { file, leaf, offset: leaf << 20, len: 1 << 20, wrap: Vec::new() };
                (hash(&(leaf + round * LEAVES).to_le_bytes()), place)
            })
            .collect();
        // As an import does whose references are sorted into eight stretches of keys.
        all.sort_by_key(|(key, _)| key.digest()[0]);
        for eighth in 0..8_u8 {
            let mut refs: Vec<_> = all.iter().filter(|(key, _)| key.digest()[0] >> 5 == eighth).cloned().collect();
            let count = refs.len() as u64;
            assert_eq!(store.put_refs(file, &mut refs).unwrap(), count);
        }
        let per_leaf = store.index_bytes() / (LEAVES * (round + 1));
        assert!(per_leaf <= 190, "{per_leaf} bytes a leaf");
        let root = *block(&round.to_le_bytes()).cid();
        store.activate(file, Activation { root: &root, leaves: LEAVES, extents: &[0] }).unwrap();
    }
    // The second add of the path made the first forgotten: its references are gone, the others stay.
    assert_eq!(store.files().unwrap().len(), 1);
    assert!(store.places(&hash(&5_u64.to_le_bytes())).unwrap().is_empty());
    assert_eq!(store.places(&hash(&(5 + LEAVES).to_le_bytes())).unwrap().len(), 1);
    let left = store.inner.index.read(|txn, tables| Ok(tables.refs.len(txn)?)).unwrap();
    assert_eq!(left, LEAVES);
}
