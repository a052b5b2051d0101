//! Vision transformer, A. Dosovitskiy et al., arXiv 2010.11929, with timm's and MAE's state-dict names.
//!
//! Shapes: B samples, N tokens (patches and the class token), D width, H heads.

use crate::error::{Error, Result};
use crate::model::{Attends, Classifier, FeatureExtractor, Model, Published, Trunk, Variant, token_memory};
use crate::posemb::{Interpolation, resample};
use candle_core::{Module, Tensor};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, ParamStore, Tape, Value, ops};
use candlelight_kernels::tokens::patch::Grid;
use candlelight_nn::{
    Anatomy, Attention, BatchNorm, BatchNormConfig, DropPath, LayerNorm, Linear, Mlp, PatchEmbed, init,
};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// The constant that is added to the variance in every layer normalisation.
pub(crate) const EPS: f64 = 1e-6;

/// MAE's truncated normal of the classifier, whose cut-offs at +-2 never act: N(0, 0.02).
fn normal02(_: usize, _: usize) -> Init {
    init::normal(0.02)
}

/// The vector that the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The class token, after the last normalisation, `norm`.
    Token,
    /// The mean of the patch tokens, followed by the normalisation `fc_norm`; there is no `norm`. MAE's finetuning does this by default.
    #[default]
    Avg,
}

/// The kind of head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A linear layer: `head.weight`, `head.bias`.
    #[default]
    Linear,
    /// MAE's linear probe: batch normalisation without scale and shift, `head.0`, then a linear layer, `head.1`.
    Probe,
}

/// The configuration of a vision transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Image height and width, multiples of `patch`.
    pub image: (usize, usize),
    /// The side of a patch in pixels.
    pub patch: usize,
    /// The number of image channels.
    pub channels: usize,
    /// The width of the tokens.
    pub dim: usize,
    /// The number of blocks.
    pub depth: usize,
    /// The number of attention heads of a block, which must divide the width.
    pub heads: usize,
    /// The hidden width of an MLP divided by the width of the tokens.
    pub mlp_ratio: usize,
    /// The number of classes of the head; 0 leaves the head out.
    pub classes: usize,
    /// The kind of head.
    #[serde(default)]
    pub head: Head,
    /// The vector that the head reads.
    pub pool: Pool,
    /// The rate of stochastic depth in the last block, in [0, 1); from the first block on, the rates rise to it linearly from 0.
    pub drop_path: f32,
    /// The rate of dropout after each projection, in [0, 1).
    pub dropout: f32,
    /// The rate of dropout on the attention probabilities, in [0, 1).
    pub attn_dropout: f32,
    /// The widths of single blocks in a pruned transformer; `None` where they follow from `heads` and `mlp_ratio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<VitWidths>,
}

/// What pruning leaves of each block. Heads are as wide as in the whole transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitWidths {
    /// The number of heads of each block.
    pub heads: Vec<usize>,
    /// The number of hidden units of each block's MLP.
    pub hidden: Vec<usize>,
}

fn vit(patch: usize, dim: usize, depth: usize, heads: usize) -> VitConfig {
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
        pruned: None,
    }
}

fn v(name: &'static str, config: VitConfig) -> Variant<VitConfig> {
    // MAE's finetuning: a bicubic resize to 256 of which 224 are kept.
    Variant { name, config, published: Published::IMAGENET_BICUBIC }
}

/// Named configurations: tiny and small as timm's (DeiT, arXiv 2012.12877), base to huge as MAE's (arXiv 2111.06377); `vit_b_16` to
/// `vit_h_14` are torchvision's, which classify the class token;
/// `vit_mini_patch4` is for 32 x 32 images, `vit_demo_patch4` for 28 x 28 gray ones, in ten classes.
pub fn variants() -> &'static [Variant<VitConfig>] {
    static ALL: OnceLock<Vec<Variant<VitConfig>>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            v("vit_tiny_patch16", vit(16, 192, 12, 3)),
            v("vit_small_patch16", vit(16, 384, 12, 6)),
            v("vit_base_patch16", vit(16, 768, 12, 12)),
            v("vit_large_patch16", vit(16, 1024, 24, 16)),
            v("vit_huge_patch14", vit(14, 1280, 32, 16)),
            v("vit_b_16", VitConfig { pool: Pool::Token, ..vit(16, 768, 12, 12) }),
            v("vit_b_32", VitConfig { pool: Pool::Token, ..vit(32, 768, 12, 12) }),
            v("vit_l_16", VitConfig { pool: Pool::Token, ..vit(16, 1024, 24, 16) }),
            v("vit_l_32", VitConfig { pool: Pool::Token, ..vit(32, 1024, 24, 16) }),
            v("vit_h_14", VitConfig { pool: Pool::Token, ..vit(14, 1280, 32, 16) }),
            v("vit_mini_patch4", VitConfig { image: (32, 32), classes: 10, ..vit(4, 128, 6, 4) }),
            v("vit_demo_patch4", VitConfig { image: (28, 28), channels: 1, classes: 10, ..vit(4, 128, 4, 4) }),
        ]
    })
}

impl VitConfig {
    /// Numbers of heads and hidden units of a block.
    fn block_widths(&self, block: usize) -> (usize, usize) {
        let whole = (self.heads, self.dim * self.mlp_ratio);
        self.pruned.as_ref().map_or(whole, |p| (p.heads[block], p.hidden[block]))
    }

    /// The widths of a pruned transformer with these dimensions of its tensors.
    pub(crate) fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<()> {
        let outputs = |name: String| {
            let found = dims(&name).and_then(|d| d.first().copied());
            found.ok_or_else(|| Error::Mismatch(format!("a pruned vision transformer needs {name}")))
        };
        let head = 3 * self.dim / self.heads.max(1);
        let heads = |i: usize| Ok(outputs(format!("blocks.{i}.attn.qkv.weight"))? / head.max(1));
        let hidden = |i: usize| outputs(format!("blocks.{i}.mlp.fc1.weight"));
        self.pruned = Some(VitWidths {
            heads: (0..self.depth).map(heads).collect::<Result<_>>()?,
            hidden: (0..self.depth).map(hidden).collect::<Result<_>>()?,
        });
        self.check()
    }

    /// The grid of patches of an image.
    pub fn grid(&self) -> Grid {
        Grid { channels: self.channels, height: self.image.0, width: self.image.1, patch: self.patch }
    }

    /// Checks that the sizes fit one another.
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
        if let Some(p) = &self.pruned {
            let lists = [&p.heads, &p.hidden];
            if lists.iter().any(|l| l.len() != self.depth || l.contains(&0)) {
                return Err(Error::Config(format!(
                    "pruned widths that do not fit: expected heads and hidden units of {} blocks, none of them 0",
                    self.depth
                )));
            }
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

/// Pre-norm transformer block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Its name, for values that are looked at.
    name: String,
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

/// The rates of the random parts of one block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) drop_path: f32,
    pub(crate) dropout: f32,
    pub(crate) attn_dropout: f32,
}

impl Block {
    /// A block of `heads`, their number and their width. `init` gives the initial distribution of a weight from its numbers of inputs and
    /// outputs.
    pub(crate) fn new(
        dim: usize,
        (heads, head): (usize, usize),
        mlp: usize,
        rates: Rates,
        init: fn(usize, usize) -> Init,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Block {
            name: vb.prefix(),
            norm1: LayerNorm::new(dim, EPS, vb.pp("norm1"))?,
            attn: Attention::with_heads(dim, heads, head, init, vb.pp("attn"))?
                .with_dropout(rates.attn_dropout, rates.dropout),
            norm2: LayerNorm::new(dim, EPS, vb.pp("norm2"))?,
            mlp: Mlp::new(dim, mlp, init, vb.pp("mlp"))?.with_dropout(rates.dropout),
            drop_path: DropPath(rates.drop_path),
        })
    }

    /// x (B, N, D) -> (B, N, D). `key` draws dropout and stochastic depth; without it, in evaluation, they are off.
    pub(crate) fn forward(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        if !self.drop_path.drops(key) {
            let x = self.attn.forward_add(&self.norm1(x)?, key, x)?; // (B, N, D)
            return Ok(self.mlp.forward_add(&self.norm2(&x)?, key, &x)?.tap(|| self.name.clone())); // (B, N, D)
        }
        let child = |name: &str| key.map(|k| k.child(name));
        let attention = |x: &Value| self.attn.forward(&self.norm1(x)?, key);
        let x = self.drop_path.residual(x, child("drop_path1"), attention)?; // (B, N, D)
        let mlp = |x: &Value| self.mlp.forward(&self.norm2(x)?, key);
        Ok(self.drop_path.residual(&x, child("drop_path2"), mlp)?.tap(|| self.name.clone())) // (B, N, D)
    }

    fn norm1(&self, x: &Value) -> candlelight_autograd::Result<Value> {
        Ok(self.norm1.forward(x)?.tap(|| format!("{}.norm1", self.name)))
    }

    fn norm2(&self, x: &Value) -> candlelight_autograd::Result<Value> {
        Ok(self.norm2.forward(x)?.tap(|| format!("{}.norm2", self.name)))
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
    norm: LayerNorm,
    head: Option<(Option<BatchNorm>, Linear)>,
}

impl Vit {
    /// Builds the model from a `VarBuilder`, which gives new parameters or those of a file.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let c = config;
        let normal = init::normal(0.02);
        let rate = |i: usize| if c.depth > 1 { c.drop_path * i as f32 / (c.depth - 1) as f32 } else { c.drop_path };
        let block = |i: usize| {
            let rates = Rates { drop_path: rate(i), dropout: c.dropout, attn_dropout: c.attn_dropout };
            let (heads, hidden) = c.block_widths(i);
            Block::new(c.dim, (heads, c.dim / c.heads), hidden, rates, normal02, vb.pp(format!("blocks.{i}")))
        };
        Ok(Vit {
            patch_embed: PatchEmbed::new(&c.grid(), c.dim, init::fan_in(c.grid().patch_len()), vb.pp("patch_embed"))?,
            cls_token: vb.get_with_hints((1, 1, c.dim), "cls_token", normal)?,
            pos_embed: vb.get_with_hints((1, 1 + c.grid().patches(), c.dim), "pos_embed", normal)?,
            blocks: (0..c.depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(c.dim, EPS, vb.pp(if c.pool == Pool::Avg { "fc_norm" } else { "norm" }))?,
            head: (c.classes > 0).then(|| Self::new_head(c, vb.pp("head"))).transpose()?,
            config: c.clone(),
        })
    }

    fn new_head(c: &VitConfig, vb: VarBuilder) -> Result<(Option<BatchNorm>, Linear)> {
        let norm = BatchNormConfig { eps: 1e-6, ..Default::default() };
        let linear = |vb| Linear::with_init(c.dim, c.classes, init::normal(0.02), Init::Const(0.0), vb);
        match c.head {
            Head::Linear => Ok((None, linear(vb)?)),
            Head::Probe => Ok((Some(BatchNorm::with(c.dim, None, norm, vb.pp(0))?), linear(vb.pp(1))?)),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// images (B, C, H, W) -> tokens (B, 1 + L, D), after the last normalisation if the head reads the class token.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward_features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let mut x = self.embed(images, key)?; // (B, 1 + L, D)
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, key.map(|k| k.child("block").index(i as u64)).as_ref())?;
        }
        if self.config.pool == Pool::Token { Ok(self.norm.forward(&x)?.tap(|| "norm".into())) } else { Ok(x) }
    }

    /// images (B, C, H, W) -> tokens (B, 1 + L, D) before the first block.
    fn embed(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let x = self.patch_embed.forward(images, None)?; // (B, L, D)
        let x = ops::prepend_token(&x, &self.cls_token)?; // (B, 1 + L, D)
        let x = ops::add_table(&x, &self.pos_embed)?.tap(|| "embed".into());
        match key {
            Some(key) => Ok(ops::dropout(&x, key.child("pos_drop"), self.config.dropout)?),
            None => Ok(x),
        }
    }

    /// The tokens (B, 1 + L, D) at named places of the model, in the order of the names: `embed`, `blocks.3`, or `norm` (the output of the
    /// last normalisation, in models whose head reads the class token). Blocks behind the last of these places are not run.
    ///
    /// # Errors
    /// When there is no such place, or the images are of another size.
    pub fn intermediates(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let (depth, has_norm) = (self.blocks.len(), self.config.pool == Pool::Token);
        // A place is the number of parts that have run: 1 for the embedding, 1 + i for the first i blocks, depth + 2 for the normalisation.
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

    /// tokens (B, 1 + L, D) -> the vector that is classified (B, D): the class token, or the mean of the other tokens.
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
            Some((Some(bn), head)) => Ok(head.forward(&bn.forward(&x, key.is_some())?)?),
            Some((None, head)) => Ok(head.forward(&x)?),
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

    /// images (B, C, H, W) -> logits (B, classes). `key` draws dropout and drop path in training; `None` turns them off.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.forward_head(&self.forward_features(images, key)?, key)
    }
}

impl Classifier for Vit {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Vit::forward(self, images, key)
    }

    fn trunk(&self) -> Option<&dyn Trunk> {
        Some(self)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.pool(&self.forward_features(images, key)?)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        Vit::classify(self, features, key)
    }
}

impl Trunk for Vit {
    fn stride(&self) -> usize {
        self.config.patch
    }

    fn widths(&self) -> (usize, usize) {
        (self.config.dim, self.config.dim)
    }

    fn mapped(&self, images: &Value, key: Option<&Key>) -> Result<(Value, Value)> {
        let x = self.forward_features(images, key)?; // (B, 1 + L, D)
        let grid = self.config.grid();
        let (b, _, d) = x.dims3()?;
        let map = ops::drop_tokens(&x, 1)?.reshape((b, grid.height / grid.patch, grid.width / grid.patch, d))?;
        Ok((map, self.pool(&x)?))
    }
}

impl FeatureExtractor for Vit {
    fn width(&self) -> usize {
        self.config().dim
    }

    fn extract(&self, images: &Tensor) -> Result<Tensor> {
        let tape = Tape::off();
        Ok(Classifier::features(self, &tape.constant(images), None)?.tensor().clone())
    }
}

impl Model for Vit {
    fn anatomy(&self) -> Anatomy {
        let blocks = || 0..self.config.depth;
        let first = ["cls_token", "pos_embed", "patch_embed.*"].map(String::from).to_vec();
        let layers = blocks().map(|i| vec![format!("blocks.{i}.*")]);
        Anatomy {
            head: if self.head.is_some() { "head.".into() } else { String::new() },
            stem: "patch_embed.proj.weight".into(),
            attention: blocks().map(|i| format!("blocks.{i}.attn.*")).collect(),
            last_stage: String::new(),
            layers: std::iter::once(first).chain(layers).chain([vec!["*".into()]]).collect(),
            final_norm: "norm.*".into(),
            no_decay: ["cls_token", "pos_embed"].map(String::from).to_vec(),
            ..Anatomy::default()
        }
    }

    fn taps(&self) -> Vec<String> {
        let blocks = (0..self.config.depth).map(|i| format!("blocks.{i}"));
        let norm = (self.config.pool == Pool::Token).then(|| "norm".to_string());
        std::iter::once("embed".to_string()).chain(blocks).chain(norm).collect()
    }

    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        self.intermediates(images, places)
    }

    /// What the last attention reads: behind it the tokens of places have no part in a class token's score.
    fn focus(&self) -> Option<String> {
        Some(format!("blocks.{}.norm1", self.config.depth.checked_sub(1)?))
    }

    fn attends(&self) -> Option<Attends> {
        Some(Attends {
            layers: self.blocks.iter().map(|b| format!("{}.attn", b.name)).collect(),
            heads: self.blocks.iter().map(|b| b.attn.heads()).collect(),
            prefix: 1,
            token: self.config.pool == Pool::Token,
        })
    }

    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let (c, g) = (&self.config, self.config.grid());
        // A frozen model keeps nothing for a backward pass.
        let depth = if trained * 10 < all { 1 } else { c.depth };
        let tokens = token_memory(g.patches() as f64 + 1.0, c.dim, depth, c.mlp_ratio);
        let values = (tokens + (g.patches() * g.patch_len()) as f64) * batch as f64;
        Some((4.0 * values + 4.0 * all as f64 + 12.0 * trained as f64) as u64)
    }

    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        params.forget("head.*");
        let config = VitConfig { classes, ..self.config.clone() };
        self.head = (classes > 0).then(|| Self::new_head(&config, params.builder(key).pp("head"))).transpose()?;
        self.config = config;
        Ok(())
    }

    fn set_input_size(&mut self, image: (usize, usize), params: &ParamStore) -> Result<()> {
        let config = VitConfig { image, ..self.config.clone() };
        config.check()?;
        let grid = |c: &VitConfig| (c.image.0 / c.patch, c.image.1 / c.patch);
        let table = resample(&self.pos_embed.detach(), grid(&self.config), grid(&config), 1, Interpolation::Timm)?;
        let frozen = params.entries().iter().any(|e| e.name == "pos_embed" && !e.trainable);
        params.forget("pos_embed");
        self.pos_embed = params.builder(Key::new(0)).get(table.shape(), "pos_embed")?;
        params.set("pos_embed", &table)?;
        if frozen {
            params.freeze("pos_embed");
        }
        self.patch_embed.set_input_size(image);
        self.config = config;
        Ok(())
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
    use candlelight_autograd::Gradients;
    use candlelight_nn::freeze::Trained;

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
            let config = &variants().iter().find(|v| v.name == name).unwrap().config;
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
                ..variants()[0].config.clone()
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
    fn presets_train_the_published_numbers_of_parameters() {
        let params = ParamStore::new();
        let base = variants().iter().find(|v| v.name == "vit_base_patch16").unwrap().config.clone();
        let model = Vit::new(&VitConfig { depth: 2, ..base }, params.builder(Key::new(0))).unwrap();
        let head = 769_000;
        let apply = |t: &str| t.parse::<Trained>().unwrap().apply(&params, &model.anatomy());
        let trained = |t: &str| {
            apply(t).unwrap();
            params.count().1
        };
        assert_eq!(trained("head"), head);
        assert_eq!(trained("attn_last(1)"), 3_131_368);
        assert_eq!(trained("attn_last(1)") - head + 768 * 200 + 200, 2_516_168);
        // All twelve blocks of ViT-B: 28,348,416.
        assert_eq!((trained("attn_only") - head) * 6, 28_348_416);
        assert_eq!(trained("blocks.1.*,cls_token"), 7_087_872 + 768);
        // Per block 3 D + D + 4 D + D of the layers and 2 D of the norms, then the patches and the last norm; the head has its weight too.
        assert_eq!(trained("bitfit"), 2 * 11 * 768 + 2 * 768 + head);
        assert_eq!(trained("norms"), 2 * 4 * 768 + 2 * 768 + head);
        assert_eq!(trained("*"), params.count().0);
        for bad in ["layer4_fc", "attn_last(3)", "head.*,nonsense"] {
            let e = apply(bad).unwrap_err().to_string();
            assert!(e.contains("matches no parameter") && e.contains(bad), "{e}");
            assert_eq!(params.count().0, params.count().1, "nothing is left frozen after an error");
        }
    }

    #[test]
    fn a_model_gets_another_head_and_another_size() {
        let config = VitConfig { dim: 16, depth: 1, heads: 2, ..variants()[11].config.clone() };
        let params = ParamStore::new();
        let mut model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
        model.reset_classifier(7, &params, Key::new(1)).unwrap();
        model.set_input_size((32, 40), &params).unwrap();
        let image = candlelight_autograd::tensor_from(vec![0.1; 32 * 40], (1, 1, 32, 40)).unwrap();
        assert_eq!(Module::forward(&model, &image).unwrap().dims(), [1, 7]);
        assert_eq!(params.var("pos_embed").unwrap().dims(), [1, 81, 16]);
        assert!(model.set_input_size((33, 40), &params).is_err());
        assert_eq!(model.taps(), ["embed", "blocks.0"]);
        assert!(params.names().iter().all(|n| model.anatomy().layer_of(n).is_some()));
    }

    #[test]
    fn configurations_that_do_not_fit_are_refused() {
        let base = variants()[0].config.clone();
        assert!(VitConfig { image: (225, 224), ..base.clone() }.check().unwrap_err().to_string().contains("225x224"));
        assert!(VitConfig { heads: 5, ..base.clone() }.check().is_err());
        assert!(VitConfig { drop_path: 1.0, ..base }.check().is_err());
    }

    #[test]
    fn positions_that_are_frozen_stay_so_at_another_size() {
        let config = VitConfig {
            image: (8, 8),
            patch: 4,
            dim: 16,
            depth: 1,
            heads: 2,
            classes: 3,
            ..variants()[0].config.clone()
        };
        let params = ParamStore::new();
        let mut model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
        params.freeze("pos_embed");
        model.set_input_size((16, 16), &params).unwrap();
        assert!(params.entries().iter().any(|e| e.name == "pos_embed" && !e.trainable));
    }
}
