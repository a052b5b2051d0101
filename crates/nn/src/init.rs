//! Initial distributions, under PyTorch's names.

use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};

/// N(0, std).
pub fn normal(std: f64) -> Init {
    Init::Randn { mean: 0.0, stdev: std }
}

/// U(-bound, bound).
pub fn uniform(bound: f64) -> Init {
    Init::Uniform { lo: -bound, up: bound }
}

/// PyTorch's default for the weight and the bias of a linear layer or a convolution: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)).
pub fn fan_in(fan_in: usize) -> Init {
    uniform(1.0 / (fan_in.max(1) as f64).sqrt())
}

/// X. Glorot and Y. Bengio, 2010: U(-b, b) with `b = sqrt(6 / (fan_in + fan_out))`.
pub fn xavier_uniform(fan_in: usize, fan_out: usize) -> Init {
    uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
}

/// K. He et al., arXiv 1502.01852, for rectifiers: N(0, sqrt(2 / fan_out)), torchvision's for convolutions.
pub fn kaiming_normal_fan_out() -> Init {
    Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU }
}
