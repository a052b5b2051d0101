//! The folder of a run. Only one run uses it at a time, and a new run never overwrites the files of another.

use crate::error::{Result, file};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The folder of a run, which stays locked until this value is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The open file that holds the operating system's lock, which ends with the process at the latest.
    _lock: File,
}

impl RunDir {
    /// Makes and locks the folder, and removes temporary files that a killed run left.
    ///
    /// # Errors
    /// When it cannot be written, another process holds it, or it holds a run and `resume` is false.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| file(path, format!("cannot be made: {e}")))?;
        let lock = acquire(&path.join(".lock"))?;
        let used = !crate::checkpoint::list(path).is_empty() || path.join("log.txt").exists();
        if used && !resume {
            return Err(file(
                path,
                "holds an earlier run: continue it by setting resume to auto, or set another output_dir",
            ));
        }
        for entry in std::fs::read_dir(path).map_err(|e| file(path, e))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Only what a run writes itself: other programs' temporary files are theirs.
            let own =
                [".checkpoint-", ".best.safetensors.", ".log.txt.", ".features-"].iter().any(|p| name.starts_with(p));
            if own && name.ends_with(".tmp") && entry.file_type().is_ok_and(|t| t.is_file()) {
                std::fs::remove_file(entry.path()).map_err(|e| file(entry.path(), e))?;
            }
        }
        Ok(RunDir { path: path.into(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a JSON line to `log.txt`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn log(&self, line: &serde_json::Value) -> Result<()> {
        let path = self.path.join("log.txt");
        let write = || {
            let mut f = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            f.write_all(format!("{line}\n").as_bytes())?;
            f.sync_data()
        };
        write().map_err(|e| file(&path, e))
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
        candlelight_models::weights::write_atomic(&path, |f| f.write_all(kept.as_bytes())).map_err(|e| file(&path, e))
    }
}

/// Locks the file and writes our process id into it. The file stays when the run is over, because another process may just have opened
/// it.
fn acquire(path: &Path) -> Result<File> {
    let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut lock = open.map_err(|e| file(path, format!("not writable: {e}")))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is only used in the message; it may be half written.
            let _ = lock.read_to_string(&mut pid);
            let message = format!("process {} is training here: stop it or set another output_dir", pid.trim());
            return Err(file(path, message));
        }
        Err(TryLockError::Error(e)) => return Err(file(path, format!("cannot be locked: {e}"))),
    }
    let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
    written.map_err(|e| file(path, e))?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), false).unwrap();
        assert!(RunDir::open(dir.path(), true).unwrap_err().to_string().contains("is training here"));
        for epoch in 0..3 {
            run.log(&serde_json::json!({"train_loss": 1.0, "epoch": epoch})).unwrap();
        }
        drop(run);
        assert!(RunDir::open(dir.path(), false).unwrap_err().to_string().contains("resume to auto"));
        // A killed run's lock file, with any pid, holds nobody up.
        std::fs::write(dir.path().join(".lock"), std::process::id().to_string()).unwrap();
        std::fs::write(dir.path().join(".checkpoint-00000001.safetensors.1.tmp"), "x").unwrap();
        std::fs::write(dir.path().join(".notes.tmp"), "x").unwrap();
        let run = RunDir::open(dir.path(), true).unwrap();
        assert!(!dir.path().join(".checkpoint-00000001.safetensors.1.tmp").exists());
        assert!(dir.path().join(".notes.tmp").exists(), "other programs' files are theirs");
        run.cut_log(2).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("log.txt")).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_place_that_cannot_be_a_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(RunDir::open(&dir.path().join("file/run"), false).unwrap_err().to_string().contains("cannot be made"));
    }
}
