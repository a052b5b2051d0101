//! Masked autoencoder, K. He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
//!
//! Shapes: B samples, L patches of which K are visible, D encoder width, E decoder width, P values in a patch.

use crate::error::{Error, Result};
use crate::model::{Model, Published, Variant, token_memory};
use crate::posemb::sincos_2d;
use crate::vit::{self, Block, EPS, Rates, VitConfig};
use candle_core::{Module, Tensor};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, ParamStore, Tape, Value, ops, tensor_from};
use candlelight_kernels::loss::mae::patch_statistics;
use candlelight_kernels::tokens::patch::{self, Grid};
use candlelight_nn::{Anatomy, LayerNorm, Linear, PatchEmbed, init};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The configuration of a masked autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    /// Image height and width, multiples of `patch`.
    pub image: (usize, usize),
    /// The side of a patch in pixels.
    pub patch: usize,
    /// The number of image channels.
    pub channels: usize,
    /// The width of the encoder's tokens.
    pub dim: usize,
    /// The number of encoder blocks.
    pub depth: usize,
    /// The number of attention heads of an encoder block.
    pub heads: usize,
    /// The width of the decoder's tokens.
    pub decoder_dim: usize,
    /// The number of decoder blocks.
    pub decoder_depth: usize,
    /// The number of attention heads of a decoder block.
    pub decoder_heads: usize,
    /// The hidden width of an MLP divided by the width of its tokens.
    pub mlp_ratio: usize,
    /// Whether the model predicts patches that are normalised to their own mean and deviation.
    pub norm_pix_loss: bool,
}

const fn mae(patch: usize, encoder: (usize, usize, usize), decoder: (usize, usize, usize)) -> MaeConfig {
    MaeConfig {
        image: (224, 224),
        patch,
        channels: 3,
        dim: encoder.0,
        depth: encoder.1,
        heads: encoder.2,
        decoder_dim: decoder.0,
        decoder_depth: decoder.1,
        decoder_heads: decoder.2,
        mlp_ratio: 4,
        norm_pix_loss: false,
    }
}

const fn v(name: &'static str, config: MaeConfig) -> Variant<MaeConfig> {
    Variant { name, config, published: Published::IMAGENET_BICUBIC }
}

/// The named configurations, with (width, depth, heads) of encoder and decoder. Base to huge are those of the paper; tiny and small have
/// a smaller decoder too; `mae_vit_mini_patch4` is for 32 x 32 images, `mae_vit_demo_patch4` for 28 x 28 gray images.
pub const VARIANTS: &[Variant<MaeConfig>] = &[
    v("mae_vit_demo_patch4", MaeConfig { image: (28, 28), channels: 1, ..mae(4, (128, 4, 4), (64, 2, 4)) }),
    v("mae_vit_mini_patch4", MaeConfig { image: (32, 32), ..mae(4, (128, 6, 4), (64, 2, 4)) }),
    v("mae_vit_tiny_patch16", mae(16, (192, 12, 3), (192, 4, 6))),
    v("mae_vit_small_patch16", mae(16, (384, 12, 6), (256, 4, 8))),
    v("mae_vit_base_patch16", mae(16, (768, 12, 12), (512, 8, 16))),
    v("mae_vit_base_patch16_dec512d8b", mae(16, (768, 12, 12), (512, 8, 16))),
    v("mae_vit_large_patch16", mae(16, (1024, 24, 16), (512, 8, 16))),
    v("mae_vit_large_patch16_dec512d8b", mae(16, (1024, 24, 16), (512, 8, 16))),
    v("mae_vit_huge_patch14", mae(14, (1280, 32, 16), (512, 8, 16))),
    v("mae_vit_huge_patch14_dec512d8b", mae(14, (1280, 32, 16), (512, 8, 16))),
];

impl MaeConfig {
    /// The classifier with this encoder; its pooling and its drop path are still to be chosen.
    pub fn classifier(&self, classes: usize) -> VitConfig {
        let &MaeConfig { image, patch, channels, dim, depth, heads, mlp_ratio, .. } = self;
        VitConfig { image, patch, channels, dim, depth, heads, mlp_ratio, classes, ..vit::variants()[0].config.clone() }
    }

    /// The grid of patches of an image.
    pub fn grid(&self) -> Grid {
        Grid { channels: self.channels, height: self.image.0, width: self.image.1, patch: self.patch }
    }

    /// Checks that the sizes fit one another.
    ///
    /// # Errors
    /// When the patches do not tile the image, heads do not divide a width, or a width is not a multiple of 4.
    pub fn check(&self) -> Result<()> {
        let encoder = VitConfig {
            image: self.image,
            patch: self.patch,
            channels: self.channels,
            dim: self.dim,
            heads: self.heads,
            ..vit::variants()[0].config.clone()
        };
        encoder.check()?;
        VitConfig { dim: self.decoder_dim, heads: self.decoder_heads, ..encoder }.check()?;
        for (name, dim) in [("encoder", self.dim), ("decoder", self.decoder_dim)] {
            if dim % 4 != 0 {
                return Err(Error::Config(format!("the {name}'s width {dim} is not a multiple of 4")));
            }
        }
        Ok(())
    }

    /// An estimate of the bytes that a pretraining step holds at its peak: four values per parameter, and the values of every token that the
    /// backward pass needs.
    pub fn memory(&self, batch: usize, mask_ratio: f64, params: usize) -> u64 {
        let l = self.grid().patches() as f64;
        let encoder = token_memory(l * (1.0 - mask_ratio) + 1.0, self.dim, self.depth, self.mlp_ratio);
        let decoder = token_memory(l + 1.0, self.decoder_dim, self.decoder_depth, self.mlp_ratio);
        let images = 4.0 * l * self.grid().patch_len() as f64;
        ((encoder + decoder + images) * 4.0 * batch as f64 + params as f64 * 16.0) as u64
    }

    fn positions(&self) -> Result<[(&'static str, Tensor); 2]> {
        let (rows, cols) = (self.image.0 / self.patch, self.image.1 / self.patch);
        Ok([
            ("pos_embed", sincos_2d(self.dim, rows, cols)?),
            ("decoder_pos_embed", sincos_2d(self.decoder_dim, rows, cols)?),
        ])
    }
}

/// Which patches are visible, for every sample of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// The numbers of the visible patches, (B, K), in the order in which the encoder sees them.
    pub keep: Vec<u32>,
    /// The place of patch j among the shuffled patches, (B, L); K or more says that the patch was removed.
    pub restore: Vec<u32>,
    /// The mask in image order, (B, L): 0 = visible, 1 = removed.
    pub removed: Vec<f32>,
    /// The number of samples, B.
    pub batch: usize,
}

impl Mask {
    /// The number of patches that stay visible of `l` patches: `floor(l (1 - ratio))` in f64.
    ///
    /// # Errors
    /// When the ratio is outside (0, 1) or would keep or remove nothing.
    pub fn kept(l: usize, ratio: f64) -> Result<usize> {
        let keep = (l as f64 * (1.0 - ratio)) as usize;
        if !(ratio > 0.0 && ratio < 1.0) {
            return Err(Error::Config(format!("mask_ratio {ratio} is outside (0, 1)")));
        }
        if keep == 0 || keep >= l {
            return Err(Error::Config(format!(
                "mask_ratio {ratio} keeps {keep} of {l} patches, expected at least one kept and one removed"
            )));
        }
        Ok(keep)
    }

    /// One random mask per sample; that of sample `i` is drawn from `key.index(i)`.
    ///
    /// # Errors
    /// The errors of [`Mask::kept`].
    pub fn random(key: &Key, samples: &[u64], l: usize, ratio: f64) -> Result<Self> {
        let noise: Vec<f32> = samples.par_iter().flat_map_iter(|&i| key.index(i).uniform(l)).collect();
        Self::from_noise(&noise, l, ratio)
    }

    /// The masks that follow from noise (B, L): the patches with the smallest values stay, in ascending order of these.
    ///
    /// # Errors
    /// The errors of [`Mask::kept`], and when the noise is not whole rows.
    pub fn from_noise(noise: &[f32], l: usize, ratio: f64) -> Result<Self> {
        let kept = Self::kept(l, ratio)?;
        if noise.is_empty() || noise.len() % l != 0 {
            return Err(Error::Config(format!("{} noise values are not rows of {l} patches", noise.len())));
        }
        let order = |row: &[f32]| {
            let mut order: Vec<u32> = (0..l as u32).collect();
            order.sort_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]));
            order
        };
        let orders: Vec<Vec<u32>> = noise.par_chunks_exact(l).map(order).collect();
        Ok(Self::from_orders(orders.into_iter(), l, kept))
    }

    /// Masks of your own: for every sample the numbers of the patches that stay, equally many for each.
    ///
    /// # Errors
    /// When a patch is named twice, is past the last one, or the numbers differ.
    pub fn from_kept(kept: &[Vec<u32>], l: usize) -> Result<Self> {
        let k = kept.first().map_or(0, Vec::len);
        let mut orders = Vec::new();
        for row in kept {
            let mut seen = vec![false; l];
            for &i in row {
                match seen.get_mut(i as usize) {
                    Some(s) if !*s => *s = true,
                    _ => return Err(Error::Config(format!("patch {i} is named twice or is not one of {l}"))),
                }
            }
            if row.len() != k || k == 0 || k >= l {
                return Err(Error::Config(format!("a sample keeps {} patches, another {k}, of {l}", row.len())));
            }
            orders.push(row.iter().copied().chain((0..l as u32).filter(|&i| !seen[i as usize])).collect::<Vec<_>>());
        }
        Ok(Self::from_orders(orders.into_iter(), l, k))
    }

    fn from_orders(orders: impl Iterator<Item = Vec<u32>>, l: usize, kept: usize) -> Self {
        let mut mask = Mask { keep: vec![], restore: vec![], removed: vec![], batch: 0 };
        for order in orders {
            let (mut restore, mut removed) = (vec![0; l], vec![1.0; l]);
            for (place, &i) in order.iter().enumerate() {
                restore[i as usize] = place as u32;
                if place < kept {
                    removed[i as usize] = 0.0;
                }
            }
            mask.keep.extend(&order[..kept]);
            mask.restore.extend(restore);
            mask.removed.extend(removed);
            mask.batch += 1;
        }
        mask
    }
}

/// A masked autoencoder: the encoder sees only the visible patches, and a small decoder predicts all.
#[derive(Debug, Clone)]
pub struct Mae {
    config: MaeConfig,
    patch_embed: PatchEmbed,
    cls_token: Tensor, // (1, 1, D)
    pos_embed: Tensor, // (1, 1 + L, D), fixed
    blocks: Vec<Block>,
    norm: LayerNorm,
    decoder_embed: Linear,
    mask_token: Tensor,        // (1, 1, E)
    decoder_pos_embed: Tensor, // (1, 1 + L, E), fixed
    decoder_blocks: Vec<Block>,
    decoder_norm: LayerNorm,
    decoder_pred: Linear,
}

impl Mae {
    /// A new model in `params`. Its weights are drawn from `key` by name; its fixed positions are registered as buffers.
    ///
    /// # Errors
    /// When the configuration does not fit.
    pub fn init(config: &MaeConfig, params: &ParamStore, key: Key) -> Result<Self> {
        config.check()?;
        for (name, table) in config.positions()? {
            params.insert_buffer(name, table)?;
        }
        Self::new(config, params.builder(key))
    }

    /// Builds the model from the tensors of a `VarBuilder`. Fixed positions that it does not hold are computed.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &MaeConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let c = config;
        let token = init::normal(0.02);
        let block = |dim, heads, name: String| {
            Block::new(
                dim,
                (heads, dim / heads),
                dim * c.mlp_ratio,
                Rates::default(),
                init::xavier_uniform,
                vb.pp(name),
            )
        };
        let linear = |inputs, outputs, name: &str| {
            Linear::with_init(inputs, outputs, init::xavier_uniform(inputs, outputs), Init::Const(0.0), vb.pp(name))
        };
        let [pos_embed, decoder_pos_embed] = c
            .positions()?
            .map(|(name, table)| if vb.contains_tensor(name) { vb.get(table.shape(), name) } else { Ok(table) });
        Ok(Mae {
            patch_embed: PatchEmbed::new(
                &c.grid(),
                c.dim,
                init::xavier_uniform(c.grid().patch_len(), c.dim),
                vb.pp("patch_embed"),
            )?,
            cls_token: vb.get_with_hints((1, 1, c.dim), "cls_token", token)?,
            pos_embed: pos_embed?,
            blocks: (0..c.depth).map(|i| block(c.dim, c.heads, format!("blocks.{i}"))).collect::<Result<_>>()?,
            norm: LayerNorm::new(c.dim, EPS, vb.pp("norm"))?,
            decoder_embed: linear(c.dim, c.decoder_dim, "decoder_embed")?,
            mask_token: vb.get_with_hints((1, 1, c.decoder_dim), "mask_token", token)?,
            decoder_pos_embed: decoder_pos_embed?,
            decoder_blocks: (0..c.decoder_depth)
                .map(|i| block(c.decoder_dim, c.decoder_heads, format!("decoder_blocks.{i}")))
                .collect::<Result<_>>()?,
            decoder_norm: LayerNorm::new(c.decoder_dim, EPS, vb.pp("decoder_norm"))?,
            decoder_pred: linear(c.decoder_dim, c.grid().patch_len(), "decoder_pred")?,
            config: c.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &MaeConfig {
        &self.config
    }

    /// The encoder: images (B, C, H, W) -> latent tokens (B, 1 + K, D). Without a mask all patches are visible.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward_encoder(&self, images: &Value, mask: Option<&Mask>) -> Result<Value> {
        let (l, d) = (self.config.grid().patches(), self.config.dim);
        let (b, _, _, _) = images.tensor().dims4()?;
        if mask.is_some_and(|m| m.batch != b || m.restore.len() != b * l) {
            return Err(Error::Config(format!("the mask does not fit {b} samples of {l} patches")));
        }
        let all: Vec<u32> = if mask.is_none() { (0..b).flat_map(|_| 0..l as u32).collect() } else { Vec::new() };
        let keep = mask.map_or(&all, |m| &m.keep);
        let x = self.patch_embed.forward(images, Some(keep))?; // (B, K, D)
        // Only the position rows of the visible patches and of the class token are used.
        let tape = images.tape();
        let pos = tape.constant(&self.pos_embed).reshape((1 + l, d))?;
        let places: Vec<u32> = keep.iter().map(|i| i + 1).collect();
        let x = x.add(&pos.index_select(0, &places)?.reshape(x.tensor().shape())?)?;
        let token = tape.value(&self.cls_token).add(&pos.narrow(0, 0, 1)?.reshape((1, 1, d))?)?; // (1, 1, D)
        let mut x = ops::prepend_token(&x, &token)?; // (B, 1 + K, D)
        for block in &self.blocks {
            x = block.forward(&x, None)?;
        }
        Ok(self.norm.forward(&x)?)
    }

    /// The decoder: latent tokens (B, 1 + K, D) -> predicted patches (B, L, P), with pixels in MAE's order.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_decoder(&self, latent: &Value, mask: &Mask) -> Result<Value> {
        let x = self.decoder_embed.forward(latent)?; // (B, 1 + K, E)
        let mut x = ops::unshuffle_tokens(&x, &self.mask_token, &mask.restore, &self.decoder_pos_embed)?; // (B, 1 + L, E)
        for block in &self.decoder_blocks {
            x = block.forward(&x, None)?;
        }
        let x = self.decoder_pred.forward(&self.decoder_norm.forward(&x)?)?; // (B, 1 + L, P)
        Ok(ops::drop_tokens(&x, 1)?)
    }

    /// images (B, C, H, W) -> (loss, predicted patches (B, L, P)).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, images: &Value, mask: &Mask) -> Result<(Value, Value)> {
        let pred = self.forward_decoder(&self.forward_encoder(images, Some(mask))?, mask)?;
        let c = &self.config;
        let loss = ops::mae_loss(&pred, images.tensor(), c.patch, &mask.removed, c.norm_pix_loss)?;
        Ok((loss, pred))
    }

    /// A prediction as images: (masked, reconstruction, reconstruction with the visible patches pasted in), each (B, C, H, W) and normalised
    /// like the input. Masked patches have the value `gray`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn reconstruct(&self, images: &Tensor, mask: &Mask, gray: f32) -> Result<[Tensor; 3]> {
        let tape = Tape::off();
        let on_device = images.to_device(self.cls_token.device())?;
        let (_, pred) = self.forward(&tape.constant(&on_device), mask)?;
        let g = self.config.grid();
        let flat = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        let (image, mut pred) = (flat(images)?, flat(pred.tensor())?);
        let len = g.patch_len();
        if self.config.norm_pix_loss {
            let stats = patch_statistics(&g, &image).map_err(candlelight_autograd::Error::from)?;
            for (patch, (mean, std)) in pred.chunks_exact_mut(len).zip(stats) {
                patch.iter_mut().for_each(|v| *v = *v * std + mean);
            }
        }
        let mut patches = vec![0.0; image.len()];
        patch::patchify(&g, &image, &mut patches).map_err(candlelight_autograd::Error::from)?;
        let (mut masked, mut pasted) = (patches.clone(), pred.clone());
        for (i, &m) in mask.removed.iter().enumerate() {
            let at = i * len..(i + 1) * len;
            if m > 0.0 {
                masked[at].fill(gray);
            } else {
                pasted[at.clone()].copy_from_slice(&patches[at]);
            }
        }
        let picture = |patches: &[f32]| -> Result<Tensor> {
            let mut out = vec![0.0; patches.len()];
            patch::unpatchify(&g, patches, &mut out).map_err(candlelight_autograd::Error::from)?;
            Ok(tensor_from(out, images.shape())?)
        };
        Ok([picture(&masked)?, picture(&pred)?, picture(&pasted)?])
    }
}

impl Model for Mae {
    fn anatomy(&self) -> Anatomy {
        Anatomy {
            stem: "patch_embed.proj.weight".into(),
            attention: (0..self.config.depth).map(|i| format!("blocks.{i}.attn.*")).collect(),
            layers: vec![vec!["*".into()]],
            no_decay: ["pos_embed", "decoder_pos_embed"].map(String::from).to_vec(),
            ..Anatomy::default()
        }
    }

    /// An estimate of the bytes of a pretraining step with three quarters of the patches removed.
    fn memory(&self, batch: usize, all: usize, _: usize) -> Option<u64> {
        Some(self.config.memory(batch, 0.75, all))
    }
}

/// Inference: images (B, C, H, W) -> latent of all patches (B, 1 + L, D).
impl Module for Mae {
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let tape = Tape::off();
        Ok(self.forward_encoder(&tape.constant(images), None)?.tensor().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::Gradients;

    fn small() -> MaeConfig {
        MaeConfig {
            image: (8, 12),
            dim: 16,
            depth: 2,
            heads: 2,
            decoder_dim: 8,
            decoder_depth: 1,
            decoder_heads: 2,
            patch: 4,
            ..VARIANTS[1].config.clone()
        }
    }

    #[test]
    fn base_has_the_published_parameters() {
        let params = ParamStore::new();
        let config = &VARIANTS.iter().find(|v| v.name == "mae_vit_base_patch16").unwrap().config;
        Mae::init(config, &params, Key::new(0)).unwrap();
        assert_eq!(params.count(), (111_907_840, 111_655_680));
        let one_d = params.entries().iter().filter(|e| e.var.rank() == 1).count();
        assert_eq!((one_d, params.len() - one_d), (167, 85));
    }

    #[test]
    fn keep_counts_truncate_in_f64() {
        for (l, ratio, want) in [(196, 0.75, 49), (256, 0.75, 64), (196, 0.9, 19), (100, 0.9, 9), (50, 0.9, 4)] {
            assert_eq!(Mask::kept(l, ratio).unwrap(), want);
        }
        for ratio in [0.0, 1.0, -0.5, 1.5, f64::NAN, 0.999] {
            assert!(Mask::kept(196, ratio).is_err(), "{ratio}");
        }
    }

    #[test]
    fn masks_restore_the_order() {
        let m = Mask::random(&Key::new(3), &[0, 1, 2, 3], 10, 0.75).unwrap();
        for b in 0..4 {
            let keep = &m.keep[b * 2..b * 2 + 2];
            for j in 0..10 {
                let place = m.restore[b * 10 + j] as usize;
                assert_eq!(m.removed[b * 10 + j] == 0.0, place < 2);
                assert!(place >= 2 || keep[place] as usize == j);
            }
        }
        let own = Mask::from_kept(&[vec![2, 0]], 4).unwrap();
        assert_eq!((own.restore, own.removed), (vec![1, 2, 0, 3], vec![0., 1., 0., 1.]));
        for bad in [vec![vec![1, 1]], vec![vec![4]], vec![vec![0], vec![0, 1]], vec![vec![]]] {
            assert!(Mask::from_kept(&bad, 4).is_err());
        }
    }

    #[test]
    fn every_parameter_has_a_gradient_and_a_small_model_learns_one_batch() {
        let (params, config) = (ParamStore::new(), small());
        let model = Mae::init(&config, &params, Key::new(0)).unwrap();
        let images = tensor_from(Key::new(1).normal(4 * 3 * 8 * 12), (4, 3, 8, 12)).unwrap();
        let mask = Mask::random(&Key::new(2), &[0, 1, 2, 3], 6, 0.5).unwrap();
        let mut losses = vec![];
        let mut grads = Gradients::new(&params);
        for _ in 0..60 {
            let tape = Tape::new(&params);
            let (loss, _) = model.forward(&tape.constant(&images), &mask).unwrap();
            losses.push(loss.scalar().unwrap());
            grads.zero();
            tape.backward(&loss, &mut grads).unwrap();
            for e in params.entries() {
                let g = grads.get(&e.name).unwrap();
                ParamStore::update(&e.var, |p| p.iter_mut().zip(g).for_each(|(p, g)| *p -= 0.5 * g)).unwrap();
            }
        }
        assert!(losses[59] < 0.8 * losses[0], "{losses:?}");
        let shown = model.reconstruct(&images, &mask, 0.0).unwrap();
        assert!(shown.iter().all(|t| t.dims() == images.dims()));
        assert_eq!(Module::forward(&model, &images).unwrap().dims(), [4, 7, 16]);
    }
}
