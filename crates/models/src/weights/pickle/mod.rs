//! PyTorch files: the zip format, the old format and whole modules, read without executing anything.
//!
//! `machine` turns a pickle into plain objects, `search` finds tensors among them and `names` classes, `torch` reads
//! the tensors' values, `write` writes such files.

mod machine;
mod names;
mod search;
#[cfg(test)]
mod tests;
mod torch;
mod write;

pub(crate) use torch::TorchFile;
pub use write::write;

use super::{Action, Options, Weights, format, opened};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::io::Cursor;
use std::path::Path;

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// Every tensor of a PyTorch file by its state-dict name, of the set of weights that [`super::open`] chooses by default.
///
/// # Errors
/// When the file is not a PyTorch file, is damaged, or holds no tensor.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let fail = |message: String| Error::File { path: path.into(), message };
    match format::of(path).map_err(fail)? {
        (format::Format::Safetensors, _) => {
            Err(Error::File { path: path.into(), message: "a safetensors file, expected one of torch.save".into() })
        }
        _ => super::read(path),
    }
}

/// The weights in the bytes of a PyTorch file. `options` choose among several sets of weights.
///
/// # Errors
/// When the bytes are not a PyTorch file, are damaged, or hold no tensor.
pub fn from_bytes(bytes: &[u8], options: &Options) -> Result<Weights> {
    let path = Path::new("the bytes");
    let fail = |message: String| Error::File { path: path.into(), message };
    let format = format::sniff(&bytes[..bytes.len().min(1024)], bytes.len() as u64).map_err(fail)?;
    if format == format::Format::Safetensors {
        return Err(fail("safetensors, expected a file of torch.save".into()));
    }
    let mut file = TorchFile::open(Cursor::new(bytes), format, bytes.len() as u64).map_err(fail)?;
    let dictionaries = file.dictionaries().map_err(fail)?;
    let values = &mut |action: Action<'_>| match action {
        Action::Announce(handles) => {
            file.will_read(&handles.iter().map(|h| h.index).collect::<Vec<_>>());
            Ok(None)
        }
        Action::Read(handle) => file.tensor(handle.index).map(Some),
    };
    opened(path, dictionaries, values, options)
}
