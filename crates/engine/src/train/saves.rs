//! When and how a session saves its trainer.

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::task::{Findings, Task};
use crate::train::Best;
use crate::train::session::{AGAIN, Running};
use candlelight_store::CheckpointFolder;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

impl<T: Task> Running<'_, '_, T> {
    /// Writes a checkpoint of the present position and removes old ones, unless it is there already. Comes back when it is durable.
    pub(super) fn save(&mut self) -> Result<PathBuf> {
        self.settle();
        if let Some((position, path)) = &self.saved
            && *position == self.trainer.position
        {
            return Ok(path.clone());
        }
        // The same weights at a later position, after a report, take the place of those before it.
        let done = self.trainer.position.done(self.steps);
        let replaced = self
            .saved
            .as_ref()
            .filter(|(p, _)| p.done(self.steps) == done && p.updates == self.trainer.position.updates);
        let path = replaced.map_or_else(|| self.checkpoints.next(done as u64), |(_, path)| path.clone());
        let (record, entries) = (self.trainer.record(self.extent)?, self.trainer.entries(true)?);
        write(&self.checkpoints, &path, T::KIND, &record, &entries, self.trainer.plan.keep)?;
        self.saved = Some((self.trainer.position.clone(), path.clone()));
        self.failed = None;
        Ok(path)
    }

    /// Begins to write a checkpoint of the present position on a thread. What comes of it is noted later.
    pub(super) fn save_behind(&mut self) {
        self.settle();
        if self.saved.as_ref().is_some_and(|(p, _)| *p == self.trainer.position) {
            return;
        }
        let start = Instant::now();
        let made = self.trainer.record(self.extent).and_then(|r| Ok((r, self.trainer.entries(true)?)));
        let (record, entries) = match made {
            Ok(made) => made,
            Err(e) => {
                self.failed = Some(Instant::now());
                return self.say(|| tracing::warn!("the run could not be saved: {e}"));
            }
        };
        let (folder, keep) = (self.checkpoints.clone(), self.trainer.plan.keep);
        let path = folder.next(self.trainer.position.done(self.steps) as u64);
        self.in_flight = Some(self.trainer.position.clone());
        let result = self.trainer.saver.start(move || {
            write(&folder, &path, T::KIND, &record, &entries, keep)?;
            Ok(path)
        });
        self.trainer.stood = start.elapsed();
        self.note(result);
    }

    /// Waits for the save in flight and notes what came of it.
    pub(super) fn settle(&mut self) {
        self.trainer.settle();
        let saved = self.trainer.saved.take();
        self.note(saved);
    }

    pub(super) fn note(&mut self, result: Option<candlelight_store::Result<PathBuf>>) {
        match result {
            None => {}
            Some(Ok(path)) => {
                self.failed = None;
                let stood = self.trainer.stood.as_secs_f64();
                self.say(|| tracing::info!("saved {}; training stood still for {stood:.3} s", path.display()));
                self.saved = self.in_flight.take().map(|p| (p, path));
            }
            Some(Err(e)) => {
                self.in_flight = None;
                self.failed = Some(Instant::now());
                let kept = match &self.saved {
                    Some((_, path)) => format!("{} is still there", path.display()),
                    None => "there is no checkpoint yet".into(),
                };
                let seconds = AGAIN.as_secs();
                self.say(|| {
                    tracing::warn!(
                        "the run could not be saved: {e}; {kept}, training goes on, and it is tried again after {seconds} s: make room"
                    );
                });
            }
        }
    }

    /// Keeps the weights that are the best so far, or belong to the history. Where they cannot be written, nothing is the best for them, and
    /// nothing else is removed.
    pub(super) fn rank(&mut self, epochs: usize, found: &Findings) {
        let report = |score: Option<f64>| score.filter(|s| s.is_finite()).map(|score| Best { epochs, score });
        let better = |new: &Best, old: Option<Best>| old.is_none_or(|b| new.score > b.score);
        let position = &mut self.trainer.position;
        let before = (position.best, position.best_raw, position.history.clone());
        let best = report(found.score).filter(|b| better(b, position.best));
        let raw = report(found.raw).filter(|b| better(b, position.best_raw));
        position.best = best.or(position.best);
        position.best_raw = raw.or(position.best_raw);
        let most = self.trainer.plan.history;
        let (kept, mut displaced) = report(found.score).map_or((false, vec![]), |b| position.remember(b, most));
        // The same weights under other names are further links to the first file.
        let mut first: Option<PathBuf> = None;
        if kept {
            let folder = self.checkpoints.history();
            if let Err(e) = std::fs::create_dir_all(&folder) {
                self.say(|| tracing::warn!("{}: {e}", folder.display()));
            }
            if !self.put(self.checkpoints.ranked(epochs), &mut first) {
                self.trainer.position.history = before.2;
                displaced.clear();
            }
        }
        if best.is_some() && !self.put(self.checkpoints.best(), &mut first) {
            self.trainer.position.best = before.0;
        }
        if raw.is_some() && !self.put(self.checkpoints.best_raw(), &mut first) {
            self.trainer.position.best_raw = before.1;
        }
        for old in displaced {
            if let Err(e) = std::fs::remove_file(self.checkpoints.ranked(old.epochs)) {
                self.say(|| {
                    tracing::warn!("the model after {} epochs could not be removed from the history: {e}", old.epochs);
                });
            }
        }
    }

    /// Puts the weights to a path, as a link to those that were written first where there are any. Returns whether they are there.
    fn put(&mut self, path: PathBuf, first: &mut Option<PathBuf>) -> bool {
        let linked = first.as_ref().is_some_and(|first| self.checkpoints.link(first, &path).is_ok());
        let there = linked || self.save_weights(&path);
        if there {
            first.get_or_insert(path);
        }
        there
    }

    /// Writes the weights without the optimizer's state, and returns whether they are there.
    fn save_weights(&mut self, path: &Path) -> bool {
        let written = self.trainer.write_weights(path, self.extent);
        if let Err(e) = &written {
            self.say(|| tracing::warn!("the best weights could not be saved: {e}"));
        }
        written.is_ok()
    }

    /// Saves the run after something failed; returns the error, whatever comes of the save.
    pub(super) fn broken(&mut self, what: &str, e: Error) -> Error {
        match self.save() {
            Ok(saved) => self.say(|| tracing::error!("{what} failed; saved {}", saved.display())),
            Err(other) => self.say(|| tracing::error!("{what} failed, and the run could not be saved: {other}")),
        }
        e
    }
}

/// Writes a checkpoint, at a second and third attempt where the first fails, and removes old ones.
fn write(
    folder: &CheckpointFolder,
    path: &Path,
    kind: &str,
    record: &serde_json::Value,
    entries: &[candlelight_store::tensors::Entry],
    keep: usize,
) -> candlelight_store::Result<()> {
    let mut result = checkpoint::save_record(path, kind, record, entries);
    for pause in [200, 1000] {
        if result.is_ok() {
            break;
        }
        candlelight_store::faults::pause(Duration::from_millis(pause));
        result = checkpoint::save_record(path, kind, record, entries);
    }
    result?;
    if let Err(e) = folder.prune(keep) {
        // The new one is there; an old one too many does no harm.
        tracing::warn!("an old checkpoint could not be removed: {e}");
    }
    Ok(())
}
