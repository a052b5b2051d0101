//! The checkpoints in the folder of a run.

use crate::error::{Error, Result};
use crate::faults;
use std::path::{Path, PathBuf};

/// A folder of checkpoints `checkpoint-NUMBER.safetensors`. The newest has the largest number, whatever settings have changed between
/// them: a number is the run's count of steps where that is larger than all numbers before, and else the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFolder {
    path: PathBuf,
}

/// Checkpoints that were moved out of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// How many files were moved.
    pub files: usize,
    /// The folder that they are in now.
    pub folder: PathBuf,
}

impl CheckpointFolder {
    /// The checkpoints in `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        CheckpointFolder { path: path.into() }
    }

    /// The number of a checkpoint; `None` for other files, also those whose names begin like a checkpoint's.
    pub fn number(path: &Path) -> Option<u64> {
        let number = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?;
        (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok())?
    }

    /// The checkpoints, the oldest first.
    pub fn list(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|e| e.path());
        let mut found: Vec<(u64, PathBuf)> =
            entries.filter_map(|p| Some((Self::number(&p)?, p))).filter(|(_, p)| p.is_file()).collect();
        found.sort();
        found.into_iter().map(|(_, p)| p).collect()
    }

    /// The path of the next checkpoint, which is made after `steps` steps of the run.
    pub fn next(&self, steps: u64) -> PathBuf {
        let last = self.list().iter().filter_map(|p| Self::number(p)).max();
        let number = last.map_or(steps, |n| steps.max(n.saturating_add(1)));
        self.path.join(format!("checkpoint-{number:08}.safetensors"))
    }

    /// The path of the best weights so far.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The path of the best weights themselves, where [`CheckpointFolder::best`] is the best average.
    pub fn best_raw(&self) -> PathBuf {
        self.path.join("best-raw.safetensors")
    }

    /// The folder of the best models of the run.
    pub fn history(&self) -> PathBuf {
        self.path.join("history")
    }

    /// The path of the model after so many epochs, if it is one of the best.
    pub fn ranked(&self, epochs: usize) -> PathBuf {
        self.history().join(format!("epoch-{epochs:04}.safetensors"))
    }

    /// The models of the history, by epoch.
    pub fn all_ranked(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.history()).into_iter().flatten().flatten().map(|e| e.path());
        let of_ours = |p: &PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let number = name.strip_prefix("epoch-").and_then(|n| n.strip_suffix(".safetensors"));
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let mut found: Vec<PathBuf> = entries.filter(of_ours).collect();
        found.sort();
        found
    }

    /// Puts `to` in the place of what is there: another name of the file `from`, or a copy where the file system has no links.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn link(&self, from: &Path, to: &Path) -> Result<()> {
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let beside = to.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let made = || {
            faults::operation(to)?;
            let _ = std::fs::remove_file(&beside);
            std::fs::hard_link(from, &beside).or_else(|_| std::fs::copy(from, &beside).map(|_| ()))?;
            std::fs::rename(&beside, to)
        };
        made().map_err(|e| {
            let _ = std::fs::remove_file(&beside);
            file(to, &e)
        })
    }

    /// Removes the oldest checkpoints, so that `keep` of them remain, at least one.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn prune(&self, keep: usize) -> Result<()> {
        let all = self.list();
        for old in &all[..all.len().saturating_sub(keep.max(1))] {
            faults::operation(old).and_then(|()| std::fs::remove_file(old)).map_err(|e| file(old, &e))?;
        }
        Ok(())
    }

    /// Moves the checkpoints that are newer than `continued`, and all of them where that lies elsewhere, into a new folder
    /// `abandoned-NUMBER`: the run goes on from an older state, and they are no part of it any more. Nothing is removed.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn set_aside(&self, continued: &Path) -> Result<Option<Aside>> {
        let same = |a: &Path, b: &Path| match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => a == b,
        };
        let all = self.list();
        let from = all.iter().position(|p| same(p, continued)).map_or(0, |i| i + 1);
        if from == all.len() {
            return Ok(None);
        }
        let folder = self.aside()?;
        for path in &all[from..] {
            move_into(path, &folder)?;
        }
        Ok(Some(Aside { files: all.len() - from, folder }))
    }

    /// Moves a file aside that is not of the run any more, such as the best weights.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_file_aside(&self, path: &Path) -> Result<Option<Aside>> {
        if !path.exists() {
            return Ok(None);
        }
        let folder = self.aside()?;
        move_into(path, &folder)?;
        Ok(Some(Aside { files: 1, folder }))
    }

    fn aside(&self) -> Result<PathBuf> {
        for n in 1.. {
            let folder = self.path.join(format!("abandoned-{n}"));
            match faults::operation(&folder).and_then(|()| std::fs::create_dir(&folder)) {
                Ok(()) => return Ok(folder),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(file(&folder, &e)),
            }
        }
        Err(Error::Config("no number is left for a folder".into()))
    }
}

fn move_into(path: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(path.file_name().unwrap_or_default());
    faults::operation(path).and_then(|()| std::fs::rename(path, to)).map_err(|e| file(path, &e))
}

fn file(path: &Path, e: &std::io::Error) -> Error {
    Error::File { path: path.into(), message: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_only_grow_and_abandoned_branches_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(dir.path());
        let names = |p: &Path| {
            let mut all: Vec<String> = CheckpointFolder::new(p)
                .list()
                .iter()
                .map(|p| p.file_name().unwrap().to_str().unwrap().into())
                .collect();
            all.iter_mut().for_each(|n| *n = n.replace("checkpoint-", "").replace(".safetensors", ""));
            all
        };
        let save = |steps| std::fs::write(folder.next(steps), "x").unwrap();
        for other in ["checkpoint-foo.safetensors", "checkpoint-.safetensors", "checkpoint-7.pth"] {
            std::fs::write(dir.path().join(other), "").unwrap();
        }
        for steps in [20, 40, 60] {
            save(steps);
        }
        // Another batch size: fewer steps, and yet newer.
        save(40);
        save(50);
        assert_eq!(names(dir.path()), ["00000020", "00000040", "00000060", "00000061", "00000062"]);
        folder.prune(4).unwrap();
        let from = dir.path().join("checkpoint-00000040.safetensors");
        let aside = folder.set_aside(&from).unwrap().unwrap();
        assert_eq!((aside.files, names(&aside.folder).len(), names(dir.path())), (3, 3, vec!["00000040".to_string()]));
        assert_eq!(folder.set_aside(&from).unwrap(), None);
        save(55);
        assert_eq!(names(dir.path()), ["00000040", "00000055"]);
        // From a checkpoint of another folder: none of these is its past.
        let aside = folder.set_aside(Path::new("elsewhere/checkpoint-00000040.safetensors")).unwrap().unwrap();
        assert_eq!((aside.files, aside.folder.ends_with("abandoned-2")), (2, true));
        assert_eq!(folder.set_file_aside(&folder.best()).unwrap(), None);
        std::fs::write(folder.best(), "b").unwrap();
        assert!(folder.set_file_aside(&folder.best()).unwrap().unwrap().folder.join("best.safetensors").exists());
        assert!(dir.path().join("checkpoint-foo.safetensors").exists());
    }
}
