//! Files that appear whole or not at all.

use crate::error::{Error, Result};
use crate::faults;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// A file that is being written and appears under its name when it is whole.
///
/// It is a temporary file `.NAME.RANDOM.tmp` in the same folder until [`Pending::commit`]; dropped before, it is removed. A new file has
/// the permissions that the process gives its files, a replaced one keeps its own.
#[derive(Debug)]
pub struct Pending {
    file: tempfile::NamedTempFile,
    path: PathBuf,
    target: PathBuf,
}

impl Pending {
    /// Begins a file that will be at `path`. Through a link, the file that it points at is replaced and the link stays.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        faults::operation(path).map_err(|e| unwritten(path, &e))?;
        let file = permitted(&mut builder, folder, &target).map_err(|e| unwritten(path, &e))?;
        Ok(Pending { file, path: path.into(), target })
    }

    /// The file, to write to.
    pub fn file(&mut self) -> impl Write + Seek + '_ {
        faults::Counted { file: self.file.as_file_mut(), path: &self.path }
    }

    /// Syncs the file, renames it, and syncs the folder where the system can do that.
    ///
    /// # Errors
    /// When the disk is full or the name cannot be replaced; the file there is as it was then.
    pub fn commit(self) -> Result<()> {
        let Pending { file, path, target } = self;
        faults::operation(&path).and_then(|()| file.as_file().sync_all()).map_err(|e| unwritten(&path, &e))?;
        faults::operation(&path).map_err(|e| unwritten(&path, &e))?;
        file.persist(&target).map_err(|e| unwritten(&path, &e.error))?;
        crate::platform::sync_folder(target.parent().unwrap_or(Path::new(".")));
        Ok(())
    }
}

fn unwritten(path: &Path, e: &std::io::Error) -> Error {
    Error::File { path: path.into(), message: format!("cannot be written: {e}") }
}

/// Writes a file so that it is either the old one or the whole new one, whenever the program or the machine stops; see [`Pending`].
///
/// # Errors
/// When `write` fails, the folder does not exist or cannot be written to, or the disk is full.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut pending = Pending::create(path)?;
    {
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, pending.file());
        write(&mut buffered).and_then(|()| buffered.flush()).map_err(|e| unwritten(path, &e))?;
    }
    pending.commit()
}

/// A temporary file with the permissions of the file it will replace, or those of any new file; tempfile's own are private.
#[cfg(unix)]
fn permitted(
    builder: &mut tempfile::Builder<'_, '_>,
    folder: &Path,
    target: &Path,
) -> std::io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let old = std::fs::metadata(target).ok().map(|m| m.permissions());
    let file = builder.permissions(std::fs::Permissions::from_mode(0o666)).tempfile_in(folder)?;
    if let Some(old) = old {
        file.as_file().set_permissions(old)?;
    }
    Ok(file)
}

/// A temporary file; its permissions come from the folder.
#[cfg(not(unix))]
fn permitted(
    builder: &mut tempfile::Builder<'_, '_>,
    folder: &Path,
    _target: &Path,
) -> std::io::Result<tempfile::NamedTempFile> {
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |w| w.write_all(b"first")).unwrap();
        let e = write_atomic(&path, |w| {
            w.write_all(b"half")?;
            Err(std::io::Error::other("the disk is full"))
        });
        assert!(e.unwrap_err().to_string().contains("the disk is full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_atomic(&path, |w| w.write_all(b"second")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(listed(dir.path()), ["a.txt"], "no temporary file is left");
        let e = write_atomic(&dir.path().join("none/a.txt"), |_| Ok(())).unwrap_err().to_string();
        assert!(e.contains("a.txt: cannot be written"), "{e}");
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_permissions_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write_atomic(&real, |w| w.write_all(b"1")).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        std::fs::write(dir.path().join("plain"), b"").unwrap();
        assert_eq!(mode(&real), mode(&dir.path().join("plain")), "a new file is as any other");
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_atomic(&link, |w| w.write_all(b"2")).unwrap();
        assert!(link.is_symlink() && std::fs::read(&real).unwrap() == b"2");
        assert_eq!(mode(&real), 0o640);
    }
}
