//! The tensors of safetensors files as a dictionary.

use super::dictionary::{Dictionary, Handle};
use super::values::Kind;
use candle_core::Tensor;
use candlelight_store::tensors::TensorFile;
use std::io::{Read, Seek};

/// An open file.
pub(crate) struct SafetensorsFile<R>(TensorFile<R>);

impl<R: Read + Seek> SafetensorsFile<R> {
    /// Opens a file of `size` bytes and reads its header.
    ///
    /// # Errors
    /// When the header is damaged, says more than the file holds, or names no tensor.
    pub(crate) fn open(file: R, size: u64) -> Result<Self, String> {
        let file = TensorFile::open(file, size)?;
        if file.tensors().is_empty() {
            return Err("no tensor in this safetensors file, expected those of a model".into());
        }
        Ok(SafetensorsFile(file))
    }

    /// The one dictionary of the file.
    pub(crate) fn dictionary(&self) -> Dictionary {
        let entries = self.0.tensors().iter().enumerate();
        Dictionary {
            path: vec![],
            entries: entries.map(|(index, (name, _))| (name.clone(), Handle { part: 0, index })).collect(),
        }
    }

    /// Dimensions and type of a tensor.
    ///
    /// # Errors
    /// When no model here has values of its type.
    pub(crate) fn described(&self, index: usize) -> Result<(Vec<usize>, Kind), String> {
        let (_, e) = self.0.tensors().get(index).ok_or("no such tensor")?;
        Ok((e.shape.clone(), Kind::of_safetensors(&e.dtype)?))
    }

    /// The values of a tensor and the type that the file has them in.
    ///
    /// # Errors
    /// When no model here has values of its type, or the shape is not that of its bytes.
    pub(crate) fn tensor(&mut self, index: usize) -> Result<(Tensor, Kind), String> {
        let (_, e) = self.0.tensors().get(index).ok_or("no such tensor")?;
        let (kind, (from, to)) = (Kind::of_safetensors(&e.dtype)?, e.data_offsets);
        let n = e.shape.iter().try_fold(kind.size() as u64, |n, &d| n.checked_mul(d as u64));
        if n != Some(to - from) {
            return Err(format!("{:?} of {} are not {} bytes", e.shape, e.dtype, to - from));
        }
        let shape = e.shape.clone();
        Ok((kind.decode(self.0.bytes(index)?, &shape, false)?, kind))
    }
}
