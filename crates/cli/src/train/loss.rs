//! The loss of a run.

use super::defaults::{Defaults, fill};
use crate::Result;
use candlelight_engine::classify::LossConfig;
use candlelight_nn::loss::AsymmetricConfig;
use candlelight_nn::penalty::{Norm, Penalty};
use clap::Args;
use serde::Serialize;

/// The flags on the loss.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct LossFlags {
    /// Loss: ce, bce, asl (for several labels per image), focal, dice, mse, huber or smooth_l1 [default: ce]
    #[arg(long, value_name = "LOSS", value_parser = ["ce", "bce", "asl", "focal", "dice", "mse", "huber", "smooth_l1"], help_heading = "Loss")]
    pub loss: Option<String>,
    /// Another name of --loss bce
    #[arg(long, help_heading = "Loss")]
    pub bce_loss: bool,
    /// Label smoothing, in [0, 1) [default: 0.1]
    #[arg(long, value_name = "S", help_heading = "Loss")]
    pub smoothing: Option<f32>,
    /// Add the Jensen-Shannon divergence of the splits of --aug_splits to cross-entropy on the clean one
    #[arg(long, help_heading = "Loss")]
    pub jsd: bool,
    /// With bce: targets above this threshold become 1, others 0
    #[arg(long, value_name = "T", help_heading = "Loss")]
    pub bce_target_thresh: Option<f32>,
    /// With bce: sum over the classes instead of taking the mean
    #[arg(long, help_heading = "Loss")]
    pub bce_sum: bool,
    /// With bce: the factor of positive targets
    #[arg(long, value_name = "W", help_heading = "Loss")]
    pub bce_pos_weight: Option<f32>,
    /// With focal: the exponent [default: 2]
    #[arg(long, value_name = "GAMMA", help_heading = "Loss")]
    pub focal_gamma: Option<f64>,
    /// With huber: the difference from which on it is linear [default: 1]
    #[arg(long, value_name = "DELTA", help_heading = "Loss")]
    pub huber_delta: Option<f64>,
    /// A weight for each class, or `balanced`: n / (classes * n of the class)
    #[arg(long, num_args = 1.., action = clap::ArgAction::Set, value_name = "W", help_heading = "Loss")]
    pub class_weights: Option<Vec<String>>,
    /// Factor of the sum of absolute values of matrices and filters [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Loss")]
    pub l1_reg: Option<f32>,
    /// Factor of the sum of their squares [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Loss")]
    pub l2_reg: Option<f32>,
    /// Factor of the sum of their p-norms [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Loss")]
    pub lp_reg: Option<f32>,
    /// The p of --lp_reg, a number above 0 or inf [default: 2]
    #[arg(long, value_name = "P", help_heading = "Loss")]
    pub lp_p: Option<f64>,
    /// The parameters that these are on, as a pattern of names [default: *]
    #[arg(long, value_name = "PATTERN", help_heading = "Loss")]
    pub reg_on: Option<String>,
}

impl LossFlags {
    pub(super) fn fill(&mut self, d: &Defaults) {
        if std::mem::take(&mut self.bce_loss) {
            self.loss = Some("bce".into());
        }
        fill(&mut self.loss, "ce".into());
        fill(&mut self.smoothing, d.smoothing);
    }

    /// The name of the loss.
    pub fn name(&self) -> &str {
        self.loss.as_deref().unwrap_or("ce")
    }

    /// Refuses two losses; the flags are as the user gave them.
    pub(super) fn one(&self) -> Result<()> {
        match self.loss.as_deref().filter(|l| self.bce_loss && *l != "bce") {
            Some(other) => Err(format!("--bce_loss and --loss {other} exclude each other").into()),
            None => Ok(()),
        }
    }

    /// Refuses flags that would do nothing.
    pub(super) fn check(&self) -> Result<()> {
        let loss = self.name();
        let of_bce = [
            ("bce_target_thresh", self.bce_target_thresh.is_some()),
            ("bce_sum", self.bce_sum),
            ("bce_pos_weight", self.bce_pos_weight.is_some()),
        ];
        let others = [
            ("focal_gamma", self.focal_gamma.is_some(), "focal"),
            ("huber_delta", self.huber_delta.is_some(), "huber"),
        ];
        let all = of_bce.map(|(flag, set)| (flag, set, "bce")).into_iter().chain(others);
        for (flag, set, wants) in all {
            if set && loss != wants {
                return Err(format!("--{flag} does nothing without --loss {wants}: leave it out").into());
            }
        }
        if self.jsd && loss != "ce" {
            return Err(format!("--jsd goes with cross-entropy, not with --loss {loss}").into());
        }
        if self.lp_p.is_some() && self.lp_reg.is_none() {
            return Err("--lp_p does nothing without --lp_reg: leave it out".into());
        }
        if self.reg_on.is_some() && self.penalties().is_empty() {
            return Err("--reg_on does nothing without --l1_reg, --l2_reg or --lp_reg: leave it out".into());
        }
        Ok(())
    }

    /// The loss, with so many views of each image.
    pub fn config(&self, splits: usize) -> LossConfig {
        let smoothing = self.smoothing.unwrap_or_default();
        if self.jsd {
            return LossConfig::Jsd { splits, alpha: 12.0, smoothing };
        }
        match self.name() {
            "bce" => LossConfig::BinaryCrossEntropy {
                smoothing,
                threshold: self.bce_target_thresh,
                sum: self.bce_sum,
                pos_weight: self.bce_pos_weight,
            },
            "asl" => LossConfig::Asymmetric(AsymmetricConfig::default()),
            "focal" => LossConfig::Focal { gamma: self.focal_gamma.unwrap_or(2.0), smoothing },
            "dice" => LossConfig::Dice { smooth: 1.0 },
            "mse" => LossConfig::Mse,
            "huber" => LossConfig::Huber { delta: self.huber_delta.unwrap_or(1.0) },
            "smooth_l1" => LossConfig::SmoothL1 { beta: 1.0 },
            _ => LossConfig::CrossEntropy { smoothing },
        }
    }

    /// The weights of the classes, whose numbers of images are `counts`.
    ///
    /// # Errors
    /// When they are not numbers, or a class without images is to be balanced.
    pub fn weights(&self, counts: &[usize], names: &[String]) -> Result<Option<Vec<f32>>> {
        let Some(given) = &self.class_weights else { return Ok(None) };
        if given.len() == 1 && given[0] == "balanced" {
            if let Some(i) = counts.iter().position(|n| *n == 0) {
                let name = names.get(i).map_or("", String::as_str);
                return Err(format!("--class_weights balanced: class `{name}` has no image to train on").into());
            }
            if counts.is_empty() {
                return Err("--class_weights balanced: the data has no classes".into());
            }
            let all: usize = counts.iter().sum();
            let weights: Vec<f32> = counts.iter().map(|n| all as f32 / (counts.len() * n) as f32).collect();
            let shown: Vec<String> = weights.iter().take(10).map(|w| format!("{w:.3}")).collect();
            let more = if weights.len() > 10 { " ..." } else { "" };
            tracing::info!("class weights from frequencies: {}{more}", shown.join(" "));
            return Ok(Some(weights));
        }
        let number = |t: &str| {
            t.parse::<f32>().map_err(|_| format!("--class_weights {t}: expected numbers, or `balanced`").into())
        };
        let texts = given.iter().flat_map(|t| t.split(',')).map(str::trim).filter(|t| !t.is_empty());
        texts.map(number).collect::<Result<Vec<f32>>>().map(Some)
    }

    /// What is added for the size of parameters.
    pub fn penalties(&self) -> Vec<Penalty> {
        let p = self.lp_p.unwrap_or(2.0);
        let lp = if p.is_infinite() && p > 0.0 { Norm::Max } else { Norm::Lp(p) };
        let all = [(Norm::L1, self.l1_reg), (Norm::L2, self.l2_reg), (lp, self.lp_reg)];
        let on = |(norm, factor): (Norm, Option<f32>)| {
            let penalty = Penalty::new(norm, factor.filter(|f| *f != 0.0)?);
            Some(Penalty { pattern: self.reg_on.clone().unwrap_or(penalty.pattern), ..penalty })
        };
        all.into_iter().filter_map(on).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_given_or_follow_from_frequencies() {
        let flags = |w: &[&str]| LossFlags {
            class_weights: Some(w.iter().map(|t| (*t).into()).collect()),
            ..LossFlags::default()
        };
        let names = ["a".to_string(), "b".into()];
        assert_eq!(flags(&["1,2"]).weights(&[3, 1], &names).unwrap().unwrap(), [1.0, 2.0]);
        // scikit-learn's `balanced`: 4 / (2 * 3) and 4 / (2 * 1).
        let w = flags(&["balanced"]).weights(&[3, 1], &names).unwrap().unwrap();
        assert!((w[0] - 2.0 / 3.0).abs() < 1e-6 && (w[1] - 2.0).abs() < 1e-6);
        let e = flags(&["balanced"]).weights(&[3, 0], &names).unwrap_err().to_string();
        assert!(e.contains("class `b` has no image"), "{e}");
        assert!(flags(&["x"]).weights(&[3, 1], &names).unwrap_err().to_string().contains("expected numbers"));
    }

    #[test]
    fn penalties_follow_from_flags() {
        let flags =
            LossFlags { l1_reg: Some(0.1), lp_reg: Some(0.2), lp_p: Some(f64::INFINITY), ..LossFlags::default() };
        let norms: Vec<Norm> = flags.penalties().into_iter().map(|p| p.norm).collect();
        assert_eq!(norms, [Norm::L1, Norm::Max]);
        assert!(LossFlags { l2_reg: Some(0.0), ..LossFlags::default() }.penalties().is_empty());
    }
}
