//! The flags on adapters, with the names of HuggingFace's peft.

use crate::Result;
use candlelight_engine::checkpoint;
use candlelight_models::peft::{self, Adapter, Bias, Ia3Config, Layers, LoraConfig, Modules, Naming, Peft};
use candlelight_store::locate;
use clap::Args;
use serde::Serialize;
use std::path::Path;

/// The flags on adapters: a few new parameters beside frozen layers.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct AdapterFlags {
    /// Train LoRA on these layers and the head, and freeze the rest: names or their ends separated by commas (q,v or qkv or conv2), a regular expression of whole names, or all-linear
    #[arg(long, value_name = "LAYERS", conflicts_with_all = ["trained", "freeze"], help_heading = "Adapters")]
    pub lora: Option<Modules>,
    /// Rank of LoRA [default: 8]
    #[arg(long, visible_alias = "lora_rank", requires = "lora", value_name = "R", help_heading = "Adapters")]
    pub lora_r: Option<usize>,
    /// Scale of LoRA: what it adds is multiplied by ALPHA / R [default: 8]
    #[arg(long, requires = "lora", value_name = "ALPHA", help_heading = "Adapters")]
    pub lora_alpha: Option<f64>,
    /// Rate of dropout in front of LoRA, in [0, 1), for the layers of attention and MLP [default: 0]
    #[arg(long, requires = "lora", value_name = "RATE", help_heading = "Adapters")]
    pub lora_dropout: Option<f64>,
    /// rsLoRA: multiply by ALPHA / sqrt(R)
    #[arg(long, requires = "lora", help_heading = "Adapters")]
    pub use_rslora: bool,
    /// DoRA: the norm of each row of a weight is a parameter of its own
    #[arg(long, requires = "lora", help_heading = "Adapters")]
    pub use_dora: bool,
    /// Biases that train beside LoRA: none, all, or lora_only for those of its layers [default: none]
    #[arg(long, requires = "lora", value_parser = ["none", "all", "lora_only"], value_name = "WHICH", help_heading = "Adapters")]
    pub lora_bias: Option<String>,
    /// Blocks whose layers get LoRA, by their numbers [default: all]
    #[arg(long, requires = "lora", value_name = "BLOCKS", value_delimiter = ',', action = clap::ArgAction::Set, num_args = 1.., help_heading = "Adapters")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Train IA3, a factor for each output, on these layers and the head, and freeze the rest
    #[arg(long, value_name = "LAYERS", conflicts_with_all = ["lora", "trained", "freeze"], help_heading = "Adapters")]
    pub ia3: Option<Modules>,
    /// Of the layers of --ia3 those whose inputs get the factors
    #[arg(long, requires = "ia3", value_name = "LAYERS", help_heading = "Adapters")]
    pub feedforward_modules: Option<Modules>,
    /// Layers that get no adapter although they are named
    #[arg(long, value_name = "LAYERS", help_heading = "Adapters")]
    pub exclude_modules: Option<Modules>,
    /// Layers that train as a whole beside the adapters [default: the head]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Set, num_args = 1.., help_heading = "Adapters")]
    pub modules_to_save: Option<Vec<String>>,
    /// Go on training an adapter: a folder with adapter_config.json of peft or ours, which decides layers, rank and scale
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["lora", "ia3", "trained", "freeze", "exclude_modules", "modules_to_save"], help_heading = "Adapters")]
    pub adapter: Option<String>,
}

impl AdapterFlags {
    /// The settings of the adapters; `None` without any.
    ///
    /// # Errors
    /// When they make no sense, or there is no such adapter.
    pub fn peft(&self) -> Result<Option<Peft>> {
        let (exclude_modules, modules_to_save) = (self.exclude_modules.clone(), self.modules_to_save.clone());
        let peft = match (&self.lora, &self.ia3) {
            (Some(targets), _) => Peft::Lora(LoraConfig {
                r: self.lora_r.unwrap_or(8),
                lora_alpha: self.lora_alpha.unwrap_or(8.0),
                lora_dropout: self.lora_dropout.unwrap_or_default(),
                target_modules: Some(targets.clone()),
                exclude_modules,
                layers_to_transform: self.layers_to_transform.clone().map(Layers::Several),
                use_rslora: self.use_rslora,
                use_dora: self.use_dora,
                bias: match self.lora_bias.as_deref() {
                    Some("all") => Bias::All,
                    Some("lora_only") => Bias::LoraOnly,
                    _ => Bias::None,
                },
                modules_to_save,
                ..LoraConfig::default()
            }),
            (None, Some(targets)) => Peft::Ia3(Ia3Config {
                target_modules: Some(targets.clone()),
                exclude_modules,
                feedforward_modules: self.feedforward_modules.clone(),
                modules_to_save,
            }),
            (None, None) if exclude_modules.is_some() || modules_to_save.is_some() => {
                return Err(
                    "--exclude_modules and --modules_to_save do nothing without --lora or --ia3: leave them out".into(),
                );
            }
            (None, None) => return Ok(self.begun()?.map(|a| a.config)),
        };
        peft.check()?;
        Ok(Some(peft))
    }

    /// The adapter to go on with.
    pub(super) fn begun(&self) -> Result<Option<Adapter>> {
        let Some(name) = &self.adapter else { return Ok(None) };
        Ok(Some(peft::read(&locate(name)?.path)?))
    }
}

/// Writes the adapter of a run's best weights, or of its last ones, as a folder beside them; its path. `None` for a run without adapters.
///
/// # Errors
/// When the weights cannot be read, or the folder not written.
pub(super) fn keep(dir: &Path, averaged: bool) -> Result<Option<std::path::PathBuf>> {
    let best = checkpoint::best(dir);
    let source = if best.is_file() { Some(best) } else { checkpoint::list(dir).pop() };
    let Some(source) = source else { return Ok(None) };
    let Some(adapter) = peft::of_checkpoint(&source, averaged)? else { return Ok(None) };
    let folder = dir.join("adapter");
    peft::write(&folder, &adapter.config, &adapter.tensors, "", Naming::Own)?;
    Ok(Some(folder))
}
