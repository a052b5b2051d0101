//! Maps of what a model looks at, against pytorch-grad-cam and PyTorch: `tests/golden/cam.py`.

use candle_core::{D, Device, Tensor, safetensors};
use candlelight::autograd::{Key, ParamStore, Tape, Taps, tensor_from};
use candlelight::models::explain::{
    Explain, METHODS, Map, Method, attention_maps, faithful, integrated_gradients, rollout,
};
use candlelight::models::{Classifier, Model, ModelConfig, ResNetConfig, VitConfig, registry, weights};
use std::collections::HashMap;
use std::path::Path;

const CLASSES: [usize; 2] = [2, 0];

fn golden() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cam.safetensors");
    safetensors::load(path, &Device::Cpu).unwrap()
}

fn cnn() -> ModelConfig {
    let base = registry::entry("resnet18").unwrap().config;
    let ModelConfig::ResNet(c) = base else { panic!("a residual network") };
    ModelConfig::ResNet(ResNetConfig { depths: vec![1, 1], widths: vec![8, 16], classes: 3, image: (32, 32), ..c })
}

fn vit() -> VitConfig {
    let c = registry::vit("vit_b_16").unwrap();
    VitConfig { image: (32, 32), patch: 4, dim: 16, depth: 2, heads: 2, classes: 3, ..c }
}

fn built(config: &ModelConfig, name: &str, g: &HashMap<String, Tensor>) -> Box<dyn Classifier> {
    let params = ParamStore::new();
    let model = config.build(params.builder(Key::new(0))).unwrap();
    let prefix = format!("{name}.weight.");
    let all: Vec<_> = g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect();
    weights::load(&params, &all, true).unwrap();
    // Nothing trains: maps are drawn all the same.
    params.freeze("*");
    model
}

fn apart(map: &[f32], want: &Tensor) -> f32 {
    let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(map.len(), want.len());
    map.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn maps_are_those_of_pytorch_grad_cam() {
    let g = golden();
    let (cnn, vit) = (built(&cnn(), "cnn", &g), built(&vit().into(), "vit", &g));
    for (model, name, methods) in [
        (
            &cnn,
            "cnn",
            &["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam", "scorecam"][..],
        ),
        (&vit, "vit", &["gradcam", "gradcam++", "hirescam", "layercam", "eigencam"][..]),
    ] {
        for method in methods {
            let found = Explain::new(method.parse().unwrap()).run(&**model, &g["images"], Some(&CLASSES)).unwrap();
            for (i, e) in found.iter().enumerate() {
                let want = g[&format!("{name}.{method}")].get(i).unwrap();
                let far = apart(&e.map.values, &want);
                assert!(far < 1e-4, "{name} {method} {i}: {far}");
            }
        }
    }
    let both = Explain { layers: vec!["layer1".into(), "layer2".into()], ..Explain::new(Method::GradCam) };
    let found = both.run(&*cnn, &g["images"], Some(&CLASSES)).unwrap();
    assert!(apart(&found[1].map.values, &g["cnn.both"].get(1).unwrap()) < 1e-4);
}

#[test]
fn attention_and_its_rollouts_are_pytorchs() {
    let g = golden();
    let model = built(&vit().into(), "vit", &g);
    let all = attention_maps(&*model, &g["images"]).unwrap();
    for (i, a) in all.iter().enumerate() {
        assert!(apart(&a.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &g[&format!("vit.attention.{i}")]) < 1e-5);
        let sums = a.sum(D::Minus1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-5));
    }
    let (mean, max): (Vec<_>, Vec<_>) = all.iter().map(|t| (t.mean(1).unwrap(), t.max(1).unwrap())).unzip();
    let row = |t: Tensor| {
        t.narrow(1, 0, 1).unwrap().narrow(2, 1, 64).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert!(apart(&row(rollout(&mean, 0.9, 1).unwrap()), &g["vit.rollout"]) < 1e-5);
    assert!(apart(&row(rollout(&max, 0.5, 1).unwrap()), &g["vit.rollout.max"]) < 1e-5);
    let found = Explain::new(Method::GradRollout).run(&*model, &g["images"], Some(&CLASSES)).unwrap();
    for (i, e) in found.iter().enumerate() {
        let want = Map::of(&g["vit.grad_rollout"].get(i).unwrap().reshape((8, 8)).unwrap()).unwrap();
        let want = want.normalised().resized(32, 32, false);
        assert!(e.map.values.iter().zip(&want.values).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    for method in [Method::Attention, Method::Rollout, Method::GradRollout] {
        let found = Explain::new(method).run(&*model, &g["images"], None).unwrap();
        assert!(found.iter().all(|e| e.map.values.iter().all(|v| (0.0..=1.0).contains(v))));
    }
    // The example of the literature, by hand.
    let t = |v: &[f32]| Tensor::from_slice(v, (1, 3, 3), &Device::Cpu).unwrap();
    let a = [t(&[0.5, 0.3, 0.2, 0.2, 0.6, 0.2, 0.1, 0.1, 0.8]), t(&[0.4, 0.4, 0.2, 0.3, 0.3, 0.4, 0.25, 0.25, 0.5])];
    let reach = rollout(&a, 0.0, 1).unwrap().get(0).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap();
    assert!(reach.iter().zip([0.55, 0.27, 0.18]).all(|(a, b)| (a - b).abs() < 1e-6), "{reach:?}");
}

#[test]
fn changes_of_the_image_are_weighed_as_in_pytorch() {
    let g = golden();
    let (cnn, vit) = (built(&cnn(), "cnn", &g), built(&vit().into(), "vit", &g));
    for (name, model) in [("cnn", &cnn), ("vit", &vit)] {
        let all = integrated_gradients(&**model, &g["images"], &CLASSES, 16, 5).unwrap();
        assert!(apart(&all.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &g[&format!("{name}.integrated")]) < 1e-4);
        // Complete: what the logit gains, but for the rule's error.
        let image = g["images"].narrow(0, 0, 1).unwrap();
        let fine = integrated_gradients(&**model, &image, &CLASSES[..1], 256, 64).unwrap();
        let logits = |x: &Tensor| model.forward(&Tape::off().constant(x), None).unwrap().values().unwrap();
        let logit = |x: &Tensor| logits(x)[CLASSES[0]];
        let gain = logit(&image) - logit(&image.zeros_like().unwrap());
        let sum = fine.sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((sum - gain).abs() < 0.02 * gain.abs().max(1.0), "{name}: {sum} and {gain}");
    }
    let squares = Explain { square: 8, stride: 4, batch: 7, ..Explain::new(Method::Occlusion) };
    let found = squares.run(&*cnn, &g["images"], Some(&CLASSES)).unwrap();
    for (i, e) in found.iter().enumerate() {
        let want = Map::of(&g["cnn.occlusion"].get(i).unwrap().relu().unwrap()).unwrap().normalised();
        assert!(e.map.values.iter().zip(&want.values).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    let map = Map::of(&g["judged.map"]).unwrap();
    for (i, class) in CLASSES.into_iter().enumerate() {
        let found = faithful(&*cnn, &g["images"].get(i).unwrap(), &map, class, 8, 4).unwrap();
        assert!(apart(&[found.deletion], &g[&format!("deletion.{i}")]) < 1e-5);
        assert!(apart(&[found.insertion], &g[&format!("insertion.{i}")]) < 1e-5);
    }
    assert!(faithful(&*cnn, &g["images"].get(0).unwrap(), &map.resized(8, 8, false), 0, 8, 4).is_err());
}

#[test]
fn a_map_of_a_linear_head_is_its_weights_times_the_values() {
    let g = golden();
    let model = built(&cnn(), "cnn", &g);
    let taps = Taps::of(["layer2"]);
    model.forward(&Tape::off().with_taps(&taps).constant(&g["images"]), None).unwrap();
    let a = taps.get("layer2").unwrap().tensor().get(0).unwrap(); // (H, W, C)
    let w = g["cnn.weight.fc.weight"].get(CLASSES[0]).unwrap();
    let want = a.broadcast_mul(&w.reshape((1, 1, 16)).unwrap()).unwrap().sum(D::Minus1).unwrap().relu().unwrap();
    let want = Map::of(&want).unwrap().normalised().resized(32, 32, false).normalised();
    for method in [Method::GradCam, Method::HiResCam] {
        let found = Explain::new(method).run(&*model, &g["images"], Some(&CLASSES)).unwrap();
        assert!(found[0].map.values.iter().zip(&want.values).all(|(a, b)| (a - b).abs() < 1e-4), "{method:?}");
    }
}

#[test]
fn every_architecture_draws_every_map_it_can() {
    let images = tensor_from(Key::new(1).normal(3 * 64 * 64), (1, 3, 64, 64)).unwrap();
    let mut configs = vec![ModelConfig::from(VitConfig {
        image: (64, 64),
        pool: candlelight::models::vit::Pool::Avg,
        patch: 8,
        ..vit()
    })];
    for name in ["resnet50", "yolov5n-cls"] {
        let mut config = registry::entry(name).unwrap().config;
        config.architecture_mut().set_image((64, 64));
        configs.push(config);
    }
    for config in configs {
        let params = ParamStore::new();
        let model = config.build(params.builder(Key::new(0))).unwrap();
        for (name, method) in METHODS.into_iter().filter(|(_, m)| *m != Method::ScoreCam) {
            let explain = Explain { steps: 2, square: 32, stride: 32, ..Explain::new(method) };
            let found = explain.run(&*model, &images, None);
            if method.reads_attention() && model.attends().is_none() {
                assert!(found.unwrap_err().to_string().contains("no attention"), "{name}");
                continue;
            }
            let e = found.unwrap().remove(0);
            assert_eq!((e.map.height, e.map.width), (64, 64), "{name}");
            assert!(e.map.values.iter().all(|v| (0.0..=1.0).contains(v)), "{name}");
        }
    }
}

#[test]
fn places_without_a_map_say_so() {
    let g = golden();
    let (cnn, vit) = (built(&cnn(), "cnn", &g), built(&vit().into(), "vit", &g));
    let said = |model: &dyn Classifier, layer: &str, method: Method| {
        let e = Explain { layers: vec![layer.into()], ..Explain::new(method) };
        e.run(model, &g["images"], Some(&CLASSES)).unwrap_err().to_string()
    };
    assert!(said(&*cnn, "layer3", Method::GradCam).contains("no place `layer3`: the model has layer"));
    // Behind the last attention only the class token counts.
    for place in ["blocks.1", "blocks.1.norm2"] {
        assert!(said(&*vit, place, Method::GradCam).contains("does not depend on the values at"), "{place}");
    }
    let small = images_of(16);
    let e = Explain::new(Method::GradCam).run(&*cnn, &small, None);
    assert!(e.is_ok(), "2 x 2 places");
    let e = Explain::new(Method::GradCam).run(&*cnn, &images_of(8), None).unwrap_err().to_string();
    assert!(e.contains("no extent in space"), "{e}");
    let run = |e: Explain, c: &[usize]| e.run(&*cnn, &g["images"], Some(c)).unwrap_err().to_string();
    assert!(run(Explain::new(Method::GradCam), &[0, 3]).contains("class 3: the model has 3 classes"));
    assert!(run(Explain::new(Method::GradCam), &[0]).contains("1 classes for 2 images"));
    assert!(run(Explain { discard: 1.0, ..Explain::new(Method::Rollout) }, &CLASSES).contains("discard 1"));
    assert!(run(Explain { stride: 0, ..Explain::new(Method::Occlusion) }, &CLASSES).contains("stride is 0"));
    assert!("gradcamp".parse::<Method>().unwrap_err().to_string().contains("gradcam++"));
    assert!(METHODS.iter().all(|(n, m)| m.name() == *n && n.parse::<Method>().unwrap() == *m));
    struct Mute;
    impl Model for Mute {}
    assert!(Mute.focus().is_none() && Mute.attends().is_none());
}

fn images_of(side: usize) -> Tensor {
    tensor_from(Key::new(5).normal(3 * side * side), (1, 3, side, side)).unwrap()
}

#[test]
fn a_model_with_adapters_is_explained_like_the_merged_one() {
    use candlelight::models::peft::{LoraConfig, Peft, merged};
    let config = ModelConfig::from(vit());
    let (mut peft, params) = (Peft::Lora(LoraConfig { r: 2, ..LoraConfig::on("q,v") }), ParamStore::new());
    let (model, _) = config.build_with(&mut peft, &params, Key::new(0)).unwrap();
    for (i, name) in params.names().iter().enumerate().filter(|(_, n)| n.ends_with("lora_B.weight")) {
        let dims = params.var(name).unwrap().dims().to_vec();
        let noise = tensor_from(Key::new(i as u64).normal(dims.iter().product()), dims).unwrap();
        params.set(name, &noise).unwrap();
    }
    let plain = ParamStore::new();
    let other = config.build(plain.builder(Key::new(0))).unwrap();
    weights::load(&plain, &merged(&params.values(), &peft).unwrap(), true).unwrap();
    let images = images_of(32);
    for method in [Method::GradCam, Method::GradRollout, Method::IntegratedGradients] {
        let e = Explain::new(method);
        let (a, b) = (e.run(&*model, &images, None).unwrap(), e.run(&*other, &images, None).unwrap());
        assert!(a[0].map.values.iter().zip(&b[0].map.values).all(|(a, b)| (a - b).abs() < 1e-3), "{method:?}");
    }
}
