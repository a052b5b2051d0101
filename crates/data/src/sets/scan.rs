//! Listing a folder on disk, on several threads. Links are followed once; a link that leads back up is passed over and named.

use crate::error::{Result, file};
use crate::sets::names::is_litter;
use crate::sets::retry::retried;
use crate::sets::skipped::Skipped;
use crate::sets::tree::{Dir, Leaf};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Links inside links are followed so far.
const MOST_LINKS: usize = 8;
/// Folders nested deeper than this are an error.
const DEEPEST: usize = 64;

/// What was found below a folder.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Every folder with its files, parents before their children, in the order of their names.
    pub dirs: Vec<Dir>,
    /// What was passed over.
    pub skipped: Skipped,
}

/// A folder to list.
struct Task {
    path: PathBuf,
    /// Its path below the root, with `/` between the parts.
    name: String,
    /// Where it really is.
    real: PathBuf,
    /// Where the links that led here really are.
    through: Arc<Vec<PathBuf>>,
    depth: usize,
}

struct Queue {
    open: Vec<Task>,
    /// Folders that are listed right now.
    busy: usize,
    done: Vec<Dir>,
    skipped: Skipped,
    failed: Option<crate::Error>,
}

/// Lists `root` and everything below it.
///
/// # Errors
/// When a folder cannot be read, or folders are nested without end.
pub(crate) fn scan(root: &Path) -> Result<Scanned> {
    let real = std::fs::canonicalize(root).map_err(|e| file(root, e))?;
    let first = Task { path: root.into(), name: String::new(), real: real.clone(), through: Arc::default(), depth: 0 };
    let queue =
        Mutex::new(Queue { open: vec![first], busy: 0, done: vec![], skipped: Skipped::default(), failed: None });
    let changed = Condvar::new();
    // Folders on network file systems answer slowly: more threads than cores wait for them together.
    let threads = std::thread::available_parallelism().map_or(4, usize::from).clamp(4, 16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&real, &queue, &changed));
        }
    });
    let mut queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(e) = queue.failed {
        return Err(e);
    }
    queue.done.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    queue.skipped.sort();
    Ok(Scanned { dirs: queue.done, skipped: queue.skipped })
}

fn work(root: &Path, queue: &Mutex<Queue>, changed: &Condvar) {
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let task = {
            let mut q = lock();
            loop {
                if q.failed.is_some() || (q.open.is_empty() && q.busy == 0) {
                    changed.notify_all();
                    return;
                }
                if let Some(task) = q.open.pop() {
                    q.busy += 1;
                    break task;
                }
                q = changed.wait(q).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let listed = list(root, &task);
        let mut q = lock();
        q.busy -= 1;
        match listed {
            Ok((dir, more, skipped)) => {
                q.done.push(dir);
                q.open.extend(more);
                q.skipped.extend(skipped);
            }
            Err(e) => q.failed = Some(e),
        }
        drop(q);
        changed.notify_all();
    }
}

fn list(root: &Path, task: &Task) -> Result<(Dir, Vec<Task>, Skipped)> {
    let (mut files, mut folders, mut skipped) = (vec![], vec![], Skipped::default());
    for entry in retried(|| std::fs::read_dir(&task.path)).map_err(|e| file(&task.path, e))? {
        let entry = entry.map_err(|e| file(&task.path, e))?;
        let raw = entry.file_name();
        let name = shown(&raw);
        if is_litter(&name) {
            skipped.add(Skipped::LITTER, &entry.path().display());
            continue;
        }
        // The kind comes with the listing; only links cost a call of their own.
        let mut kind = retried(|| entry.file_type()).map_err(|e| file(entry.path(), e))?;
        let mut id = inode(&entry);
        let mut through = task.through.clone();
        let mut real = task.real.join(&raw);
        if kind.is_symlink() {
            let Ok(target) = std::fs::canonicalize(entry.path()) else {
                skipped.add("links to nowhere", &entry.path().display());
                continue;
            };
            let about = retried(|| std::fs::metadata(&target)).map_err(|e| file(entry.path(), e))?;
            (kind, id) = (about.file_type(), number(&about));
            if kind.is_dir() {
                let above = |from: &PathBuf| from.starts_with(&target);
                if above(&task.real) || task.through.iter().any(above) {
                    skipped.add("links to a folder above", &entry.path().display());
                    continue;
                }
                // A linked folder may link to where its files are, and not further: the same files would come again and again.
                let known = task.through.len() > 1 && target.starts_with(root);
                if known || task.through.len() >= MOST_LINKS {
                    skipped.add("links inside linked folders", &entry.path().display());
                    continue;
                }
                through = Arc::new(task.through.iter().cloned().chain([task.real.clone()]).collect());
            }
            real = target;
        }
        let exact = raw.to_str().is_some();
        if kind.is_dir() {
            if task.depth == DEEPEST {
                return Err(file(entry.path(), format!("lies more than {DEEPEST} folders below {}", root.display())));
            }
            let name = if task.name.is_empty() { name } else { format!("{}/{name}", task.name) };
            folders.push(Task { path: entry.path(), name, real, through, depth: task.depth + 1 });
        } else if kind.is_file() {
            files.push(Leaf { name: name.into(), place: id, raw: (!exact).then(|| raw.into_boxed_os_str()) });
        } else {
            skipped.add("neither files nor folders", &entry.path().display());
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let dir = Dir { name: task.name.clone(), path: task.path.clone(), files };
    Ok((dir, folders, skipped))
}

/// A name as it is shown: its Unicode, or what its bytes look like.
#[cfg(unix)]
fn shown(raw: &std::ffi::OsStr) -> String {
    crate::sets::names::decoded(std::os::unix::ffi::OsStrExt::as_bytes(raw))
}

#[cfg(not(unix))]
fn shown(raw: &std::ffi::OsStr) -> String {
    raw.to_string_lossy().into_owned()
}

/// A number that two names of one file share on one file system; 0 where there is none.
#[cfg(unix)]
fn inode(entry: &std::fs::DirEntry) -> u64 {
    std::os::unix::fs::DirEntryExt::ino(entry)
}

#[cfg(unix)]
fn number(about: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(about)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::DirEntry) -> u64 {
    0
}

#[cfg(not(unix))]
fn number(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_listed_in_the_order_of_their_names_without_litter() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b/2.png",
            "b/10.png",
            "a/x/1.png",
            "a/z.png",
            "a-b/1.png",
            ".git/config",
            "a/.DS_Store",
            "__MACOSX/a/._1.png",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let s = scan(dir.path()).unwrap();
        let names: Vec<&str> = s.dirs.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["", "a", "a/x", "a-b", "b", "empty"]);
        let b: Vec<&str> = s.dirs[4].files.iter().map(|f| &*f.name).collect();
        assert_eq!(b, ["10.png", "2.png"]);
        assert_eq!(s.skipped.count(), 3);
        assert!(scan(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_in_other_encodings_are_read_and_opened() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(std::ffi::OsStr::from_bytes(b"for\xeat"));
        std::fs::create_dir(&folder).unwrap();
        let name = folder.join(std::ffi::OsStr::from_bytes(b"\xe9t\xe9.png"));
        std::fs::write(name, crate::image::decode::tests::sample_png(2, 2)).unwrap();
        let c = crate::open(dir.path(), &crate::OpenConfig::default()).unwrap();
        assert_eq!(c.classes(), ["forêt"]);
        assert!(c.parts()[0].data.get(0).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_never_back_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
        for c in ["cat", "dog", "emu"] {
            std::fs::create_dir_all(root.join("train").join(c)).unwrap();
            std::fs::write(root.join("train").join(c).join("1.png"), b"").unwrap();
            link("..", &format!("train/{c}/up"));
        }
        std::fs::create_dir(root.join("far")).unwrap();
        std::fs::write(root.join("far/2.png"), b"").unwrap();
        link("../../far", "train/cat/more");
        link("../nowhere", "train/gone");
        link("../train/dog", "far/dog");
        let s = scan(&root.join("train")).unwrap();
        let files: usize = s.dirs.iter().map(|d| d.files.len()).sum();
        // Three pictures, one behind a link outside, and one in a folder that the folder outside links to.
        assert_eq!(files, 5, "{s:?}");
        let text = s.skipped.to_string();
        assert!(text.contains("links to a folder above") && text.contains("links to nowhere"), "{text}");
        // Every folder links to every other one: each is entered from the real folders only.
        let web = root.join("web");
        for a in 0..9 {
            std::fs::create_dir_all(web.join(a.to_string())).unwrap();
            std::fs::write(web.join(format!("{a}/1.png")), b"").unwrap();
            (0..9).filter(|b| *b != a).for_each(|b| link(&format!("../{b}"), &format!("web/{a}/to{b}")));
        }
        let s = scan(&web).unwrap();
        assert!(s.skipped.to_string().contains("inside linked"), "{s:?}");
        let files: usize = s.dirs.iter().map(|d| d.files.len()).sum();
        assert_eq!(files, 9 + 9 * 8 + 9 * 8 * 7);
    }
}
