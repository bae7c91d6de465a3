//! Limits of what passes a second. That they hold is measured, not asserted: this shows that they can be set and changed.

use crate::support::{Repo, assert_same, noise};

#[test]
fn what_may_pass_a_second_is_set_and_changed_while_a_pull_runs() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let (file, copy) = (folder.path().join("file.bin"), folder.path().join("copy.bin"));
    noise(&file, 24 << 20, 1);
    let cid = publisher.ask(&["add", file.to_str().unwrap()]).last().unwrap()["cid"].as_str().unwrap().to_owned();
    let from = publisher.daemon_at("/ip4/127.0.0.1/tcp/0", &["--up", "800kbit"]);
    assert_eq!(publisher.ask(&["limit"])[0]["up"], 100_000);
    let _to = reader.daemon_at("/ip4/127.0.0.1/tcp/0", &["--peer", from.address()]);
    let limits = &reader.ask(&["limit", "--down", "64KiB/s"])[0];
    assert_eq!((&limits["up"], &limits["down"]), (&0.into(), &65536.into()));
    let pull = reader.start_get(&cid, &copy, &[]);
    // At these limits it would take minutes.
    reader.wait_job(&copy, |job| job["state"] == "fetching");
    reader.ask(&["limit", "--down", "0"]);
    publisher.ask(&["limit", "--up", "0"]);
    assert!(pull.finish());
    assert_same(&file, &copy);
    assert!(reader.refused(&["limit", "--up", "12"]).contains("nothing would get on"));
}
