//! Shows the progress of a run: as a bar on a terminal, as plain lines elsewhere.

use candlelight_data::Stats;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Shows how far a run has come: loss, learning rate, images per second, time left.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    first: usize,
    total: usize,
    recent: VecDeque<f64>,
    last_line: Instant,
    batch: usize,
}

/// What a step reports.
pub(crate) struct Line<'a> {
    pub(crate) epoch: usize,
    pub(crate) epochs: usize,
    /// The number of steps done in the whole run.
    pub(crate) done: usize,
    pub(crate) loss: f32,
    pub(crate) lr: f64,
    pub(crate) stats: &'a Stats,
}

impl Progress {
    pub(crate) fn new(first: usize, total: usize, batch: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64).with_position(first as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Progress { bar, started: now, first, total, recent: VecDeque::new(), last_line: now, batch }
    }

    /// Removes the bar so that other lines can be printed, as long as `f` runs.
    pub(crate) fn quiet<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    pub(crate) fn step(&mut self, line: &Line<'_>, end_of_epoch: bool) {
        self.recent.push_back(f64::from(line.loss));
        if self.recent.len() > 20 {
            self.recent.pop_front();
        }
        let every = Duration::from_millis(if self.bar.is_some() { 100 } else { 10_000 });
        if !end_of_epoch && self.last_line.elapsed() < every && line.done < self.total {
            return;
        }
        self.last_line = Instant::now();
        let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        let seconds = self.started.elapsed().as_secs_f64();
        let per_step = seconds / (line.done - self.first).max(1) as f64;
        let left = Duration::from_secs((per_step * self.total.saturating_sub(line.done) as f64) as u64);
        // The share of the wall time in which training waited for data; above 10 % the slowest stage of the loader is named.
        let wait = line.stats.wait.load(Ordering::Relaxed) as f64 / 1e9 / seconds.max(1e-9);
        let slowest = line.stats.shares().into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let why = slowest.filter(|_| wait > 0.1).map(|(n, s)| format!(" ({n} {:.0}%)", 100.0 * s)).unwrap_or_default();
        let text = format!(
            "epoch {}/{}  loss {mean:.4}  lr {:.2e}  {:.0} img/s  data wait {:.0}%{why}  eta {}",
            line.epoch + 1,
            line.epochs,
            line.lr,
            self.batch as f64 / per_step,
            100.0 * wait,
            clock(left),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(line.done as u64);
                bar.set_message(text);
            }
            // A closed standard error is no reason to stop.
            None => drop(writeln!(std::io::stderr(), "[{}/{}] {text}", line.done, self.total)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

pub(crate) fn clock(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 3600 {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    } else {
        format!("{}:{:02}", s / 60, s % 60)
    }
}
