//! Files of a tree by their paths: the same questions are answered of a folder on disk and of archives.

use crate::error::{Result, file};
use crate::sets::retry;
use crate::sets::tree::{FileId, Tree};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

impl Tree {
    /// The disk itself, for a list that is named alone: nothing was scanned, every question goes to the file system.
    pub(crate) fn disk(root: &Path) -> Self {
        Tree { root: root.into(), dirs: vec![], stores: Arc::default() }
    }

    fn on_disk(&self) -> bool {
        self.stores.is_empty()
    }

    /// The parts of a path below the root, without `.` and `..`; `None` for paths elsewhere.
    fn below_root<'p>(&self, path: &'p Path) -> Option<Vec<&'p str>> {
        let mut parts = vec![];
        for c in path.strip_prefix(&self.root).ok()?.components() {
            match c {
                Component::Normal(p) => parts.push(p.to_str()?),
                Component::ParentDir => drop(parts.pop()?),
                _ => {}
            }
        }
        Some(parts)
    }

    fn dir(&self, parts: &[&str]) -> Option<usize> {
        let of = |name: &str| name.split('/').filter(|p| !p.is_empty()).cmp(parts.iter().copied());
        self.dirs.binary_search_by(|d| of(&d.name)).ok()
    }

    /// The file at a path that was scanned.
    pub(crate) fn lookup(&self, path: &Path) -> Option<FileId> {
        let mut parts = self.below_root(path)?;
        let name = parts.pop()?;
        let d = self.dir(&parts)?;
        let f = self.dirs[d].files.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some((d as u32, f as u32))
    }

    pub(crate) fn is_file(&self, path: &Path) -> bool {
        self.lookup(path).is_some() || (self.on_disk() && path.is_file())
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.below_root(path).and_then(|p| self.dir(&p)).is_some() || (self.on_disk() && path.is_dir())
    }

    /// The folders directly in a folder, by name.
    pub(crate) fn folders_in(&self, path: &Path) -> Vec<PathBuf> {
        match self.below_root(path).and_then(|p| self.dir(&p)) {
            Some(d) => self.children(d).into_iter().map(|c| path.join(self.base(c))).collect(),
            None if self.on_disk() => {
                let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
                let mut all: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
                all.sort();
                all
            }
            None => vec![],
        }
    }

    /// The files directly in a folder that was scanned, by name.
    pub(crate) fn files_in(&self, path: &Path) -> Vec<PathBuf> {
        let dir = self.below_root(path).and_then(|p| self.dir(&p));
        dir.into_iter().flat_map(|d| self.dirs[d].files.iter().map(|f| path.join(&*f.name))).collect()
    }

    /// The bytes of the file at a path, `most` at most.
    ///
    /// # Errors
    /// When it cannot be read, or has more.
    pub(crate) fn read_path(&self, path: &Path, most: u64) -> Result<Vec<u8>> {
        match self.lookup(path) {
            Some(id) => self.read(id, most),
            None if self.on_disk() => retry::read_below(path, most),
            None => Err(file(path, "no such file in the archive")),
        }
    }
}
