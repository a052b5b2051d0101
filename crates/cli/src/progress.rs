//! How far long work has come: a bar with the time left on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows how much of a known amount of work is done.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    all: usize,
    start: Instant,
    last: Instant,
}

impl Progress {
    /// Work on `all` things, called `what`: `images`.
    pub fn new(what: &str, all: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(all as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Progress { bar, what: what.into(), all, start: now, last: now }
    }

    /// Shows that so many are done, at most every five seconds where lines are printed. `more` is written behind them.
    pub fn at(&mut self, done: usize, more: &str) {
        let every = Duration::from_millis(if self.bar.is_some() { 100 } else { 5000 });
        if self.last.elapsed() < every || done == 0 {
            return;
        }
        self.last = Instant::now();
        let rate = done as f64 / self.start.elapsed().as_secs_f64();
        let left = (self.all.saturating_sub(done) as f64 / rate) as u64;
        let gap = if more.is_empty() { "" } else { "  " };
        let text = format!("{}{gap}{more}  {rate:.0} per second  eta {}:{:02}", self.what, left / 60, left % 60);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done as u64);
                bar.set_message(text);
            }
            // A closed standard error is no reason to stop.
            None => drop(writeln!(std::io::stderr(), "[{done}/{}] {text}", self.all)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
