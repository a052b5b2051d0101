//! Vectors in memory or in a file.

use candlelight_data::{Error, Result};
use std::fs::File;
use std::path::PathBuf;

/// The vectors of a data set, (N, D).
#[derive(Debug)]
pub(super) enum Rows {
    /// One after the other.
    Memory { values: Vec<f32>, width: usize },
    /// As f32 in the byte order of safetensors, from the byte `start` of a file on.
    File { file: File, path: PathBuf, start: u64, width: usize },
}

impl Rows {
    pub(super) fn width(&self) -> usize {
        match self {
            Rows::Memory { width, .. } | Rows::File { width, .. } => *width,
        }
    }

    /// Appends some vectors to `out`. Vectors that lie behind one another are read at once.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(&self, chosen: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let mut bytes = vec![];
        for run in chosen.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let Some(first) = run.first() else { continue };
            match self {
                Rows::Memory { values, width } => {
                    let first = *first as usize * width;
                    out.extend_from_slice(&values[first..first + run.len() * width]);
                }
                Rows::File { file, path, start, width } => {
                    bytes.resize(run.len() * width * 4, 0);
                    let at = start + u64::from(*first) * *width as u64 * 4;
                    read_at(file, &mut bytes, at).map_err(|source| Error::Io { path: path.clone(), source })?;
                    out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                }
            }
        }
        Ok(())
    }
}

/// Values as they lie in a file.
pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * values.len());
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    out
}

/// Fills `bytes` from a place of a file, without moving the file's own position.
pub(super) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, at);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at + done as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}
