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

/// The `filled` of tests/golden/resnet.py: values that depend on the name and the place alone.
pub fn filled(name: &str, shape: &[usize], std: f64) -> Tensor {
    let n = shape.iter().product::<usize>() as u64;
    let start = crc32fast::hash(name.as_bytes());
    let value = |i: u64| {
        let mut x = (i.wrapping_mul(2_654_435_761) as u32).wrapping_add(start);
        for (shift, factor) in [(16, 0x85eb_ca6b_u32), (13, 0xc2b2_ae35), (16, 1)] {
            x = (x ^ (x >> shift)).wrapping_mul(factor);
        }
        ((f64::from(x) / 4_294_967_296.0 - 0.5) * std * 12f64.sqrt()) as f32
    };
    candlelight::autograd::tensor_from((0..n).map(value).collect(), shape).unwrap()
}
