//! Pruning a trained network and finetuning what is left: HRank's programs, with any measure of importance.

mod flags;
mod latency;
mod score;
mod table;

pub use flags::PruneFlags;
pub use latency::latency;
pub use table::{Line, Table};

use crate::train::{self, Data, ModelFlags};
use crate::weights::located;
use crate::{Result, say};
use candle_core::Device;
use candlelight_autograd::{Key, ParamStore};
use candlelight_data::Loader;
use candlelight_engine::classify::{Classify, ClassifyConfig};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Task;
use candlelight_engine::teacher::Teacher;
use candlelight_engine::train::{Outcome, Plan, Session, Trainer};
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_engine::{Verdict, checkpoint};
use candlelight_models::cost::Cost;
use candlelight_models::prune::{Keep, Pruned, Ranks, Structure, hrankplus, pruned, trace};
use candlelight_models::{Classifier, ModelConfig, registry, weights};
use candlelight_store::{Preparation, RunFolder};
use clap::Parser;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Prune a trained network by the ranks of its feature maps (HRank) or another measure, and finetune what is left.
#[derive(Parser, Debug, Clone, Serialize)]
#[command(name = "prune", version, rename_all = "snake_case")]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    /// What is removed.
    pub prune: PruneFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// How the rest is finetuned, with the flags of `train` and by default HRank's recipe.
    pub train: train::Args,
    /// Whether the model is named on the line.
    #[arg(skip)]
    #[serde(skip)]
    named: bool,
}

/// A network that is judged or trained: its configuration, its parameters, itself.
pub struct Net {
    /// The configuration.
    pub config: ModelConfig,
    /// The parameters.
    pub params: ParamStore,
    /// The network.
    pub model: Box<dyn Classifier>,
}

impl Net {
    /// Builds a network of these weights; without weights it starts from `key`.
    ///
    /// # Errors
    /// When they are not its weights.
    pub fn new(config: &ModelConfig, tensors: Option<&Pruned>, device: &Device) -> Result<Self> {
        if let ModelConfig::NtsNet(_) = config {
            return Err(
                "an NTS-Net is not pruned: its layers have no widths of their own; prune a network without parts"
                    .into(),
            );
        }
        let params = ParamStore::on(device);
        let model = config.build(params.builder(Key::new(0)))?;
        if let Some(pruned) = tensors {
            weights::load(&params, &pruned.tensors, true)?;
        }
        Ok(Net { config: config.clone(), params, model })
    }

    /// The same network once more, with parameters of its own that hold the same values.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn copy(&self) -> Result<Self> {
        let tensors = self.params.state_dict();
        Net::new(&self.config, Some(&Pruned { config: self.config.clone(), tensors }), &self.params.device())
    }
}

impl Args {
    /// The same flags with a value for each that has a default.
    ///
    /// # Errors
    /// When flags are refused or contradict each other.
    pub fn filled(&self) -> Result<Self> {
        let mut all = self.clone();
        if self.train.flags {
            return Err("--flags is for train: `train --flags` prints the table".into());
        }
        all.prune.check(self.train.run.resumed().is_some())?;
        if self.train.data.demo() && !self.prune.list {
            return Err(
                "give the data: DATA or --data FOLDER, whose images ranks are taken from and accuracy is measured on"
                    .into(),
            );
        }
        if self.train.model.adapters.peft()?.is_some() {
            return Err(
                "--lora, --ia3 and --adapter: a pruned network is finetuned as a whole; give its checkpoint to train"
                    .into(),
            );
        }
        all.named = self.train.model.model.is_some();
        all.train.defaults.get_or_insert_with(|| "hrank".into());
        // To list layers needs no data, and must not mean the demo's.
        if !self.train.data.demo() {
            all.train = all.train.filled()?;
        }
        Ok(all)
    }

    /// The trained network, head included. A file of ours says itself which network it holds, a pruned one too. How the file wants images prepared
    /// for an evaluation becomes the value of flags that are not given.
    ///
    /// # Errors
    /// When there are no weights, or they are not those of the model.
    pub fn whole(&mut self, device: &Device) -> Result<Net> {
        let flags: &ModelFlags = &self.train.model;
        let path = match flags.weights()? {
            Some(path) => path,
            None => return Err("give the trained network: --weights FILE, or --pretrained for those of the hub".into()),
        };
        let ours = path.is_file() && checkpoint::describe(&path)?.is_some_and(|d| d.kind == "classify");
        let (set, ema, partial) = flags.reading.chosen();
        let published = flags.initial_checkpoint.clone().filter(|w| w.starts_with("hf:"));
        let options = TrainedOptions {
            model: Some(flags.name().to_string()).filter(|name| !ours && !name.is_empty()),
            published: published.or_else(|| registry::published(flags.name()).filter(|_| flags.pretrained)),
            set,
            ema,
            partial,
            size: self.train.size(),
            ..TrainedOptions::default()
        };
        let trained = Trained::load(&path, &options, device)?;
        say(&trained.notes);
        let (pipeline, _) = trained.pipeline(&Preparation::default())?;
        let (wanted, data) = (pipeline.preparation(), &mut self.train.data);
        data.crop_pct = data.crop_pct.or(wanted.crop_pct.map(|s| s.value));
        data.crop_mode = data.crop_mode.or(wanted.crop_mode.map(|s| s.value));
        let filter = wanted.interpolation.and_then(|s| serde_json::to_value(s.value).ok()?.as_str().map(String::from));
        data.interpolation = data.interpolation.take().filter(|f| !f.is_empty()).or(filter);
        if ours && !self.named {
            // The name of the folder; the file has none.
            self.train.model.model = Some("network".into());
        }
        Ok(Net { config: trained.config, params: trained.params, model: trained.model })
    }

    /// The configuration of the pruned network of the run that is resumed.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn resumed(&self) -> Result<Option<ModelConfig>> {
        let Some(path) = self.train.run.resumed() else { return Ok(None) };
        let newest = if path.is_dir() { checkpoint::list(path).pop() } else { Some(path.to_path_buf()) };
        let path = newest.ok_or_else(|| format!("--resume {}: no checkpoint there", path.display()))?;
        let said = checkpoint::describe(&path)?.ok_or_else(|| format!("{}: no checkpoint of a run", path.display()))?;
        Ok(Some(serde_json::from_value(said.model)?))
    }

    /// The images, whose classes must be as many as the network's.
    ///
    /// # Errors
    /// When they cannot be read, or have other classes.
    pub fn data(&self, config: &ModelConfig, weights: Option<&Path>, folder: &Path) -> Result<Data> {
        let data = self.train.data.open(config.channels(), weights, folder)?;
        if data.outputs != config.classes() {
            return Err(format!(
                "the data has {} classes, the network {}: finetune it on this data before it is pruned (train --weights FILE)",
                data.outputs,
                config.classes()
            )
            .into());
        }
        Ok(data)
    }

    /// The settings of finetuning a network on this data.
    ///
    /// # Errors
    /// When there is no such optimizer.
    pub fn config(&self, model: &ModelConfig, data: &Data) -> Result<ClassifyConfig<ModelConfig>> {
        let mut model = model.clone();
        if let (Some(drop), Some(settings)) = (self.train.model.drop, model.architecture_mut().settings()) {
            *settings.dropout = drop;
        }
        let mut config = self.train.config(model, data)?;
        // HRank's SGD decays every parameter.
        config.timm_groups = self.train.defaults.as_deref() != Some("hrank");
        if self.prune.distill {
            config.distill = Some(self.train.model.distillation());
        }
        Ok(config)
    }

    /// Removes what the flags say, writes what it was chosen by to the folder, and prints a line on it.
    ///
    /// # Errors
    /// When nothing would be left of a layer, or ranks are those of another network.
    pub fn smaller(&self, whole: &Net, data: &Data, folder: &Path) -> Result<Pruned> {
        let structure = Structure::of_model(&*whole.model, &whole.config, &whole.params)?;
        let keep = self.keep(whole, &structure, data, folder)?;
        let state = whole.params.state_dict();
        let kept = match self.prune.compat {
            None => pruned(&whole.config, &structure, &state, &keep)?,
            Some(_) => {
                tracing::warn!(
                    "--compat hrankplus: blocks of a stage keep different filters although they are added, projections stay partly at initial \
                     values, and CIFAR's normalisations are not copied, as in HRankPlus"
                );
                let path = self.ranks()?.unwrap_or_else(|| folder.join("ranks.safetensors"));
                let (ranks, key) = (Ranks::read(&path, &structure)?, Key::new(self.train.run.seed()).child("init"));
                hrankplus(&whole.config, &structure, &state, &ranks, &keep, key)?
            }
        };
        let record: serde_json::Map<String, serde_json::Value> =
            structure.groups().iter().zip(&keep).map(|(g, keep)| (g.name.clone(), serde_json::json!(keep))).collect();
        let path = folder.join("kept.json");
        std::fs::write(&path, serde_json::to_string_pretty(&record)? + "\n")
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let channels = |keep: &Keep| keep.iter().map(Vec::len).sum::<usize>();
        tracing::info!(
            "{} of {} channels stay, in {} groups; their numbers are in {}",
            channels(&keep),
            channels(&structure.all()),
            keep.len(),
            path.display()
        );
        Ok(kept)
    }

    /// What a network costs and how good it is on the images to evaluate on; `verdict` where that is known already.
    ///
    /// # Errors
    /// When the images cannot be read.
    pub fn line(&self, name: &str, net: Net, data: &Data, folder: &Path, known: Option<&Verdict>) -> Result<Line> {
        let cost = Cost::total(&trace(&*net.model, &net.config)?);
        let latency =
            [1, 128].map(|batch| (batch, latency(&*net.model, &net.config, batch, &net.params.device()).ok()));
        let parameters = net.params.count().0;
        let verdict = match known {
            Some(v) => Some(v.clone()),
            None => self.judged(net, data, folder)?,
        };
        Ok(Line { name: name.into(), parameters, cost, verdict, latency })
    }

    /// The flags of training, for loaders of which nothing is said.
    fn quiet(&self) -> train::Args {
        let mut train = self.train.clone();
        train.quiet = true;
        train
    }

    fn judged(&self, net: Net, data: &Data, folder: &Path) -> Result<Option<Verdict>> {
        let config = ClassifyConfig { distill: None, ..self.config(&net.config, data)? };
        let (_, held_out) = self.quiet().loaders(&config, data, folder)?;
        let Some(held_out) = held_out else { return Ok(None) };
        let task = Classify::new(config, net.params, net.model)?;
        Ok(Some(task.evaluating(held_out, self.train.precision()?).evaluate()?))
    }

    /// The whole network as the teacher of the pruned one, if that is asked for.
    pub fn teacher(&self, whole: Net, data: &Data) -> Option<Teacher> {
        self.prune.distill.then(|| Teacher::new(whole.model, &data.normalize, &data.normalize))
    }

    /// Epochs of finetuning; 0 leaves it out.
    pub fn epochs(&self) -> usize {
        self.train.optim.epochs.unwrap_or(1)
    }

    /// The settings of finetuning.
    ///
    /// # Errors
    /// When there is no such schedule, or a setting is out of range.
    pub fn plan(&self) -> Result<Plan> {
        let mut train = self.train.clone();
        train.optim.epochs = Some(self.epochs().max(1));
        train.plan()
    }

    /// The run of finetuning in its folder, with all that watches it.
    ///
    /// # Errors
    /// When the flags cannot be written as YAML.
    pub fn session<'a>(&self, loader: &'a Loader, folder: &'a RunFolder, signals: &Signals) -> Result<Session<'a>> {
        Ok(self.train.run.session(loader, folder, signals, yaml_serde::to_string(self)?))
    }

    /// Prints how the run ended and the table with the finetuned network, which is also written to the folder.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn finish(
        &self,
        outcome: &Outcome,
        trainer: &Trainer<Classify<ModelConfig>>,
        (loader, folder): (&Loader, &RunFolder),
        data: &Data,
        mut table: Table,
    ) -> Result<ExitCode> {
        let code = self.train.run.finish(outcome, trainer, folder, loader);
        let (config, tensors) = (trainer.task().config().model.clone(), trainer.task().params().state_dict());
        let net =
            Net::new(&config, Some(&Pruned { config: config.clone(), tensors }), &trainer.task().params().device())?;
        table.lines.push(self.line("finetuned", net, data, folder.path(), trainer.task().verdict())?);
        println!("\n{table}");
        let path = folder.path().join("prune.md");
        std::fs::write(&path, format!("{table}\n")).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(code)
    }

    /// The file of the weights.
    ///
    /// # Errors
    /// When it is not there.
    pub fn weights(&self) -> Result<Option<PathBuf>> {
        self.train.model.weights()
    }

    /// Locates ranks that are given.
    fn ranks(&self) -> Result<Option<PathBuf>> {
        self.prune.ranks.as_deref().map(located).transpose()
    }
}
