//! `bitshoal service`: the daemon as a service of Windows. Elsewhere each of these commands says what to use instead.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use serde_json::json;

use super::args::{ServiceArgs, ServiceCommand};
use super::output::Output;
use crate::daemon::{self, Host, News};
use crate::platform::service::{self, Life};
use crate::repo::Repo;
use crate::stop::Stop;
use crate::telemetry;
use crate::transfer::api::Failure;

/// The log of a service, which has no stderr; what the run before has written is kept beside it.
const LOG: &str = "service.log";
const LOG_BEFORE: &str = "service.log.old";

/// Runs one of the commands for the repo in `dir`; `log` is the flag of that name.
pub(super) async fn run(
    args: ServiceArgs,
    dir: &Path,
    log: Option<&str>,
    host: &dyn Host,
    output: &mut Output,
) -> Result<(), Failure> {
    let name = args.name.as_str();
    match args.command {
        ServiceCommand::Install => {
            let mut arguments: Vec<OsString> = vec!["--repo".into(), dir.into()];
            arguments.extend(log.into_iter().flat_map(|log| ["--log".into(), log.into()]));
            arguments.extend(["service", "run", "--name", name].map(OsString::from));
            if cfg!(windows) {
                // What is missing shows now, and not at the next start of the machine.
                Repo::open(dir)?.config()?;
            }
            service::install(name, arguments).map_err(failed)?;
            output.result(
                &json!({ "event": "service-installed", "name": name }),
                &format!("{name} starts with the system; `sc start {name}` starts it now"),
            )
        }
        ServiceCommand::Uninstall => {
            let named = name.to_owned();
            let done = tokio::task::spawn_blocking(move || service::uninstall(&named)).await;
            done.map_err(|error| Failure::new("bug", error))?.map_err(failed)?;
            output.result(&json!({ "event": "service-uninstalled", "name": name }), &format!("{name} is gone"))
        }
        ServiceCommand::Run => {
            let (wishes, mut stop) = Stop::by_hand();
            let life = Life::begin(name, move || wishes.send_modify(|count| *count += 1)).await.map_err(failed)?;
            let result = serve(dir, log, host, &life, &mut stop).await;
            if let Err(failure) = &result {
                tracing::error!(code = failure.code, "{failure}");
            }
            life.end(result.is_ok()).await.map_err(failed)?;
            result
        }
    }
}

/// The daemon's life, told to the service manager.
async fn serve(dir: &Path, log: Option<&str>, host: &dyn Host, life: &Life, stop: &mut Stop) -> Result<(), Failure> {
    let repo = Repo::open(dir)?;
    let path = dir.join(LOG);
    let _ = std::fs::rename(&path, dir.join(LOG_BEFORE));
    let file = File::create(&path).map_err(|error| Failure::new("repo-io", format!("{}: {error}", path.display())))?;
    let settings = repo.config();
    let level = settings.as_ref().map_or("info", |config| config.log.as_str());
    telemetry::start_in(file, log, level)?;
    let config = settings?;
    let mut tell = |news| match news {
        News::Listening(address) => {
            tracing::info!(address, "listening");
            Ok(())
        }
        News::Ready => life.running().map_err(failed),
        News::Stopping => life.stopping().map_err(failed),
    };
    daemon::run(host, &repo, &config, None, &mut tell, stop).await
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new("service", error)
}
