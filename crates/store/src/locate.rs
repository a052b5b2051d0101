//! Weights by what people call them: a file, the folder of a run, a name on the hub.

use crate::CheckpointFolder;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file, or the folder of weights in parts.
    pub path: PathBuf,
    /// What was chosen, where the name left a choice.
    pub note: Option<String>,
}

/// The weights that a name means: a file, a folder of weights, the folder of a run (its best weights, else its newest checkpoint), or
/// `hf:OWNER/NAME` on the HuggingFace hub, which needs the feature `hub`.
///
/// # Errors
/// When nothing is there; the error says what is.
pub fn locate(name: &str) -> Result<Located> {
    if name.starts_with("hf:") {
        return on_hub(name).map(|path| Located { path, note: None });
    }
    let path = Path::new(name);
    if path.is_dir() {
        let run = CheckpointFolder::new(path);
        let best = Some(run.best()).filter(|p| p.is_file());
        return Ok(match best.or_else(|| run.list().pop()) {
            Some(found) => {
                let note = format!("{name} is the folder of a run: its weights {} are taken", found.display());
                Located { path: found, note: Some(note) }
            }
            None => Located { path: path.into(), note: None },
        });
    }
    if path.exists() {
        return Ok(Located { path: path.into(), note: None });
    }
    let above = path.ancestors().skip(1).find(|p| p.as_os_str().is_empty() || p.is_dir()).unwrap_or(Path::new(""));
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let entries = std::fs::read_dir(above).into_iter().flatten().flatten();
    let mut there: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    there.retain(|n| !n.starts_with('.'));
    there.sort();
    there.truncate(8);
    let there = if there.is_empty() { "nothing".into() } else { there.join(", ") };
    Err(Error::File {
        path: path.into(),
        message: format!("no such file of weights; {} holds {there}", above.display()),
    })
}

#[cfg(feature = "hub")]
fn on_hub(name: &str) -> Result<PathBuf> {
    crate::hub::Hub::from_env().locate(name)
}

#[cfg(not(feature = "hub"))]
fn on_hub(name: &str) -> Result<PathBuf> {
    Err(Error::Config(format!("{name}: this program was built without the hub; build it with the feature `hub`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_files_and_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let name = |n: &str| dir.path().join(n).display().to_string();
        std::fs::write(dir.path().join("checkpoint-00000007.safetensors"), "x").unwrap();
        std::fs::write(dir.path().join("checkpoint-00000012.safetensors"), "x").unwrap();
        let found = locate(&name("")).unwrap();
        assert!(found.path.ends_with("checkpoint-00000012.safetensors") && found.note.is_some());
        std::fs::write(dir.path().join("best.safetensors"), "x").unwrap();
        assert!(locate(&name("")).unwrap().path.ends_with("best.safetensors"));
        assert_eq!(locate(&name("best.safetensors")).unwrap().note, None);
        let e = locate(&name("bst.safetensors")).unwrap_err().to_string();
        assert!(e.contains("no such file") && e.contains("best.safetensors, checkpoint-00000007"), "{e}");
        std::fs::create_dir(dir.path().join("hf")).unwrap();
        assert!(locate(&name("hf")).unwrap().path.ends_with("hf"));
    }
}
