//! The folder of a run. Only one run uses it at a time, and a new run never overwrites the files of another.

use crate::atomic::write_atomic;
use crate::checkpoints::CheckpointFolder;
use crate::error::{Error, Result};
use crate::faults;
use crate::platform::{self, Locked};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The folder of a run, which stays locked until this value is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    notes: Vec<String>,
    _lock: Lock,
}

/// What keeps other runs out.
#[derive(Debug)]
enum Lock {
    /// The operating system's lock, which ends with the process at the latest.
    System { _file: File },
    /// A file that is there as long as the run, where the file system has no locks.
    Claim(PathBuf),
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Lock::Claim(path) = self {
            // The next run says what to do where this fails.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl RunFolder {
    /// Makes and locks the folder, and removes temporary files that a killed run left.
    ///
    /// # Errors
    /// When it cannot be written, another run has it, or it holds a run and `resume` is false.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| file(path, format!("cannot be made: {e}")))?;
        let mut notes = vec![];
        let lock = acquire(path, &mut notes)?;
        let used = !CheckpointFolder::new(path).list().is_empty() || path.join("log.txt").exists();
        if used && !resume {
            return Err(file(
                path,
                "holds an earlier run: continue it by setting resume to auto, or set another output_dir".into(),
            ));
        }
        let beside = std::fs::read_dir(CheckpointFolder::new(path).history()).into_iter().flatten();
        for entry in std::fs::read_dir(path).map_err(|e| file(path, e.to_string()))?.chain(beside).flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Only what a run writes itself: other programs' temporary files are theirs.
            let own = [
                ".checkpoint-",
                ".best.safetensors.",
                ".best-raw.safetensors.",
                ".epoch-",
                ".log.txt.",
                ".features-",
                ".report.html.",
            ];
            if own.iter().any(|p| name.starts_with(p))
                && name.ends_with(".tmp")
                && entry.file_type().is_ok_and(|t| t.is_file())
            {
                std::fs::remove_file(entry.path()).map_err(|e| file(&entry.path(), e.to_string()))?;
            }
        }
        Ok(RunFolder { path: path.into(), notes, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about the folder, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::new(&self.path)
    }

    /// Appends a JSON line to `log.txt`. Half a line at its end, which a write that failed has left, is removed first.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn log(&self, line: &serde_json::Value) -> Result<()> {
        let path = self.path.join("log.txt");
        let write = || {
            faults::operation(&path)?;
            let mut f = File::options().create(true).read(true).append(true).open(&path)?;
            let mut text = vec![];
            f.read_to_end(&mut text)?;
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            if whole < text.len() {
                f.set_len(whole as u64)?;
            }
            faults::Counted { file: &mut f, path: &path }.write_all(format!("{line}\n").as_bytes())?;
            f.sync_data()
        };
        write().map_err(|e| file(&path, e.to_string()))
    }

    /// Removes the lines of `epoch` and later epochs from `log.txt`, because a resumed run writes them again.
    ///
    /// # Errors
    /// When it cannot be rewritten.
    pub fn cut_log(&self, epoch: usize) -> Result<()> {
        let path = self.path.join("log.txt");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
        let earlier = |line: &&str| {
            let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
            value.and_then(|v| v.get("epoch")?.as_u64()).is_some_and(|e| (e as usize) < epoch)
        };
        let kept: String = text.lines().filter(earlier).flat_map(|l| [l, "\n"]).collect();
        if kept == text {
            return Ok(());
        }
        write_atomic(&path, |f| f.write_all(kept.as_bytes()))
    }
}

/// Keeps other runs out of a folder. The file `.lock` stays when the run is over, because another process may just have opened it.
fn acquire(folder: &Path, notes: &mut Vec<String>) -> Result<Lock> {
    let path = folder.join(".lock");
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = open.map_err(|e| file(&path, format!("not writable: {e}")))?;
    match platform::lock(&lock) {
        Locked::Ours => {
            let written = lock.set_len(0).and_then(|()| write!(lock, "{}", us()));
            written.map_err(|e| file(&path, e.to_string()))?;
            Ok(Lock::System { _file: lock })
        }
        Locked::Taken => {
            let mut owner = String::new();
            // The number is only used in the message; it may be half written.
            let _ = lock.read_to_string(&mut owner);
            Err(file(&path, format!("process {} is training here: stop it or set another output_dir", owner.trim())))
        }
        Locked::Unsupported(e) => {
            notes.push(format!(
                "{}: its file system has no locks ({e}); the file .claim keeps other runs out as long as this one runs",
                folder.display()
            ));
            claim(&folder.join(".claim"))
        }
    }
}

/// This process, as locks name it.
fn us() -> String {
    let host = platform::host();
    if host.is_empty() { std::process::id().to_string() } else { format!("{} on {host}", std::process::id()) }
}

/// Makes a file that only one process can make. One that a dead process of this machine left is taken over.
fn claim(path: &Path) -> Result<Lock> {
    for _ in 0..2 {
        match File::options().write(true).create_new(true).open(path) {
            Ok(mut f) => {
                f.write_all(us().as_bytes()).map_err(|e| file(path, e.to_string()))?;
                return Ok(Lock::Claim(path.into()));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let owner = std::fs::read_to_string(path).unwrap_or_default();
                let (pid, host) = owner.split_once(" on ").unwrap_or((owner.as_str(), ""));
                let here = host == platform::host();
                let dead = pid.parse().ok().and_then(platform::runs).is_some_and(|runs| !runs);
                if !(here && dead) {
                    return Err(file(
                        path,
                        format!(
                            "process {} is training here, or ended without removing this file, which cannot be told as \
                             the file system has no locks: stop it or set another output_dir; if it is gone, remove the file",
                            if owner.is_empty() { "of an unknown number" } else { &owner }
                        ),
                    ));
                }
                std::fs::remove_file(path).map_err(|e| file(path, e.to_string()))?;
            }
            Err(e) => return Err(file(path, format!("cannot be made: {e}"))),
        }
    }
    Err(file(path, "another process makes this file at the same time: it is training here".into()))
}

fn file(path: &Path, message: String) -> Error {
    Error::File { path: path.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::open(dir.path(), false).unwrap();
        assert!(run.notes().is_empty());
        let e = RunFolder::open(dir.path(), true).unwrap_err().to_string();
        assert!(e.contains("is training here") && e.contains(&std::process::id().to_string()), "{e}");
        for epoch in 0..3 {
            run.log(&serde_json::json!({"train_loss": 1.0, "epoch": epoch})).unwrap();
        }
        drop(run);
        assert!(RunFolder::open(dir.path(), false).unwrap_err().to_string().contains("resume to auto"));
        // A killed run's lock file, with any pid, holds nobody up.
        std::fs::write(dir.path().join(".lock"), std::process::id().to_string()).unwrap();
        std::fs::write(dir.path().join(".checkpoint-00000001.safetensors.1.tmp"), "x").unwrap();
        std::fs::write(dir.path().join(".notes.tmp"), "x").unwrap();
        let run = RunFolder::open(dir.path(), true).unwrap();
        assert!(!dir.path().join(".checkpoint-00000001.safetensors.1.tmp").exists());
        assert!(dir.path().join(".notes.tmp").exists(), "other programs' files are theirs");
        run.cut_log(2).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("log.txt")).unwrap().lines().count(), 2);
    }

    #[test]
    fn without_locks_a_file_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".claim");
        let held = claim(&path).unwrap();
        let e = claim(&path).unwrap_err().to_string();
        assert!(e.contains("is training here") && e.contains("remove the file"), "{e}");
        drop(held);
        assert!(!path.exists());
        // Of a process that is gone, here and on another machine.
        if platform::runs(1).is_some() {
            std::fs::write(&path, format!("{} on {}", u32::MAX, platform::host())).unwrap();
            drop(claim(&path).unwrap());
        }
        std::fs::write(&path, format!("{} on elsewhere.example", u32::MAX)).unwrap();
        assert!(claim(&path).unwrap_err().to_string().contains("elsewhere.example"));
    }

    #[test]
    fn a_place_that_cannot_be_a_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let e = RunFolder::open(&dir.path().join("file/run"), false).unwrap_err().to_string();
        assert!(e.contains("cannot be made"), "{e}");
    }
}
