//! Adapters against HuggingFace's peft: `tests/golden/adapters.py`.

use candle_core::{Device, Tensor, safetensors};
use candlelight::autograd::{Gradients, Key, ParamStore, Tape, Value, ops};
use candlelight::models::peft::{
    Ia3Config, LoraConfig, Modules, Naming, Peft, Plan, SETTINGS, TENSORS, applied, load, merged, read, train_only,
    write,
};
use candlelight::models::{Anatomy, ModelConfig, VitConfig, registry, weights};
use candlelight::nn::{Conv2d, Linear};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft").join(name)
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    safetensors::load(path, &Device::Cpu).unwrap()
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

struct Layers {
    conv: Conv2d,
    fc: Linear,
}

impl Layers {
    fn new(vb: candle_nn::VarBuilder) -> candlelight::autograd::Result<Self> {
        let conv = Conv2d::new(3, 6, 3, ops::Conv2dConfig::new(2, 1), vb.pp("conv"))?;
        Ok(Layers { conv, fc: Linear::new(6, 4, vb.pp("fc"))? })
    }

    fn forward(&self, x: &Value) -> Value {
        let x = self.conv.forward(&ops::channels_last(x).unwrap()).unwrap().relu().unwrap();
        self.fc.forward(&x.mean(&[1, 2], false).unwrap()).unwrap()
    }
}

#[test]
fn layers_compute_and_learn_what_those_of_peft_do() {
    let all = tensors(&golden("layers.safetensors"));
    let both = || Some(Modules::names(["conv", "fc"]));
    let lora = LoraConfig { r: 2, lora_alpha: 3.0, target_modules: both(), ..LoraConfig::default() };
    let ia3 = Ia3Config { target_modules: both(), ..Ia3Config::default() };
    for (case, config) in [
        ("lora", Peft::Lora(lora.clone())),
        ("rslora", Peft::Lora(LoraConfig { use_rslora: true, ..lora.clone() })),
        ("dora", Peft::Lora(LoraConfig { use_dora: true, ..lora.clone() })),
        (
            "patterns",
            Peft::Lora(LoraConfig {
                rank_pattern: [("conv".to_string(), 3)].into(),
                alpha_pattern: [("fc".to_string(), 5.0)].into(),
                ..lora
            }),
        ),
        ("ia3", Peft::Ia3(ia3.clone())),
        ("ia3_inputs", Peft::Ia3(Ia3Config { feedforward_modules: both(), ..ia3 })),
    ] {
        let of = |part: &str| -> Vec<(String, Tensor)> {
            let prefix = format!("{case}.{part}.");
            all.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
        };
        let (params, plan) = (ParamStore::new(), Plan::new(&config).unwrap());
        let model = Layers::new(plan.builder(params.builder(Key::new(0)))).unwrap();
        assert_eq!(plan.finish().unwrap(), ["conv", "fc"]);
        for (name, t) in of("base").into_iter().chain(of("param")) {
            params.set(&name, &t).unwrap();
        }
        train_only(&config, &params, &Anatomy::default()).unwrap();
        let tape = Tape::new(&params);
        let y = model.forward(&tape.constant(&all[&format!("{case}.x")]));
        assert!(apart(y.tensor(), &all[&format!("{case}.y")]) < 1e-5, "{case}");
        let ramp = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap().reshape((2, 4)).unwrap();
        let mut grads = Gradients::new(&params);
        tape.backward(&y.mul(&tape.constant(&ramp)).unwrap().sum_all().unwrap(), &mut grads).unwrap();
        let want = of("grad");
        assert_eq!(grads.iter().count(), want.len());
        for (name, want) in want {
            let got = grads.tensor(&name).unwrap().unwrap();
            let scale = want.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap().max(1.0);
            assert!(apart(&got.reshape(want.dims()).unwrap(), &want) < 1e-4 * scale, "{case}: {name}");
        }
        let ours: HashMap<_, _> = merged(&params.values(), &config).unwrap().into_iter().collect();
        for (name, want) in of("merged") {
            assert!(apart(&ours[&name], &want) < 1e-5, "{case}: {name}");
        }
    }
}

fn small() -> VitConfig {
    VitConfig {
        image: (8, 8),
        patch: 4,
        dim: 16,
        depth: 2,
        heads: 2,
        classes: 3,
        pool: candlelight::models::vit::Pool::Token,
        ..registry::vit("vit_b_16").unwrap()
    }
}

/// What the model of a golden folder says to its images with these weights.
fn logits(weights: &[(String, Tensor)], images: &Tensor) -> Tensor {
    let (config, params) = (ModelConfig::from(small()), ParamStore::new());
    let model = config.build(params.builder(Key::new(0))).unwrap();
    weights::load(&params, weights, true).unwrap();
    model.forward(&Tape::off().constant(images), None).unwrap().tensor().clone()
}

fn base(case: &str) -> (Vec<(String, Tensor)>, Tensor, Tensor) {
    let mut all = tensors(&golden(case).join("model.safetensors"));
    let (images, logits) = (all.remove("golden.images").unwrap(), all.remove("golden.logits").unwrap());
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    (all, images, logits)
}

const CASES: [&str; 5] = ["timm", "timm_dora", "timm_ia3", "torchvision", "huggingface"];

#[test]
fn adapters_of_peft_give_the_same_logits_merged_and_beside_the_weights() {
    for case in CASES {
        let (weights, images, want) = base(case);
        let folder = golden(case);
        let with = applied(&weights, &[&folder]).unwrap();
        assert!(with.notes[0].contains("merged"), "{:?}", with.notes);
        assert!(apart(&logits(&with.tensors, &images), &want) < 2e-5, "{case}");
        // The same as layers beside frozen weights.
        let mut adapter = read(&folder).unwrap();
        let (config, params) = (ModelConfig::from(small()), ParamStore::new());
        let (model, layers) = config.build_with(&mut adapter.config, &params, Key::new(0)).unwrap();
        assert!(layers.len() >= 2, "{case}");
        weights::load(&params, &weights::names::to_timm(&weights).unwrap(), false).unwrap();
        load(&params, &adapter).unwrap();
        train_only(&adapter.config, &params, &model.anatomy()).unwrap();
        let got = model.forward(&Tape::off().constant(&images), None).unwrap();
        assert!(apart(got.tensor(), &want) < 2e-5, "{case}");
        // What peft counts; of all biases, those of the patches and the norms too.
        let trained = match case {
            "timm" | "torchvision" => 755,
            "timm_dora" => 787,
            "timm_ia3" => 275,
            _ => 499,
        };
        assert_eq!(params.count().1, trained, "{case}");
    }
}

#[test]
fn adapters_are_written_for_every_library_that_has_a_place_for_them() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES {
        let (weights, images, want) = base(case);
        let adapter = read(&golden(case)).unwrap();
        for naming in [Naming::Own, Naming::Timm, Naming::Torchvision, Naming::Huggingface, Naming::Huggingface4] {
            let folder = dir.path().join(format!("{case}{naming:?}"));
            let result = write(&folder, &adapter.config, &adapter.tensors, "head.", naming);
            // DoRA's and IA3's fused layers have no place there, nor have trained biases.
            if matches!((case, naming), ("timm_dora" | "timm_ia3", Naming::Torchvision)) {
                assert!(result.is_err(), "{case} {naming:?}");
                continue;
            }
            result.unwrap();
            let merged = applied(&weights, &[&folder]).unwrap().tensors;
            assert!(apart(&logits(&merged, &images), &want) < 2e-5, "{case} {naming:?}");
        }
    }
    // Under the very names and settings that peft wrote.
    for (case, naming) in
        [("timm", Naming::Timm), ("torchvision", Naming::Torchvision), ("huggingface", Naming::Huggingface)]
    {
        let (ours, theirs) = (dir.path().join(format!("{case}{naming:?}")), golden(case));
        let (a, b) = (tensors(&ours.join(TENSORS)), tensors(&theirs.join(TENSORS)));
        let names = |t: &HashMap<String, Tensor>| t.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names(&a), names(&b), "{case}");
        // What peft adds twice is written as it counts.
        let twice = |n: &str| n.ends_with("self_attention.base_layer.out_proj.lora_B.weight");
        let want = |n: &str| if twice(n) { (&b[n] * 2.0).unwrap() } else { b[n].clone() };
        assert!(a.iter().all(|(n, t)| apart(t, &want(n)) == 0.0), "{case}");
    }
    let old = std::fs::read_to_string(dir.path().join("huggingfaceHuggingface4").join(SETTINGS)).unwrap();
    assert!(old.contains("vit.encoder.layer.0.attention.attention.query"), "{old}");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let (weights, ..) = base("timm");
    let other: Vec<_> = weights.into_iter().filter(|(n, _)| !n.starts_with("blocks.1")).collect();
    let e = applied(&other, &[&golden("timm")]).unwrap_err().to_string();
    assert!(e.contains("blocks.1") && e.contains("an adapter for these weights"), "{e}");
}
