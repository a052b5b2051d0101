//! Single operations against PyTorch: every file under tests/golden/ops, whose metadata says which operation it is and with which
//! attributes. A new case of a known operation needs no line here.

use candle_core::{Device, Tensor};
use candlelight::autograd::Result;
use candlelight::prelude::*;
use candlelight_testkit::{values, within};
use serde_json::Value as Json;
use std::path::Path;

/// The attributes of a case.
struct Attributes(Json);

impl Attributes {
    fn float(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap_or_else(|| panic!("{name} in {}", self.0))
    }

    fn int(&self, name: &str, default: usize) -> usize {
        self.0.get(name).map_or(default, |v| v.as_u64().unwrap() as usize)
    }

    fn list(&self, name: &str) -> Vec<i64> {
        self.0[name].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
    }

    fn ids(&self) -> Vec<u32> {
        self.list("ids").into_iter().map(|i| i as u32).collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|v| v.as_bool().unwrap())
    }
}

fn apply(op: &str, a: &Attributes, x: &[Value]) -> Result<Value> {
    let both = |n: usize| (n, n);
    match op {
        "relu" => x[0].relu(),
        "leaky_relu" => x[0].leaky_relu(a.float("negative_slope")),
        "gelu" => x[0].gelu(),
        "silu" => x[0].silu(),
        "sigmoid" => x[0].sigmoid(),
        "tanh" => x[0].tanh(),
        "softplus" => x[0].softplus(),
        "add" => &x[0] + &x[1],
        "sub" => &x[0] - &x[1],
        "mul" => &x[0] * &x[1],
        "div" => &x[0] / &x[1],
        "maximum" => x[0].maximum(&x[1]),
        "minimum" => x[0].minimum(&x[1]),
        "pow" => x[0].pow(a.float("exponent")),
        "exp" => x[0].exp(),
        "log" => x[0].log(),
        "sqrt" => x[0].sqrt(),
        "abs" => x[0].abs(),
        "clamp" => x[0].clamp(a.float("min"), a.float("max")),
        "max" => x[0].max(a.float("dim") as i64, false),
        "mean" => x[0].mean(&a.list("dims"), a.flag("keep")),
        "var" => x[0].var(&a.list("dims"), a.flag("unbiased"), false),
        "softmax" => x[0].softmax(a.float("dim") as i64),
        "log_softmax" => x[0].log_softmax(a.float("dim") as i64),
        "matmul" => x[0].matmul(&x[1]),
        "index_select" => x[0].index_select(a.float("dim") as i64, &a.ids()),
        "gather" => {
            let dims: Vec<usize> = a.list("dims").into_iter().map(|d| d as usize).collect();
            x[0].gather(a.float("dim") as i64, &a.ids(), &dims)
        }
        "embedding" => ops::embedding(x[0].tape(), &x[0], &a.ids()),
        "group_norm" => ops::group_norm(&x[0], a.int("groups", 1), &x[1], &x[2], a.float("eps")),
        "conv2d" => {
            let config = ops::Conv2dConfig {
                dilation: both(a.int("dilation", 1)),
                groups: a.int("groups", 1),
                ..ops::Conv2dConfig::new(a.int("stride", 1), a.int("padding", 0))
            };
            ops::conv2d(&x[0], &x[1], Some(&x[2]), config)
        }
        "conv_transpose2d" => {
            let config = ops::ConvTranspose2dConfig {
                output_padding: both(a.int("output_padding", 0)),
                groups: a.int("groups", 1),
                ..ops::ConvTranspose2dConfig::new(a.int("stride", 1), a.int("padding", 0))
            };
            ops::conv_transpose2d(&x[0], &x[1], Some(&x[2]), config)
        }
        other => panic!("{other}: say here how it is applied"),
    }
}

/// Names and tensors of a file, the operation, its attributes.
fn read(path: &Path) -> (std::collections::HashMap<String, Tensor>, String, Attributes) {
    let bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let said = |name: &str| header["__metadata__"][name].as_str().unwrap().to_string();
    let attributes = Attributes(serde_json::from_str(&said("attributes")).unwrap());
    (candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap(), said("op"), attributes)
}

#[test]
fn every_golden_is_pytorchs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ops");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 37, "{} goldens", files.len());
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (g, op, attributes) = read(&path);
        for (backend, tape) in [
            ("kernels", Tape::new(&ParamStore::new())),
            ("composed", Tape::new(&ParamStore::new()).with_composed_ops()),
        ] {
            let x: Vec<Value> = (0..).map_while(|i| g.get(&format!("x{i}"))).map(|t| tape.leaf(t)).collect();
            let y = apply(&op, &attributes, &x).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(y.dims(), g["y"].dims(), "{name}");
            within(&format!("{name}, {backend}"), &values(y.tensor()), &values(&g["y"]), 1e-5, 1e-3);
            let of: Vec<&Value> = x.iter().collect();
            let none = &mut Gradients::new(&ParamStore::new());
            for (i, d) in tape.backward_with(&y, &g["g"], &of, none).unwrap().into_iter().enumerate() {
                let what = format!("{name}, {backend}, d{i}");
                within(&what, &values(&d.unwrap()), &values(&g[&format!("d{i}")]), 2e-5, 1e-3);
            }
        }
    }
}
