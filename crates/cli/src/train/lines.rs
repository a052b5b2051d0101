//! What a run shows: lines with timm's fields, `summary.csv` and `curves.svg`.

use crate::Result;
use crate::chart::{self, Line};
use candlelight_engine::task::{Batches, Findings};
use candlelight_engine::train::{Observer, StepReport};
use candlelight_store::atomic::write_atomic;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Logs a line every so many batches, with the fields of timm's.
pub(super) struct Lines<'a> {
    batches: &'a dyn Batches,
    every: usize,
    last: Instant,
    waited: u64,
    epoch: Epoch,
}

/// Sums over the batches of an epoch.
#[derive(Default)]
struct Epoch {
    number: usize,
    batches: usize,
    loss: f64,
    seconds: f64,
    waited: f64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(batches: &'a dyn Batches, every: usize) -> Self {
        let waited = batches.stats().wait.load(Ordering::Relaxed);
        Lines { batches, every: every.max(1), last: Instant::now(), waited, epoch: Epoch::default() }
    }
}

/// A number as Python writes it with the format `.3e`.
fn scientific(v: f64) -> String {
    let text = format!("{v:.3e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text,
    }
}

/// A number with three digits that count.
fn three(v: f64) -> String {
    let before = if v.abs() >= 1.0 { v.abs().log10().floor() as i32 + 1 } else { 1 };
    format!("{v:.*}", (3 - before).max(0) as usize)
}

impl Observer for Lines<'_> {
    fn name(&self) -> &str {
        "the lines of the log"
    }

    fn step(&mut self, step: &StepReport, _at: f64) -> candlelight_engine::Result<()> {
        let (now, waited) = (Instant::now(), self.batches.stats().wait.load(Ordering::Relaxed));
        let (seconds, data) =
            ((now - self.last).as_secs_f64().max(1e-9), waited.saturating_sub(self.waited) as f64 / 1e9);
        (self.last, self.waited) = (now, waited);
        if self.epoch.number != step.epoch || self.epoch.batches == 0 {
            self.epoch = Epoch { number: step.epoch, ..Epoch::default() };
        }
        let e = &mut self.epoch;
        e.batches += 1;
        e.seconds += seconds;
        e.waited += data;
        if step.loss.is_finite() {
            e.loss += f64::from(step.loss);
        }
        let steps = self.batches.steps();
        if (step.step - 1) % self.every != 0 && step.step != steps {
            return Ok(());
        }
        let (n, batch) = (e.batches as f64, self.batches.batch_size().unwrap_or(0) as f64);
        tracing::info!(
            "Train: {} [{:>4}/{steps} ({:>3.0}%)]  Loss: {} ({})  Time: {seconds:.3}s, {:>7.2}/s  ({:.3}s, {:>7.2}/s)  LR: {}  Data: {data:.3} ({:.3})",
            step.epoch,
            step.step - 1,
            100.0 * step.step as f64 / steps as f64,
            three(f64::from(step.loss)),
            three(e.loss / n),
            batch / seconds,
            e.seconds / n,
            batch * n / e.seconds,
            scientific(step.lr),
            e.waited / n,
        );
        Ok(())
    }

    fn report(&mut self, _: &Findings, _line: Option<&Value>) -> candlelight_engine::Result<()> {
        // The time of an evaluation is none of the next step's.
        (self.last, self.waited) = (Instant::now(), self.batches.stats().wait.load(Ordering::Relaxed));
        self.epoch = Epoch::default();
        Ok(())
    }
}

/// Writes `args.yaml` with the first step, and `summary.csv` and `curves.svg` from log.txt after each epoch, so that a run that continues has
/// one table with one header.
pub(super) struct Summary {
    folder: PathBuf,
    /// What args.yaml is to hold; taken when it is written. Before the first step the run may still be refused.
    args: Option<String>,
}

impl Summary {
    pub(super) fn new(folder: &Path, args: String) -> Self {
        Summary { folder: folder.into(), args: Some(args) }
    }

    fn write(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.folder.join("log.txt"))?;
        let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        write_atomic(&self.folder.join("summary.csv"), |out| out.write_all(table(&lines).as_bytes()))?;
        chart::draw(&self.folder.join("curves.svg"), &charts(&lines))
    }
}

/// timm's name of a column of log.txt.
fn column(name: &str) -> Option<String> {
    Some(match name {
        "epoch" | "train_loss" => name.into(),
        "train_lr" => "lr".into(),
        _ => {
            let rest = name.strip_prefix("test_")?;
            let (average, figure) = rest.strip_prefix("ema_").map_or(("", rest), |figure| ("ema_", figure));
            let figure = figure.strip_prefix("acc").map_or(figure.to_string(), |k| format!("top{k}"));
            format!("eval_{average}{figure}")
        }
    })
}

/// The lines of log.txt as a table, with the columns that timm has first.
fn table(lines: &[Value]) -> String {
    let mut names: Vec<&str> = vec!["epoch", "train_loss"];
    for line in lines {
        let all = line.as_object().into_iter().flat_map(|o| o.keys());
        for name in all.filter(|n| n.starts_with("test_")) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names.push("train_lr");
    let mut text = names.iter().filter_map(|n| column(n)).collect::<Vec<_>>().join(",") + "\n";
    for line in lines {
        let cell = |n: &&str| line.get(*n).filter(|v| !v.is_null()).map_or(String::new(), ToString::to_string);
        text += &(names.iter().map(cell).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

/// The curves of the lines of log.txt: losses, figures, the rate.
fn charts(lines: &[Value]) -> Vec<(&'static str, &'static str, Vec<Line>)> {
    let of = |name: &str, shown: &str| {
        let point = |l: &Value| Some((l.get("epoch")?.as_f64()? + 1.0, l.get(name)?.as_f64()?));
        let points: Vec<_> = lines.iter().filter_map(point).collect();
        (!points.is_empty()).then(|| Line { name: shown.into(), points })
    };
    let all = |names: &[(&str, &str)]| names.iter().filter_map(|(n, shown)| of(n, shown)).collect::<Vec<Line>>();
    let loss = all(&[("train_loss", "training"), ("test_loss", "evaluation"), ("test_ema_loss", "averaged weights")]);
    let accuracy = all(&[
        ("test_acc1", "top-1"),
        ("test_ema_acc1", "top-1, averaged weights"),
        ("test_map", "mAP"),
        ("test_ema_map", "mAP, averaged weights"),
    ]);
    let error = all(&[("test_mae", "weights"), ("test_ema_mae", "averaged weights")]);
    let mut charts = vec![("loss", "epoch", loss)];
    for (title, lines) in [("accuracy in %", accuracy), ("mean absolute error", error)] {
        if !lines.is_empty() {
            charts.push((title, "epoch", lines));
        }
    }
    charts.push(("learning rate", "epoch", all(&[("train_lr", "rate")])));
    charts
}

impl Observer for Summary {
    fn name(&self) -> &str {
        "args.yaml, summary.csv and curves.svg"
    }

    fn step(&mut self, _: &StepReport, _at: f64) -> candlelight_engine::Result<()> {
        match self.args.take() {
            Some(text) => Ok(write_atomic(&self.folder.join("args.yaml"), |out| out.write_all(text.as_bytes()))?),
            None => Ok(()),
        }
    }

    fn report(&mut self, _: &Findings, line: Option<&Value>) -> candlelight_engine::Result<()> {
        if line.is_none() {
            return Ok(());
        }
        self.write().map_err(|e| candlelight_engine::Error::Config(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_python() {
        for (v, text) in [(0.1, "1.000e-01"), (1.5e-5, "1.500e-05"), (0.0, "0.000e+00"), (123.0, "1.230e+02")] {
            assert_eq!(scientific(v), text);
        }
        for (v, text) in [(6.9281, "6.93"), (0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1234")] {
            assert_eq!(three(v), text);
        }
        assert_eq!(three(f64::NAN), "NaN");
    }

    #[test]
    fn the_table_has_timms_columns_and_one_header() {
        let line = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let lines = [
            line(r#"{"train_lr":0.1,"train_loss":2.5,"epoch":0,"n_parameters":7}"#),
            line(
                r#"{"train_lr":0.05,"train_loss":1.5,"test_loss":1.25,"test_acc1":50.5,"test_ema_acc1":40.0,"epoch":1}"#,
            ),
        ];
        let want = "epoch,train_loss,eval_loss,eval_top1,eval_ema_top1,lr\n0,2.5,,,,0.1\n1,1.5,1.25,50.5,40.0,0.05\n";
        assert_eq!(table(&lines), want);
        let charts = charts(&lines);
        let names: Vec<&str> = charts.iter().map(|(title, ..)| *title).collect();
        assert_eq!(names, ["loss", "accuracy in %", "learning rate"]);
        assert_eq!(charts[1].2[0].points, [(2.0, 50.5)]);
    }
}
