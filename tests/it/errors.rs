//! Every refusal names the thing and the remedy, and leaves nothing half-made.

use std::path::Path;

use crate::support::{Repo, bitshoal, bounded, noise, stderr};

/// A CID of a file that nobody has.
const ABSENT: &str = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4";

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn no_repo_says_init() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nothing");
    for command in [&["get", ABSENT][..], &["ls"], &["daemon"], &["add", "x"], &["share", "x"], &["id"]] {
        let done = bounded(bitshoal().arg("--repo").arg(&missing).args(command));
        assert!(!done.status.success());
        assert!(stderr(&done).contains(" init`"), "{command:?}: {}", stderr(&done));
        assert!(!missing.exists());
    }
}

#[test]
fn bad_cids_and_paths_are_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let _daemon = repo.daemon();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let output = work.join("out.bin");
    let get = |cid: &str, output: &Path| repo.refused(&["get", cid, "-o", output.to_str().unwrap(), "--timeout", "2"]);

    let said = get("not-a-cid", &output);
    assert!(said.contains("not-a-cid") && said.contains("not a CID"), "{said}");
    let said = get("bafyreifrm6uf5o4dsaacuszf35zhibyojlqclabzrms7iak67pf62jygaq", &output);
    assert!(said.contains("codec 0x71"), "{said}");
    let said = get(ABSENT, &work.join("no/such/folder/out.bin"));
    assert!(said.contains("parent-missing") && said.contains("folder does not exist"), "{said}");
    std::fs::write(&output, b"mine").unwrap();
    let said = get(ABSENT, &output);
    assert!(said.contains("exists already") && said.contains("--into-existing"), "{said}");
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
    std::fs::remove_file(&output).unwrap();
    let part = work.join("out.bin.part");
    std::fs::write(&part, b"mine too").unwrap();
    let said = get(ABSENT, &output);
    assert!(said.contains("out.bin.part"), "{said}");
    assert_eq!(std::fs::read(&part).unwrap(), b"mine too");
    std::fs::remove_file(&part).unwrap();
    let said = get(ABSENT, &output);
    assert!(said.contains("no peers"), "{said}");
    assert!(entries(&work).is_empty(), "{:?}", entries(&work));
}

#[test]
fn peers_that_do_not_have_it_are_named_as_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let one = Repo::new(folder.path(), "one");
    let other = Repo::member(folder.path(), "other", &one);
    let (from, _to) = (one.daemon(), other.daemon());
    other.ask(&["connect", from.address()]);
    let output = folder.path().join("out.bin");
    let said = other.refused(&["get", ABSENT, "-o", output.to_str().unwrap(), "--timeout", "3"]);
    assert!(said.contains("none of the connected peers has"), "{said}");
}

#[test]
fn add_refuses_what_is_not_a_readable_file() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let said = repo.refused(&["add", folder.path().join("absent").to_str().unwrap()]);
    assert!(said.contains("absent"), "{said}");
    for bad in [
        &["--chunker", "size-0"][..],
        &["--chunker", "size-3000000"],
        &["--chunker", "rabin-1"],
        &["--profile", "nonsense"],
        &["--cid-version", "2"],
    ] {
        let file = folder.path().join("file");
        noise(&file, 10, 1);
        let arguments: Vec<&str> = ["add"].iter().chain(bad).copied().chain([file.to_str().unwrap()]).collect();
        repo.refused(&arguments);
    }
    assert!(repo.ask(&["ls"]).is_empty());
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_and_read_only_folders_can_be_added() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let deep = folder.path().join("a/b/c");
    std::fs::create_dir_all(&deep).unwrap();
    let odd = deep.join(std::ffi::OsStr::from_bytes(b"odd\xff.bin"));
    noise(&odd, 100, 1);
    std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o555)).unwrap();
    let done = bounded(repo.command(&["--json", "add"]).arg(&odd));
    std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(crate::support::json_lines(&done.stdout)[0]["path"]["hex"].is_string());
    assert_eq!(repo.ask(&["ls"]).len(), 1);
}

#[test]
fn the_second_process_on_a_repo_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let _daemon = repo.daemon();
    let said = repo.refused(&["daemon", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    assert!(said.contains("process"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let repo = Repo::new(folder.path(), "repo");
    let said = repo.refused(&["daemon", "--listen", &format!("/ip4/127.0.0.1/tcp/{port}")]);
    assert!(said.contains(&port), "{said}");
}

#[test]
fn a_malformed_config_is_named_by_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let config = repo.path.join("node.toml");
    std::fs::write(&config, "# fine\nlissten = [\"/ip4/0.0.0.0/tcp/4001\"]\n").unwrap();
    let said = repo.refused(&["daemon"]);
    assert!(said.contains("node.toml") && said.contains('2') && said.contains("lissten"), "{said}");
    std::fs::write(&config, "listen = 5\n").unwrap();
    let said = repo.refused(&["daemon"]);
    assert!(said.contains("node.toml") && said.contains("listen"), "{said}");
}

#[test]
fn init_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let identity = std::fs::read(repo.path.join("identity.key")).unwrap();
    let key = std::fs::read(repo.path.join("swarm.key")).unwrap();
    repo.refused(&["init"]);
    assert_eq!(std::fs::read(repo.path.join("identity.key")).unwrap(), identity);
    assert_eq!(std::fs::read(repo.path.join("swarm.key")).unwrap(), key);
}

#[test]
fn rm_forgets_and_never_deletes_a_complete_file() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let file = folder.path().join("file.bin");
    noise(&file, 3_000_000, 1);
    let added = repo.ask(&["add", file.to_str().unwrap()]);
    let cid = added[0]["cid"].as_str().unwrap();
    repo.ask(&["rm", cid, "--delete-partial"]);
    assert!(file.exists());
    assert!(repo.ask(&["ls"]).is_empty());
    let said = repo.refused(&["stat", cid]);
    assert!(said.contains("bitshoal ls"), "{said}");
}

// Without a console, as in a service or a build, Wine sends no console events; `service` has the clean stop there.
#[cfg(unix)]
#[test]
fn a_daemon_stops_within_five_seconds_and_its_job_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let daemon = repo.daemon();
    let output = folder.path().join("out.bin");
    repo.ask(&["get", ABSENT, "-o", output.to_str().unwrap(), "--detach"]);
    let (took, status) = daemon.terminate();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    assert!(status.success(), "{status}");
    let _daemon = repo.daemon();
    let job = repo.job(&output).unwrap();
    assert_eq!(job["cid"], ABSENT);
    let id = job["id"].to_string();
    repo.ask(&["jobs", "pause", &id]);
    assert_eq!(repo.job(&output).unwrap()["state"], "paused");
    repo.ask(&["jobs", "resume", &id]);
    assert_ne!(repo.job(&output).unwrap()["state"], "paused");
    repo.ask(&["jobs", "cancel", &id]);
    assert_eq!(repo.job(&output).unwrap()["state"], "cancelled");
}
