//! Initial distributions, under PyTorch's names.

use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};

/// A normal distribution N(0, std), where `std` is the standard deviation.
pub fn normal(std: f64) -> Init {
    Init::Randn { mean: 0.0, stdev: std }
}

/// A uniform distribution U(-bound, bound).
pub fn uniform(bound: f64) -> Init {
    Init::Uniform { lo: -bound, up: bound }
}

/// PyTorch's default for the weight and the bias of a linear layer or a convolution: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), where
/// `fan_in` is the number of inputs of one output.
pub fn fan_in(fan_in: usize) -> Init {
    uniform(1.0 / (fan_in.max(1) as f64).sqrt())
}

/// PyTorch's `xavier_uniform_`, X. Glorot and Y. Bengio, 2010: U(-b, b) with `b = sqrt(6 / (fan_in + fan_out))`.
pub fn xavier_uniform(fan_in: usize, fan_out: usize) -> Init {
    uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
}

/// PyTorch's `kaiming_normal_` for ReLU with `fan_out`, K. He et al., arXiv 1502.01852: N(0, sqrt(2 / fan_out)). torchvision uses it for
/// convolutions.
pub fn kaiming_normal_fan_out() -> Init {
    Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU }
}
