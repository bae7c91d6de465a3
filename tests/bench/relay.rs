//! Latency for namespaces of a benchmark: an Ethernet switch that holds each frame for a while.
//!
//! It reads and writes TAP devices that exist already (`ip tuntap add`), learns who is behind which, and passes frames on
//! in order, `delay` after they came. It neither shapes nor drops: the lines before and behind it do.

#![allow(unsafe_code, reason = "a TAP device is chosen by an ioctl that no library of ours offers")]

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest frame without offloads: a header, a VLAN's tag and 1500 bytes.
const FRAME_BYTES_MAX: usize = 1522;

/// Frames that are due within this time are sent together: waking for each would take a core.
const TOGETHER: Duration = Duration::from_micros(500);

/// What is on its way to one device.
#[derive(Default)]
struct Way {
    frames: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    came: Condvar,
}

/// Passes frames between these devices of this process's network namespace until it is killed.
pub fn run(devices: &[String], delay: Duration) -> ! {
    let files: Vec<File> = devices.iter().map(|name| open(name)).collect();
    let ways: Vec<Way> = files.iter().map(|_| Way::default()).collect();
    let behind: Mutex<HashMap<[u8; 6], usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for (here, file) in files.iter().enumerate() {
            let (ways, behind) = (&ways, &behind);
            scope.spawn(move || send(file, &ways[here]));
            scope.spawn(move || receive(file, here, ways, behind, delay));
        }
    });
    unreachable!("the threads never end")
}

fn open(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: an all-zero `ifreq` is a valid one: a name of no characters and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF takes a pointer to an `ifreq`, which lives until the call returns (tuntap.rst of Linux).
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert!(done == 0, "{name}: {}", std::io::Error::last_os_error());
    file
}

fn receive(mut file: &File, here: usize, ways: &[Way], behind: &Mutex<HashMap<[u8; 6], usize>>, delay: Duration) {
    let mut buffer = [0; FRAME_BYTES_MAX];
    loop {
        let length = file.read(&mut buffer).unwrap();
        let due = Instant::now() + delay;
        let frame = &buffer[..length];
        // IEEE 802.3: the destination's address, then the source's.
        let Some((to, rest)) = frame.split_first_chunk::<6>() else { continue };
        let Some(from) = rest.first_chunk::<6>() else { continue };
        let target = {
            let mut behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
            behind.insert(*from, here);
            behind.get(to).copied()
        };
        for (there, way) in ways.iter().enumerate() {
            if there != here && target.is_none_or(|target| target == there) {
                way.frames.lock().unwrap_or_else(PoisonError::into_inner).push_back((due, frame.to_vec()));
                way.came.notify_one();
            }
        }
    }
}

fn send(mut file: &File, way: &Way) {
    loop {
        let first = {
            let waiting = way.frames.lock().unwrap_or_else(PoisonError::into_inner);
            let frames = way.came.wait_while(waiting, |frames| frames.is_empty());
            frames.unwrap_or_else(PoisonError::into_inner).front().unwrap().0
        };
        let wake = first + TOGETHER;
        while let Some(early) = wake.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
            std::thread::park_timeout(early);
        }
        let due: Vec<_> = {
            let mut frames = way.frames.lock().unwrap_or_else(PoisonError::into_inner);
            let count = frames.partition_point(|(due, _)| *due <= wake);
            frames.drain(..count).collect()
        };
        for (_, frame) in due {
            // A device that is down, or goes with its namespace, takes no frames; the lines' ends notice.
            let _ = file.write(&frame);
        }
    }
}
