//! The folder of a run: one run at a time, never over another's files.

use crate::error::{Error, Result, file};
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// A run's folder, locked until dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: PathBuf,
}

impl RunDir {
    /// Makes and locks the folder; removes temporary files a killed run left.
    ///
    /// # Errors
    /// When it cannot be written, another process holds it, or it holds a run and `resume` is false.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| file(path, format!("cannot be made: {e}")))?;
        let used = !crate::checkpoint::list(path).is_empty() || path.join("log.txt").exists();
        if used && !resume {
            return Err(file(
                path,
                "holds an earlier run: continue it with --resume auto, or name another --output_dir",
            ));
        }
        let lock = path.join(".lock");
        Self::acquire(&lock)?;
        let dir = RunDir { path: path.into(), lock };
        for entry in std::fs::read_dir(path).map_err(|e| file(path, e))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".tmp") {
                std::fs::remove_file(entry.path()).map_err(|e| file(entry.path(), e))?;
            }
        }
        Ok(dir)
    }

    fn acquire(lock: &Path) -> Result<()> {
        for _ in 0..2 {
            match std::fs::OpenOptions::new().write(true).create_new(true).open(lock) {
                Ok(mut f) => {
                    held().insert(lock.into());
                    return write!(f, "{}", std::process::id()).map_err(|e| file(lock, e));
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    let pid = std::fs::read_to_string(lock).unwrap_or_default();
                    let pid: u32 = pid.trim().parse().unwrap_or(0);
                    if pid != 0 && alive(pid, lock) {
                        let message = format!(
                            "process {pid} is training here: stop it, name another --output_dir, or remove this file if \
                             that process is something else"
                        );
                        return Err(file(lock, message));
                    }
                    tracing::info!("removing the lock of process {pid}, which is gone");
                    std::fs::remove_file(lock).map_err(|e| file(lock, e))?;
                }
                Err(e) => return Err(file(lock, format!("not writable: {e}"))),
            }
        }
        Err(Error::Config(format!("{}: another process keeps taking this lock", lock.display())))
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

    /// Cuts `log.txt` back to the lines of epochs before `epoch`: those after it will be written again.
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

impl Drop for RunDir {
    fn drop(&mut self) {
        // The folder may be gone; there is nothing left to unlock then.
        let _ = std::fs::remove_file(&self.lock);
        held().remove(&self.lock);
    }
}

/// Locks this process holds. In a container every run may have the same pid, so the pid alone does not tell.
fn held() -> std::sync::MutexGuard<'static, HashSet<PathBuf>> {
    static HELD: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alive(pid: u32, lock: &Path) -> bool {
    if pid == std::process::id() {
        return held().contains(lock);
    }
    if cfg!(target_os = "linux") { Path::new(&format!("/proc/{pid}")).exists() } else { true }
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
        assert!(RunDir::open(dir.path(), false).unwrap_err().to_string().contains("--resume auto"));
        // A killed run whose pid this process has again, as in a container.
        std::fs::write(dir.path().join(".lock"), std::process::id().to_string()).unwrap();
        drop(RunDir::open(dir.path(), true).unwrap());
        std::fs::write(dir.path().join(".lock"), "999999999").unwrap();
        std::fs::write(dir.path().join(".checkpoint.1.tmp"), "x").unwrap();
        let run = RunDir::open(dir.path(), true).unwrap();
        assert!(!dir.path().join(".checkpoint.1.tmp").exists());
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
