//! Training on `cuda:0` beside the CPU: the same losses and weights, and no memory that stays behind. Runs on a GPU, or on the driver that
//! stands in for one (`docs/cuda.md`).
#![cfg(feature = "cuda")]

use candle_core::cuda_backend::cudarc::driver::result::mem_get_info;
use candle_core::{Device, Tensor};
use candlelight::data::{Idx, Loader, LoaderConfig, Normalize, Pipeline, Pixels, Subset};
use candlelight::engine::Verdict;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::pretrain::{Pretrain, PretrainConfig, Shown};
use candlelight::engine::task::Task;
use candlelight::engine::train::{Plan, Trainer};
use candlelight::models::ModelConfig;
use candlelight::models::freeze::Trained;
use candlelight::models::vit::Head;
use candlelight::optim::{AdamWConfig, EmaConfig, LarsConfig, LayerDecay, SgdConfig};
use candlelight::prelude::*;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

const STEPS: usize = 20;

fn normalize() -> Normalize {
    Normalize { mean: vec![0.286], std: vec![0.353] }
}

fn images() -> Loader {
    let data = Idx::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), "train").unwrap();
    let data = Subset::new(data, (0..8 * STEPS).collect()).unwrap();
    let config = LoaderConfig { batch_size: 8, size: (28, 28), seed: 0, workers: 1, ..LoaderConfig::default() };
    Loader::new(Arc::new(data), Pipeline::evaluation((28, 28), normalize()), config).unwrap()
}

fn plan(lr: f64) -> Plan {
    let schedule = CosineConfig { lr, min_lr: 0.0, warmup: Span::Epochs(0.2) }.into();
    Plan { batch_size: 8, epochs: 1, schedule, clip_grad: Some(1.0), ..Plan::default() }
}

fn vit() -> VitConfig {
    VitConfig { patch: 7, dim: 16, depth: 2, heads: 2, classes: 10, ..registry::vit("vit_demo_patch4").unwrap() }
}

/// Bytes of the device that are in use, once it has done everything.
fn used(device: &Device) -> usize {
    device.synchronize().unwrap();
    let (free, total) = mem_get_info().unwrap();
    total - free
}

/// The losses of some steps, and the weights after them.
fn train<T: Task>(device: &Device, plan: &Plan, task: T, steps: usize) -> (Vec<f32>, Vec<(String, Vec<f32>)>) {
    let mut trainer = Trainer::new(plan.clone().check().unwrap(), task).unwrap();
    let (mut losses, mut early) = (vec![], 0);
    for (step, batch) in images().epoch(0, 0).enumerate().take(steps) {
        losses.push(trainer.step(batch.unwrap(), &normalize(), STEPS).unwrap().loss);
        // The optimizer's state and the averaged weights are there by now.
        if step == 4 && device.is_cuda() {
            early = used(device);
        }
    }
    if device.is_cuda() {
        let late = used(device);
        assert!(steps < 5 || late <= early, "{late} bytes are in use after {steps} steps, {early} after 5");
    }
    let values = |t: candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let weights = trainer.task().params().state_dict().into_iter().map(|(n, t)| (n, values(t))).collect();
    (losses, weights)
}

/// Bytes are counted for the whole device: tests that use it take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Trains a task on the CPU and on the device.
fn the_same<T: Task>(plan: &Plan, make: impl Fn(&Device) -> T) {
    let _alone = alone();
    let device = candlelight::autograd::device::cuda(0).unwrap();
    // What a first launch loads stays.
    train(&device, plan, make(&device), 2);
    let before = used(&device);
    let (losses, weights) = train(&device, plan, make(&device), STEPS);
    assert_eq!(used(&device), before, "bytes of the device are still in use after the task is gone");
    let (want, want_weights) = train(&Device::Cpu, plan, make(&Device::Cpu), STEPS);
    assert_eq!(losses.len(), STEPS);
    for (step, (a, b)) in losses.iter().zip(&want).enumerate() {
        assert!((a - b).abs() <= 1e-3 * b.abs(), "step {step}: {a} on the device, {b} on the CPU");
    }
    for ((name, a), (_, b)) in weights.iter().zip(&want_weights) {
        let scale = b.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
        // The gradient of the keys' bias is nothing but rounding, of which Adam makes whole steps.
        let keys = if name.ends_with("qkv.bias") { a.len() / 3..a.len() / 3 * 2 } else { 0..0 };
        let kept = a.iter().zip(b).enumerate().filter(|(i, _)| !keys.contains(i));
        let off = kept.map(|(_, (a, b))| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 5e-3 * scale, "{name}: off by {off} of {scale}");
    }
}

fn classify(config: &ClassifyConfig<ModelConfig>, device: &Device) -> Classify<ModelConfig> {
    let params = ParamStore::on(device);
    let model = config.model.build(params.builder(Key::new(0))).unwrap();
    Classify::new(config.clone(), params, model).unwrap()
}

#[test]
fn pretraining() {
    let model = MaeConfig {
        patch: 7,
        dim: 16,
        depth: 2,
        heads: 2,
        decoder_dim: 8,
        decoder_depth: 1,
        decoder_heads: 2,
        ..registry::mae("mae_vit_demo_patch4").unwrap()
    };
    let config = PretrainConfig { model, mask_ratio: 0.5, weight_decay: 0.05, picture_every: 0 };
    the_same(&Plan { accum_iter: 2, ..plan(5e-3) }, |device| {
        let shown = Shown::new(&images(), &config.model, 0.5, normalize()).unwrap();
        Pretrain::new(config.clone(), shown, 0, device).unwrap()
    });
}

#[test]
fn finetuning_with_layer_decay_and_an_average() {
    let config = ClassifyConfig {
        optimizer: AdamWConfig::default().into(),
        loss: LossConfig::CrossEntropy { smoothing: 0.1 },
        weight_decay: 0.05,
        layer_decay: Some(LayerDecay { decay: 0.75, timm: false }),
        ema: Some(EmaConfig { decay: 0.95, warmup: true, tau: None }),
        ..ClassifyConfig::new(ModelConfig::from(VitConfig { drop_path: 0.2, ..vit() }), 10)
    };
    the_same(&plan(5e-3), |device| classify(&config, device));
}

#[test]
fn a_device_leaves_out_an_update_whose_numbers_are_not_finite() {
    let config = ClassifyConfig {
        optimizer: AdamWConfig::default().into(),
        loss: LossConfig::CrossEntropy { smoothing: 0.1 },
        ema: Some(EmaConfig { decay: 0.9, warmup: false, tau: None }),
        ..ClassifyConfig::new(ModelConfig::from(vit()), 10)
    };
    let _alone = alone();
    let run = |device: &Device, bad: usize| {
        let mut trainer = Trainer::new(plan(5e-3).check().unwrap(), classify(&config, device)).unwrap();
        let mut seen = vec![];
        for (step, batch) in images().epoch(0, 0).enumerate().take(6) {
            let mut batch = batch.unwrap();
            match &mut batch.images {
                Pixels::F32(values) if step == bad => values.fill(f32::INFINITY),
                Pixels::F32(_) => {}
                Pixels::U8(_) => panic!("expected values"),
            }
            let r = trainer.step(batch, &normalize(), STEPS).unwrap();
            assert_eq!(r.skipped.is_some(), step == bad, "step {step}");
            assert_eq!(r.norm.is_some_and(f64::is_finite), step != bad, "step {step}: {:?}", r.norm);
            seen.push((r.loss, r.norm));
        }
        let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let weights: Vec<_> = trainer.task().params().state_dict().into_iter().map(|(n, t)| (n, values(t))).collect();
        (seen, weights)
    };
    let device = candlelight::autograd::device::cuda(0).unwrap();
    for bad in [0, 3] {
        let ((seen, weights), (want, want_weights)) = (run(&device, bad), run(&Device::Cpu, bad));
        for (step, ((a, x), (b, y))) in seen.iter().zip(&want).enumerate().filter(|(i, _)| *i != bad) {
            assert!((a - b).abs() <= 1e-3 * b.abs(), "step {step}: a loss of {a} on the device, {b} on the CPU");
            let (x, y) = (x.unwrap(), y.unwrap());
            assert!((x - y).abs() <= 1e-2 * y, "step {step}: a norm of {x} on the device, {y} on the CPU");
        }
        for ((name, a), (_, b)) in weights.iter().zip(&want_weights).filter(|((n, _), _)| !n.ends_with("qkv.bias")) {
            let scale = b.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
            let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 5e-3 * scale, "{name}: off by {off} of {scale}");
        }
    }
}

#[test]
fn an_update_that_a_device_decides_on_is_made_or_changes_nothing() {
    let _alone = alone();
    let params = ParamStore::on(&candlelight::autograd::device::cuda(0).unwrap());
    let weight = params.builder(Key::new(0)).get((3, 5), "weight").unwrap();
    let mut optimizer = Optimizer::new(AdamWConfig::default(), &mae_rules(0.0), &params).unwrap();
    let values = || params.var("weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (value, fine) in [(f32::NAN, false), (1.0, true), (f32::INFINITY, false), (2.0, true)] {
        let (before, updates) = (values(), optimizer.updates());
        let images = Tensor::full(value, (4, 5), &params.device()).unwrap();
        let tape = Tape::new(&params);
        let logits = ops::linear(&tape.constant(&images), &weight, None).unwrap();
        let loss = logits.cross_entropy(&[0, 1, 2, 0], 0.0).unwrap();
        let mut grads = Gradients::new(&params);
        tape.backward(&loss, &mut grads).unwrap();
        let ahead = optimizer.update_ahead(&grads, 0.1, Some(1.0), loss.tensor()).unwrap().expect("a kernel");
        let (norm, made) = optimizer.known(&ahead).unwrap();
        assert_eq!((made, norm.is_finite()), (fine, fine), "pixels of {value}");
        assert_eq!(optimizer.updates(), updates + u64::from(fine));
        assert_eq!(values() != before, fine, "pixels of {value}");
        assert_eq!(
            optimizer.state().unwrap().is_empty(),
            optimizer.updates() == 0,
            "state comes with the first update"
        );
    }
}

#[test]
fn evaluation_in_bf16_gives_the_cpus_metrics() {
    let _alone = alone();
    let config = ClassifyConfig::new(ModelConfig::from(vit()), 10);
    let metrics = |device: &Device| {
        let task = classify(&config, device).evaluating(images(), Precision::Bf16);
        // A new head gives every class the same: this one tells images apart.
        let head = Tensor::from_vec(Key::new(3).normal(160), (10, 16), &Device::Cpu).unwrap();
        task.params().set("head.weight", &head.to_device(device).unwrap()).unwrap();
        match task.evaluate().unwrap() {
            Verdict::Classes(scores) => scores,
            other => panic!("{other:?}"),
        }
    };
    let (found, want) = (metrics(&candlelight::autograd::device::cuda(0).unwrap()), metrics(&Device::Cpu));
    assert!(want.loss > 3.0, "{want:?} says nothing: ten classes without knowledge have 2.3");
    assert!((found.loss - want.loss).abs() < 1e-2 * want.loss, "{found:?} on the device, {want:?} on the CPU");
}

#[test]
fn probing() {
    let config = ClassifyConfig {
        optimizer: LarsConfig::default().into(),
        trained: Some(Trained::Head),
        ..ClassifyConfig::new(ModelConfig::from(VitConfig { head: Head::Probe, ..vit() }), 10)
    };
    the_same(&plan(1.0), |device| classify(&config, device));
}

#[test]
fn a_resnet() {
    let model = registry::resnet("resnet20").unwrap();
    let small = ResNetConfig { channels: 1, image: (28, 28), classes: 10, depths: vec![1, 1, 1], ..model };
    let config =
        ClassifyConfig { optimizer: SgdConfig::default().into(), ..ClassifyConfig::new(ModelConfig::from(small), 10) };
    the_same(&plan(0.01), |device| classify(&config, device));
}

/// What a test of this name says in a process of its own, whose driver is told these settings: on standard output and on the other one.
fn both(test: &str, settings: &[(&str, &str)]) -> [String; 2] {
    let this = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(this);
    child.args([test, "--exact", "--nocapture"]).env("SAY", "1");
    let said = child.envs(settings.iter().copied()).output().unwrap();
    [said.stdout, said.stderr].map(|text| String::from_utf8(text).unwrap())
}

/// The same on standard output.
fn said(test: &str, settings: &[(&str, &str)]) -> String {
    let [out, _] = both(test, settings);
    out
}

#[test]
fn devices_that_cannot_train_say_why() {
    use candlelight::autograd::device;
    let name = "devices_that_cannot_train_say_why";
    if std::env::var_os("SAY").is_some() {
        return println!("{}", device::cuda(0).map_or_else(|e| e.to_string(), |_| "opened".into()));
    }
    let e = device::cuda(99).unwrap_err().to_string();
    assert!(e.starts_with("cuda:99: there is no such device; the driver shows cuda:0 ("), "{e}");
    // The second setting is a GPU's driver's.
    let e = said(name, &[("CUDA_HOST_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "")]);
    assert!(e.contains("cuda:0: the driver shows no NVIDIA GPU; `nvidia-smi` lists them"), "{e}");
    if !device_is_emulated() {
        return;
    }
    let e = said(name, &[("CUDA_HOST_CAPABILITY", "75")]);
    assert!(e.contains("has compute capability 7.5; 8.0 is the least (Ampere"), "{e}");
    let e = said(name, &[("CUDA_HOST_FOREIGN", "1")]);
    assert!(
        e.contains("cuda:0: this program has no kernels for this GPU and driver; build it with CUDA_COMPUTE_CAP"),
        "{e}"
    );
}

#[test]
fn a_full_device_says_what_was_computed_and_what_to_lower() {
    let config = ClassifyConfig::new(ModelConfig::from(vit()), 10);
    if std::env::var_os("SAY").is_some() {
        let device = candlelight::autograd::device::cuda(0).unwrap();
        let mut trainer = Trainer::new(plan(1e-3).check().unwrap(), classify(&config, &device)).unwrap();
        for batch in images().epoch(0, 0) {
            if let Err(e) = trainer.step(batch.unwrap(), &normalize(), STEPS) {
                return println!("{e}");
            }
        }
        return println!("trained");
    }
    if device_is_emulated() {
        let e = said("a_full_device_says_what_was_computed_and_what_to_lower", &[("CUDA_HOST_MEMORY", "600000")]);
        assert!(
            e.contains("cuda:0: no memory for ") && e.contains(" MB are in use, in a step of batches of 8; "),
            "{e}"
        );
        assert!(
            e.contains(
                "a smaller batch_size needs less, and in training makes the same updates with a larger accum_iter"
            ),
            "{e}"
        );
    }
}

/// Whether the driver is the one that stands in for a GPU's.
fn device_is_emulated() -> bool {
    candlelight::kernels::cuda::devices().unwrap()[0].contains("stands in")
}

/// Steps of MAE-B's depth in bf16, none of whose losses the host reads.
fn steps_of_a_base_model(n: usize) {
    let device = candlelight::autograd::device::cuda(0).unwrap();
    let config = MaeConfig {
        patch: 7,
        dim: 32,
        depth: 12,
        heads: 2,
        decoder_dim: 32,
        decoder_depth: 8,
        decoder_heads: 2,
        norm_pix_loss: true,
        ..registry::mae("mae_vit_demo_patch4").unwrap()
    };
    let params = ParamStore::on(&device);
    let model = Mae::init(&config, &params, Key::new(0)).unwrap();
    let adamw = AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() };
    let mut optimizer = Optimizer::new(adamw, &mae_rules(0.05), &params).unwrap();
    let mut grads = Gradients::new(&params);
    let images = candle_core::Tensor::from_vec(Key::new(1).normal(2 * 784), (2, 1, 28, 28), &device).unwrap();
    for step in 0..n {
        let mask = Mask::random(&Key::new(2).index(step as u64), &[0, 1], 16, 0.5).unwrap();
        let tape = Tape::new(&params).with_precision(Precision::Bf16);
        let (loss, _) = model.forward(&tape.constant(&images), &mask).unwrap();
        grads.zero();
        tape.backward(&loss, &mut grads).unwrap();
        optimizer.update(&grads, 1e-3).unwrap();
    }
}

#[test]
fn the_host_waits_for_nothing_inside_a_step_and_starts_few_kernels() {
    let name = "the_host_waits_for_nothing_inside_a_step_and_starts_few_kernels";
    if let Some(n) = std::env::var_os("STEPS") {
        return steps_of_a_base_model(n.to_str().unwrap().parse().unwrap());
    }
    if !device_is_emulated() {
        return eprintln!("not checked here: only the emulated driver counts launches and waits");
    }
    let counts = |steps: &str| -> (usize, usize) {
        let [_, text] = both(name, &[("STEPS", steps), ("CUDA_HOST_SUMMARY", "1")]);
        let before = |word: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let at = words.iter().position(|w| *w == word).unwrap_or_else(|| panic!("no `{word}` in: {text}"));
            words[at - 1].parse().unwrap()
        };
        (before("launches,"), before("waits,"))
    };
    // Kernels are loaded, and state is made, in the first steps.
    let ((launches, waits), (more_launches, more_waits)) = (counts("3"), counts("5"));
    let per_step = (more_launches - launches) / 2;
    println!("{per_step} launches per step of MAE-B");
    assert_eq!(more_waits - waits, 0, "waits in two steps");
    assert!(per_step <= 700, "{per_step} launches per step");
}

#[test]
fn a_gradient_that_was_given_away_stays() {
    let _alone = alone();
    let device = candlelight::autograd::device::cuda(0).unwrap();
    let params = ParamStore::on(&device);
    let weight = params.builder(Key::new(0)).get((8, 8), "weight").unwrap();
    let x = candle_core::Tensor::from_vec(Key::new(1).normal(32), (4, 8), &device).unwrap();
    let mut grads = Gradients::new(&params);
    let mut pass = |ask: bool| {
        let tape = Tape::new(&params);
        let w = tape.value(&weight);
        let y = ops::linear(&tape.constant(&x), &w, None).unwrap();
        let of: Vec<&Value> = if ask { vec![&w] } else { vec![] };
        let seed = y.tensor().ones_like().unwrap();
        tape.backward_with(&y, &seed, &of, &mut grads).unwrap().pop().flatten()
    };
    let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let given = pass(true).unwrap();
    let before = values(&given);
    pass(false);
    pass(false);
    assert_eq!(values(&given), before);
    let sum = values(&grads.tensor("weight").unwrap().unwrap());
    assert!(sum.iter().zip(&before).all(|(s, b)| (s - 3.0 * b).abs() <= 1e-4 * b.abs().max(1.0)), "{sum:?} {before:?}");
}
