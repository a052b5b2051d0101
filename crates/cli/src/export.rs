//! The flags of `export`, and the tensors it writes.

use crate::{Result, say};
use candle_core::Tensor;
use candlelight_engine::{checkpoint, pretrain};
use candlelight_models::adapt::Fitting;
use candlelight_models::peft::{self, Naming};
use candlelight_models::weights::names::{Family, detect, from_timm, to_timm};
use candlelight_models::{ModelConfig, describe, weights};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// HuggingFace's format
    Safetensors,
    /// PyTorch's zip format, `{"model": {name: tensor}}`
    Pth,
}

/// A part of a pretrained model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelPart {
    /// The encoder alone, as mae_pretrain_vit_base.pth holds it
    Encoder,
    /// Encoder and decoder together
    Full,
}

/// Write weights for other programs: under the names of mae, timm, torchvision or HuggingFace, as safetensors or for PyTorch.
#[derive(Parser, Debug)]
#[command(name = "export", version, rename_all = "snake_case")]
pub struct Args {
    /// A checkpoint or the folder of a run of ours, or any safetensors or PyTorch file
    #[arg(required_unless_present = "flag")]
    weights: Option<String>,
    /// The same as a flag
    #[arg(long = "weights", id = "flag", value_name = "WEIGHTS", conflicts_with = "weights")]
    flag: Option<String>,
    /// The library whose names the file gets: mae, timm, torchvision or huggingface [default: as they are]
    #[arg(long)]
    to: Option<Family>,
    /// Write the adapter of a run with --lora or --ia3 alone, as a folder for peft, under the names of own, timm, torchvision, huggingface (transformers 5) or huggingface4
    #[arg(long, value_name = "LIBRARY", conflicts_with_all = ["to", "part", "format", "describe", "weights_set"])]
    adapter: Option<Naming>,
    /// Of a pretraining checkpoint the part to write [default: encoder]
    #[arg(long, value_enum)]
    part: Option<ModelPart>,
    /// The file format
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// The set of weights to write, of a file with several, such as student or teacher [default: those that were trained]
    #[arg(long, conflicts_with = "use_ema")]
    weights_set: Option<String>,
    /// Write the averaged weights
    #[arg(long, visible_alias = "ema")]
    use_ema: bool,
    /// Also write a Python file that builds the model in PyTorch, pruned or not, and loads these weights
    #[arg(long)]
    describe: bool,
    /// Of a file that does not say which model it holds, the model's name, for --describe
    #[arg(long, requires = "describe")]
    model: Option<String>,
    /// The file to write [default: beside the weights]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Weights under the names they are to have.
pub struct Exported {
    /// The tensors.
    pub tensors: Vec<(String, Tensor)>,
    /// What was done, such as `from Timm names to Huggingface`.
    pub how: String,
    /// The file to write.
    pub path: PathBuf,
    /// The Python file that describes the model, where it is asked for.
    pub description: Option<(PathBuf, String)>,
}

impl Args {
    /// Reads the weights and gives them their names.
    ///
    /// # Errors
    /// When they are not there, have no names of that library, or would be overwritten.
    pub fn exported(&self) -> Result<Exported> {
        let name = self.weights.as_deref().or(self.flag.as_deref()).ok_or("give the weights")?;
        let source = crate::weights::located(name)?;
        let said = if source.is_file() { checkpoint::describe(&source)? } else { None };
        let pretrained = said.as_ref().is_some_and(|d| d.kind == "mae_pretrain");
        if self.part.is_some() && !pretrained {
            return Err(format!(
                "--part: {} is no pretraining checkpoint of ours, and is written whole",
                source.display()
            )
            .into());
        }
        let described = match (self.describe, said.filter(|d| d.kind == "classify"), &self.model) {
            (false, ..) => None,
            _ if self.format == Format::Pth => {
                return Err("--describe is for safetensors: leave out --format pth".into());
            }
            _ if self.to.is_some_and(|to| to != Family::Timm) => {
                return Err("--describe: the description has timm's names; leave out --to".into());
            }
            (_, Some(d), None) => Some(serde_json::from_value::<ModelConfig>(d.model)?),
            (_, _, Some(name)) => Some(ModelConfig::named(name)?),
            (_, None, None) => {
                return Err("--describe: the file does not say which classifier it holds; give --model NAME".into());
            }
        };
        let (mut tensors, mut stem) = if pretrained {
            if self.use_ema || self.weights_set.is_some() {
                return Err("--use_ema and --weights_set: a pretraining checkpoint has one set of weights".into());
            }
            let (_, params, _) = pretrain::load_model(&source)?;
            let mut tensors = params.state_dict();
            let full = self.part == Some(ModelPart::Full);
            if full && self.to.is_some_and(|f| f != Family::Timm) {
                return Err("--part full: only mae has names for a decoder; leave out --to".into());
            }
            tensors.retain(|(n, _)| full || !(n.starts_with("decoder_") || n == "mask_token"));
            (tensors, Some(if full { "full" } else { "encoder" }.to_string()))
        } else {
            let options = weights::Options { set: self.weights_set.clone(), ema: self.use_ema };
            let file = weights::open(&source, &options)?;
            say(&file.notes);
            (file.tensors, None)
        };
        let mut how = "under their own names".to_string();
        if let Some(to) = self.to {
            let Some(from) = detect(tensors.iter().map(|(n, _)| n.as_str())) else {
                let first: Vec<&str> = tensors.iter().take(3).map(|(n, _)| n.as_str()).collect();
                let found = format!("expected a vision transformer's names, found {}, ..", first.join(", "));
                let shown = source.display();
                return Err(format!(
                    "{shown}: {found}; other models have the same names in every library: leave out --to"
                )
                .into());
            };
            let named = |e: candlelight_models::Error| format!("{}: {e}", source.display());
            tensors = from_timm(&to_timm(&tensors).map_err(named)?, to).map_err(named)?;
            how = format!("from {from:?} names to {to:?}");
            let before = stem.or_else(|| source.file_stem().map(|s| s.to_string_lossy().into_owned()));
            stem = Some(format!("{}.{}", before.unwrap_or_default(), format!("{to:?}").to_lowercase()));
        }
        let extension = if self.format == Format::Pth { "pth" } else { "safetensors" };
        let usual = || match &stem {
            Some(stem) => source.with_file_name(format!("{stem}.{extension}")),
            None => source.with_extension(format!("plain.{extension}")),
        };
        let path = self.output.clone().unwrap_or_else(usual);
        if same_file(&path, &source) {
            return Err(format!("--output {}: that is the file to export; give another name", path.display()).into());
        }
        let mut description = None;
        if let Some(mut config) = described {
            let fitted = config.architecture_mut().fit(&tensors, &Fitting::default())?;
            tensors = fitted.tensors;
            let weights = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            description = Some((path.with_extension("py"), describe::pytorch(&config, &weights)?));
        }
        Ok(Exported { tensors, how, path, description })
    }
}

impl Args {
    /// Writes the adapter of a checkpoint, where it is asked for; its folder.
    ///
    /// # Errors
    /// When the checkpoint has none, or the library has no place for it.
    pub fn adapter(&self) -> Result<Option<PathBuf>> {
        let (Some(naming), Some(name)) = (self.adapter, self.weights.as_ref().or(self.flag.as_ref())) else {
            return Ok(None);
        };
        let source = crate::weights::located(name)?;
        let Some(adapter) = peft::of_checkpoint(&source, self.use_ema)? else {
            return Err(format!("{}: no checkpoint of a run with --lora, --ia3 or --adapter", source.display()).into());
        };
        let usual = || source.with_file_name(format!("adapter-{}", format!("{naming:?}").to_lowercase()));
        let folder = self.output.clone().unwrap_or_else(usual);
        peft::write(&folder, &adapter.config, &adapter.tensors, "", naming)?;
        if naming == Naming::Torchvision {
            tracing::info!(
                "peft up to version 0.21.2 adds what was learnt for out_proj twice (huggingface/peft, pull request 3774); later ones are right"
            );
        }
        Ok(Some(folder))
    }
}

impl Exported {
    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, args: &Args) -> Result<()> {
        match args.format {
            Format::Safetensors => weights::write_safetensors(&self.path, &self.tensors, None)?,
            Format::Pth => weights::write_pickle(&self.path, &self.tensors)?,
        }
        if let Some((path, text)) = &self.description {
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether two paths lead to one file that is there.
fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}
