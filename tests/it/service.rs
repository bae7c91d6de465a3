//! The daemon as a service of Windows, from its installation to its end.

#[cfg(not(windows))]
#[test]
fn elsewhere_it_is_said_what_to_use() {
    let folder = tempfile::tempdir().unwrap();
    let repo = crate::support::Repo::new(folder.path(), "repo");
    for command in ["install", "uninstall", "run"] {
        let said = repo.refused(&["service", command]);
        assert!(said.contains("for Windows") && said.contains("bitshoal daemon"), "{said}");
    }
}

#[cfg(windows)]
mod windows {
    use std::time::Instant;

    use windows_service::service::{Service, ServiceAccess, ServiceExitCode, ServiceState};
    use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

    use crate::support::{PATIENCE, Repo};

    fn open(name: &str) -> windows_service::Result<Service> {
        let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?;
        manager.open_service(name, ServiceAccess::QUERY_STATUS | ServiceAccess::START | ServiceAccess::STOP)
    }

    fn wait_for(repo: &Repo, what: &str, mut done: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done() {
            let log = std::fs::read_to_string(repo.path.join("service.log")).unwrap_or_default();
            assert!(Instant::now() < until, "{what}: {log}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_is_installed_starts_answers_stops_cleanly_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repo::new(folder.path(), "a repo");
        let name = format!("bitshoal-test-{}", std::process::id());
        repo.ask(&["service", "install", "--name", &name]);
        assert!(!repo.refused(&["service", "install", "--name", &name]).is_empty());
        let service = open(&name).unwrap();
        let status = || service.query_status().unwrap();
        service.start::<&str>(&[]).unwrap();
        wait_for(&repo, "it does not run", || status().current_state == ServiceState::Running);
        assert_eq!(repo.ask(&["health"])[0]["event"], "healthy");
        service.stop().unwrap();
        wait_for(&repo, "it does not stop", || status().current_state == ServiceState::Stopped);
        assert_eq!(status().exit_code, ServiceExitCode::NO_ERROR);
        assert!(!repo.path.join("rpc.token").exists());
        assert!(std::fs::read_to_string(repo.path.join("service.log")).unwrap().contains("listening"));
        // One that runs is stopped first; one that cannot start says so.
        service.start::<&str>(&[]).unwrap();
        wait_for(&repo, "it does not run again", || status().current_state == ServiceState::Running);
        drop(service);
        repo.ask(&["service", "uninstall", "--name", &name]);
        assert!(open(&name).is_err());
    }

    #[test]
    fn one_that_cannot_start_says_why_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repo::new(folder.path(), "repo");
        let name = format!("bitshoal-bad-{}", std::process::id());
        repo.ask(&["service", "install", "--name", &name]);
        std::fs::remove_file(repo.path.join("swarm.key")).unwrap();
        let service = open(&name).unwrap();
        service.start::<&str>(&[]).unwrap();
        let failed = ServiceExitCode::ServiceSpecific(1);
        wait_for(&repo, "it does not fail", || service.query_status().unwrap().exit_code == failed);
        assert!(std::fs::read_to_string(repo.path.join("service.log")).unwrap().contains("swarm.key is missing"));
        drop(service);
        repo.ask(&["service", "uninstall", "--name", &name]);
    }

    #[test]
    fn it_is_not_started_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let said = Repo::new(folder.path(), "repo").refused(&["service", "run"]);
        assert!(said.contains("service install"), "{said}");
    }
}
