//! Comparing ways to train a classifier: several seeds or folds of each, a table with intervals and tests.

mod judge;
mod protocol;
mod table;

pub use judge::Judged;
pub(crate) use judge::Predictions;
pub use protocol::{Method, Protocol};

use crate::report::{self, look};
use crate::train::{self, Data};
use crate::{Result, say};
use candlelight_data::{
    Collection, Dataset, Label, LabelKind, Loader, Nested, Part, Subset, labels, nested, scarce, stratified,
    stratified_k_fold,
};
use candlelight_engine::checkpoint;
use candlelight_engine::classify::{Classify, ClassifyConfig};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Task;
use candlelight_engine::train::{Outcome, Trainer};
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_models::ModelConfig;
use candlelight_store::atomic::write_atomic;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use table::{Row, Table};

/// Compare ways to train a classifier on a small data set: each with several seeds, or on the folds of a cross-validation. Runs that came to
/// their end are not repeated.
#[derive(Parser, Debug)]
#[command(name = "finegrained", version, rename_all = "snake_case")]
pub struct Args {
    /// File of the comparison, in TOML, YAML or JSON: seeds, folds, holdout, output, flags of `train` for all methods, and a table `[[methods]]` for each
    #[arg(long = "config", short = 'c', id = "protocol", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of all runs [default: ./output/finegrained/NAME of the file]
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Print what the file says, with every default, and train nothing
    #[arg(long)]
    pub resolve: bool,
}

/// One training.
pub struct Run {
    /// Its place, such as `head/seed3-fold0`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The flags of `train`, with its seed.
    pub args: train::Args,
    /// The images to train on, and those that choose the best epoch.
    pub data: Data,
    test: Test,
    begun: Instant,
}

/// The worst mistakes that are kept of a run, as pictures.
const MISTAKES: usize = 16;

/// The images to judge by.
struct Test {
    data: Arc<dyn Dataset>,
    /// Of images that are a fold of a part, their places in it.
    places: Option<Vec<usize>>,
}

/// What becomes of the images in one run.
struct Division {
    /// Places in the part to train on of those that train.
    train: Vec<usize>,
    /// Places of those that choose the best epoch, where no part does.
    held_out: Option<Vec<usize>>,
    test: Test,
}

/// A comparison and its data.
pub struct Comparison {
    protocol: Protocol,
    /// Per method what its runs found.
    found: Vec<Vec<Judged>>,
}

/// The parts of the data that a comparison uses.
struct Parts {
    collection: Collection,
    train: Part,
    validation: Option<Part>,
    test: Option<Part>,
}

impl Args {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn comparison(&self) -> Result<Comparison> {
        let mut protocol = Protocol::read(self.config.as_deref())?;
        if let Some(output) = &self.output {
            protocol.output.clone_from(output);
        }
        let found = vec![vec![]; protocol.methods.len()];
        Ok(Comparison { protocol, found })
    }
}

impl Comparison {
    /// What the file says, with every default.
    pub fn resolved(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.protocol.resolved())?)
    }

    /// Keeps what the runs depend on in the folder.
    fn open(&self) -> Result<()> {
        let folder = &self.protocol.output;
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let path = folder.join("finegrained.json");
        let mut now = self.protocol.resolved();
        if let Ok(text) = std::fs::read_to_string(&path) {
            let then: serde_json::Value =
                serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            // Further seeds and methods are further runs, and what left nothing behind was no run.
            let same = |key: &str| then[key] == now[key];
            let begun: Vec<_> =
                then["methods"].as_object().into_iter().flatten().filter(|(n, _)| begun(&folder.join(n))).collect();
            let of_now = |name: &str| &now["methods"][name];
            let kept = begun.iter().all(|(name, flags)| of_now(name).is_null() || same_flags(of_now(name), flags));
            if !(begun.is_empty() || same("folds") && same("holdout") && kept) {
                let other =
                    "holds the runs of another comparison, whose file is finegrained.json: give another --output";
                return Err(format!("{} {other}", folder.display()).into());
            }
            // A method that the file does not name now still has its runs.
            let absent = |n: &str| now["methods"][n].is_null();
            let others: Vec<_> = begun.into_iter().filter(|(n, _)| absent(n)).collect();
            for (name, flags) in others {
                now["methods"][name.as_str()] = flags.clone();
            }
        }
        let text = serde_json::to_string_pretty(&now)? + "\n";
        Ok(write_atomic(&path, |out| out.write_all(text.as_bytes()))?)
    }

    /// Trains and judges every run that is not there yet; `train` trains one, and gives what it found, or nothing where a signal stopped it.
    ///
    /// # Errors
    /// When data or a method is wrong, or a run fails.
    pub fn run(&mut self, signals: &Signals, mut train: impl FnMut(Run) -> Result<Option<Judged>>) -> Result<ExitCode> {
        self.open()?;
        let mut found = std::mem::take(&mut self.found);
        for (method, found) in self.protocol.methods.iter().zip(&mut found) {
            let parts = self.parts(method)?;
            for seed in &self.protocol.seeds {
                for (fold, division) in self.divided(&parts, *seed)?.into_iter().enumerate() {
                    let name = match self.protocol.folds {
                        Some(_) => format!("{}/seed{seed}-fold{fold}", method.name),
                        None => format!("{}/seed{seed}", method.name),
                    };
                    let folder = self.protocol.output.join(&name);
                    if let Some(judged) = Judged::read(&folder.join("judged.json")) {
                        tracing::info!("{name}: finished before, top-1 {:.2} %", 100.0 * judged.top1);
                        found.push(judged);
                        continue;
                    }
                    tracing::info!("{name}");
                    let mut args = method.args.clone();
                    args.run.seed = Some(*seed);
                    args.run.resume = Some("auto".into());
                    args.quiet |= !found.is_empty();
                    let Division { train: picked, held_out, test } = division;
                    let data = self.data(method, &parts, (picked, held_out), &folder)?;
                    match train(Run { name, folder, args, data, test, begun: Instant::now() })? {
                        Some(judged) => found.push(judged),
                        None => {
                            println!("stopped; the same command goes on where this one ended");
                            let signal = signals.caught().unwrap_or(2);
                            return Ok(ExitCode::from(128 + signal as u8));
                        }
                    }
                }
            }
        }
        self.found = found;
        self.report()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Opens the data of a method.
    fn parts(&self, method: &Method) -> Result<Parts> {
        let (flags, shipped) = (&method.args.data, crate::shipped_data());
        let collection = flags.reading.open(flags.path().unwrap_or(&shipped), LabelKind::Classes)?;
        if collection.classes().len() < 2 {
            let (path, n) = (collection.path().display(), collection.classes().len());
            return Err(format!("{path}: {n} class, and telling apart needs at least two").into());
        }
        let train = collection.train()?.clone();
        let part = |name: &str| collection.split(name).ok().filter(|p| p.name != train.name).cloned();
        let (validation, test) = (part("validation"), part("test"));
        let (validation, test) = match (&self.protocol.folds, validation, test) {
            (Some(folds), v, t) => {
                if v.is_some() || t.is_some() {
                    tracing::info!("{folds} folds of the part `{}`; other parts are not touched", train.name);
                }
                (None, None)
            }
            // A single part to judge by must not choose, too.
            (None, Some(v), None) => (None, Some(v)),
            (None, v, Some(t)) => (v, Some(t)),
            (None, None, None) => {
                let path = collection.path().display();
                return Err(format!("{path}: no part to test on: give `folds`, and each image is tested once").into());
            }
        };
        if let Some(empty) =
            [Some(&train), validation.as_ref(), test.as_ref()].into_iter().flatten().find(|p| p.data.is_empty())
        {
            return Err(format!("{}: the part `{}` is empty", collection.path().display(), empty.name).into());
        }
        if let (Some(judging), false) = (&test, method.args.quiet) {
            let chosen = match &validation {
                Some(part) => format!("the part `{}` chooses", part.name),
                None => format!("{} % of it choose", (1000.0 * self.protocol.holdout).round() / 10.0),
            };
            tracing::info!("training on `{}`, {chosen} the best epoch, `{}` judges", train.name, judging.name);
        }
        Ok(Parts { collection, train, validation, test })
    }

    /// What becomes of the images: one division per fold, or a single one.
    fn divided(&self, parts: &Parts, seed: u64) -> Result<Vec<Division>> {
        let train = parts.collection.labelled(&parts.train)?;
        let labels = labels(&*train)?;
        let share = self.protocol.holdout;
        if let Some(n) = self.protocol.folds {
            let classes = parts.collection.classes();
            let few: Vec<String> =
                scarce(&labels, n).iter().map(|(c, k)| format!("{} ({k})", classes[*c as usize])).collect();
            if !few.is_empty() {
                tracing::warn!(
                    "classes with fewer images than {n} folds, which some folds do not test: {}",
                    few.join(", ")
                );
            }
            let folds = stratified_k_fold(&labels, n, Some(seed))?;
            let all = nested(&folds, &labels, share, seed)?;
            let division = |f: Nested| {
                let test = Test { data: subset(&train, f.test.clone())?, places: Some(f.test) };
                Ok(Division { train: f.train, held_out: Some(f.held_out), test })
            };
            return all.into_iter().map(division).collect();
        }
        let Some(test) = &parts.test else { return Ok(vec![]) };
        let test = Test { data: parts.collection.labelled(test)?, places: None };
        Ok(vec![match &parts.validation {
            Some(_) => Division { train: (0..train.len()).collect(), held_out: None, test },
            None => {
                let fold = stratified(&labels, share, seed)?;
                Division { train: fold.train, held_out: Some(fold.test), test }
            }
        }])
    }

    /// The images of a run.
    fn data(
        &self,
        method: &Method,
        parts: &Parts,
        (train, chosen): (Vec<usize>, Option<Vec<usize>>),
        folder: &Path,
    ) -> Result<Data> {
        let flags = &method.args;
        let all = parts.collection.labelled(&parts.train)?;
        let held_out = match (chosen, &parts.validation) {
            (Some(indices), _) => Some(subset(&all, indices)?),
            (None, Some(part)) => Some(parts.collection.labelled(part)?),
            (None, None) => None,
        };
        if held_out.as_ref().is_some_and(|d| d.is_empty()) || train.is_empty() {
            let message = "too few images to train on some and to choose the best epoch by others";
            return Err(
                format!("{}: {message}: change `holdout`, or give more", parts.collection.path().display()).into()
            );
        }
        let train = subset(&all, train)?;
        let mut counts = vec![0; parts.collection.classes().len()];
        labels(&*train)?.into_iter().for_each(|l| counts[l as usize] += 1);
        let missing: Vec<&str> =
            parts.collection.classes().iter().zip(&counts).filter(|(_, n)| **n == 0).map(|(c, _)| c.as_str()).collect();
        if !missing.is_empty() {
            tracing::warn!("classes without an image to train on: {}", missing.join(", "));
        }
        let channels = flags.model()?.channels();
        let weights = flags.model.weights()?;
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(Data {
            normalize: flags.data.reading.normalize(
                weights.as_deref(),
                &parts.collection,
                &*train,
                channels,
                folder,
            )?,
            decode: flags.data.reading.decode(channels)?,
            outputs: counts.len(),
            label: Label::Class(0),
            collection: parts.collection.clone(),
            train,
            counts,
            held_out,
        })
    }

    /// Prints the table, and writes it.
    fn report(&self) -> Result<()> {
        let methods = self.protocol.methods.iter().zip(&self.found);
        let row =
            |(m, runs): (&Method, &Vec<Judged>)| Row { name: m.name.clone(), of: m.of.clone(), runs: runs.clone() };
        let rows = methods.map(row).collect();
        let table = Table { rows, folds: self.protocol.folds.is_some() };
        let (text, folder) = (table.markdown(), &self.protocol.output);
        println!("\n{text}");
        let absent = self.found.iter().flatten().find(|j| !j.absent.is_empty());
        if let Some(j) = absent {
            tracing::warn!(
                "no image of these classes was tested in a run, so no figure speaks of them: {}",
                j.absent.join(", ")
            );
        }
        let numbers = serde_json::to_string_pretty(&table.json())? + "\n";
        for (name, text) in [("results.md", &text), ("results.json", &numbers)] {
            write_atomic(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
            println!("  {name:<13} {}", folder.join(name).display());
        }
        let page = folder.join("report.html");
        report::write(std::slice::from_ref(folder), &page)?;
        println!("  {:<13} {}", "report.html", page.display());
        Ok(())
    }
}

/// Whether two methods have the same flags. A flag that one of them does not know, because another version wrote it, is as if it was not given.
fn same_flags(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    let keys = [a, b].into_iter().filter_map(|v| v.as_object()).flat_map(|o| o.keys());
    let off = |v: &serde_json::Value| v.is_null() || *v == serde_json::Value::Bool(false);
    keys.into_iter().all(|k| a[k] == b[k] || (off(&a[k]) && off(&b[k])))
}

/// Whether a run in the folder of a method has come as far as a checkpoint.
fn begun(method: &Path) -> bool {
    let runs = std::fs::read_dir(method).into_iter().flatten().flatten();
    runs.into_iter().any(|run| !checkpoint::list(&run.path()).is_empty() || run.path().join("judged.json").exists())
}

fn subset(data: &Arc<dyn Dataset>, indices: Vec<usize>) -> Result<Arc<dyn Dataset>> {
    Ok(Arc::new(Subset::new(data.clone(), indices)?))
}

impl Run {
    /// Judges the best weights of a trained run on the test images, and keeps what they say; nothing where a signal stopped it.
    ///
    /// # Errors
    /// When the weights or the images cannot be read.
    pub fn judge(&self, outcome: &Outcome, trainer: &Trainer<Classify<ModelConfig>>) -> Result<Option<Judged>> {
        if matches!(outcome, Outcome::Interrupted { .. }) {
            return Ok(None);
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let task = trainer.task();
        let options = TrainedOptions { ema: task.config().ema.is_some(), ..TrainedOptions::default() };
        let best = checkpoint::best(&self.folder);
        if !best.is_file() {
            let message = "there are no best weights to judge: training ended before its first epoch did";
            return Err(format!("{}: {message}; give more epochs, or leave out `max_steps`", self.name).into());
        }
        let model = Trained::load(&best, &options, &task.params().device())?;
        let images = self.images(task.config())?;
        let said = Predictions::of(&model, &images, self.args.precision()?)?;
        look(&self.folder, &model, &images, (&said, &self.data.decode), MISTAKES)?;
        let said = said.placed(self.test.places.as_deref());
        said.write(&self.folder.join("predictions.safetensors"))?;
        let (parameters, trainable) = task.params().count();
        let judged = Judged {
            trained_on: self.data.train.len(),
            held_out: trainer.best().map(|b| b.score),
            epochs: trainer.best().map_or(0, |b| b.epochs),
            parameters,
            trainable,
            seconds,
            ..said.judge(self.data.collection.classes())?
        };
        judged.write(&self.folder.join("judged.json"))?;
        say(&[format!("{}: top-1 {:.2} % of {} test images", self.name, 100.0 * judged.top1, judged.samples)]);
        Ok(Some(judged))
    }

    /// Loads the test images, prepared as for an evaluation.
    fn images(&self, config: &ClassifyConfig<ModelConfig>) -> Result<Loader> {
        let data = Data { held_out: Some(self.test.data.clone()), ..self.data.clone() };
        let mut args = self.args.clone();
        args.quiet = true;
        let (_, images) = args.loaders(config, &data, &self.folder)?;
        images.ok_or_else(|| "there is no image to test on".into())
    }
}

#[cfg(test)]
mod tests {
    use super::same_flags;
    use serde_json::json;

    #[test]
    fn flags_of_another_version_are_as_if_they_were_not_given() {
        let old = json!({ "lr": 0.1, "drop": null });
        assert!(same_flags(&old, &json!({ "lr": 0.1, "lora": null, "use_dora": false })));
        assert!(!same_flags(&old, &json!({ "lr": 0.1, "use_dora": true })));
        assert!(!same_flags(&old, &json!({ "lr": 0.2 })) && !same_flags(&json!({}), &old));
    }
}
