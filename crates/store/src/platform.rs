//! What differs between operating systems: syncing folders, locks of files, whether a process lives.
//!
//! Linux is tested. On macOS folders are synced as on Linux; Windows cannot open a folder to sync it, and its file systems write names
//! through. A network file system can refuse each of these, which is said where it matters.

use std::fs::File;
use std::path::Path;

/// Makes the names in a folder durable, where the system can do that. Some systems and file systems cannot open or sync a folder; the
/// file itself is safe there as far as they promise it.
pub(crate) fn sync_folder(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let _ = File::open(folder).and_then(|d| d.sync_all());
}

/// What came of locking a file.
pub(crate) enum Locked {
    /// It is ours until the file is closed.
    Ours,
    /// Another process, or another part of this one, has it.
    Taken,
    /// The file system has no locks: some Lustre, FUSE and NFS mounts.
    Unsupported(std::io::Error),
}

/// Locks an open file for this process, without waiting.
pub(crate) fn lock(file: &File) -> Locked {
    match file.try_lock() {
        Ok(()) => Locked::Ours,
        Err(std::fs::TryLockError::WouldBlock) => Locked::Taken,
        Err(std::fs::TryLockError::Error(e)) => Locked::Unsupported(e),
    }
}

/// The name of this machine, for messages; empty where it is not known.
pub(crate) fn host() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|p| std::fs::read_to_string(p).ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .map(|s| s.trim().to_string())
        .unwrap_or_default()
}

/// Whether a process of this machine runs; `None` where that cannot be told.
pub(crate) fn runs(pid: u32) -> Option<bool> {
    Path::new("/proc/self").exists().then(|| Path::new("/proc").join(pid.to_string()).exists())
}
