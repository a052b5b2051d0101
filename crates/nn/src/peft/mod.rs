//! Parameter-efficient finetuning: a few new parameters beside frozen layers, with the names, the defaults and the file format of
//! HuggingFace's peft.
//!
//! - LoRA, E. J. Hu et al., arXiv 2106.09685: `y = W x + b + s B A x`, with `A` (r, I), `B` (O, r) and `s = alpha / r`. rsLoRA, D. Kalajdzievski,
//!   arXiv 2312.03732, takes `s = alpha / sqrt(r)`.
//! - DoRA, S.-Y. Liu et al., arXiv 2402.09353: `m * (W + s B A) / |W + s B A|` in place of the weight, with the norm of each row, which is not
//!   differentiated.
//! - IA3, H. Liu et al., arXiv 2205.05638: a factor for each output of a layer, or for each of its inputs.
//!
//! A layer finds its adapters in the builder that it takes its parameters from, so a model needs no change for them:
//!
//! ```
//! # use candlelight_autograd::{Key, ParamStore, Tape};
//! # use candlelight_nn::{Anatomy, Attention, init, peft};
//! # let (params, key) = (ParamStore::new(), Key::new(0));
//! # let x = candle_core::Tensor::ones((2, 5, 8), candle_core::DType::F32, &candle_core::Device::Cpu)?;
//! let config = peft::Peft::Lora(peft::LoraConfig { r: 2, ..peft::LoraConfig::on("q,v") });
//! let plan = peft::Plan::new(&config)?;
//! let layer = Attention::new(8, 2, init::xavier_uniform, plan.builder(params.builder(key)))?;
//! plan.finish()?;
//! peft::train_only(&config, &params, &Anatomy::default())?;
//! assert_eq!(params.count(), (8 * 24 + 24 + 8 * 8 + 8 + 64, 64)); // A (2, 8) and B (8, 2) for q and for v
//! # layer.forward(&Tape::off().constant(&x), None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The fused `qkv` of an [`Attention`](crate::Attention) is one layer under its own name, with one `A` for all three, and at the same time the
//! three layers `q`, `k` and `v`, as HuggingFace's transformers has them.

mod config;
mod layer;
mod merge;
mod plan;
mod targets;
mod train;

pub use config::{Bias, Ia3Config, LoraConfig, Peft};
pub use merge::{merged, unmerged};
pub use plan::{Module, Plan};
pub use targets::{Layers, Modules, within};
pub use train::train_only;

pub(crate) use layer::{Adapter, Base};

/// The endings of the names of adapters' parameters, behind the name of their layer.
pub const ENDINGS: [&str; 4] = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "ia3_l"];

/// The layer whose adapter a parameter belongs to, such as `blocks.0.attn.q` of `blocks.0.attn.q.lora_A.weight`; `None` for any other
/// parameter.
pub fn layer_of(name: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|e| name.strip_suffix(e)?.strip_suffix('.'))
}

#[cfg(test)]
mod tests;
