//! A Windows service: registered with the system's service manager, and the talk with it while one runs.
//!
//! Knows nothing of what the service does. The manager calls [`service_main`] on a thread of its own, which only tells it
//! how the service is and waits for its end.

use std::ffi::OsString;
use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use windows_service::service::{
    ServiceAccess, ServiceControl, ServiceControlAccept, ServiceErrorControl, ServiceExitCode, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_dispatcher;
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

/// How long the manager is to wait for a start or a stop before it takes the service for hung.
const WAIT_HINT: Duration = Duration::from_secs(30);
/// How often a stop is looked at.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// winerror.h: the manager has not started this process.
const ERROR_FAILED_SERVICE_CONTROLLER_CONNECT: i32 = 1063;
/// winerror.h
const ERROR_SERVICE_NOT_ACTIVE: i32 = 1062;

/// Registers this program, with these arguments, to be started with the system.
pub(crate) fn install(name: &str, arguments: Vec<OsString>) -> io::Result<()> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(system)?;
    let info = ServiceInfo {
        name: name.into(),
        display_name: name.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: std::env::current_exe()?,
        launch_arguments: arguments,
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    };
    let service = manager.create_service(&info, ServiceAccess::CHANGE_CONFIG).map_err(system)?;
    // A convenience of the list of services.
    let _ = service.set_description("Distributes very large files to many machines, in place on every disk");
    Ok(())
}

/// Stops the service if it runs and takes it from the list.
pub(crate) fn uninstall(name: &str) -> io::Result<()> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(system)?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = manager.open_service(name, access).map_err(system)?;
    match service.stop().map_err(system) {
        Err(error) if error.raw_os_error() != Some(ERROR_SERVICE_NOT_ACTIVE) => return Err(error),
        _ => {}
    }
    let started = Instant::now();
    while service.query_status().map_err(system)?.current_state != ServiceState::Stopped {
        if started.elapsed() > WAIT_HINT {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the service does not stop"));
        }
        std::thread::park_timeout(STOP_INTERVAL);
    }
    service.delete().map_err(system)
}

/// A service that runs.
#[derive(Debug)]
pub(crate) struct Life {
    status: ServiceStatusHandle,
    /// Dropped when the service has ended, so that the manager's thread goes.
    over: mpsc::Sender<()>,
    /// What becomes of the talk with the manager.
    dispatched: oneshot::Receiver<io::Result<()>>,
}

/// What the manager's thread, which is given no argument, begins with.
struct Beginning {
    name: String,
    stop: Box<dyn Fn() + Send>,
    begun: oneshot::Sender<io::Result<ServiceStatusHandle>>,
    over: mpsc::Receiver<()>,
}

static BEGINNING: Mutex<Option<Beginning>> = Mutex::new(None);

impl Life {
    /// Answers the manager that has started this process. It calls `stop` when the service is to end.
    pub(crate) async fn begin(name: &str, stop: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (begun, mut beginning) = oneshot::channel();
        let (over, end) = mpsc::channel();
        let (ended, mut dispatched) = oneshot::channel();
        let name = name.to_owned();
        *BEGINNING.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Beginning { name: name.clone(), stop: Box::new(stop), begun, over: end });
        std::thread::spawn(move || {
            let _ = ended.send(service_dispatcher::start(name, service_main).map_err(system));
        });
        tokio::select! {
            status = &mut beginning => Ok(Self { status: status.map_err(io::Error::other)??, over, dispatched }),
            ended = &mut dispatched => match ended.map_err(io::Error::other)? {
                Err(error) if error.raw_os_error() == Some(ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) => Err(
                    io::Error::other("only Windows itself starts this: `bitshoal service install`, then `sc start`"),
                ),
                Err(error) => Err(error),
                Ok(()) => Err(io::Error::other("the service manager has let go")),
            },
        }
    }

    pub(crate) fn running(&self) -> io::Result<()> {
        tell(&self.status, ServiceState::Running, 0)
    }

    pub(crate) fn stopping(&self) -> io::Result<()> {
        tell(&self.status, ServiceState::StopPending, 0)
    }

    /// Tells the manager that the service has ended, and waits until it has understood.
    pub(crate) async fn end(self, succeeded: bool) -> io::Result<()> {
        tell(&self.status, ServiceState::Stopped, if succeeded { 0 } else { 1 })?;
        drop(self.over);
        self.dispatched.await.map_err(io::Error::other)?
    }
}

/// Called by the manager's dispatcher.
extern "system" fn service_main(_count: u32, _arguments: *mut *mut u16) {
    let Some(beginning) = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let Beginning { name, stop, begun, over } = beginning;
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown => {
            stop();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let status = service_control_handler::register(name, handler).map_err(system);
    let status = status.and_then(|status| tell(&status, ServiceState::StartPending, 0).map(|()| status));
    if begun.send(status).is_ok() {
        // An error is the end.
        let _ = over.recv();
    }
}

fn tell(status: &ServiceStatusHandle, state: ServiceState, code: u32) -> io::Result<()> {
    let pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
    let told = status.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: if state == ServiceState::Running {
            ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN
        } else {
            ServiceControlAccept::empty()
        },
        exit_code: if code == 0 { ServiceExitCode::NO_ERROR } else { ServiceExitCode::ServiceSpecific(code) },
        checkpoint: 0,
        wait_hint: if pending { WAIT_HINT } else { Duration::ZERO },
        process_id: None,
    });
    told.map_err(system)
}

/// The system's own error, whose number callers know.
fn system(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}
