//! What stays: importance from ranks, weights or gradients, and the choice by it.

use super::{Args, Net};
use crate::Result;
use crate::train::Data;
use candle_core::Tensor;
use candlelight_autograd::{Gradients, Key, Tape, ops};
use candlelight_data::Loader;
use candlelight_engine::batch;
use candlelight_models::prune::{Goal, Importance, Keep, Limits, Ranks, Scores, Steady, Structure};
use std::path::Path;

impl Args {
    /// The channels that stay.
    ///
    /// # Errors
    /// When nothing would be left of a layer, or ranks are those of another network.
    pub(super) fn keep(&self, whole: &Net, structure: &Structure, data: &Data, folder: &Path) -> Result<Keep> {
        let limits = self.prune.limits();
        // A string that does not fit is told before any work.
        let rates = match self.prune.rates()? {
            Some(rates) => Some(structure.rates(&whole.config, &rates)?),
            None => None,
        };
        let choose = |scores: &Scores| -> Result<(Keep, Option<f64>)> {
            if let Some(rates) = &rates {
                return Ok((structure.select(rates, scores, &limits)?, None));
            }
            let goal = match (self.prune.target_macs, self.prune.target_params) {
                (Some(share), _) => Some((Goal::Macs, share)),
                (_, Some(share)) => Some((Goal::Parameters, share)),
                _ => None,
            };
            if let Some((goal, share)) = goal {
                let (keep, rate) = structure.search(goal, share, scores, &limits)?;
                return Ok((keep, Some(rate)));
            }
            Ok((structure.above(self.prune.min_importance.unwrap_or_default(), scores, &limits), None))
        };
        // Equal scores show whether the numbers fit, too.
        choose(&structure.groups().iter().map(|g| vec![1.0; g.len()]).collect())?;
        let name = self.prune.importance.as_deref().unwrap_or("hrank");
        let scores = match name {
            "hrank" => self.rank(whole, structure, data, folder, &limits, &|s| Ok(choose(s)?.0))?,
            _ => {
                let importance: Importance = name.parse()?;
                let gradients = match importance {
                    Importance::Taylor => self.gradients(whole, data, folder)?,
                    _ => vec![],
                };
                let key = Key::new(self.train.run.seed()).child("importance");
                importance.scores(structure, &whole.params.state_dict(), &gradients, &key)?
            }
        };
        let (keep, rate) = choose(&scores)?;
        if let Some(rate) = rate {
            tracing::info!("{:.1} % of every layer's filters go", 100.0 * rate);
        }
        Ok(keep)
    }

    fn images(&self, whole: &Net, data: &Data, folder: &Path) -> Result<Loader> {
        Ok(self.quiet().loaders(&self.config(&whole.config, data)?, data, folder)?.0)
    }

    fn rank(
        &self,
        whole: &Net,
        structure: &Structure,
        data: &Data,
        folder: &Path,
        limits: &Limits,
        choose: &dyn Fn(&Scores) -> Result<Keep>,
    ) -> Result<Scores> {
        if let Some(path) = self.ranks()? {
            let ranks = Ranks::read(&path, structure)?;
            tracing::info!("ranks of {}", path.display());
            return Ok(ranks.scores(structure, limits)?);
        }
        let (loader, most) = (self.images(whole, data, folder)?, self.prune.rank_batches.unwrap_or(5));
        let (mut ranks, mut steady) = (Ranks::new(structure), Steady::default());
        // A network whose layers have no ranks is told before the first batch.
        ranks.scores(structure, limits)?;
        let mut shown = crate::Progress::new("batches", most);
        for (i, batch) in loader.epoch(0, 0).take(most).enumerate() {
            let mut batch = batch?;
            let images = batch::images(&mut batch, &loader.pipeline().normalize, &whole.params.device())?;
            ranks.add(batch.indices.len(), |tape| whole.model.forward(&tape.constant(&images), None))?;
            shown.at(i + 1, "ranks of feature maps");
            let same = steady.add(choose(&ranks.scores(structure, limits)?)?);
            if self.prune.rank_steady.is_some_and(|n| same >= n) {
                tracing::info!("the last {same} batches did not change the choice");
                break;
            }
        }
        if ranks.images == 0 {
            return Err("no batch of images to take ranks from: is --batch_size larger than the data?".into());
        }
        let path = folder.join("ranks.safetensors");
        ranks.save(&path)?;
        ranks.save_npy(&folder.join("rank_conv"))?;
        tracing::info!("ranks over {} images: {}, and as HRank's files in rank_conv", ranks.images, path.display());
        Ok(ranks.scores(structure, limits)?)
    }

    /// Gradients of the loss, summed over batches, by the parameters' names.
    fn gradients(&self, whole: &Net, data: &Data, folder: &Path) -> Result<Vec<(String, Tensor)>> {
        let loader = self.images(whole, data, folder)?;
        let mut gradients = Gradients::new(&whole.params);
        for batch in loader.epoch(0, 0).take(self.prune.rank_batches.unwrap_or(5)) {
            let mut batch = batch?;
            let images = batch::images(&mut batch, &loader.pipeline().normalize, &whole.params.device())?;
            let tape = Tape::new(&whole.params);
            let logits = whole.model.forward(&tape.constant(&images), None)?;
            tape.backward(&ops::cross_entropy(&logits, &batch.labels, 0.0)?, &mut gradients)?;
        }
        let mut all = vec![];
        for entry in whole.params.entries() {
            if let Some(values) = gradients.get(&entry.name) {
                all.push((entry.name, Tensor::from_slice(values, entry.var.shape(), &candle_core::Device::Cpu)?));
            }
        }
        Ok(all)
    }

    /// The groups of channels of a network, one line each, and what the entries of compress rates are for.
    ///
    /// # Errors
    /// When the network cannot be traced.
    pub fn listed(&self, whole: &Net) -> Result<String> {
        let structure = Structure::of_model(&*whole.model, &whole.config, &whole.params)?;
        let mut text = String::from("groups of channels, each with the parameters that go with them\n");
        for group in structure.groups() {
            let members: Vec<String> = group.members.iter().map(|m| format!("{}[{}]", m.name, m.axis)).collect();
            let more = if members.len() > 3 { format!(" and {} more", members.len() - 3) } else { String::new() };
            text += &format!(
                "  {:<28} {:>5} channels  {}{more}\n",
                group.name,
                group.len(),
                members[..members.len().min(3)].join(", ")
            );
        }
        text += "\nentries of --compress_rate\n";
        let layers = whole.config.architecture().rated();
        let layers = layers.unwrap_or_else(|| structure.groups().iter().map(|g| vec![g.name.clone()]).collect());
        for (i, layers) in layers.iter().enumerate() {
            text += &format!("  {:>3}  {}\n", i + 1, layers.join(", "));
        }
        Ok(text)
    }
}
