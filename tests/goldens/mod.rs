//! Golden files and how close to them results must be.

use candle_core::{Device, Tensor};
use std::collections::HashMap;

pub type Golden = HashMap<String, Tensor>;

pub fn golden(name: &str) -> Golden {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// `max |a - b| <= tol * max(max |b|, floor)`
#[track_caller]
pub fn close(what: &str, a: &[f32], b: &[f32], tol: f32, floor: f32) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let scale = b.iter().fold(floor, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tol * scale, "{what}: off by {worst:e}, scale {scale:e}");
}
