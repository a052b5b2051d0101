//! Vision transformer, A. Dosovitskiy et al., arXiv 2010.11929, with timm's and MAE's state-dict names.
//!
//! Shapes: B samples, N tokens (patches and the class token), D width, H heads.

use crate::batch_norm::{BatchNorm, BatchNormConfig};
use crate::error::{Error, Result};
use candle_core::{Module, Tensor};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, Tape, Value, ops};
use candlelight_kernels::gelu::Gelu;
use candlelight_kernels::patch::Grid;
use serde::{Deserialize, Serialize};

/// What the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The class token, after `norm`.
    Token,
    /// The mean of the patch tokens, then `fc_norm`; there is no `norm`. MAE's finetuning default.
    #[default]
    Avg,
}

/// What the head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A linear layer: `head.weight`, `head.bias`.
    #[default]
    Linear,
    /// MAE's linear probe: batch normalisation without scale and shift, `head.0`, then a linear layer, `head.1`.
    Probe,
}

/// A vision transformer's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Image height and width, multiples of `patch`.
    pub image: (usize, usize),
    /// Side of a patch.
    pub patch: usize,
    /// Image channels.
    pub channels: usize,
    /// Width.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP over the model's.
    pub mlp_ratio: usize,
    /// Classes of the head; 0 leaves it out.
    pub classes: usize,
    /// What the head is.
    #[serde(default)]
    pub head: Head,
    /// What the head reads.
    pub pool: Pool,
    /// Stochastic depth of the last block; the blocks before it grow to it linearly from 0.
    pub drop_path: f32,
    /// Dropout after each projection.
    pub dropout: f32,
    /// Dropout on the attention probabilities.
    pub attn_dropout: f32,
}

const fn vit(patch: usize, dim: usize, depth: usize, heads: usize) -> VitConfig {
    VitConfig {
        image: (224, 224),
        patch,
        channels: 3,
        dim,
        depth,
        heads,
        mlp_ratio: 4,
        classes: 1000,
        head: Head::Linear,
        pool: Pool::Avg,
        drop_path: 0.0,
        dropout: 0.0,
        attn_dropout: 0.0,
    }
}

/// Named configurations: tiny and small as timm's (DeiT, arXiv 2012.12877), base to huge as MAE's (arXiv 2111.06377); `vit_b_16` to
/// `vit_h_14` are torchvision's, which classify the class token;
/// `vit_mini_patch4` is for 32 x 32 images, `vit_demo_patch4` for 28 x 28 gray ones, in ten classes.
pub const VARIANTS: &[(&str, VitConfig)] = &[
    ("vit_tiny_patch16", vit(16, 192, 12, 3)),
    ("vit_small_patch16", vit(16, 384, 12, 6)),
    ("vit_base_patch16", vit(16, 768, 12, 12)),
    ("vit_large_patch16", vit(16, 1024, 24, 16)),
    ("vit_huge_patch14", vit(14, 1280, 32, 16)),
    ("vit_b_16", VitConfig { pool: Pool::Token, ..vit(16, 768, 12, 12) }),
    ("vit_b_32", VitConfig { pool: Pool::Token, ..vit(32, 768, 12, 12) }),
    ("vit_l_16", VitConfig { pool: Pool::Token, ..vit(16, 1024, 24, 16) }),
    ("vit_l_32", VitConfig { pool: Pool::Token, ..vit(32, 1024, 24, 16) }),
    ("vit_h_14", VitConfig { pool: Pool::Token, ..vit(14, 1280, 32, 16) }),
    ("vit_mini_patch4", VitConfig { image: (32, 32), classes: 10, ..vit(4, 128, 6, 4) }),
    ("vit_demo_patch4", VitConfig { image: (28, 28), channels: 1, classes: 10, ..vit(4, 128, 4, 4) }),
];

impl VitConfig {
    /// How images are cut.
    pub fn grid(&self) -> Grid {
        Grid { channels: self.channels, height: self.image.0, width: self.image.1, patch: self.patch }
    }

    /// Checks that the parts fit.
    ///
    /// # Errors
    /// When the patches do not tile the image or the heads do not divide the width.
    pub fn check(&self) -> Result<()> {
        let g = self.grid();
        if g.check().is_err() {
            let (h, w) = self.image;
            return Err(Error::Config(format!(
                "input_size {h}x{w} is not a multiple of the patch size {}",
                self.patch
            )));
        }
        if self.heads == 0 || self.dim % self.heads != 0 {
            return Err(Error::Config(format!("{} heads do not divide a width of {}", self.heads, self.dim)));
        }
        for (name, rate) in
            [("drop_path", self.drop_path), ("dropout", self.dropout), ("attn_dropout", self.attn_dropout)]
        {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::Config(format!("{name} {rate} is outside [0, 1)")));
            }
        }
        Ok(())
    }
}

/// How a model's linear layers start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinearInit {
    /// U(+-sqrt(6 / (in + out))): MAE's pretraining.
    Xavier,
    /// N(0, 0.02): MAE's truncated normal, whose cut-offs at +-2 never act.
    Normal02,
}

/// `y = x w^T + b`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, init: LinearInit, vb: VarBuilder) -> Result<Self> {
        let init = match init {
            LinearInit::Xavier => xavier(inputs, outputs),
            LinearInit::Normal02 => Init::Randn { mean: 0.0, stdev: 0.02 },
        };
        Ok(Linear {
            weight: vb.get_with_hints((outputs, inputs), "weight", init)?,
            bias: vb.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }

    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        Ok(ops::linear(x, &self.weight, Some(&self.bias))?)
    }
}

fn xavier(fan_in: usize, fan_out: usize) -> Init {
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Layer norm, eps 1e-6.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub(crate) fn new(dim: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Norm {
            weight: vb.get_with_hints(dim, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(dim, "bias", Init::Const(0.0))?,
        })
    }

    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        Ok(ops::layer_norm(x, &self.weight, &self.bias, 1e-6)?)
    }
}

/// Patches to tokens: a convolution with kernel = stride = patch, as one product over the patches that are asked for.
#[derive(Debug, Clone)]
pub(crate) struct PatchEmbed {
    weight: Tensor, // (D, C, p, p)
    bias: Tensor,
    patch: usize,
    image: (usize, usize),
}

impl PatchEmbed {
    pub(crate) fn new(grid: &Grid, dim: usize, init: LinearInit, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("proj");
        let fan_in = grid.patch_len();
        // PyTorch's Conv2d default, which MAE keeps for the bias and its classifier for the weight too.
        let bound = 1.0 / (fan_in as f64).sqrt();
        let default = Init::Uniform { lo: -bound, up: bound };
        let weight = if init == LinearInit::Xavier { xavier(fan_in, dim) } else { default };
        Ok(PatchEmbed {
            weight: vb.get_with_hints((dim, grid.channels, grid.patch, grid.patch), "weight", weight)?,
            bias: vb.get_with_hints(dim, "bias", default)?,
            patch: grid.patch,
            image: (grid.height, grid.width),
        })
    }

    /// images (B, C, H, W) -> (B, K, D), the patches `ids` (B, K) or all.
    pub(crate) fn forward(&self, images: &Value, ids: Option<&[u32]>) -> Result<Value> {
        let (_, _, h, w) = images.tensor().dims4()?;
        if (h, w) != self.image {
            let (mh, mw) = self.image;
            return Err(Error::Config(format!("images are {h}x{w}, the model was built for {mh}x{mw}")));
        }
        let patches = ops::image_patches(images, self.patch, ids)?; // (B, K, C p p)
        Ok(ops::linear(&patches, &self.weight, Some(&self.bias))?)
    }
}

/// Pre-norm transformer block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    drop_path: f32,
    dropout: f32,
    attn_dropout: f32,
}

/// Rates of one block's random parts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) drop_path: f32,
    pub(crate) dropout: f32,
    pub(crate) attn_dropout: f32,
}

impl Block {
    pub(crate) fn new(
        dim: usize,
        heads: usize,
        mlp: usize,
        rates: Rates,
        init: LinearInit,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Block {
            norm1: Norm::new(dim, vb.pp("norm1"))?,
            qkv: Linear::new(dim, 3 * dim, init, vb.pp("attn.qkv"))?,
            proj: Linear::new(dim, dim, init, vb.pp("attn.proj"))?,
            norm2: Norm::new(dim, vb.pp("norm2"))?,
            fc1: Linear::new(dim, mlp, init, vb.pp("mlp.fc1"))?,
            fc2: Linear::new(mlp, dim, init, vb.pp("mlp.fc2"))?,
            heads,
            drop_path: rates.drop_path,
            dropout: rates.dropout,
            attn_dropout: rates.attn_dropout,
        })
    }

    /// `key` draws the random parts; without it (evaluation) they are off. x: (B, N, D)
    pub(crate) fn forward(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let x = self.residual(x, key, "drop_path1", |x| self.attention(x, key))?;
        self.residual(&x, key, "drop_path2", |x| self.mlp(x, key)) // (B, N, D)
    }

    /// `x + branch(x)`, with stochastic depth in training.
    fn residual(
        &self,
        x: &Value,
        key: Option<&Key>,
        name: &str,
        branch: impl FnOnce(&Value) -> Result<Value>,
    ) -> Result<Value> {
        match key {
            Some(key) if self.drop_path > 0.0 => ops::residual(x, key.child(name), self.drop_path, branch),
            _ => Ok(x.add(&branch(x)?)?),
        }
    }

    fn attention(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = self.qkv.forward(&self.norm1.forward(x)?)?; // (B, N, 3 D)
        let h = ops::attention(&h, self.heads, key.map(|k| (k.child("attn_drop"), self.attn_dropout)))?; // (B, N, D)
        self.drop(self.proj.forward(&h)?, key, "proj_drop")
    }

    fn mlp(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = self.norm2.forward(x)?;
        let h = ops::linear_gelu(&h, &self.fc1.weight, &self.fc1.bias, Gelu::Erf)?; // (B, N, 4 D)
        let h = self.drop(h, key, "mlp_drop")?;
        self.drop(self.fc2.forward(&h)?, key, "fc2_drop")
    }

    fn drop(&self, x: Value, key: Option<&Key>, name: &str) -> Result<Value> {
        match key {
            Some(key) => Ok(ops::dropout(&x, key.child(name), self.dropout)?),
            None => Ok(x),
        }
    }
}

/// A vision transformer classifier.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    patch_embed: PatchEmbed,
    cls_token: Tensor, // (1, 1, D)
    pos_embed: Tensor, // (1, 1 + L, D)
    blocks: Vec<Block>,
    norm: Norm,
    head: Option<(Option<BatchNorm>, Linear)>,
}

impl Vit {
    /// Builds the model with whatever the `VarBuilder` gives: fresh parameters or a file's.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let c = config;
        let normal = Init::Randn { mean: 0.0, stdev: 0.02 };
        let rate = |i: usize| if c.depth > 1 { c.drop_path * i as f32 / (c.depth - 1) as f32 } else { c.drop_path };
        let block = |i: usize| {
            let rates = Rates { drop_path: rate(i), dropout: c.dropout, attn_dropout: c.attn_dropout };
            Block::new(c.dim, c.heads, c.dim * c.mlp_ratio, rates, LinearInit::Normal02, vb.pp(format!("blocks.{i}")))
        };
        Ok(Vit {
            patch_embed: PatchEmbed::new(&c.grid(), c.dim, LinearInit::Normal02, vb.pp("patch_embed"))?,
            cls_token: vb.get_with_hints((1, 1, c.dim), "cls_token", normal)?,
            pos_embed: vb.get_with_hints((1, 1 + c.grid().patches(), c.dim), "pos_embed", normal)?,
            blocks: (0..c.depth).map(block).collect::<Result<_>>()?,
            norm: Norm::new(c.dim, vb.pp(if c.pool == Pool::Avg { "fc_norm" } else { "norm" }))?,
            head: (c.classes > 0).then(|| Self::new_head(c, vb.pp("head"))).transpose()?,
            config: c.clone(),
        })
    }

    fn new_head(c: &VitConfig, vb: VarBuilder) -> Result<(Option<BatchNorm>, Linear)> {
        let norm = BatchNormConfig { eps: 1e-6, ..Default::default() };
        let linear = |vb| Linear::new(c.dim, c.classes, LinearInit::Normal02, vb);
        match c.head {
            Head::Linear => Ok((None, linear(vb)?)),
            Head::Probe => Ok((Some(BatchNorm::new(c.dim, None, norm, vb.pp(0))?), linear(vb.pp(1))?)),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// images (B, C, H, W) -> tokens (B, 1 + L, D), after the last norm where the head reads the class token.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward_features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let mut x = self.embed(images, key)?; // (B, 1 + L, D)
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, key.map(|k| k.child("block").index(i as u64)).as_ref())?;
        }
        if self.config.pool == Pool::Token { self.norm.forward(&x) } else { Ok(x) }
    }

    /// images (B, C, H, W) -> tokens (B, 1 + L, D) before the first block.
    fn embed(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let x = self.patch_embed.forward(images, None)?; // (B, L, D)
        let x = ops::prepend_token(&x, &self.cls_token, None)?; // (B, 1 + L, D)
        let x = ops::add_table(&x, &self.pos_embed)?;
        match key {
            Some(key) => Ok(ops::dropout(&x, key.child("pos_drop"), self.config.dropout)?),
            None => Ok(x),
        }
    }

    /// The tokens (B, 1 + L, D) at named places, in the order of the names: `embed`, `blocks.3`, or `norm` (the last norm's
    /// output, for models whose head reads the class token). Later blocks than asked for are not run.
    ///
    /// # Errors
    /// When there is no such place, or the images are of another size.
    pub fn intermediates(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let (depth, has_norm) = (self.blocks.len(), self.config.pool == Pool::Token);
        // A place is how many parts have run: 1 the embedding, 1 + i the first i blocks, depth + 2 the norm.
        let mut wanted = vec![];
        for name in places {
            let block = name.strip_prefix("blocks.").and_then(|i| i.parse::<usize>().ok()).filter(|i| *i < depth);
            wanted.push(match (*name, block) {
                ("embed", _) => 1,
                ("norm", _) if has_norm => depth + 2,
                (_, Some(i)) => i + 2,
                _ => {
                    let norm = if has_norm { " or norm" } else { "" };
                    let message = format!("no place `{name}`: expected embed, blocks.0 to blocks.{}{norm}", depth - 1);
                    return Err(Error::Config(message));
                }
            });
        }
        let last = wanted.iter().copied().max().unwrap_or(0);
        let mut found: Vec<Option<Value>> = vec![None; wanted.len()];
        let mut keep = |at: usize, x: &Value| {
            wanted.iter().zip(&mut found).filter(|(w, _)| **w == at).for_each(|(_, f)| *f = Some(x.clone()));
        };
        let mut x = self.embed(images, None)?;
        keep(1, &x);
        for (i, block) in self.blocks.iter().enumerate().take(last.saturating_sub(1)) {
            x = block.forward(&x, None)?;
            keep(i + 2, &x);
        }
        if last == depth + 2 {
            keep(last, &self.norm.forward(&x)?);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// tokens (B, 1 + L, D) -> the vector that is classified (B, D): the class token, or the mean of the others.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn pool(&self, x: &Value) -> Result<Value> {
        let (b, _, d) = x.dims3()?;
        Ok(match self.config.pool {
            Pool::Token => ops::select_tokens(x, 0, 1)?.reshape((b, d))?,
            Pool::Avg => ops::mean_tokens(&ops::drop_tokens(x, 1)?)?,
        })
    }

    /// Pooled tokens (B, D) -> logits (B, classes), or normalised features (B, D) without a head.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn classify(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let x = if self.config.pool == Pool::Avg { self.norm.forward(x)? } else { x.clone() };
        match &self.head {
            Some((Some(bn), head)) => head.forward(&bn.forward(&x, key.is_some())?),
            Some((None, head)) => head.forward(&x),
            None => Ok(x),
        }
    }

    /// tokens (B, 1 + L, D) -> logits (B, classes), or pooled features (B, D) without a head.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_head(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        self.classify(&self.pool(x)?, key)
    }

    /// images (B, C, H, W) -> logits (B, classes). `key` draws dropout and drop-path; `None` turns them off.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.forward_head(&self.forward_features(images, key)?, key)
    }
}

/// Inference: images (B, C, H, W) -> logits (B, classes).
impl Module for Vit {
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let tape = Tape::off();
        Ok(Vit::forward(self, &tape.constant(images), None)?.tensor().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::{Gradients, ParamStore};

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, want) in [
            ("vit_base_patch16", 86_567_656),
            ("vit_large_patch16", 304_326_632),
            ("vit_huge_patch14", 632_045_800),
            ("vit_b_16", 86_567_656),
            ("vit_b_32", 88_224_232),
            ("vit_l_16", 304_326_632),
            ("vit_l_32", 306_535_400),
            ("vit_h_14", 632_045_800),
        ] {
            let config = &VARIANTS.iter().find(|(n, _)| *n == name).unwrap().1;
            assert_eq!(count(config), want, "{name}");
        }
    }

    /// From the shapes alone: the large models need not be made.
    fn count(c: &VitConfig) -> usize {
        let d = c.dim;
        let block = 4 * d + d * 3 * d + 3 * d + d * d + d + 2 * d * d * c.mlp_ratio + d * c.mlp_ratio + d;
        let g = c.grid();
        d * g.patch_len() + d + d + (1 + g.patches()) * d + c.depth * block + 2 * d + d * c.classes + c.classes
    }

    #[test]
    fn small_models_have_the_counted_parameters_and_train_in_both_pools() {
        for pool in [Pool::Avg, Pool::Token] {
            let config = VitConfig {
                image: (8, 12),
                patch: 4,
                dim: 16,
                depth: 2,
                heads: 2,
                classes: 5,
                pool,
                drop_path: 0.2,
                dropout: 0.1,
                attn_dropout: 0.1,
                ..VARIANTS[0].1.clone()
            };
            let params = ParamStore::new();
            let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
            assert_eq!(params.count().0, count(&config));
            let images = candlelight_autograd::tensor_from(Key::new(1).normal(2 * 3 * 8 * 12), (2, 3, 8, 12)).unwrap();
            let tape = Tape::new(&params);
            let logits = model.forward(&tape.constant(&images), Some(&Key::new(2))).unwrap();
            assert_eq!(logits.dims(), [2, 5]);
            let mut grads = Gradients::new(&params);
            tape.backward(&ops::cross_entropy(&logits, &[1, 3], 0.1).unwrap(), &mut grads).unwrap();
            assert!(grads.iter().all(|(_, g)| g.iter().all(|v| v.is_finite()) && g.iter().any(|&v| v != 0.0)));
            assert_eq!(Module::forward(&model, &images).unwrap().dims(), [2, 5]);
            let wrong = candlelight_autograd::tensor_from(vec![0.0; 3 * 64], (1, 3, 8, 8)).unwrap();
            assert!(Module::forward(&model, &wrong).unwrap_err().to_string().contains("8x8"));
        }
    }

    #[test]
    fn configurations_that_do_not_fit_are_refused() {
        let base = VARIANTS[0].1.clone();
        assert!(VitConfig { image: (225, 224), ..base.clone() }.check().unwrap_err().to_string().contains("225x224"));
        assert!(VitConfig { heads: 5, ..base.clone() }.check().is_err());
        assert!(VitConfig { drop_path: 1.0, ..base }.check().is_err());
    }
}
