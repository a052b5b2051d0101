//! The memory of loading: how a budget of bytes becomes a number of batches, the buffers that are used again, and the
//! pictures that are decoded at the same time.

use crate::error::{Error, Result};
use crate::load::batch::Pixels;
use crate::load::shared::{LoaderConfig, lock};
use std::cell::Cell;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};

/// The most that a loader takes where `memory` is not set.
const MOST: u64 = 2 << 30;

/// What a loader keeps in memory, which follows from [`LoaderConfig::memory`]. Programs print it.
///
/// ```text
/// 8 workers, 6 batches of 64 in memory, at most 231 MB of batches and 537 MB of pictures in work
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadPlan {
    /// Threads that decode; 0 is the calling thread.
    pub workers: usize,
    /// Samples per batch.
    pub batch_size: usize,
    /// Bytes of the pixels of one batch.
    pub batch_bytes: u64,
    /// The most batches in memory: those that are being made, those that wait, and one that the consumer uses.
    pub batches: usize,
    /// The most bytes of pictures that are decoded at the same time. A single picture that needs more is decoded
    /// alone.
    pub picture_bytes: u64,
}

impl LoadPlan {
    /// The most bytes that all of it takes.
    pub fn bytes(&self) -> u64 {
        self.buffer_bytes() + self.picture_bytes
    }

    /// The most bytes that the batches take.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.batches as u64 * self.batch_bytes
    }

    /// The most batches of an epoch that are being made or wait.
    pub(crate) fn ahead(&self) -> usize {
        self.batches.saturating_sub(1).max(1)
    }
}

impl fmt::Display for LoadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let batches = if self.batches == 1 { "batch" } else { "batches" };
        write!(
            f,
            "{}, {} {batches} of {} in memory, at most {} of batches and {} of pictures in work",
            many(self.workers, "worker"),
            self.batches,
            self.batch_size,
            megabytes(self.buffer_bytes()),
            megabytes(self.picture_bytes)
        )
    }
}

/// Bytes as a person reads them; 1 MB is a million bytes.
fn megabytes(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} MB", bytes as f64 / 1e6),
    }
}

/// The bytes that this process may still take: what the machine has available or what its container allows, whichever is
/// less. `None` where neither is known.
fn available() -> Option<u64> {
    let number = |p: &str| std::fs::read_to_string(p).ok()?.trim().parse::<u64>().ok();
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let container = container.into_iter().find_map(number);
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    });
    container.into_iter().chain(machine).min()
}

/// The least number of batches: one on the calling thread, and two where one is made while another is used.
fn least(workers: usize) -> u64 {
    if workers == 0 { 1 } else { 2 }
}

/// The limits of memory for a loader of batches of `batch_bytes`.
///
/// # Errors
/// When not even the least number of batches fits.
pub(crate) fn budget(config: &LoaderConfig, batch_bytes: u64) -> Result<Memory> {
    budget_of(config, batch_bytes, available())
}

fn budget_of(config: &LoaderConfig, batch_bytes: u64, available: Option<u64>) -> Result<Memory> {
    let least_bytes = least(config.workers).saturating_mul(batch_bytes);
    let needs = || {
        let batches = if config.workers == 0 { "one batch" } else { "two batches" };
        format!("{batches} of {} samples need {}", config.batch_size, megabytes(least_bytes))
    };
    let total = match (config.memory, available) {
        (Some(memory), _) if memory < least_bytes => {
            return Err(Error::Config(format!(
                "memory: the loader may take {}, but {}: raise memory, or lower batch_size",
                megabytes(memory),
                needs()
            )));
        }
        (Some(memory), _) => memory,
        (None, Some(free)) if free < least_bytes => {
            return Err(Error::Config(format!(
                "{}, but only {} of memory are available: lower batch_size",
                needs(),
                megabytes(free)
            )));
        }
        (None, free) => free.map_or(MOST / 2, |free| MOST.min(free / 8)).max(least_bytes),
    };
    let pictures = (total / 4).min(total - least_bytes);
    Ok(Memory::new(total - pictures, pictures))
}

/// What a loader does with these limits.
///
/// # Errors
/// When not even the least number of batches fits.
pub(crate) fn plan(config: &LoaderConfig, batch_bytes: u64, memory: &Memory) -> Result<LoadPlan> {
    let fit = memory.batches / batch_bytes.max(1);
    if fit < least(config.workers) {
        return Err(Error::Config(format!(
            "memory: batches of {} samples take {} each, and the shared budget of {} for batches does not hold {} of \
             them: raise memory, or lower batch_size",
            config.batch_size,
            megabytes(batch_bytes),
            megabytes(memory.batches),
            least(config.workers)
        )));
    }
    // Four batches ahead level out a slow picture or a slow step; with many workers and small batches it takes more of them
    // to give every worker two samples.
    let useful = if config.workers == 0 { 1 } else { 5 + (2 * config.workers).div_ceil(config.batch_size.max(1)) };
    Ok(LoadPlan {
        workers: config.workers,
        batch_size: config.batch_size,
        batch_bytes,
        batches: useful.min(usize::try_from(fit).unwrap_or(usize::MAX)),
        picture_bytes: memory.pictures,
    })
}

/// The memory that the loaders of one pool share.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The limit of batches, in bytes.
    batches: u64,
    /// The limit of pictures in work, in bytes.
    pictures: u64,
    buffers: Mutex<Buffers>,
    decoding: Mutex<u64>,
    decoded: Condvar,
}

#[derive(Debug, Default)]
struct Buffers {
    /// Bytes of the batches that are being made or wait for the consumer.
    ahead: u64,
    /// Buffers that came back, to be filled again; they count like batches.
    spare: Vec<Pixels>,
    /// The most bytes so far, for tests.
    peak: u64,
}

impl Buffers {
    fn bytes(&self) -> u64 {
        self.ahead + self.spare.iter().map(Pixels::bytes).sum::<u64>()
    }
}

impl Memory {
    fn new(batches: u64, pictures: u64) -> Self {
        Memory { batches, pictures, buffers: Mutex::default(), decoding: Mutex::default(), decoded: Condvar::new() }
    }

    /// Sets the bytes of a batch aside, or says that there is no room for it and for one that the consumer uses. An epoch that has no batch in memory is always
    /// given one, because its consumer may be the only one who goes on.
    pub(crate) fn reserve(&self, bytes: u64, always: bool) -> bool {
        let mut b = lock(&self.buffers);
        if !always && b.ahead + 2 * bytes > self.batches {
            return false;
        }
        b.ahead += bytes;
        true
    }

    /// Gives the bytes of a batch free that the consumer has now, or that is gone.
    pub(crate) fn release(&self, bytes: u64) {
        let mut b = lock(&self.buffers);
        b.ahead = b.ahead.saturating_sub(bytes);
    }

    /// A buffer of `n` values, for bytes that were reserved. Spare buffers of another size are freed where all of them
    /// together would exceed `limit` bytes.
    pub(crate) fn buffer(&self, n: usize, bytes: bool, limit: u64) -> Pixels {
        let mut b = lock(&self.buffers);
        let fits = |p: &Pixels| match p {
            Pixels::F32(v) => !bytes && v.capacity() >= n,
            Pixels::U8(v) => bytes && v.capacity() >= n,
        };
        let found = b.spare.iter().position(fits).map(|i| b.spare.swap_remove(i));
        let mut freed = vec![];
        while b.bytes() > limit {
            match b.spare.pop() {
                Some(pixels) => freed.push(pixels),
                None => break,
            }
        }
        b.peak = b.peak.max(b.bytes());
        // Freeing can take long, so the lock is open by then.
        drop(b);
        drop(freed);
        match found {
            Some(Pixels::F32(mut v)) => {
                v.resize(n, 0.0);
                Pixels::F32(v)
            }
            Some(Pixels::U8(mut v)) => {
                v.resize(n, 0);
                Pixels::U8(v)
            }
            None if bytes => Pixels::U8(vec![0; n]),
            None => Pixels::F32(vec![0.0; n]),
        }
    }

    /// Takes a buffer back, to be filled again, if all of them together stay within `limit` bytes.
    pub(crate) fn give_back(&self, pixels: Pixels, limit: u64) {
        let mut b = lock(&self.buffers);
        if pixels.bytes() > 0 && b.bytes() + pixels.bytes() <= limit {
            b.spare.push(pixels);
        }
    }

    /// Frees the buffers that nobody uses.
    pub(crate) fn clear(&self) {
        // They are dropped after the lock is open again.
        let spare = std::mem::take(&mut lock(&self.buffers).spare);
        drop(spare);
    }

    /// The most bytes of batches so far.
    #[cfg(test)]
    pub(crate) fn peak(&self) -> u64 {
        lock(&self.buffers).peak
    }

    /// The bytes of batches and of spare buffers now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        lock(&self.buffers).bytes()
    }

    /// Runs `f`, which needs about `bytes` for a picture, as soon as there is room for it.
    pub(crate) fn decoding<R>(&self, bytes: u64, f: impl FnOnce() -> R) -> R {
        thread_local! {
            /// Whether this thread has a picture in work already: it must not wait for itself.
            static INSIDE: Cell<bool> = const { Cell::new(false) };
        }
        /// Gives the room free, also when `f` panics.
        struct Room<'a>(&'a Memory, u64);
        impl Drop for Room<'_> {
            fn drop(&mut self) {
                *lock(&self.0.decoding) -= self.1;
                self.0.decoded.notify_all();
                INSIDE.set(false);
            }
        }
        if INSIDE.get() {
            return f();
        }
        let mut used = lock(&self.decoding);
        while *used > 0 && *used + bytes > self.pictures {
            used = self.decoded.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        drop(used);
        INSIDE.set(true);
        let _room = Room(self, bytes);
        f()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn config(workers: usize, batch_size: usize, memory: Option<u64>) -> LoaderConfig {
        LoaderConfig { workers, batch_size, memory, ..LoaderConfig::default() }
    }

    #[test]
    fn a_budget_becomes_batches_and_what_cannot_fit_is_refused_with_numbers() {
        let batch = 64 * 3 * 224 * 224 * 4;
        let with = |workers: usize, memory: Option<u64>, free: u64| {
            let c = config(workers, 64, memory);
            budget_of(&c, batch, Some(free)).and_then(|m| plan(&c, batch, &m))
        };
        let p = with(8, None, 64 << 30).unwrap();
        assert_eq!((p.batches, p.picture_bytes), (6, (2 << 30) / 4));
        assert_eq!(
            p.to_string(),
            "8 workers, 6 batches of 64 in memory, at most 231 MB of batches and 537 MB of pictures in work"
        );
        assert!(p.bytes() <= 2 << 30);
        assert_eq!(with(64, None, 64 << 30).unwrap().batches, 7, "more workers hardly need more batches");
        for memory in [2 * batch, 2 * batch + 1, 3 * batch, 5 * batch, 40 * batch] {
            let p = with(64, Some(memory), 1).unwrap();
            assert!(p.batches >= 2 && p.bytes() <= memory, "{memory}: {p:?}");
        }
        let e = with(8, Some(batch), 64 << 30).unwrap_err().to_string();
        assert!(e.contains("memory") && e.contains("39 MB") && e.contains("two batches of 64") && e.contains("77 MB"));
        assert_eq!(with(0, Some(batch), 1).unwrap().batches, 1);
        let e = with(8, None, batch).unwrap_err().to_string();
        assert!(e.contains("only 39 MB") && e.contains("lower batch_size"), "{e}");
        assert_eq!(with(8, None, 4 * batch).unwrap().batches, 2, "two batches, however small the share");
    }

    #[test]
    fn buffers_are_used_again_and_count_while_they_wait() {
        let m = Memory::new(100, 0);
        assert!(m.reserve(40, false) && !m.reserve(40, false), "one is left for the consumer");
        assert!(m.reserve(40, true), "an epoch without a batch gets one");
        m.release(40);
        let first = m.buffer(10, false, 100);
        let Pixels::F32(v) = &first else { panic!("f32 was asked for") };
        let at = v.as_ptr();
        m.give_back(first, 100);
        assert_eq!(m.held(), 80);
        m.give_back(Pixels::F32(vec![0.0; 10]), 100);
        assert_eq!(m.held(), 80, "no room for a second one");
        m.release(40);
        assert!(m.reserve(40, false));
        let Pixels::F32(v) = m.buffer(10, false, 100) else { panic!("f32 was asked for") };
        assert_eq!(v.as_ptr(), at);
        m.release(40);
        m.release(40);
        m.give_back(Pixels::U8(vec![0; 50]), 100);
        assert!(m.reserve(60, true));
        m.buffer(15, false, 100);
        assert_eq!(m.held(), 60, "a buffer that does not fit makes room");
        m.clear();
    }

    #[test]
    fn pictures_wait_for_room_and_a_large_one_is_alone() {
        let m = Memory::new(0, 100);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for bytes in [60, 60, 30, 1000, 90, 10] {
                let (m, now, most) = (&m, &now, &most);
                s.spawn(move || {
                    m.decoding(bytes, || {
                        let sum = now.fetch_add(bytes as usize, Ordering::SeqCst) + bytes as usize;
                        if bytes == 1000 {
                            assert_eq!(sum, 1000, "the large picture has company");
                        } else {
                            most.fetch_max(sum, Ordering::SeqCst);
                        }
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        // A picture inside a picture does not wait for itself.
                        m.decoding(90, || ());
                        now.fetch_sub(bytes as usize, Ordering::SeqCst);
                    });
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100);
        assert_eq!(*lock(&m.decoding), 0);
    }
}
