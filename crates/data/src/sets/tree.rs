//! Files in folders, on disk or in archives: what data sets are recognised in, so that an archive says what its folder says.

use crate::error::{Result, file};
use crate::sets::names::{Says, begins_like_an_image, says};
use crate::sets::retry;
use crate::sets::tar_index::Archive;
use crate::sets::zip::Zip;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// Its name, as it is shown.
    pub name: Box<str>,
    /// On disk a number that two names of one file share; in archives where it is, see [`place`].
    pub place: u64,
    /// Its name on disk, where that is no Unicode.
    pub raw: Option<Box<OsStr>>,
}

/// A folder with the files directly in it.
#[derive(Debug, Clone)]
pub(crate) struct Dir {
    /// Its path below the root, with `/` between the parts; empty for the root.
    pub name: String,
    /// Where it is on disk; empty in archives.
    pub path: PathBuf,
    /// Its files in the order of their names.
    pub files: Vec<Leaf>,
}

/// The place of entry `entry` of archive `archive`.
pub(crate) fn place(archive: usize, entry: usize) -> u64 {
    ((archive as u64) << 40) | entry as u64
}

/// An archive that files are read from.
#[derive(Debug)]
pub(crate) enum Store {
    /// A tar file.
    Tar(Archive),
    /// A zip file.
    Zip(Zip),
}

impl Store {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Store::Tar(a) => a.path(),
            Store::Zip(z) => z.path(),
        }
    }

    fn read(&self, entry: usize, most: u64) -> Result<Vec<u8>> {
        match self {
            Store::Tar(a) => a.read(entry, most),
            Store::Zip(z) => z.read(entry, most),
        }
    }

    fn name(&self, entry: usize) -> &str {
        match self {
            Store::Tar(a) => a.name(entry),
            Store::Zip(z) => z.name(entry),
        }
    }
}

/// All folders below a root. A file is named by the number of its folder and its number in it.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    /// What the user named.
    pub root: PathBuf,
    /// Every folder, parents before children, in the order of their names.
    pub dirs: Vec<Dir>,
    /// The archives that hold the files; none on disk.
    pub stores: Arc<Vec<Store>>,
}

/// A file of a tree: the number of its folder, and its number in the folder.
pub(crate) type FileId = (u32, u32);

impl Tree {
    pub(crate) fn leaf(&self, (d, f): FileId) -> &Leaf {
        &self.dirs[d as usize].files[f as usize]
    }

    /// The path of a file as messages show it; inside archives it begins with the archive.
    pub(crate) fn path(&self, id: FileId) -> PathBuf {
        let leaf = self.leaf(id);
        if self.stores.is_empty() {
            return self.dirs[id.0 as usize].path.join(leaf.raw.as_deref().unwrap_or(OsStr::new(&*leaf.name)));
        }
        let (a, e) = ((leaf.place >> 40) as usize, (leaf.place & ((1 << 40) - 1)) as usize);
        self.stores[a].path().join(self.stores[a].name(e))
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// When it cannot be read, or has more than `most` bytes.
    pub(crate) fn read(&self, id: FileId, most: u64) -> Result<Vec<u8>> {
        if self.stores.is_empty() {
            return retry::read_below(&self.path(id), most);
        }
        let place = self.leaf(id).place;
        self.stores[(place >> 40) as usize].read((place & ((1 << 40) - 1)) as usize, most)
    }

    /// Every file of the folders `dirs`.
    pub(crate) fn files(&self, dirs: std::ops::Range<usize>) -> impl Iterator<Item = FileId> + '_ {
        dirs.flat_map(|d| (0..self.dirs[d].files.len()).map(move |f| (d as u32, f as u32)))
    }

    /// Whether a file is an image: by its extension, and where that says nothing, by its first bytes.
    pub(crate) fn is_image(&self, id: FileId) -> bool {
        match says(&self.leaf(id).name) {
            Says::Image => true,
            Says::Other => false,
            Says::Nothing => self.head(id).is_ok_and(|h| begins_like_an_image(&h)),
        }
    }

    fn head(&self, id: FileId) -> Result<Vec<u8>> {
        if !self.stores.is_empty() {
            let place = self.leaf(id).place;
            let (a, e) = ((place >> 40) as usize, (place & ((1 << 40) - 1)) as usize);
            return match &self.stores[a] {
                Store::Tar(t) => t.head(e, 16),
                Store::Zip(z) => z.head(e, 16),
            };
        }
        let path = self.path(id);
        let mut head = vec![];
        let f = std::fs::File::open(&path).map_err(|e| file(&path, e))?;
        std::io::Read::read_to_end(&mut std::io::Read::take(f, 16), &mut head).map_err(|e| file(&path, e))?;
        Ok(head)
    }

    /// The folders of `d` and below it: they follow one another.
    pub(crate) fn below(&self, d: usize) -> std::ops::Range<usize> {
        let name = &self.dirs[d].name;
        if name.is_empty() {
            return d..self.dirs.len();
        }
        let inside = |other: &str| other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let mut end = d + 1;
        while end < self.dirs.len() && inside(&self.dirs[end].name) {
            end += 1;
        }
        d..end
    }

    /// The folders directly in `d`.
    pub(crate) fn children(&self, d: usize) -> Vec<usize> {
        let depth = |name: &str| if name.is_empty() { 0 } else { 1 + name.matches('/').count() };
        let own = depth(&self.dirs[d].name);
        self.below(d).skip(1).filter(|&c| depth(&self.dirs[c].name) == own + 1).collect()
    }

    /// The last part of a folder's path; of the root, the root's own name.
    pub(crate) fn base(&self, d: usize) -> String {
        let name = &self.dirs[d].name;
        if name.is_empty() {
            return self.root.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        }
        name.rsplit('/').next().unwrap_or(name).to_string()
    }

    /// A folder as messages show it.
    pub(crate) fn shown(&self, d: usize) -> String {
        if self.dirs[d].name.is_empty() {
            return self.root.display().to_string();
        }
        self.root.join(&self.dirs[d].name).display().to_string()
    }
}

/// A tree of archives' entries: (path, archive, entry). Folders above files are made; of a path that comes twice the last one wins, and
/// how many are lost is returned.
pub(crate) fn of_entries(root: &Path, stores: Vec<Store>, entries: Vec<(String, usize, usize)>) -> (Tree, usize) {
    let mut dirs: std::collections::BTreeMap<Vec<String>, std::collections::BTreeMap<String, u64>> = Default::default();
    dirs.insert(vec![], Default::default());
    let mut repeated = 0;
    for (path, archive, entry) in entries {
        let mut parts: Vec<String> = path.split('/').filter(|p| !p.is_empty() && *p != ".").map(Into::into).collect();
        let Some(name) = parts.pop() else { continue };
        for n in 0..parts.len() {
            dirs.entry(parts[..=n].to_vec()).or_default();
        }
        repeated += usize::from(dirs.entry(parts).or_default().insert(name, place(archive, entry)).is_some());
    }
    let dir = |(parts, files): (Vec<String>, std::collections::BTreeMap<String, u64>)| Dir {
        name: parts.join("/"),
        path: PathBuf::new(),
        files: files.into_iter().map(|(name, place)| Leaf { name: name.into(), place, raw: None }).collect(),
    };
    (Tree { root: root.into(), dirs: dirs.into_iter().map(dir).collect(), stores: Arc::new(stores) }, repeated)
}
