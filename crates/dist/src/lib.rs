#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod launch;
mod shared;
mod spawn;

pub use shared::Shared;
pub use spawn::{Event, Spawn};

use std::time::Duration;

/// The errors of communication between processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A process does not answer any more.
    #[error("process {rank} of {world} is lost: {message}")]
    Lost {
        /// The process that does not answer.
        rank: usize,
        /// The number of processes.
        world: usize,
        /// What is known about the loss.
        message: String,
    },
    /// A call that makes no sense.
    #[error("{0}")]
    Config(String),
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The connection of one process to a group of processes, as PyTorch's process group. All processes must make the same calls in the
/// same order.
pub trait Comm: std::fmt::Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn world(&self) -> usize;

    /// Replaces each value by its sum over all processes; every process must give the same number of values. The order of the additions
    /// depends only on the number of processes, so every process gets the same bits.
    ///
    /// # Errors
    /// When a process is lost.
    fn all_reduce(&self, values: &mut [f64]) -> Result<()>;

    /// The same for numbers of single precision. Where a group does not add them itself, they are added in double precision.
    ///
    /// # Errors
    /// When a process is lost.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        let mut sums: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        self.all_reduce(&mut sums)?;
        values.iter_mut().zip(sums).for_each(|(v, sum)| *v = sum as f32);
        Ok(())
    }

    /// Gathers the bytes of every process, in the order of their numbers; each may give another number of bytes.
    ///
    /// # Errors
    /// When a process is lost.
    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Replaces `bytes` on every process by those of process `root`.
    ///
    /// # Errors
    /// When there is no such process, or one is lost.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Sends bytes to another process. It may wait until the other receives them, so two that send to each other before they receive may wait
    /// for each other.
    ///
    /// # Errors
    /// When there is no such process, or it is lost.
    fn send(&self, to: usize, bytes: &[u8]) -> Result<()>;

    /// Receives the next bytes that another process sent to this one.
    ///
    /// # Errors
    /// When there is no such process, or it is lost.
    fn receive(&self, from: usize) -> Result<Vec<u8>>;

    /// Waits until every process has made this call.
    ///
    /// # Errors
    /// When a process is lost.
    fn barrier(&self) -> Result<()>;

    /// Allows this process to be silent for `silence` from now on, because it does something slow such as saving or evaluating. A process
    /// that is silent for longer counts as lost.
    fn deadline(&self, silence: Duration);
}

/// A group of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Solo;

impl Solo {
    fn itself(rank: usize) -> Result<()> {
        match rank {
            0 => Ok(()),
            _ => Err(Error::Config(format!("there is no process {rank}: this one is alone, number 0"))),
        }
    }
}

impl Comm for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }

    fn broadcast(&self, root: usize, _: &mut Vec<u8>) -> Result<()> {
        Self::itself(root)
    }

    fn send(&self, to: usize, _: &[u8]) -> Result<()> {
        Self::itself(to)?;
        Err(Error::Config("a process that is alone has nobody to send to".into()))
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        Self::itself(from)?;
        Err(Error::Config("a process that is alone has nobody to receive from".into()))
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn deadline(&self, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_is_its_own_group() {
        let (mut sums, mut bytes) = ([1.0, -2.0], vec![7]);
        Solo.all_reduce(&mut sums).unwrap();
        Solo.broadcast(0, &mut bytes).unwrap();
        Solo.barrier().unwrap();
        assert_eq!((sums, bytes.as_slice(), Solo.all_gather(&[3]).unwrap()), ([1.0, -2.0], &[7][..], vec![vec![3]]));
        assert!(Solo.broadcast(1, &mut bytes).unwrap_err().to_string().contains("no process 1"));
        assert!(Solo.send(0, &[1]).is_err() && Solo.receive(0).is_err());
    }
}
