//! Writing tensors: each goes from where it is to the file, so that no second copy of them is in memory.

use super::pickle;
use crate::error::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use candlelight_store::atomic::Pending;
use candlelight_store::tensors::{self, Dtype, Entry, write_f32};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// A tensor of any type and on any device as an entry of a safetensors file. Its values are read when the file is written.
///
/// # Errors
/// When safetensors has no name for its type.
pub fn entry(name: &str, tensor: &Tensor) -> Result<Entry> {
    let dtype = match tensor.dtype() {
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        other => return Err(Error::Config(format!("{name} holds {other:?}, which is not written to safetensors"))),
    };
    let t = tensor.detach();
    Ok(Entry::new(name, dtype, tensor.dims(), move |out| values(&t, out)))
}

fn values(t: &Tensor, out: &mut dyn Write) -> io::Result<()> {
    let t = t.to_device(&Device::Cpu).and_then(|t| t.contiguous()).map_err(io::Error::other)?;
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return Err(io::Error::other("the tensor is not on the CPU")) };
    let (from, to) = layout.contiguous_offsets().unwrap_or((0, 0));
    macro_rules! all {
        ($values:expr) => {
            $values[from..to].chunks(1 << 14).try_for_each(|part| {
                let bytes: Vec<u8> = part.iter().flat_map(|v| v.to_le_bytes()).collect();
                out.write_all(&bytes)
            })
        };
    }
    match storage {
        CpuStorage::U8(v) => out.write_all(&v[from..to]),
        CpuStorage::F32(v) => write_f32(out, &v[from..to]),
        CpuStorage::U32(v) => all!(v),
        CpuStorage::I64(v) => all!(v),
        CpuStorage::F64(v) => all!(v),
        CpuStorage::BF16(v) => all!(v),
        CpuStorage::F16(v) => all!(v),
        _ => Err(io::Error::other("values of a type that is not written to safetensors")),
    }
}

/// Writes tensors as safetensors, with texts in the header that other programs show or pass over.
///
/// # Errors
/// When writing fails; `path` is then as it was.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<BTreeMap<String, String>>,
) -> Result<()> {
    let entries = tensors.iter().map(|(n, t)| entry(n, t)).collect::<Result<Vec<_>>>()?;
    let metadata = metadata.unwrap_or_default();
    Ok(tensors::write(path, &entries, |_| metadata.clone())?)
}

/// Writes tensors as facebookresearch/mae and timm read them, in torch's zip format; see [`pickle::write`].
///
/// # Errors
/// When writing fails; `path` is then as it was.
pub fn write_pickle(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut pending = Pending::create(path)?;
    pickle::write(pending.file(), tensors).map_err(|message| Error::File { path: path.into(), message })?;
    Ok(pending.commit()?)
}
