//! Convolutional networks against PyTorch: `tests/golden/resnet.py`.

mod goldens;

use candle_core::Tensor;
use candlelight::autograd::tensor_from;
use candlelight::dist::{Comm, Solo};
use candlelight::kernels::drop::block;
use candlelight::models::resnet::Block;
use candlelight::models::weights;
use candlelight::models::{BatchNorm, BatchNormConfig, ModelConfig};
use candlelight::optim::{Group, Optimizer, Rule, SgdConfig};
use candlelight::prelude::*;
use goldens::{Golden, close, filled, golden, values};
use std::collections::HashMap;
use std::sync::Arc;

#[test]
fn single_operations_are_pytorchs() {
    let g = golden("conv");
    let once = |name: &str,
                f: &dyn Fn(&Value) -> candlelight::autograd::Result<Value>,
                params: &ParamStore,
                tape: Tape| {
        let x = tape.leaf(&g[&format!("{name}.x")]);
        let y = ops::channels_first(&f(&ops::channels_last(&x).unwrap()).unwrap()).unwrap();
        close(name, &values(y.tensor()), &values(&g[&format!("{name}.y")]), 1e-5, 0.0);
        let mut grads = Gradients::new(params);
        let dx = tape.backward_with(&y, &g[&format!("{name}.g")], &[&x], &mut grads).unwrap();
        close(&format!("{name} dx"), &values(dx[0].as_ref().unwrap()), &values(&g[&format!("{name}.dx")]), 1e-5, 0.0);
        for (p, d) in grads.iter() {
            close(&format!("{name} d{p}"), d, &values(&g[&format!("{name}.d{p}")]), 1e-5, 0.0);
        }
    };
    let run = |name: &str, f: &dyn Fn(&Value) -> candlelight::autograd::Result<Value>, params: &ParamStore| {
        once(name, f, params, Tape::new(params));
        once(name, f, params, Tape::new(params).with_composed_ops());
    };
    let plain = ops::Conv2dConfig::new;
    for (name, how) in [
        ("conv3x3", plain(1, 1)),
        ("conv7x7_s2", plain(2, 3)),
        ("conv1x1", plain(1, 0)),
        ("conv1x1_s2", plain(2, 0)),
        ("conv_groups", ops::Conv2dConfig { groups: 2, ..plain(2, 1) }),
        ("conv_dilated", ops::Conv2dConfig { stride: (1, 2), padding: (2, 1), dilation: (2, 1), groups: 1 }),
    ] {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        for p in ["w", "b"] {
            vb.get(g[&format!("{name}.{p}")].shape(), p).unwrap();
            params.set(p, &g[&format!("{name}.{p}")]).unwrap();
        }
        let var = |n: &str| params.var(n).unwrap().as_tensor().clone();
        run(name, &|x| ops::conv2d(x, &var("w"), Some(&var("b")), how), &params);
    }
    let none = ParamStore::new();
    let ceil = ops::Pool2dConfig { ceil: true, ..ops::Pool2dConfig::new(3, 2, 1) };
    run("max_pool", &|x| ops::max_pool2d(x, ops::Pool2dConfig::new(3, 2, 1)), &none);
    run("max_pool_ceil", &|x| ops::max_pool2d(x, ceil), &none);
    run("avg_pool_ceil", &|x| ops::avg_pool2d(x, ceil), &none);
    run("adaptive", &|x| ops::adaptive_avg_pool2d(x, (4, 3)), &none);
    run("relu", &ops::relu, &none);
    run("blur3_s2", &|x| ops::blur_pool2d(x, 3, 2), &none);
    run("blur5_s1", &|x| ops::blur_pool2d(x, 5, 1), &none);
    for size in [3, 5, 4] {
        let b = block::DropBlock { batch: 2, height: 9, width: 11, size, rate: 0.1 };
        let centres: Vec<bool> = values(&g[&format!("drop_block{size}.centres")]).iter().map(|c| *c > 0.0).collect();
        let mask = block::spread(&b, &centres).unwrap();
        close("drop_block", &mask, &values(&g[&format!("drop_block{size}.mask")]), 1e-6, 0.0);
    }
}

fn configs() -> (ResNetConfig, ResNetConfig) {
    let base = registry::resnet("resnet18").unwrap();
    let basic = ResNetConfig {
        depths: vec![1, 2, 1],
        widths: vec![8, 12, 16],
        classes: 5,
        zero_init_last: false,
        ..base.clone()
    };
    let bottleneck = ResNetConfig { block: Block::Bottleneck, ..basic.clone() };
    (basic, bottleneck)
}

/// A training step - logits, loss, gradients, statistics - and an evaluation after it, by our kernels and composed.
fn like_pytorchs(g: &Golden, name: &str, config: &ResNetConfig) {
    let below = |part: &str| -> Vec<(String, Tensor)> {
        let prefix = format!("{name}.{part}.");
        g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
    };
    for composed in [false, true] {
        let params = ParamStore::new();
        let model = ResNet::new(config, params.builder(Key::new(0))).unwrap();
        weights::load(&params, &below("weights"), true).unwrap();
        let how = |tape: Tape| if composed { tape.with_composed_ops() } else { tape };
        let tape = how(Tape::new(&params));
        let logits = model.forward(&tape.constant(&g["images"]), Some(&Key::new(1))).unwrap();
        close("logits", &values(logits.tensor()), &values(&g[&format!("{name}.logits")]), 1e-4, 0.0);
        let loss = ops::cross_entropy(&logits, &[0, 4, 2, 2], 0.0).unwrap();
        close("loss", &[loss.scalar().unwrap()], &values(&g[&format!("{name}.loss")]), 1e-5, 0.0);
        let mut grads = Gradients::new(&params);
        tape.backward(&loss, &mut grads).unwrap();
        let wanted = below("grad");
        assert_eq!(wanted.len(), grads.iter().count());
        let largest = wanted.iter().flat_map(|(_, t)| values(t)).fold(0.0f32, |m, v| m.max(v.abs()));
        for (name, want) in &wanted {
            close(name, grads.get(name).unwrap(), &values(want), 1e-4, 1e-3 * f64::from(largest));
        }
        for (n, want) in &below("after") {
            close(n, &values(params.var(n).unwrap().as_tensor()), &values(want), 1e-5, 0.0);
        }
        let eval = model.forward(&how(Tape::off()).constant(&g["images"]), None).unwrap();
        close("evaluated", &values(eval.tensor()), &values(&g[&format!("{name}.eval")]), 1e-4, 0.0);
    }
}

#[test]
fn small_networks_have_pytorchs_logits_loss_gradients_and_statistics() {
    let g = golden("resnet_small");
    let (basic, bottleneck) = configs();
    like_pytorchs(&g, "basic", &basic);
    let grouped =
        ResNetConfig { depths: vec![1, 2], widths: vec![8, 16], groups: 4, base_width: 16, ..bottleneck.clone() };
    like_pytorchs(&g, "bottleneck", &grouped);
    let wide = ResNetConfig { depths: vec![1, 1], widths: vec![8, 12], base_width: 128, ..bottleneck };
    like_pytorchs(&g, "wide", &wide);
}

#[test]
fn blurred_networks_with_split_statistics_are_timms() {
    let g = golden("resnet_blur");
    let (basic, bottleneck) = configs();
    let blurred = |c: ResNetConfig| ResNetConfig { widths: vec![6, 8, 10], channels: 1, blur: true, ..c };
    like_pytorchs(&g, "basic", &blurred(basic));
    let mut split = blurred(bottleneck);
    split.norm.splits = 2;
    like_pytorchs(&g, "bottleneck", &split);
}

/// Sums over threads that meet.
#[derive(Debug)]
struct Meeting {
    barrier: std::sync::Barrier,
    sums: std::sync::Mutex<Vec<f64>>,
}

impl Meeting {
    fn new(n: usize) -> Arc<Self> {
        Arc::new(Meeting { barrier: std::sync::Barrier::new(n), sums: std::sync::Mutex::default() })
    }
}

/// One of two threads: batch normalisation asks for sums alone.
#[derive(Debug)]
struct Member(Arc<Meeting>, usize);

impl Comm for Member {
    fn rank(&self) -> usize {
        self.1
    }

    fn world(&self) -> usize {
        2
    }

    fn all_reduce(&self, values: &mut [f64]) -> candlelight::dist::Result<()> {
        {
            let mut sums = self.0.sums.lock().unwrap();
            sums.resize(values.len(), 0.0);
            sums.iter_mut().zip(&*values).for_each(|(s, v)| *s += v);
        }
        self.0.barrier.wait();
        values.copy_from_slice(&self.0.sums.lock().unwrap());
        if self.0.barrier.wait().is_leader() {
            self.0.sums.lock().unwrap().clear();
        }
        self.0.barrier.wait();
        Ok(())
    }

    fn all_gather(&self, own: &[u8]) -> candlelight::dist::Result<Vec<Vec<u8>>> {
        Solo.all_gather(own)
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> candlelight::dist::Result<()> {
        Solo.broadcast(root, bytes)
    }

    fn send(&self, to: usize, bytes: &[u8]) -> candlelight::dist::Result<()> {
        Solo.send(to, bytes)
    }

    fn receive(&self, from: usize) -> candlelight::dist::Result<Vec<u8>> {
        Solo.receive(from)
    }

    fn barrier(&self) -> candlelight::dist::Result<()> {
        Solo.barrier()
    }

    fn deadline(&self, _: std::time::Duration) {}
}

#[test]
fn synchronised_statistics_are_those_of_the_whole_batch() {
    let (config, _) = configs();
    let config = ResNetConfig { pool: ops::GlobalPool::AvgMax, ..config };
    let images = tensor_from(Key::new(1).normal(6 * 3 * 32 * 32), (6, 3, 32, 32)).unwrap();
    // Logits, summed gradients, statistics: of samples `from .. from + n`.
    let part = |from: usize, n: usize, all: Option<Arc<Meeting>>, composed: bool| {
        let params = ParamStore::new();
        let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
        let mut tape = Tape::new(&params);
        if let Some(all) = all {
            tape = tape.with_comm(Arc::new(Member(all, usize::from(from > 0))));
        }
        if composed {
            tape = tape.with_composed_ops();
        }
        let logits = model.forward(&tape.constant(&images.narrow(0, from, n).unwrap()), Some(&Key::new(1))).unwrap();
        let labels: Vec<u32> = (from..from + n).map(|i| i as u32 % 5).collect();
        let loss = ops::cross_entropy(&logits, &labels, 0.0).unwrap();
        let mut grads = Gradients::new(&params);
        tape.backward_scaled(&loss, n as f32 / 6.0, &mut grads).unwrap();
        let grads: HashMap<String, Vec<f32>> = grads.iter().map(|(n, g)| (n.to_string(), g.to_vec())).collect();
        let statistics = params.state_dict().into_iter().filter(|(n, _)| n.contains("running"));
        (values(logits.tensor()), grads, statistics.map(|(n, t)| (n, values(&t))).collect::<Vec<_>>())
    };
    for composed in [false, true] {
        let whole = part(0, 6, None, composed);
        let meeting = Meeting::new(2);
        // Parts of unequal size.
        let (first, second) = std::thread::scope(|s| {
            let other = s.spawn(|| part(0, 2, Some(meeting.clone()), composed));
            let own = part(2, 4, Some(meeting.clone()), composed);
            (other.join().unwrap(), own)
        });
        close("logits", &[first.0, second.0].concat(), &whole.0, 1e-4, 0.0);
        let largest = whole.1.values().flatten().fold(0.0f32, |m, v| m.max(v.abs()));
        for (name, want) in &whole.1 {
            let sum: Vec<f32> = first.1[name].iter().zip(&second.1[name]).map(|(a, b)| a + b).collect();
            close(name, &sum, want, 1e-4, 1e-3 * f64::from(largest));
        }
        for ((name, a), ((_, b), (_, want))) in first.2.iter().zip(second.2.iter().zip(&whole.2)) {
            assert_eq!(a, b, "{name}");
            close(name, a, want, 1e-5, 0.0);
        }
    }
}

#[test]
fn a_single_row_over_all_processes_is_refused() {
    for composed in [false, true] {
        let params = ParamStore::new();
        let norm = BatchNorm::with(2, Some(1.0), Default::default(), params.builder(Key::new(0))).unwrap();
        let tape = Tape::new(&params).with_comm(Arc::new(Member(Meeting::new(1), 0)));
        let tape = if composed { tape.with_composed_ops() } else { tape };
        let x = tape.constant(&tensor_from(vec![1.0, 2.0], (1, 2)).unwrap());
        assert!(norm.forward(&x, true).unwrap_err().to_string().contains("over all processes"));
        assert_eq!(values(params.var("running_var").unwrap().as_tensor()), [1.0, 1.0]);
    }
}

#[test]
fn a_checkpointed_normalisation_is_the_plain_one_and_sees_each_batch_once() {
    let x = tensor_from(Key::new(1).normal(12), (6, 2)).unwrap();
    let run = |segment: bool, composed: bool| {
        let params = ParamStore::new();
        let norm = BatchNorm::with(2, Some(1.5), Default::default(), params.builder(Key::new(0))).unwrap();
        let tape = Tape::new(&params);
        let tape = if composed { tape.with_composed_ops() } else { tape };
        let leaf = tape.leaf(&x);
        let y = if segment {
            let norm = norm.clone();
            let f = move |v: &[Value]| Ok(norm.forward(&v[0], true).unwrap());
            tape.checkpoint(&[&leaf], f).unwrap()
        } else {
            norm.forward(&leaf, true).unwrap()
        };
        let mut grads = Gradients::new(&params);
        let seed = tensor_from(Key::new(2).normal(12), (6, 2)).unwrap();
        let dx = tape.backward_with(&y, &seed, &[&leaf], &mut grads).unwrap();
        let state: Vec<Vec<f32>> = params.state_dict().iter().map(|(_, t)| values(t)).collect();
        (values(y.tensor()), values(dx[0].as_ref().unwrap()), grads.get("weight").unwrap().to_vec(), state)
    };
    for composed in [false, true] {
        assert_eq!(run(true, composed), run(false, composed));
    }
}

#[test]
fn frozen_splits_evaluate_with_the_first() {
    let params = ParamStore::new();
    let config = BatchNormConfig { splits: 2, ..Default::default() };
    let norm = BatchNorm::with(2, Some(1.0), config, params.builder(Key::new(0))).unwrap();
    params.set("aux_bn.0.running_mean", &tensor_from(vec![5.0, 5.0], 2).unwrap()).unwrap();
    params.freeze("*");
    // Three rows: not whole splits either.
    let x = tensor_from(Key::new(1).normal(6), (3, 2)).unwrap();
    let run = |train: bool| values(norm.forward(&Tape::new(&params).constant(&x), train).unwrap().tensor());
    assert_eq!(run(true), run(false));
    params.unfreeze("*");
    let e = norm.forward(&Tape::new(&params).constant(&x), true).unwrap_err().to_string();
    assert!(e.contains("a batch of 3 cannot be normalised in 2 splits"), "{e}");
}

#[test]
fn blocks_are_dropped_in_the_last_stages_while_training_only() {
    let (basic, _) = configs();
    let config = ResNetConfig { drop_block: 0.3, ..basic.clone() };
    let run = |config: &ResNetConfig, key: Option<Key>| {
        let params = ParamStore::new();
        let model = ResNet::new(config, params.builder(Key::new(0))).unwrap();
        let images = tensor_from(Key::new(1).normal(2 * 3 * 64 * 64), (2, 3, 64, 64)).unwrap();
        let tape = Tape::new(&params);
        let logits = model.forward(&tape.constant(&images), key.as_ref()).unwrap();
        if key.is_some() {
            let loss = ops::cross_entropy(&logits, &[0, 1], 0.0).unwrap();
            tape.backward(&loss, &mut Gradients::new(&params)).unwrap();
        }
        values(logits.tensor())
    };
    assert_eq!(run(&config, None), run(&basic, None));
    let (a, b, again) =
        (run(&config, Some(Key::new(1))), run(&config, Some(Key::new(2))), run(&config, Some(Key::new(1))));
    assert!(a == again && a != b && a != run(&basic, Some(Key::new(1))));
}

#[test]
fn fifty_steps_of_resnet18_and_resnext50_are_pytorchs() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resnet_steps.json")).unwrap();
    let want: HashMap<String, Vec<f32>> = serde_json::from_str(&text).unwrap();
    candlelight::kernels::mem::keep_freed_memory();
    for (name, want) in want {
        let config = ResNetConfig { zero_init_last: false, ..registry::resnet(&name).unwrap() };
        let params = ParamStore::new();
        let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
        for (key, t) in params.values() {
            let last = key.contains("bn3") || (key.contains("bn2") && name == "resnet18");
            let new = match t.dims() {
                [o, _, h, w] => filled(&key, t.dims(), (2.0 / (o * h * w) as f64).sqrt()),
                [_, _] => filled(&key, t.dims(), 0.02),
                _ if key.contains("running") || key.contains("num_batches") => continue,
                _ if !key.ends_with("weight") => t.zeros_like().unwrap(),
                _ if last => (t.ones_like().unwrap() * 0.1).unwrap(),
                _ => t.ones_like().unwrap(),
            };
            params.set(&key, &new).unwrap();
        }
        let rules = [Rule::named("*", Group { weight_decay: 1e-4, lr_scale: 1.0 })];
        let mut sgd = Optimizer::new(SgdConfig::default(), &rules, &params).unwrap();
        let mut grads = Gradients::new(&params);
        let images: Vec<Tensor> = (0..4).map(|i| filled(&format!("images{i}"), &[8, 3, 64, 64], 1.0)).collect();
        for (step, want) in want.iter().enumerate() {
            let i = step % 4;
            let labels: Vec<u32> = (0..8).map(|k| k * (i as u32 + 3) % 10).collect();
            let tape = Tape::new(&params);
            let logits = model.forward(&tape.constant(&images[i]), Some(&Key::new(step as u64))).unwrap();
            let loss = ops::cross_entropy(&logits, &labels, 0.0).unwrap();
            let value = loss.scalar().unwrap();
            // Losses end near 0 here: below 1 the difference itself is bounded.
            assert!((value - want).abs() <= 1e-3 * want.max(1.0), "{name} step {step}: {value}, PyTorch {want}");
            grads.zero();
            tape.backward(&loss, &mut grads).unwrap();
            sgd.update(&grads, if name == "resnet18" { 3e-4 } else { 1e-4 }).unwrap();
        }
        assert_eq!(want.len(), 50);
    }
}

#[test]
fn yolov5_classifiers_are_those_of_the_layout() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/yolov5.json")).unwrap();
    let want: serde_json::Value = serde_json::from_str(&text).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<f32> { serde_json::from_value(v.clone()).unwrap() };
    for (name, size) in want["sizes"].as_object().unwrap() {
        let config = ModelConfig::named(name).unwrap();
        let mut lines: Vec<String> = candlelight::models::adapt::wanted(config.architecture())
            .unwrap()
            .into_iter()
            .map(|(n, dims)| format!("{n} {dims:?}"))
            .collect();
        lines.sort();
        assert_eq!(lines.len() as u64, size["tensors"], "{name}");
        assert_eq!(u64::from(crc32fast::hash(lines.join("\n").as_bytes())), size["names"], "{name}: {lines:#?}");
    }
    for (name, model, sppf) in [("yolov5s-cls", "yolov5s-cls", false), ("pyramid", "yolov5n-cls", true)] {
        let ModelConfig::Yolo(config) = ModelConfig::named(model).unwrap() else { panic!("another architecture") };
        let config = candlelight::models::YoloConfig { classes: 10, sppf, ..config };
        let params = ParamStore::new();
        let net = candlelight::models::Yolo::new(&config, params.builder(Key::new(0))).unwrap();
        for (key, t) in params.values() {
            let new = match t.dims() {
                [_, rest @ ..] if rest.len() == 3 => {
                    filled(&key, t.dims(), (2.0 / rest.iter().product::<usize>() as f64).sqrt())
                }
                [_, _] => filled(&key, t.dims(), 0.02),
                _ if key.contains("running") || key.contains("num_batches") => continue,
                _ => {
                    let offset = if key.ends_with("weight") { 1.0 } else { 0.0 };
                    (filled(&key, t.dims(), 0.1) + offset).unwrap()
                }
            };
            params.set(&key, &new).unwrap();
        }
        let images: Vec<Tensor> = (0..2).map(|i| filled(&format!("images{i}"), &[4, 3, 96, 96], 1.0)).collect();
        let labels = |i: u32| (0..4).map(|k| k * (i + 3) % 10).collect::<Vec<u32>>();
        let own = &want[name];
        let logits = net.forward(&Tape::off().constant(&images[0]), None).unwrap().values().unwrap();
        close(name, &logits, &numbers(&own["logits"]), 1e-4, 1e-4);
        let mut grads = Gradients::new(&params);
        let backward = |i: usize, grads: &mut Gradients| {
            let tape = Tape::new(&params);
            let logits = net.forward(&tape.constant(&images[i]), Some(&Key::new(0))).unwrap();
            let loss = ops::cross_entropy(&logits, &labels(i as u32), 0.0).unwrap();
            grads.zero();
            tape.backward(&loss, grads).unwrap();
            loss.scalar().unwrap()
        };
        let loss = backward(0, &mut grads);
        assert!((loss - own["loss"].as_f64().unwrap() as f32).abs() < 1e-4, "{name}: {loss}");
        for (key, found) in grads.iter() {
            let pair = numbers(&own["gradients"][key]);
            let probe = values(&filled(&format!("probe.{key}"), &[found.len()], 1.0));
            let norm = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let dot: f64 = found.iter().zip(&probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let bound = 1e-3 * f64::from(pair[0]).max(1e-6);
            assert!((norm - f64::from(pair[0])).abs() < bound, "{name} {key}: norm {norm}, PyTorch {}", pair[0]);
            assert!((dot - f64::from(pair[1])).abs() < bound, "{name} {key}: product {dot}, PyTorch {}", pair[1]);
        }
        // The first pass has moved the running statistics in both, and they do not matter in training.
        let rules = [Rule::named("*", Group { weight_decay: 0.0, lr_scale: 1.0 })];
        let mut sgd = Optimizer::new(SgdConfig::default(), &rules, &params).unwrap();
        for (step, want) in numbers(&own["steps"]).into_iter().enumerate() {
            let value = backward(step % 2, &mut grads);
            assert!((value - want).abs() <= 1e-3 * want.max(1.0), "{name} step {step}: {value}, PyTorch {want}");
            sgd.update(&grads, 1e-3).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_of_ultralytics_is_read_without_their_classes() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/yolov5.json")).unwrap();
    let want: serde_json::Value = serde_json::from_str(&text).unwrap();
    let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/yolov5.pt"));
    let listed = weights::list(path).unwrap();
    assert_eq!((listed[0].path.as_str(), listed[0].tensors.len()), ("model", 194));
    let first = &listed[0].tensors[0];
    assert_eq!(
        (first.name.as_str(), &first.dims[..], first.dtype),
        ("model.0.conv.weight", &[8, 3, 6, 6][..], Some("float16"))
    );
    assert_eq!(listed[0].tensors[193].name, "model.9.linear.bias", "in the order of the file");
    assert_eq!(weights::class_lists(path).unwrap()[0].names, ["ant", "bee", "cow", "dog"]);
    let ModelConfig::Yolo(base) = ModelConfig::named("yolov5n-cls").unwrap() else { panic!("another architecture") };
    // Either the widths are known, or the file says them, as that of a pruned network.
    for widths in [[8, 8, 8, 16, 24], base.widths] {
        let mut config = ModelConfig::Yolo(candlelight::models::YoloConfig { widths, ..base.clone() });
        let file = weights::open(path, &weights::Options::default()).unwrap();
        let fitted = config.architecture_mut().fit(&file.tensors, &Default::default()).unwrap();
        let pruned = fitted.notes.iter().any(|n| n.contains("a pruned network"));
        assert_eq!((config.classes(), pruned), (4, widths == base.widths), "{:?}", fitted.notes);
        let params = ParamStore::new();
        let model = config.build(params.builder(Key::new(0))).unwrap();
        weights::load(&params, &fitted.tensors, true).unwrap();
        let image = filled("images0", &[1, 3, 64, 64], 1.0);
        let logits = model.forward(&Tape::off().constant(&image), None).unwrap().values().unwrap();
        let want: Vec<f32> = serde_json::from_value(want["checkpoint"].clone()).unwrap();
        close("logits", &logits, &want, 1e-4, 1e-5);
    }
}
