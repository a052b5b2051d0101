//! The flags that say what is removed.

use crate::Result;
use candlelight_models::cost::Convention;
use candlelight_models::prune::{CompressRates, Limits};
use clap::Args;
use serde::Serialize;

/// The flags that say what is removed.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct PruneFlags {
    /// Shares of filters to remove, in HRank's notation, such as '[0.]+[0.18]*29' for resnet56: the stem, the stages but the last, then every block
    #[arg(long, value_name = "RATES", help_heading = "Pruning")]
    pub compress_rate: Option<String>,
    /// Remove the same share of every layer, so much that this share of the multiply-adds is left
    #[arg(long, value_name = "SHARE", help_heading = "Pruning", conflicts_with = "compress_rate")]
    pub target_macs: Option<f64>,
    /// The same for parameters
    #[arg(long, value_name = "SHARE", help_heading = "Pruning", conflicts_with_all = ["compress_rate", "target_macs"])]
    pub target_params: Option<f64>,
    /// Remove what is less important than this share of the most important filter of its layer
    #[arg(long, value_name = "SHARE", help_heading = "Pruning", conflicts_with_all = ["compress_rate", "target_macs", "target_params"])]
    pub min_importance: Option<f64>,
    /// What says how important a filter is: hrank (ranks of its feature maps), l1, l2, bn, fpgm, taylor or random [default: hrank]
    #[arg(long, value_name = "NAME", help_heading = "Pruning")]
    pub importance: Option<String>,
    /// Ranks to prune by: the ranks.safetensors of an earlier run, or a folder of HRank's rank_conv1.npy and so on [default: they are computed]
    #[arg(long, value_name = "PATH", help_heading = "Pruning")]
    pub ranks: Option<String>,
    /// Batches of training images to take ranks or gradients from [default: 5]
    #[arg(long, visible_alias = "limit", value_name = "N", help_heading = "Pruning")]
    pub rank_batches: Option<usize>,
    /// Stop taking ranks earlier, when so many batches in a row did not change the choice [default: never]
    #[arg(long, value_name = "N", help_heading = "Pruning")]
    pub rank_steady: Option<usize>,
    /// Round numbers of filters up to a multiple of this; kernels compute 32 at a time [default: 1]
    #[arg(long, value_name = "N", help_heading = "Pruning")]
    pub round_to: Option<usize>,
    /// Layers that stay whole, by names in which * matches any text
    #[arg(long, num_args = 1.., action = clap::ArgAction::Set, value_name = "PATTERN", help_heading = "Pruning")]
    pub ignore: Option<Vec<String>>,
    /// Which operations multiply-adds count: exact (products), hrank (as HRank published) or thop [default: exact]
    #[arg(long, value_parser = ["exact", "hrank", "thop"], value_name = "CONVENTION", help_heading = "Pruning")]
    pub macs: Option<String>,
    /// Finetune with the whole network as a teacher, whose share --distill_loss_weight and --distill_temperature set
    #[arg(long, help_heading = "Pruning")]
    pub distill: bool,
    /// Copy weights as this program does, with its faults, to compare with what was published: hrankplus
    #[arg(long, value_parser = ["hrankplus"], value_name = "PROGRAM", help_heading = "Pruning", requires = "compress_rate")]
    pub compat: Option<String>,
    /// List the groups of filters that can be removed, and what each entry of --compress_rate is for, and stop
    #[arg(long, help_heading = "Pruning")]
    #[serde(skip)]
    pub list: bool,
    /// Evaluate the weights, pruned or not, and stop
    #[arg(long, help_heading = "Pruning")]
    #[serde(skip)]
    pub test_only: bool,
}

impl PruneFlags {
    /// Whether something says how much is removed.
    fn chosen(&self) -> bool {
        let shares = [self.target_macs, self.target_params, self.min_importance];
        self.compress_rate.is_some() || shares.iter().any(Option::is_some)
    }

    pub(super) fn check(&self, resumed: bool) -> Result<()> {
        self.rates()?;
        if self.compat.is_some() && self.importance.as_deref().is_some_and(|i| i != "hrank") {
            return Err("--compat hrankplus copies by ranks: leave out --importance".into());
        }
        let goes_on = resumed || self.list || self.test_only;
        if !goes_on && !self.chosen() {
            return Err("say how much is removed: --compress_rate '[0.]+[0.18]*29', --target_macs 0.5, --target_params 0.5 or --min_importance 0.3; --list shows the layers".into());
        }
        if let Some(v) = self.min_importance.filter(|v| !(0.0..=1.0).contains(v)) {
            return Err(format!("--min_importance {v}: expected a share from 0 to 1").into());
        }
        if self.rank_batches == Some(0) || self.rank_steady == Some(0) {
            return Err("--rank_batches and --rank_steady: expected at least 1".into());
        }
        Ok(())
    }

    /// The compress rates.
    ///
    /// # Errors
    /// When they cannot be read; the error points at the character.
    pub fn rates(&self) -> Result<Option<CompressRates>> {
        Ok(self.compress_rate.as_deref().map(str::parse).transpose()?)
    }

    /// How channels are chosen besides their scores.
    pub fn limits(&self) -> Limits {
        Limits { round_to: self.round_to.unwrap_or(1), ignore: self.ignore.clone().unwrap_or_default() }
    }

    /// Which operations multiply-adds count.
    pub fn convention(&self) -> Convention {
        self.macs.as_deref().and_then(|m| crate::parsed(m).ok()).unwrap_or_default()
    }
}
