//! Fits weights of NTS-Nets, and of their trunks alone.

use super::{Fitting, all_finite, foreign, left_out, no_others, wanted, whole};
use crate::error::{Error, Result};
use crate::model::{Architecture, Classifier, Fitted, Loaded, ModelSettings};
use crate::ntsnet::{NtsNet, NtsNetConfig, TRUNK};
use crate::weights;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, ParamStore};
use candlelight_nn::BatchNormConfig;
use std::collections::HashSet;

/// The layer that classifies images.
const HEAD: &str = "concat_net.weight";

/// The layers that know nothing of classes.
const NAVIGATOR: &str = "proposal_net.";

type Tensors = Vec<(String, Tensor)>;

impl Architecture for NtsNetConfig {
    fn image(&self) -> (usize, usize) {
        self.trunk.image()
    }

    /// Parts keep the share of the image that they have.
    fn set_image(&mut self, image: (usize, usize)) {
        let before = self.trunk.image();
        let scaled = |part: usize, from: usize, to: usize| (part * to).div_ceil(from.max(1));
        self.part = (scaled(self.part.0, before.0, image.0), scaled(self.part.1, before.1, image.1));
        self.trunk.architecture_mut().set_image(image);
    }

    fn channels(&self) -> usize {
        self.trunk.channels()
    }

    fn classes(&self) -> usize {
        self.trunk.classes()
    }

    fn batch_norm(&mut self) -> Option<&mut BatchNormConfig> {
        self.trunk.architecture_mut().batch_norm()
    }

    fn settings(&mut self) -> Option<ModelSettings<'_>> {
        let trunk = self.trunk.architecture_mut().settings()?;
        Some(ModelSettings { dropout: &mut self.dropout, ..trunk })
    }

    fn is_narrowed(&self) -> bool {
        self.trunk.architecture().is_narrowed()
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(NtsNet::new(self, vb)?))
    }

    fn fit(&mut self, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Fitted> {
        let Some((trunk, mut own)) = parted(tensors)? else { return Err(foreign("NTS-Net", tensors)) };
        let mut config = self.clone();
        let Fitted { tensors: trunk, mut notes } = config.trunk.architecture_mut().fit(&trunk, how)?;
        own.extend(named(trunk));
        let wanted = wanted(&config)?;
        let names: HashSet<&str> = wanted.iter().map(|(n, _)| n.as_str()).collect();
        notes.extend(no_others(&names, &own, &|_| true, how)?);
        let have: HashSet<&str> = own.iter().map(|(n, _)| n.as_str()).collect();
        let optional = |n: &str| n.ends_with("num_batches_tracked");
        whole(&names.iter().copied().filter(|n| !have.contains(n) && !optional(n)).collect::<Vec<_>>())?;
        for (name, dims) in &wanted {
            let found = own.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims());
            if let Some(found) = found.filter(|f| *f != &dims[..]) {
                let message = format!(
                    "{name} is {found:?} in the file, {dims:?} in the model: it joins another number of parts, or has another trunk"
                );
                return Err(Error::Mismatch(message));
            }
        }
        *self = config;
        Ok(Fitted { tensors: own, notes })
    }

    /// A file of the whole network, or of its trunk alone, such as a ResNet's trained on ImageNet.
    fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        let (found, mut own) = parted(tensors)?.unwrap_or_else(|| (tensors.to_vec(), vec![]));
        // The trunk knows how to take weights in, so it does so in a store of its own.
        let trunk = ParamStore::on(&params.device());
        self.trunk.build(trunk.builder(Key::new(0)))?;
        let Loaded { mut notes, report } = self.trunk.load_pretrained(&trunk, &found, how)?;
        let loaded: HashSet<&String> = report.loaded.iter().collect();
        let values = trunk.state_dict().into_iter().filter(|(n, _)| loaded.contains(n)).collect();
        if !own.is_empty() {
            let have: HashSet<&str> = own.iter().map(|(n, _)| n.as_str()).collect();
            let names = params.names();
            whole(
                &names
                    .iter()
                    .map(String::as_str)
                    .filter(|n| n.starts_with(NAVIGATOR) && !have.contains(n))
                    .collect::<Vec<_>>(),
            )?;
        } else {
            notes.push("weights of the trunk alone: what looks for parts and classifies them starts anew".into());
        }
        let classes = own.iter().find(|(n, _)| n == HEAD).map(|(_, t)| t.dim(0)).transpose()?;
        if let Some(theirs) = classes.filter(|c| *c != self.classes()) {
            notes.push(left_out(theirs, self.classes()));
            own.retain(|(n, _)| n.starts_with(NAVIGATOR));
        }
        own.extend(named(values));
        Ok(Loaded { notes, report: weights::load(params, &own, false)? })
    }
}

/// The tensors of a file of a whole network: those of the trunk, under its own names, and the others. `None` where it holds no such network.
fn parted(tensors: &[(String, Tensor)]) -> Result<Option<(Tensors, Tensors)>> {
    let tensors = weights::unwrapped(&weights::weights_only(tensors))?;
    if !tensors.iter().any(|(n, _)| n == HEAD) {
        return Ok(None);
    }
    all_finite(&tensors)?;
    let (mut trunk, mut own) = (vec![], vec![]);
    for (name, t) in tensors {
        match name.strip_prefix(TRUNK).and_then(|n| n.strip_prefix('.')) {
            Some(name) => trunk.push((name.to_string(), t)),
            None => own.push((name, t)),
        }
    }
    Ok(Some((trunk, own)))
}

/// The trunk's tensors under the names of the whole network.
fn named(trunk: Vec<(String, Tensor)>) -> impl Iterator<Item = (String, Tensor)> {
    trunk.into_iter().map(|(n, t)| (format!("{TRUNK}.{n}"), t))
}
