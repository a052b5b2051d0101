//! Convolutions of channels-last images.

use crate::init;
use crate::peft::{Adapter, Base};
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::ops::{self, Conv2dConfig, ConvTranspose2dConfig, Weight};
use candlelight_autograd::{Result, Value};

/// PyTorch's `Conv2d` on channels-last images, with `weight` (O, I / groups, k, k) and `bias` (O). With as many groups as channels it
/// is a depthwise convolution, for which there is a kernel of its own.
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape, ops::Conv2dConfig};
/// # use candlelight_nn::Conv2d;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::zeros((2, 8, 8, 4), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let depthwise = Conv2dConfig { groups: 4, ..Conv2dConfig::new(2, 1) };
/// let layer = Conv2d::new(4, 4, 3, depthwise, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x))?.dims(), [2, 4, 4, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor, // (O, I / groups, k, k)
    bias: Option<Tensor>,
    config: Conv2dConfig,
    adapter: Option<Box<Adapter>>,
}

impl Conv2d {
    /// A layer with a square kernel of `kernel` x `kernel` pixels, a bias and PyTorch's initial values, U(-1 / sqrt(fan_in),
    /// 1 / sqrt(fan_in)).
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, config: Conv2dConfig, vb: VarBuilder) -> Result<Self> {
        let init = init::fan_in(inputs / config.groups.max(1) * kernel * kernel);
        let bias = vb.get_with_hints(outputs, "bias", init)?;
        Ok(Conv2d { bias: Some(bias), ..Self::without_bias(inputs, outputs, kernel, config, init, vb)? })
    }

    /// A layer without a bias, as it is used before a normalisation, with the initial distribution `init`.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn without_bias(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: Conv2dConfig,
        init: Init,
        vb: VarBuilder,
    ) -> Result<Self> {
        let dims = (outputs, inputs / config.groups.max(1), kernel, kernel);
        let adapter = Adapter::conv((inputs, outputs, kernel), config, &vb)?;
        Ok(Conv2d { weight: vb.get_with_hints(dims, "weight", init)?, bias: None, config, adapter })
    }

    /// The weight (O, I / groups, k, k).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// x (B, H, W, I) -> (B, H', W', O).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        match &self.adapter {
            Some(adapter) => {
                let base = Base { weight: &self.weight, bias: self.bias.as_ref(), conv: Some(self.config) };
                adapter.forward(x, base, None, None)
            }
            None => ops::conv2d(x, &self.weight, self.bias.as_ref().map(|b| b as &dyn Weight), self.config),
        }
    }
}

/// PyTorch's `ConvTranspose2d` on channels-last images, with `weight` (I, O / groups, k, k) and `bias` (O).
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape, ops::ConvTranspose2dConfig};
/// # use candlelight_nn::ConvTranspose2d;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::zeros((2, 4, 4, 8), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = ConvTranspose2d::new(8, 3, 4, ConvTranspose2dConfig::new(2, 1), params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x))?.dims(), [2, 8, 8, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    weight: Tensor, // (I, O / groups, k, k)
    bias: Option<Tensor>,
    config: ConvTranspose2dConfig,
}

impl ConvTranspose2d {
    /// A layer with a square kernel, a bias and PyTorch's initial values, for which PyTorch counts `fan_in` over the outputs.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvTranspose2dConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        let init = init::fan_in(outputs / config.groups.max(1) * kernel * kernel);
        let bias = vb.get_with_hints(outputs, "bias", init)?;
        Ok(ConvTranspose2d { bias: Some(bias), ..Self::without_bias(inputs, outputs, kernel, config, init, vb)? })
    }

    /// A layer without a bias, as it is used before a normalisation, with the initial distribution `init`.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn without_bias(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvTranspose2dConfig,
        init: Init,
        vb: VarBuilder,
    ) -> Result<Self> {
        let dims = (inputs, outputs / config.groups.max(1), kernel, kernel);
        Ok(ConvTranspose2d { weight: vb.get_with_hints(dims, "weight", init)?, bias: None, config })
    }

    /// x (B, H, W, I) -> (B, H', W', O).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::conv_transpose2d(x, &self.weight, self.bias.as_ref().map(|b| b as &dyn Weight), self.config)
    }
}
