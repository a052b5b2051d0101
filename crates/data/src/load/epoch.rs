//! The batches of one epoch, as the consumer sees them.

use crate::error::{Error, Result};
use crate::load::batch::Batch;
use crate::load::pool::{Core, Pool};
use crate::load::worker::{Job, Made};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The batches of one epoch, in order. Dropping it stops the work on them at once.
///
/// An epoch can have fewer batches than [`Loader::steps`](crate::Loader::steps) says: a stream can be shorter than it
/// announced, and a batch whose samples were all left out does not come. Every [`Batch`] carries its step, and
/// [`Epoch::delivered`] and [`Epoch::missing`] say how many came and how many did not.
pub struct Epoch {
    job: Arc<Job>,
    /// The step of the next batch.
    step: usize,
    /// The step after the last one that was announced.
    announced: usize,
    /// The step after the last one that comes, where the stream's end is known.
    end: usize,
    delivered: usize,
    missing: usize,
    /// The places of a stream that could not be read in this epoch.
    bad: HashSet<usize>,
    from: From,
}

/// Where batches are made.
enum From {
    /// On the calling thread.
    Here,
    /// By the threads of a pool, which lives as long as the epoch.
    Threads { core: Arc<Core>, id: u64, _pool: Arc<Pool> },
    /// Nowhere, because of an error that is still to be told.
    Nowhere(Option<Error>),
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoch({} at step {} of {})", self.job.epoch, self.step, self.announced)
    }
}

impl Epoch {
    pub(crate) fn new(job: Arc<Job>, pool: &Arc<Pool>, start: usize, announced: usize) -> Self {
        let from = if pool.workers() == 0 || start >= announced {
            From::Here
        } else {
            match pool.open(job.clone(), start, announced) {
                Ok((core, id)) => From::Threads { core, id, _pool: pool.clone() },
                Err(e) => From::Nowhere(Some(e)),
            }
        };
        let bad = HashSet::new();
        Epoch { job, step: start, announced, end: announced, delivered: 0, missing: 0, bad, from }
    }

    /// The number of batches that came so far.
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// The number of announced batches that did not come so far, because a stream ended early or because no sample of
    /// them can be read. It is final when the iterator has returned `None`.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// What came of a step; none behind the last one.
    fn made(&mut self, step: usize) -> Option<Made> {
        match &mut self.from {
            From::Threads { core, id, .. } => core.wait_for(*id, step),
            From::Here if step >= self.end => None,
            From::Here => {
                let (job, shared) = (&self.job, &self.job.shared);
                let raw = crate::load::shared::lock(&job.stream).as_mut().map(|samples| job.pull(samples, step));
                if raw.as_ref().is_some_and(|r| r.ended) {
                    self.end = step + 1;
                }
                let bytes = shared.plan.batch_bytes;
                shared.memory.reserve(bytes, true);
                let made = job.make(step, raw, None);
                shared.memory.release(bytes);
                Some(made)
            }
            From::Nowhere(e) => e.take().map(|e| Made { batch: Err(e), bad: vec![] }),
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        while self.step < self.announced {
            let start = Instant::now();
            let made = self.made(self.step);
            let waited = start.elapsed().as_nanos() as u64;
            self.job.shared.stats.wait.fetch_add(waited, Ordering::Relaxed);
            let Some(Made { batch, bad }) = made else {
                let left = self.announced - self.step;
                self.missing += left;
                self.step = self.announced;
                if self.job.shared.source.streamed() {
                    tracing::warn!(
                        "epoch {}: the stream ended {left} batches before the {} that it announced",
                        self.job.epoch,
                        self.announced
                    );
                }
                return None;
            };
            self.step += 1;
            // Too many bad samples are an error even where the batch itself is whole.
            match self.job.count(bad, &mut self.bad).and(batch) {
                Ok(None) => self.missing += 1,
                Ok(Some(batch)) => {
                    self.delivered += 1;
                    return Some(Ok(batch));
                }
                Err(e) => return Some(Err(e)),
            }
        }
        None
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        match &self.from {
            From::Threads { core, id, .. } => core.close(*id),
            From::Here => self.job.shared.memory.clear(),
            From::Nowhere(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "epoch_tests.rs"]
mod tests;
