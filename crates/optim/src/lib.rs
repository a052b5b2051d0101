#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod adamw;
mod candle;
mod config;
mod driver;
mod ema;
mod error;
mod lars;
mod method;
mod rules;
mod sgd;

pub use adamw::AdamWConfig;
pub use candle::CandleAdamW;
pub use config::OptimizerConfig;
pub use driver::{Optimizer, Slot, SlotValues};
pub use ema::{Ema, EmaConfig};
pub use error::{Error, Result};
pub use lars::LarsConfig;
pub use method::{Method, Now};
pub use rules::{Group, LayerDecay, Rule, assign, mae_rules};
pub use sgd::SgdConfig;
