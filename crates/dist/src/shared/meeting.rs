//! How the processes of a group find their file.

use super::life;
use super::memory::{Memory, failed};
use super::places::{HEADER, OWNER, OWNER_BORN, Places, WORLD};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the file of a group begins with once it is whole.
const MAGIC: u64 = u64::from_le_bytes(*b"candled1");

/// Where groups meet: memory that looks like a folder, where there is one.
pub(super) fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// Whether the process that made a file lives. Numbers of processes are given again, so its start counts, too.
pub(super) fn owned(memory: &Memory) -> bool {
    let (pid, born) = (memory.word(OWNER).load(Ordering::Acquire), memory.long(OWNER_BORN).load(Ordering::Acquire));
    !life::ended(pid) && life::born(pid) == born
}

/// Makes the file of a group. It gets its name once it is whole. That of a group whose maker has ended is nobody's.
pub(super) fn make(path: &Path, places: Places) -> Result<Memory> {
    let (name, pid) = (path.file_name().unwrap_or_default().to_string_lossy(), std::process::id());
    let begun = path.with_file_name(format!(".{name}-{pid}-{:?}", std::thread::current().id()));
    let memory = Memory::create(&begun, places.len());
    let memory = memory.map_err(|e| failed(&begun, "the group's memory cannot be made", &e))?;
    memory.word(WORLD).store(places.world as u32, Ordering::Relaxed);
    memory.word(OWNER).store(pid, Ordering::Relaxed);
    memory.long(OWNER_BORN).store(life::born(pid), Ordering::Relaxed);
    memory.long(0).store(MAGIC, Ordering::Release);
    let mut named = std::fs::hard_link(&begun, path);
    if named.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists) {
        if let Some(other) = Memory::open(path).ok().filter(|m| m.len() >= HEADER && owned(m)) {
            let owner = other.word(OWNER).load(Ordering::Acquire);
            let _ = std::fs::remove_file(&begun);
            return Err(Error::Config(format!(
                "{}: the name is taken by a group that process {owner} is making: choose another one, such as by another MASTER_PORT",
                path.display()
            )));
        }
        let _ = std::fs::remove_file(path);
        named = std::fs::hard_link(&begun, path);
    }
    let _ = std::fs::remove_file(&begun);
    named.map_err(|e| failed(path, "the group's memory cannot be named", &e))?;
    Ok(memory)
}

/// Opens the file of a group once it is there and whole.
pub(super) fn find(path: &Path, (rank, world): (usize, usize), patience: Duration) -> Result<Memory> {
    let begun = life::now();
    loop {
        if let Ok(memory) = Memory::open(path)
            && memory.len() >= HEADER
            && memory.long(0).load(Ordering::Acquire) == MAGIC
            && owned(&memory)
        {
            let theirs = memory.word(WORLD).load(Ordering::Acquire) as usize;
            if theirs != world || memory.len() != (Places { world }).len() {
                return Err(Error::Config(format!(
                    "process {rank} was told of {world} processes, process 0 of {theirs}: all must be told the same"
                )));
            }
            return Ok(memory);
        }
        if u128::from(life::now() - begun) > patience.as_millis() {
            let message =
                format!("it has not come within {:.1} s ({} is not there)", patience.as_secs_f64(), path.display());
            return Err(Error::Lost { rank: 0, world, message });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
