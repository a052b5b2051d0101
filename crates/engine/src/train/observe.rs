//! Those who see a run go by. They may fail: that is a warning, never the end of a run.

use crate::error::Result;
use crate::task::Findings;
use crate::tensorboard::EventWriter;
use crate::train::StepReport;
use std::path::{Path, PathBuf};

/// Sees a run go by. An error is told once, and the run goes on without the observer.
pub trait Observer {
    /// What it is called in the warning about its failure.
    fn name(&self) -> &str;

    /// After a step; `at` is the place in the run in epochs, such as 1.5.
    ///
    /// # Errors
    /// Its own.
    fn step(&mut self, step: &StepReport, at: f64) -> Result<()> {
        let _ = (step, at);
        Ok(())
    }

    /// After the report that follows an epoch. `line` is that of log.txt, where the epoch is whole.
    ///
    /// # Errors
    /// Its own.
    fn report(&mut self, findings: &Findings, line: Option<&serde_json::Value>) -> Result<()> {
        let _ = (findings, line);
        Ok(())
    }
}

/// Writes the events of a run for TensorBoard.
#[derive(Debug)]
pub struct Events {
    dir: PathBuf,
    loss: &'static str,
    writer: Option<EventWriter>,
}

impl Events {
    /// Events in files of `dir`, which is made with the first of them; the loss has the tag `loss`.
    pub fn new(dir: &Path, loss: &'static str) -> Self {
        Events { dir: dir.into(), loss, writer: None }
    }

    fn writer(&mut self) -> Result<&mut EventWriter> {
        let writer = match self.writer.take() {
            Some(w) => w,
            None => EventWriter::create(&self.dir)?,
        };
        Ok(self.writer.insert(writer))
    }
}

impl Observer for Events {
    fn name(&self) -> &str {
        "TensorBoard's events"
    }

    fn step(&mut self, step: &StepReport, at: f64) -> Result<()> {
        let loss = self.loss;
        let writer = self.writer()?;
        if step.boundary {
            let x = (at * 1000.0) as i64;
            writer.scalar(loss, x, step.loss)?;
            writer.scalar("lr", x, step.lr as f32)?;
        }
        Ok(())
    }

    fn report(&mut self, findings: &Findings, _line: Option<&serde_json::Value>) -> Result<()> {
        let writer = self.writer()?;
        for s in &findings.scalars {
            writer.scalar(s.tag, s.x, s.value)?;
        }
        for i in &findings.images {
            let png = i.picture.png().map_err(|e| crate::error::file(i.tag, e))?;
            writer.image(i.tag, i.x, i.picture.width, i.picture.height, &png)?;
        }
        writer.flush()
    }
}

/// Observers of which those that failed are left out.
#[derive(Default)]
pub(super) struct Observers<'a>(pub(super) Vec<Box<dyn Observer + 'a>>);

impl Observers<'_> {
    /// Calls all; returns the warnings of those that failed.
    pub(super) fn each(&mut self, mut call: impl FnMut(&mut dyn Observer) -> Result<()>) -> Vec<String> {
        let mut failed = vec![];
        self.0.retain_mut(|o| match call(o.as_mut()) {
            Ok(()) => true,
            Err(e) => {
                failed.push(format!("{} cannot be written and are left out from here on: {e}", o.name()));
                false
            }
        });
        failed
    }
}
