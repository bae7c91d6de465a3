//! Windows: files and folders that nobody but their user reads, from their first instant. No other rights are set here.
//!
//! The system itself (services, backups) may read them, as root may on Unix: a node that runs as a service is no other's.
#![allow(unsafe_code, reason = "std makes no file with a security descriptor")]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::windows::io::FromRawHandle;
use std::path::Path;
use std::ptr::null_mut;

use super::wide;
use windows_sys::Win32::Foundation::{CloseHandle, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// Makes a file to write to that is not there yet.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let (descriptor, path) = (Descriptor::of_user("")?, wide(path)?);
    let attributes = descriptor.attributes();
    // SAFETY: the path ends with a zero, and the attributes and what they point to live until the call is over.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_WRITE,
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            &raw const attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is a file's, open, and nobody else's.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Makes a folder; what is made in it later is as private.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    let (descriptor, path) = (Descriptor::of_user("OICI")?, wide(path)?);
    let attributes = descriptor.attributes();
    // SAFETY: as in `create_private`.
    check(unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) })
}

/// A security descriptor, in memory of the system's.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Descriptor {
    /// All rights for the user and the system, none for others, nothing inherited; `inherit` says who inherits it.
    fn of_user(inherit: &str) -> io::Result<Self> {
        let user = user()?;
        let text = format!("O:{user}D:P(A;{inherit};FA;;;{user})(A;{inherit};FA;;;SY)");
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = null_mut();
        // SAFETY: the text ends with a zero; the length that is not asked for may be null.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        })?;
        Ok(Self(descriptor))
    }

    /// As calls want it; not to outlive the descriptor.
    fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
            lpSecurityDescriptor: self.0,
            bInheritHandle: 0,
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system allocated it so, and it is freed once.
        unsafe { LocalFree(self.0) };
    }
}

/// The number of the user that this process runs as.
fn user() -> io::Result<String> {
    // SAFETY: the token is open while it is asked. What it tells is a `TOKEN_USER` and the number that this points to, in
    // one buffer, aligned for both; the text ends with a zero and is the system's until it is freed.
    unsafe {
        let mut token: HANDLE = null_mut();
        check(OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token))?;
        // A number takes 68 bytes at most.
        let mut buffer = [0_u64; 32];
        let (bytes, mut needed) = (u32::try_from(size_of_val(&buffer)).unwrap_or(0), 0);
        let told = check(GetTokenInformation(token, TokenUser, buffer.as_mut_ptr().cast(), bytes, &raw mut needed));
        CloseHandle(token);
        told?;
        let mut text = null_mut();
        check(ConvertSidToStringSidW((*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid, &raw mut text))?;
        let len = (0..).take_while(|&i| *text.add(i) != 0).count();
        let user = String::from_utf16_lossy(std::slice::from_raw_parts(text, len));
        LocalFree(text.cast());
        Ok(user)
    }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::Swarm;
    use crate::repo::{Endpoint, NewRepo, Repo};
    use windows_sys::Win32::Security::Authorization::{
        ConvertSecurityDescriptorToStringSecurityDescriptorW, GetNamedSecurityInfoW, SE_FILE_OBJECT,
    };
    use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION};

    /// Owner and list of rights, as text.
    fn rights(path: &Path) -> String {
        let path = wide(path).unwrap();
        let asked = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
        let (mut descriptor, mut text, mut len) = (null_mut(), null_mut(), 0);
        // SAFETY: the path ends with a zero, and what is not asked for may be null; the text has the length that is told.
        // Both stay allocated, which a test can afford.
        unsafe {
            let (none, all) = (null_mut(), &raw mut descriptor);
            let failed = GetNamedSecurityInfoW(
                path.as_ptr(),
                SE_FILE_OBJECT,
                asked,
                null_mut(),
                none,
                null_mut(),
                null_mut(),
                all,
            );
            assert_eq!(failed, 0);
            check(ConvertSecurityDescriptorToStringSecurityDescriptorW(
                descriptor,
                SDDL_REVISION_1,
                asked,
                &raw mut text,
                &raw mut len,
            ))
            .unwrap();
            String::from_utf16_lossy(std::slice::from_raw_parts(text, len as usize)).trim_end_matches('\0').to_owned()
        }
    }

    #[test]
    fn secrets_are_for_their_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("repo");
        let new = NewRepo { swarm: Swarm::Private, identity: b"identity".to_vec(), swarm_key: Some(b"key".to_vec()) };
        let repo = Repo::init(&dir, &new).unwrap();
        let _published =
            repo.publish(&Endpoint { addr: "127.0.0.1:1".parse().unwrap(), token: "t".to_owned() }).unwrap();
        let user = user().unwrap();
        // Wine tells no more than this: not that nothing is inherited, and it lets nothing be.
        for path in ["identity.key", "swarm.key", "rpc.token", "."].map(|name| dir.join(name)) {
            let rights = rights(&path);
            let (owner, list) = rights.split_once("D:").unwrap();
            assert_eq!(owner, format!("O:{user}"));
            let entries: Vec<&str> = list.split(['(', ')']).filter(|entry| entry.contains(';')).collect();
            let of = |who: &str| entries.iter().filter(|entry| entry.ends_with(&format!(";FA;;;{who}"))).count();
            assert_eq!((of(&user), of("SY"), entries.len()), (1, 1, 2), "{}: {rights}", path.display());
        }
    }
}
