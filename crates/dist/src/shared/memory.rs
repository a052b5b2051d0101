//! A file of shared memory, read and written by several processes.

use crate::Error;
use memmap2::MmapRaw;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A number that processes add up.
pub(super) trait Number: Copy + Default + std::ops::AddAssign {}
impl Number for f32 {}
impl Number for f64 {}

/// Values that are added at a time, so that they stay in the cache.
const BLOCK: usize = 2048;

/// The mapped file. Who may write where follows from the group's barriers: nothing here waits for anybody.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
}

impl Memory {
    /// Makes a file of so many zeros. The space is taken at once: a full disk is an error here, not a signal later.
    pub(super) fn create(path: &Path, len: usize) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let taken = take(&file, len).and_then(|()| MmapRaw::map_raw(&file));
        if taken.is_err() {
            // Nobody can have joined a file that never was whole.
            let _ = std::fs::remove_file(path);
        }
        Ok(Memory { map: taken? })
    }

    /// Opens a file that another process made.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Memory { map: MmapRaw::map_raw(&file)? })
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The address of `n` values of a type.
    fn at<T>(&self, at: usize, n: usize) -> *mut T {
        let end = n.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(at));
        assert!(at % align_of::<T>() == 0 && end.is_some_and(|end| end <= self.len()), "{n} values at {at}");
        // SAFETY: `at` lies inside of the map, as was just checked.
        unsafe { self.map.as_mut_ptr().add(at).cast() }
    }

    /// A word that processes change together.
    pub(super) fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the place is inside of the map and aligned, a map begins at a page, any bits are a number, and all processes use this word
        // as an atomic.
        unsafe { AtomicU32::from_ptr(self.at(at, 1)) }
    }

    /// A long word that processes change together.
    pub(super) fn long(&self, at: usize) -> &AtomicU64 {
        // SAFETY: as of `word`.
        unsafe { AtomicU64::from_ptr(self.at(at, 1)) }
    }

    /// Writes values. Nobody else may read or write there until a barrier.
    pub(super) fn write<T: Copy>(&self, at: usize, from: &[T]) {
        // SAFETY: the place is inside of the map and aligned, `from` is memory of this process, and the caller's barriers keep others away.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.at(at, from.len()), from.len()) }
    }

    /// Reads values. Nobody may write there until a barrier.
    pub(super) fn read<T: Copy>(&self, at: usize, into: &mut [T]) {
        // SAFETY: as of `write`; the types that are read are numbers, for which any bits are a value.
        unsafe { std::ptr::copy_nonoverlapping(self.at::<T>(at, into.len()), into.as_mut_ptr(), into.len()) }
    }

    /// Adds `n` values of each place by a binary tree whose shape depends on the number of places alone: first neighbours, then sums of
    /// neighbours. The sums lie in the first place then. Nobody else may read or write there until a barrier.
    pub(super) fn tree<T: Number>(&self, places: &[usize], n: usize) {
        let mut sums = vec![vec![T::default(); BLOCK.min(n)]; places.len()];
        for first in (0..n).step_by(BLOCK) {
            let len = BLOCK.min(n - first);
            for (place, values) in places.iter().zip(&mut sums) {
                self.read(place + first * size_of::<T>(), &mut values[..len]);
            }
            let mut step = 1;
            while step < sums.len() {
                for left in (0..sums.len() - step).step_by(2 * step) {
                    let (before, behind) = sums.split_at_mut(left + step);
                    before[left][..len].iter_mut().zip(&behind[0][..len]).for_each(|(a, b)| *a += *b);
                }
                step *= 2;
            }
            if let (Some(place), Some(sum)) = (places.first(), sums.first()) {
                self.write(place + first * size_of::<T>(), &sum[..len]);
            }
        }
    }
}

/// Gives a file a size, with its space.
#[cfg(target_os = "linux")]
fn take(file: &std::fs::File, len: usize) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let size = i64::try_from(len).map_err(std::io::Error::other)?;
    // SAFETY: the descriptor is that of an open file.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size) } {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

/// Gives a file a size, with its space.
#[cfg(not(target_os = "linux"))]
fn take(mut file: &std::fs::File, len: usize) -> std::io::Result<()> {
    use std::io::Write;
    let zeros = vec![0; 1 << 16];
    for from in (0..len).step_by(zeros.len()) {
        file.write_all(&zeros[..zeros.len().min(len - from)])?;
    }
    Ok(())
}

/// The error of a file.
pub(super) fn failed(path: &Path, what: &str, e: &std::io::Error) -> Error {
    let full = if e.kind() == std::io::ErrorKind::StorageFull {
        ": make the shared memory larger (docker run --shm-size)"
    } else {
        ""
    };
    Error::Config(format!("{}: {what}: {e}{full}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::create(&dir.path().join("m"), 1 << 16).unwrap();
        // (1 + -1) + (1e-20 + 1e-20), not ((1 + -1) + 1e-20) + 1e-20; then the fifth.
        let values = [1.0f64, -1.0, 1e16, 1.0, 1.0];
        for n in [1, 3, 1000] {
            let places: Vec<usize> = (0..values.len()).map(|r| r * 8192).collect();
            places.iter().zip(values).for_each(|(p, v)| memory.write(*p, &vec![v; n]));
            memory.tree::<f64>(&places, n);
            let mut sums = vec![0.0; n];
            memory.read(0, &mut sums);
            assert_eq!(sums, vec![((1.0 + -1.0) + (1e16 + 1.0)) + 1.0; n]);
        }
        let other = Memory::open(&dir.path().join("m")).unwrap();
        memory.word(64).store(7, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(other.word(64).load(std::sync::atomic::Ordering::Relaxed), 7);
        let e = Memory::create(&dir.path().join("m"), 64).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists);
    }
}
