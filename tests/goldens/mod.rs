//! Golden files.
#![allow(dead_code)] // each test uses a part

use candle_core::{Device, Tensor};
#[allow(unused_imports)] // each test uses a part
pub use candlelight_testkit::{values, within as close};
use std::collections::HashMap;

pub type Golden = HashMap<String, Tensor>;

pub fn golden(name: &str) -> Golden {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Where models are trained: on `cuda:0` in a build with the feature `cuda`.
pub fn device() -> Device {
    if candle_core::utils::cuda_is_available() { candlelight::autograd::device::cuda(0).unwrap() } else { Device::Cpu }
}
