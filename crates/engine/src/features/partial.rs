//! Features that are being computed: a file that grows, and a log beside it that says what is in it.

use super::file::Header;
use super::rows::{bytes, read_at};
use crate::error::{Result, file as bad_file};
use crate::task::Batches;
use candlelight_data::Batch;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first line of the log: what is computed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begin {
    made_from: String,
    classes: Vec<String>,
    width: usize,
    samples: usize,
    steps: usize,
    batch_size: Option<usize>,
}

/// Every other line of the log: a batch whose vectors are in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    step: usize,
    /// The index of its last sample.
    last: usize,
    labels: Vec<u32>,
    /// The crc32 of its vectors' bytes.
    crc: u32,
}

/// A file of features that grows.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    data_path: PathBuf,
    log_path: PathBuf,
    data: File,
    log: File,
    header: Header,
    /// The bytes before the first vector.
    start: u64,
    labels: Vec<u32>,
    step: usize,
    last: Option<usize>,
}

impl Partial {
    /// Opens what an earlier run began, or begins anew.
    ///
    /// # Errors
    /// When the files cannot be written, or another process writes them.
    pub(super) fn open(path: &Path, header: Header, batches: &dyn Batches) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| bad_file(path, "is not the name of a file"))?.to_string_lossy();
        let data_path = path.with_file_name(format!(".{name}.partial"));
        let log_path = path.with_file_name(format!(".{name}.partial.log"));
        let open = |path: &Path| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            file.map_err(|e| bad_file(path, e))
        };
        let (data, log) = (open(&data_path)?, open(&log_path)?);
        match log.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(bad_file(
                    &log_path,
                    "another process computes the same features: wait for it, or write elsewhere",
                ));
            }
            // Some network drives have no locks.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        // A few bytes more, so that the header of fewer samples fits in the same place.
        let start = header.bytes(0).map_err(|e| bad_file(path, e))?.len() as u64;
        let labels = Vec::with_capacity(header.samples);
        let path = path.to_path_buf();
        let mut partial = Partial { path, data_path, log_path, data, log, header, start, labels, step: 0, last: None };
        let begin = Begin {
            made_from: partial.header.made_from.clone(),
            classes: partial.header.classes.clone(),
            width: partial.header.width,
            samples: partial.header.samples,
            steps: batches.steps(),
            batch_size: batches.batch_size(),
        };
        let kept = partial.verify(&begin).map_err(|e| bad_file(&partial.log_path, e))?;
        partial.cut(kept, &begin)?;
        Ok(partial)
    }

    /// Takes over the batches whose vectors are in the file as they were written. Returns the bytes of the log up to there.
    fn verify(&mut self, begin: &Begin) -> std::io::Result<u64> {
        let mut log = BufReader::new(&self.log);
        let mut line = String::new();
        let mut read = |line: &mut String| -> std::io::Result<u64> {
            line.clear();
            // A line that is no text is the damaged end of the log.
            match log.read_line(line) {
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Ok(0),
                read => Ok(if line.ends_with('\n') { read? as u64 } else { 0 }),
            }
        };
        let mut kept = read(&mut line)?;
        if kept == 0 || serde_json::from_str::<Begin>(&line).ok().as_ref() != Some(begin) {
            return Ok(0);
        }
        let mut rows = vec![];
        loop {
            let length = read(&mut line)?;
            let Ok(done) = serde_json::from_str::<Done>(&line) else { return Ok(kept) };
            let after = self.labels.len() + done.labels.len();
            if length == 0 || done.step < self.step || after > self.header.samples {
                return Ok(kept);
            }
            let Ok(needed) = usize::try_from(done.labels.len() as u64 * self.row()) else { return Ok(kept) };
            rows.resize(needed, 0);
            let there = read_at(&self.data, &mut rows, self.start + self.labels.len() as u64 * self.row());
            if there.is_err() || crc32fast::hash(&rows) != done.crc {
                return Ok(kept);
            }
            self.labels.extend(done.labels);
            (self.step, self.last) = (done.step + 1, Some(done.last));
            kept += length;
        }
    }

    /// Cuts off what was not taken over, and begins anew where nothing was.
    fn cut(&mut self, kept: u64, begin: &Begin) -> Result<()> {
        let (start, rows) = (self.start, self.labels.len() as u64 * self.row());
        let head = self.header.bytes(start as usize).map_err(|e| bad_file(&self.path, e))?;
        let data = (|| {
            self.data.set_len(start + rows)?;
            self.data.seek(SeekFrom::Start(0))?;
            self.data.write_all(&head)?;
            self.data.seek(SeekFrom::Start(start + rows)).map(|_| ())
        })();
        data.map_err(|e| bad_file(&self.data_path, e))?;
        let log = (|| {
            self.log.set_len(kept)?;
            self.log.seek(SeekFrom::Start(kept))?;
            if kept == 0 {
                self.log.write_all(format!("{}\n", serde_json::to_string(begin)?).as_bytes())?;
            }
            Ok::<(), std::io::Error>(())
        })();
        log.map_err(|e| bad_file(&self.log_path, e))
    }

    /// The bytes of one vector.
    fn row(&self) -> u64 {
        4 * self.header.width as u64
    }

    /// The number of samples whose vectors are in the file.
    pub(super) fn samples(&self) -> usize {
        self.labels.len()
    }

    /// The step to continue at, and the index of the last sample before it.
    pub(super) fn next(&self) -> (usize, Option<usize>) {
        (self.step, self.last)
    }

    /// Writes the vectors of a batch. The line in the log follows the vectors: a batch that the log names is there, unless the machine
    /// lost power, which the checksum tells.
    ///
    /// # Errors
    /// When the files cannot be written, or when there are more samples than were announced.
    pub(super) fn push(&mut self, rows: &[f32], batch: &Batch) -> Result<()> {
        let (have, announced) = (self.labels.len() + batch.labels.len(), self.header.samples);
        if have > announced {
            return Err(bad_file(&self.path, format!("{have} samples came, but the data announced only {announced}")));
        }
        let Some(&last) = batch.indices.last() else { return Ok(()) };
        let rows = bytes(rows);
        let done = Done { step: batch.step, last, labels: batch.labels.clone(), crc: crc32fast::hash(&rows) };
        self.data.write_all(&rows).map_err(|e| bad_file(&self.data_path, e))?;
        let line = serde_json::to_string(&done).map_err(|e| bad_file(&self.log_path, e))?;
        self.log.write_all(format!("{line}\n").as_bytes()).map_err(|e| bad_file(&self.log_path, e))?;
        self.labels.extend(&batch.labels);
        (self.step, self.last) = (batch.step + 1, Some(last));
        Ok(())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When there is no sample, or the file cannot be written.
    pub(super) fn finish(mut self) -> Result<()> {
        let (have, announced) = (self.labels.len(), self.header.samples);
        if have == 0 {
            return Err(bad_file(&self.path, "there is no sample to compute features of"));
        }
        if have < announced {
            tracing::warn!(
                "{}: {have} of {announced} samples have features, the others were left out",
                self.path.display()
            );
        }
        self.header.samples = have;
        let head = self.header.bytes(self.start as usize).map_err(|e| bad_file(&self.path, e))?;
        let mut labels = Vec::with_capacity(4 * have);
        self.labels.iter().for_each(|l| labels.extend_from_slice(&l.to_le_bytes()));
        let written = (|| {
            self.data.write_all(&labels)?;
            self.data.seek(SeekFrom::Start(0))?;
            self.data.write_all(&head)?;
            self.data.sync_all()?;
            std::fs::rename(&self.data_path, &self.path)
        })();
        written.map_err(|e| bad_file(&self.data_path, e))?;
        // Not every system can sync a folder, and a log that stays behind does no harm: the file itself is whole.
        if let Some(folder) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            let _ = File::open(folder).and_then(|f| f.sync_all());
        }
        let _ = std::fs::remove_file(&self.log_path);
        Ok(())
    }
}
