//! candle-transformers' vision models as frozen feature extractors.
//!
//! They only run forward, outside any tape, because candle's own normalisation and softmax have no backward pass.

use crate::error::Result;
use crate::model::{FeatureExtractor, Frozen};
use candle_core::{IndexOp, Module};
use candle_nn::VarBuilder;
use candle_transformers::models::vit::{Config, Embeddings, Encoder};

pub use candle_transformers::models::vit;

/// candle-transformers' ViT: the class token after the last norm. The builder's names are HuggingFace's.
///
/// # Errors
/// When the builder lacks a tensor.
pub fn frozen_vit(config: &Config, vb: VarBuilder) -> Result<impl FeatureExtractor + use<>> {
    let vb = vb.pp("vit");
    let embeddings = Embeddings::new(config, false, vb.pp("embeddings"))?;
    let encoder = Encoder::new(config, vb.pp("encoder"))?;
    let norm = candle_nn::layer_norm(config.hidden_size, config.layer_norm_eps, vb.pp("layernorm"))?;
    Ok(Frozen::new(config.hidden_size, move |images| {
        let tokens = encoder.forward(&embeddings.forward(images, None, false)?)?; // (B, 1 + L, D)
        norm.forward(&tokens.i((.., 0, ..))?.contiguous()?) // (B, D)
    }))
}
