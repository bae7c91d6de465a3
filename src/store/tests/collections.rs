//! Many files under one root: entered, served, remembered, forgotten, and what a crash leaves of them.

use super::*;

/// A complete member of `collection` at `name`, one leaf long.
fn member(place: &Place, collection: CollectionId, entry: u32, name: &str, data: &[u8]) -> CompleteFile {
    let path = place.path(name);
    std::fs::write(&path, data).unwrap();
    let source = SourceFile::open(&path).unwrap();
    let file = NewFile { member: Some(Member { collection, entry }), ..NewFile::in_place(&source) };
    let leaves = refs(FileId(0), data)
        .into_iter()
        .map(|(multihash, place)| LeafAt { multihash, offset: place.offset, len: place.len })
        .collect();
    CompleteFile { file, root: root_of(data), leaves, wrap: Vec::new() }
}

fn begin(store: &Store, place: &Place, partial: bool) -> CollectionId {
    store.begin_collection(&NewCollection { root: None, path: Some(place.path("dir")), partial }).unwrap()
}

fn entries(store: &Store, id: CollectionId) -> Vec<u32> {
    let mut entries = Vec::new();
    store
        .members(id, &mut |file| {
            entries.push(file.member.unwrap().entry);
            true
        })
        .unwrap();
    entries
}

#[test]
fn files_of_a_collection_are_served_and_are_no_roots_of_their_own() {
    let place = Place::new();
    let (one, two) = (content(1, 3 * LEAF + 5), content(2, 40 * LEAF));
    let inner = block(b"an inner node");
    {
        let store = place.open();
        let id = begin(&store, &place, false);
        let files = [member(&place, id, 0, "one", &one), member(&place, id, 1, "two", &two)];
        store.add_complete(&files, std::slice::from_ref(&inner)).unwrap();
        store.finish_collection(id, &root_of(b"dir"), 43 * LEAF as u64 + 5, 2).unwrap();
    }
    let store = place.open();
    for data in [&one, &two] {
        for (i, expected) in data.chunks(LEAF).enumerate() {
            assert_eq!(store.read(&hash(expected)).unwrap().as_deref(), Some(expected), "leaf {i}");
        }
    }
    assert_eq!(store.node(inner.cid().hash()).unwrap().as_ref(), Some(inner.bytes()));
    assert_eq!(store.single_files().unwrap(), []);
    assert_eq!(store.roots().unwrap(), []);
    let [collection] = &store.collections().unwrap()[..] else { panic!("one collection") };
    assert_eq!((collection.state, collection.files), (CollectionState::Complete, 2));
    assert_eq!(entries(&store, collection.id), [0, 1]);
    let big = store.files().unwrap().into_iter().find(|file| file.leaves == 40).unwrap();
    assert_eq!(store.extents(big.id).unwrap(), [0, EXTENT_LEAVES * LEAF as u64]);
}

#[test]
fn a_collection_that_was_not_finished_is_gone_at_the_next_open_and_a_pulled_one_is_not() {
    let place = Place::new();
    let (added, pulled) = (content(3, 2 * LEAF), content(4, 2 * LEAF));
    {
        let store = place.open();
        let id = begin(&store, &place, false);
        store.add_complete(&[member(&place, id, 0, "added", &added)], &[]).unwrap();
        let id = begin(&store, &place, true);
        store.add_complete(&[member(&place, id, 7, "pulled", &pulled)], &[]).unwrap();
    }
    let store = place.open();
    assert_eq!(store.read(&hash(leaf(&added, 0))).unwrap(), None);
    assert!(store.read(&hash(leaf(&pulled, 0))).unwrap().is_some());
    assert_eq!(store.files().unwrap().len(), 1);
    let [left] = &store.collections().unwrap()[..] else { panic!("one collection") };
    assert_eq!((left.state, entries(&store, left.id)), (CollectionState::Partial, vec![7]));
}

#[test]
fn forgetting_a_collection_leaves_what_others_refer_to() {
    let place = Place::new();
    let shared = content(5, 2 * LEAF);
    let own = content(6, LEAF);
    let store = place.open();
    add(&store, &place.path("single"), &shared);
    let id = begin(&store, &place, true);
    let files = [member(&place, id, 0, "copy", &shared), member(&place, id, 1, "own", &own)];
    store.add_complete(&files, &[]).unwrap();
    // One more is on its way, leaf by leaf.
    let parted = content(7, 2 * LEAF);
    let path = place.path("parted");
    let part = store
        .create_part(
            &root_of(&parted),
            &path,
            parted.len() as u64,
            Preallocate::Sparse,
            Some(Member { collection: id, entry: 2 }),
        )
        .unwrap();
    store.put_refs(part, &mut refs(part, &parted)).unwrap();
    activate(&store, part, &parted);
    assert!(write_leaf(&store.writer(part).unwrap(), &parted, 0).unwrap());
    assert_eq!(entries(&store, id), [0, 1, 2]);
    assert_eq!(store.single_files().unwrap().len(), 1);
    assert_eq!(store.places(&hash(leaf(&shared, 0))).unwrap().len(), 2);

    store.forget_collection(id).unwrap().unwrap();
    assert_eq!(store.places(&hash(leaf(&shared, 0))).unwrap().len(), 1);
    assert_eq!(store.read(&hash(&own)).unwrap(), None);
    assert_eq!(store.read(&hash(leaf(&parted, 0))).unwrap(), None);
    assert_eq!((store.files().unwrap().len(), store.collections().unwrap().len()), (1, 0));
    assert!(place.path("own").exists() && store.forget_collection(id).unwrap().is_none());
}

#[test]
fn a_finished_pull_in_a_collection_stays_its_member() {
    let place = Place::new();
    let data = content(8, 2 * LEAF);
    let id = {
        let store = place.open();
        let id = begin(&store, &place, true);
        let at = Some(Member { collection: id, entry: 3 });
        let path = place.path("f");
        let file = store.create_part(&root_of(&data), &path, data.len() as u64, Preallocate::Sparse, at).unwrap();
        store.put_refs(file, &mut refs(file, &data)).unwrap();
        activate(&store, file, &data);
        let writer = store.writer(file).unwrap();
        for i in 0..2 {
            write_leaf(&writer, &data, i).unwrap();
        }
        writer.finish().unwrap();
        store.finish_collection(id, &root_of(b"dir"), data.len() as u64, 1).unwrap();
        id
    };
    let store = place.open();
    assert_eq!(entries(&store, id), [3]);
    assert_eq!(store.read(&hash(leaf(&data, 1))).unwrap().as_deref(), Some(leaf(&data, 1)));
    // The same folder added again takes the older one's place.
    let again = begin(&store, &place, false);
    store.finish_collection(again, &root_of(b"other"), 0, 0).unwrap();
    assert_eq!(store.collections().unwrap().iter().map(|c| c.id).collect::<Vec<_>>(), [again]);
    assert_eq!(store.files().unwrap(), []);
}

#[test]
fn complete_files_that_are_not_asked_for_take_no_memory() {
    let place = Place::new();
    let store = place.open();
    let id = begin(&store, &place, false);
    let data = content(9, 100);
    let template = member(&place, id, 0, "same", &data);
    let files: Vec<CompleteFile> = (0..10_000)
        .map(|entry| {
            let mut file = template.clone();
            file.file.member = Some(Member { collection: id, entry });
            file
        })
        .collect();
    store.add_complete(&files, &[]).unwrap();
    assert_eq!(store.places(&hash(&data)).unwrap().len(), 10_000);
    assert_eq!(store.read(&hash(&data)).unwrap().as_deref(), Some(&data[..]));
    assert_eq!(entries(&store, id).len(), 10_000);
    store.forget_collection(id).unwrap();
    assert_eq!(store.places(&hash(&data)).unwrap().len(), 0);
}
