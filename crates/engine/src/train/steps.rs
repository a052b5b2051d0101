//! `steps.jsonl`, the record of a run's steps that pages and plots are made of.

use crate::error::{Result, file};
use crate::task::Findings;
use crate::train::{Observer, StepReport};
use candlelight_data::Stats;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines are at least so far apart, so that the file of a week stays small.
const APART: Duration = Duration::from_secs(1);

/// Appends to `steps.jsonl`: a line `{"start": ...}` with the settings whenever the run starts or continues, then about one line a second with
/// the number of steps done, the mean loss since the line before, the learning rate, the gradients' norm, images per second, the share of time
/// that training waited for data, and the seconds left. A run that continues from an older checkpoint repeats step numbers; the later ones
/// count.
pub(super) struct StepLog<'a> {
    path: PathBuf,
    file: Option<File>,
    start: Value,
    /// Steps per epoch, steps of the run, samples per step.
    steps: usize,
    total: usize,
    batch: usize,
    stats: &'a Stats,
    begun: Instant,
    first: usize,
    last: Mark,
    losses: (f64, usize),
}

/// What had come when the last line was written.
struct Mark {
    at: Instant,
    done: usize,
    wait: u64,
}

impl<'a> StepLog<'a> {
    /// Lines for a run whose `first` steps of `total` are done. `start` says what the run is.
    pub(super) fn new(
        path: PathBuf,
        start: Value,
        (first, steps, total): (usize, usize, usize),
        batch: usize,
        stats: &'a Stats,
    ) -> Self {
        let (now, wait) = (Instant::now(), stats.wait.load(Ordering::Relaxed));
        let last = Mark { at: now, done: first, wait };
        StepLog { path, file: None, start, steps, total, batch, stats, begun: now, first, last, losses: (0.0, 0) }
    }

    fn write(&mut self, line: &Value) -> Result<()> {
        let named = |e: std::io::Error| file(&self.path, e);
        if self.file.is_none() {
            let mut f = File::options().create(true).append(true).open(&self.path).map_err(named)?;
            // Half a line that a killed run left must not be joined with the next.
            f.write_all(format!("\n{}\n", json!({ "time": time(), "start": self.start })).as_bytes()).map_err(named)?;
            self.file = Some(f);
        }
        let mut f = self.file.as_ref().ok_or_else(|| file(&self.path, "not open"))?;
        f.write_all(format!("{line}\n").as_bytes()).map_err(named)
    }
}

/// Seconds since 1970.
fn time() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() * 100.0).round() / 100.0
}

/// A number in JSON, which has neither infinity nor NaN.
fn number(v: f64) -> Value {
    serde_json::Number::from_f64(v).map_or(Value::Null, Value::Number)
}

impl Observer for StepLog<'_> {
    fn name(&self) -> &str {
        "the lines of steps.jsonl"
    }

    fn step(&mut self, step: &StepReport, at: f64) -> Result<()> {
        let done = step.epoch * self.steps + step.step;
        self.losses = (self.losses.0 + f64::from(step.loss), self.losses.1 + 1);
        let over = done >= self.total || step.step == self.steps;
        if self.last.at.elapsed() < APART && !over && step.skipped.is_none() && self.file.is_some() {
            return Ok(());
        }
        let (now, wait) = (Instant::now(), self.stats.wait.load(Ordering::Relaxed));
        let seconds = (now - self.last.at).as_secs_f64().max(1e-9);
        let per_step = (now - self.begun).as_secs_f64() / (done.saturating_sub(self.first)).max(1) as f64;
        let mut line = json!({
            "time": time(),
            "done": done,
            "at": number(at),
            "loss": number(self.losses.0 / self.losses.1 as f64),
            "lr": number(step.lr),
            "norm": step.norm.map_or(Value::Null, number),
            "rate": number((done.saturating_sub(self.last.done) * self.batch) as f64 / seconds),
            "wait": number((wait.saturating_sub(self.last.wait)) as f64 / 1e9 / seconds),
            "left": number(per_step * self.total.saturating_sub(done) as f64),
        });
        if step.skipped.is_some() {
            line["skipped"] = Value::Bool(true);
        }
        self.last = Mark { at: now, done, wait };
        self.losses = (0.0, 0);
        self.write(&line)
    }

    fn report(&mut self, _: &Findings, _: Option<&Value>) -> Result<()> {
        // The time of an evaluation is none of the steps'.
        self.last = Mark { at: Instant::now(), wait: self.stats.wait.load(Ordering::Relaxed), ..self.last };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_apart_and_ends_of_epochs_are_never_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let stats = Stats::default();
        let run = |first: usize, to: usize| {
            let mut s = StepLog::new(path.clone(), json!({ "kind": "k" }), (first, 10, 20), 4, &stats);
            for done in first + 1..=to {
                let (epoch, step) = ((done - 1) / 10, (done - 1) % 10 + 1);
                let loss = if done == 7 { f32::NAN } else { done as f32 };
                let report = StepReport {
                    epoch,
                    step,
                    loss,
                    lr: 0.1,
                    samples: vec![],
                    boundary: true,
                    norm: None,
                    skipped: None,
                };
                s.step(&report, done as f64 / 10.0).unwrap();
            }
        };
        run(0, 12);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"done\": 1").unwrap();
        run(10, 20);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let done: Vec<Option<u64>> = lines.iter().map(|l| l.get("done").and_then(Value::as_u64)).collect();
        // The first step, the end of the epoch; after the restart the first step again, and the end.
        assert_eq!(done, [None, Some(1), Some(10), None, Some(11), Some(20)]);
        assert_eq!(
            (&lines[2]["loss"], &lines[0]["start"]["kind"]),
            (&Value::Null, &json!("k")),
            "a NaN is none in JSON"
        );
        assert_eq!(lines[5]["loss"], json!(16.0), "the mean of the steps 12 to 20");
    }
}
