#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub use candlelight_autograd as autograd;
pub use candlelight_data as data;
pub use candlelight_dist as dist;
pub use candlelight_engine as engine;
pub use candlelight_kernels as kernels;
pub use candlelight_metrics as metrics;
pub use candlelight_models as models;
pub use candlelight_nn as nn;
pub use candlelight_optim as optim;
pub use candlelight_sched as sched;
pub use candlelight_store as store;

/// What most programs use.
pub mod prelude {
    pub use candlelight_autograd::{Gradients, Key, ParamStore, Precision, Tape, Value, ops};
    pub use candlelight_data::{Dataset, Idx, ImageFolder, Loader, LoaderConfig, Normalize, Pipeline};
    pub use candlelight_models::{Mae, MaeConfig, Mask, ResNet, ResNetConfig, Vit, VitConfig, registry};
    pub use candlelight_nn as nn;
    pub use candlelight_optim::{AdamWConfig, Group, LarsConfig, Optimizer, Rule, SgdConfig, mae_rules};
    pub use candlelight_sched::{CosineConfig, Length, Schedule, ScheduleConfig, Span, scaled_lr};
}
