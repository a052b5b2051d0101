//! Writes TensorBoard's event files: records with their length and a masked crc32c, each a protocol buffer encoded here by hand.

use crate::error::{Result, file};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Appends scalars and images to an event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    out: std::io::BufWriter<std::fs::File>,
}

impl EventWriter {
    /// Starts an event file in a folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| file(dir, e))?;
        let now = now();
        // A run that resumes within the same second must not write over its first file.
        let name =
            |n: u32| dir.join(format!("events.out.tfevents.{:010}.candlelight.{}.{n}", now as u64, std::process::id()));
        let path = (0..).map(name).find(|p| !p.exists()).unwrap_or_else(|| name(0));
        let out = std::io::BufWriter::new(std::fs::File::create(&path).map_err(|e| file(&path, e))?);
        let mut writer = EventWriter { path, out };
        let mut event = Message::default();
        event.double(1, now).bytes(3, b"brain.Event:2");
        writer.record(&event.0)?;
        Ok(writer)
    }

    /// Writes a number under a tag, at a step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f32) -> Result<()> {
        let mut v = Message::default();
        v.bytes(1, tag.as_bytes()).float(2, value);
        self.summary(step, &v)
    }

    /// Writes a PNG image of `width` x `height` pixels under a tag, at a step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn image(&mut self, tag: &str, step: i64, width: usize, height: usize, png: &[u8]) -> Result<()> {
        let mut image = Message::default();
        image.varint(1, height as u64).varint(2, width as u64).varint(3, 3).bytes(4, png);
        let mut v = Message::default();
        v.bytes(1, tag.as_bytes()).bytes(4, &image.0);
        self.summary(step, &v)
    }

    /// Hands buffered data to the operating system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| file(&self.path, e))
    }

    fn summary(&mut self, step: i64, value: &Message) -> Result<()> {
        let mut summary = Message::default();
        summary.bytes(1, &value.0);
        let mut event = Message::default();
        event.double(1, now()).varint(2, step as u64).bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let len = (data.len() as u64).to_le_bytes();
        let mut frame = Vec::with_capacity(data.len() + 16);
        frame.extend(len);
        frame.extend(masked(&len).to_le_bytes());
        frame.extend(data);
        frame.extend(masked(data).to_le_bytes());
        self.out.write_all(&frame).map_err(|e| file(&self.path, e))
    }
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A protocol buffer while it is encoded.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn varint(&mut self, field: u64, v: u64) -> &mut Self {
        self.raw(field << 3);
        self.raw(v);
        self
    }

    fn double(&mut self, field: u64, v: f64) -> &mut Self {
        self.raw(field << 3 | 1);
        self.0.extend(v.to_le_bytes());
        self
    }

    fn float(&mut self, field: u64, v: f32) -> &mut Self {
        self.raw(field << 3 | 5);
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, v: &[u8]) -> &mut Self {
        self.raw(field << 3 | 2);
        self.raw(v.len() as u64);
        self.0.extend(v);
        self
    }
}

/// crc32c (Castagnoli), rotated and offset as TensorFlow's record format wants it.
fn masked(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &b in data {
        crc ^= u32::from(b);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_frames_are_those_of_the_format() {
        // crc32c("123456789") = 0xe3069283
        assert_eq!(masked(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let dir = tempfile::tempdir().unwrap();
        let mut w = EventWriter::create(dir.path()).unwrap();
        w.scalar("train_loss", 1000, 0.5).unwrap();
        w.flush().unwrap();
        let bytes = std::fs::read(&w.path).unwrap();
        let (mut at, mut records) = (0, vec![]);
        while at < bytes.len() {
            let len = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()), masked(&bytes[at..at + 8]));
            let data = &bytes[at + 12..at + 12 + len];
            assert_eq!(u32::from_le_bytes(bytes[at + 12 + len..at + 16 + len].try_into().unwrap()), masked(data));
            records.push(data.to_vec());
            at += 16 + len;
        }
        assert_eq!(records.len(), 2);
        assert!(records[1].windows(10).any(|w| w == b"train_loss"));
        assert!(records[1].windows(4).any(|w| w == 0.5f32.to_le_bytes()));
    }
}
