//! Finetuning and linear probing through the engine, against PyTorch (`tests/golden/recipes.safetensors`), and the engine's
//! promises for classifiers: evaluation, best weights, resume.

mod goldens;

use candle_core::{Device, Tensor};
use candlelight::data::{Batch, Mix, Normalize, Pixels, Stats, Subset};
use candlelight::engine::checkpoint;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::features::{Features, HeadOnly};
use candlelight::engine::task::Batches;
use candlelight::engine::train::{Outcome, Plan, Resume, Session, Trainer};
use candlelight::models::Model;
use candlelight::models::freeze::Trained;
use candlelight::models::vit::{Head, Pool};
use candlelight::models::{Classifier, adapt, weights};
use candlelight::optim::{ClipMode, EmaConfig, LayerDecay, assign};
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use goldens::{Golden, close, golden, values};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The golden's model.
fn small(pool: Pool, head: Head) -> VitConfig {
    VitConfig {
        image: (8, 12),
        patch: 4,
        dim: 16,
        depth: 2,
        heads: 2,
        classes: 5,
        pool,
        head,
        ..registry::vit("vit_base_patch16").unwrap()
    }
}

fn plan(epochs: usize, lr: f64, min_lr: f64) -> Plan {
    Plan {
        batch_size: 8,
        accum_iter: 1,
        epochs,
        schedule: CosineConfig { lr, min_lr, warmup: Span::Epochs(5.0) }.into(),
        seed: 0,
        precision: Precision::F32,
        clip_grad: None,
        clip_mode: ClipMode::Norm,
        max_steps: None,
        save_every: 50,
        keep: 2,
        max_non_finite: 3,
        ..Plan::default()
    }
}

/// The golden's batches: epoch e has one step, batch e modulo 6.
struct Fixed {
    images: Tensor,
    labels: Vec<u32>,
    soft: Option<Tensor>,
    normalize: Normalize,
    stats: Stats,
}

impl Batches for Fixed {
    fn steps(&self) -> usize {
        1
    }
    fn samples(&self) -> usize {
        8
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn normalize(&self) -> &Normalize {
        &self.normalize
    }
    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight::data::Result<Batch>> + 'a> {
        let row = epoch % 6;
        let images = Pixels::F32(values(&self.images.get(row).unwrap()));
        let labels = self.labels[row * 8..(row + 1) * 8].to_vec();
        let targets = self.soft.as_ref().map(|s| values(&s.get(epoch).unwrap()));
        let batch = Batch { epoch, targets, ..Batch::new(images, (8, 12), 3, labels) };
        Box::new(std::iter::once(Ok(batch)).skip(start))
    }
    fn stats(&self) -> &Stats {
        &self.stats
    }
}

fn fixed(g: &Golden, soft: bool) -> Fixed {
    Fixed {
        images: g["images"].clone(),
        labels: values(&g["labels"]).into_iter().map(|v| v as u32).collect(),
        soft: soft.then(|| g["soft"].clone()),
        normalize: Normalize { mean: vec![0.0; 3], std: vec![1.0; 3] },
        stats: Stats::default(),
    }
}

/// Runs 50 epochs of one step; returns the losses of log.txt and the checkpoint's tensors.
fn fifty(
    g: &Golden,
    name: &str,
    plan: Plan,
    config: ClassifyConfig<VitConfig>,
    soft: bool,
) -> (Vec<f32>, HashMap<String, Tensor>) {
    let params = ParamStore::on(&goldens::device());
    let model = Vit::new(&config.model, params.builder(Key::new(0))).unwrap();
    let prefix = format!("{name}.weights.");
    let theirs: Vec<(String, Tensor)> =
        g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect();
    weights::load(&params, &theirs, true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = RunFolder::open(dir.path(), false).unwrap();
    let mut trainer =
        Trainer::new(plan.check().unwrap(), Classify::new(config, params, Box::new(model)).unwrap()).unwrap();
    let outcome = Session::new(&fixed(g, soft), &run).events(dir.path()).run(&mut trainer).unwrap();
    let Outcome::Finished { checkpoint, .. } = outcome else { panic!("interrupted") };
    let text = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
    let loss = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap()["train_loss"].as_f64().unwrap() as f32;
    (text.lines().map(loss).collect(), candle_core::safetensors::load(checkpoint, &Device::Cpu).unwrap())
}

#[test]
fn fifty_steps_of_finetuning_are_pytorchs() {
    let g = golden("recipes");
    for (name, loss) in [
        ("ce", LossConfig::CrossEntropy { smoothing: 0.1 }),
        ("bce", LossConfig::BinaryCrossEntropy { smoothing: 0.1, threshold: Some(0.2), sum: true, pos_weight: None }),
    ] {
        let config = ClassifyConfig {
            peft: None,
            model: small(Pool::Avg, Head::Linear),
            classes: 5,
            loss,
            class_weights: None,
            penalties: vec![],
            distill: None,
            timm_groups: false,
            metric: None,
            optimizer: AdamWConfig::default().into(),
            weight_decay: 0.05,
            layer_decay: Some(LayerDecay { decay: 0.75, timm: false }),
            trained: None,
            ema: Some(EmaConfig { decay: 0.95, warmup: true, tau: None }),
            mix: None,
            eval_every: None,
        };
        let plan = Plan { clip_grad: Some(0.5), ..plan(50, 5e-3, 1e-6) };
        let (losses, after) = fifty(&g, name, plan, config, true);
        for (i, (a, b)) in losses.iter().zip(values(&g[&format!("{name}.losses")])).enumerate() {
            assert!((a - b).abs() <= 1e-3 * b, "{name} step {i}: {a}, PyTorch {b}");
        }
        assert_eq!(losses.len(), 50);
        for weight in ["head.weight", "blocks.0.attn.qkv.weight"] {
            let want = |part: &str| values(&g[&format!("{name}.{part}.{weight}")]);
            close(weight, &values(&after[&format!("model.{weight}")]), &want("after"), 1e-3, 0.0);
            close("averaged", &values(&after[&format!("ema.{weight}")]), &want("ema"), 1e-3, 0.0);
        }
    }
}

#[test]
fn fifty_steps_of_probing_are_pytorchs_and_leave_the_backbone_alone() {
    let g = golden("recipes");
    let (losses, after) = fifty(&g, "probe", plan(50, 4.0, 0.0), probe_config(), false);
    for (i, (a, b)) in losses.iter().zip(values(&g["probe.losses"])).enumerate() {
        assert!((a - b).abs() <= 1e-3 * b, "step {i}: {a}, PyTorch {b}");
    }
    for (name, t) in &after {
        let Some(name) = name.strip_prefix("model.") else { continue };
        match g.get(&format!("probe.after.{name}")) {
            Some(want) => close(name, &values(t), &values(want), 1e-3, 0.0),
            None => assert_eq!(values(t), values(&g[&format!("probe.weights.{name}")]), "{name} was to be frozen"),
        }
    }
    let model: Vec<(String, Tensor)> =
        after.iter().filter_map(|(n, t)| Some((n.strip_prefix("model.")?.into(), t.clone()))).collect();
    let params = ParamStore::new();
    let vit = Vit::new(&probe_config().model, params.builder(Key::new(0))).unwrap();
    weights::load(&params, &model, true).unwrap();
    let tape = Tape::off();
    let logits = vit.forward(&tape.constant(&g["images"].get(0).unwrap()), None).unwrap();
    close("logits by running statistics", &values(logits.tensor()), &values(&g["probe.logits"]), 2e-3, 0.0);
}

fn probe_config() -> ClassifyConfig<VitConfig> {
    ClassifyConfig {
        peft: None,
        model: small(Pool::Token, Head::Probe),
        classes: 5,
        loss: LossConfig::CrossEntropy { smoothing: 0.0 },
        class_weights: None,
        penalties: vec![],
        distill: None,
        timm_groups: false,
        metric: None,
        optimizer: LarsConfig::default().into(),
        weight_decay: 0.0,
        layer_decay: None,
        trained: Some(Trained::Head),
        ema: None,
        mix: None,
        eval_every: None,
    }
}

#[test]
fn timms_layer_groups() {
    let g = golden("recipes");
    let config = VitConfig { depth: 3, ..small(Pool::Token, Head::Linear) };
    let params = ParamStore::new();
    let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
    let parts = model.anatomy();
    let timm = LayerDecay { decay: 0.7, timm: true };
    let rules = timm.rules(&parts.layers, &parts.no_decay, &parts.final_norm, 0.05);
    let groups = assign(&rules, &params).unwrap();
    assert_eq!(groups.len(), g.keys().filter(|k| k.starts_with("timm_group.")).count());
    for (name, group) in groups {
        let want = values(&g[&format!("timm_group.{name}")]);
        assert!((group.lr_scale as f32 - want[0]).abs() < 1e-6, "{name}: {group:?}, timm {want:?}");
        assert!((group.weight_decay as f32 - want[1]).abs() < 1e-6, "{name}: {group:?}, timm {want:?}");
    }
}

#[test]
fn batch_norm_and_binary_losses_are_pytorchs() {
    let g = golden("losses");
    for train in [true, false] {
        let name = if train { "batch_norm" } else { "batch_norm_eval" };
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        for p in ["w", "b"] {
            vb.get(6, p).unwrap();
            params.set(p, &g[&format!("{name}.{p}")]).unwrap();
        }
        let (mean, var) = (vb.get(6, "running_mean").unwrap(), vb.get(6, "running_var").unwrap());
        params.set("running_mean", &g["mean"]).unwrap();
        params.set("running_var", &g["var"]).unwrap();
        let (w, b) = (params.var("w").unwrap().as_tensor().clone(), params.var("b").unwrap().as_tensor().clone());
        let tape = Tape::new(&params);
        let x = tape.leaf(&g[&format!("{name}.x")]);
        let how = ops::BatchNormStep { eps: 1e-5, momentum: 0.1, train };
        let y = ops::batch_norm(&x, Some((&w, &b)), (&mean, &var), how).unwrap();
        close(name, &values(y.tensor()), &values(&g[&format!("{name}.y")]), 1e-5, 0.0);
        let mut grads = Gradients::new(&params);
        let dx = tape.backward_with(&y, &g[&format!("{name}.g")], &[&x], &mut grads).unwrap();
        close("dx", &values(dx[0].as_ref().unwrap()), &values(&g[&format!("{name}.dx")]), 1e-4, 0.0);
        for p in ["w", "b"] {
            close(p, grads.get(p).unwrap(), &values(&g[&format!("{name}.d{p}")]), 1e-5, 0.0);
        }
        let suffix = if train { "_after" } else { "" };
        close("mean", &values(&mean), &values(&g[&format!("mean{suffix}")]), 1e-6, 0.0);
        close("var", &values(&var), &values(&g[&format!("var{suffix}")]), 1e-6, 0.0);
    }
    for (name, sum) in [("bce", false), ("bce_sum", true)] {
        let tape = Tape::new(&ParamStore::new());
        let x = tape.leaf(&g[&format!("{name}.x")]);
        let loss = ops::binary_cross_entropy(&x, &g["targets"], sum).unwrap();
        close(name, &[loss.scalar().unwrap()], &values(&g[&format!("{name}.y")]), 1e-6, 0.0);
        let seed = g[&format!("{name}.g")].reshape(()).unwrap();
        let d = tape.backward_with(&loss, &seed, &[&x], &mut Gradients::new(&ParamStore::new())).unwrap();
        close("d", &values(d[0].as_ref().unwrap()), &values(&g[&format!("{name}.dx")]), 1e-5, 0.0);
    }
}

fn shipped(n: usize) -> Arc<dyn Dataset> {
    let data = Idx::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), "train").unwrap();
    Arc::new(Subset::new(data, (0..n).collect()).unwrap())
}

fn loader(n: usize, train: bool) -> Loader {
    let normalize = Normalize { mean: vec![0.286], std: vec![0.353] };
    let config = LoaderConfig {
        batch_size: 8,
        size: (28, 28),
        seed: 0,
        shuffle: train,
        drop_last: train,
        workers: 2,
        max_bad: 0.0,
        memory: None,
    };
    let pipeline = if train {
        Pipeline::mae_finetune((28, 28), normalize, "rand-m9-mstd0.5-inc1", 0.25).unwrap()
    } else {
        Pipeline::evaluation((28, 28), normalize)
    };
    Loader::new(shipped(n), pipeline, config).unwrap()
}

fn tiny(pool: Pool, head: Head) -> VitConfig {
    let demo = registry::vit("vit_demo_patch4").unwrap();
    VitConfig { patch: 14, dim: 16, depth: 2, heads: 2, drop_path: 0.3, dropout: 0.1, pool, head, ..demo }
}

/// Everything that could be forgotten on resume: mixing, drop-path, averages, best, layer decay, accumulation.
fn everything() -> ClassifyConfig<VitConfig> {
    ClassifyConfig {
        peft: None,
        model: tiny(Pool::Avg, Head::Linear),
        classes: 10,
        loss: LossConfig::CrossEntropy { smoothing: 0.1 },
        class_weights: None,
        penalties: vec![],
        distill: None,
        timm_groups: false,
        metric: None,
        optimizer: AdamWConfig::default().into(),
        weight_decay: 0.05,
        layer_decay: Some(LayerDecay { decay: 0.75, timm: false }),
        trained: None,
        ema: Some(EmaConfig { decay: 0.9, warmup: true, tau: None }),
        mix: Some(Mix::mae_finetune(10)),
        eval_every: Some(1),
    }
}

fn go(
    dir: &Path,
    plan: Plan,
    config: ClassifyConfig<VitConfig>,
    resume: Resume,
) -> candlelight::engine::Result<Outcome> {
    let params = ParamStore::new();
    let model = Vit::new(&config.model, params.builder(Key::new(plan.seed)))?;
    let mut train = loader(50, true);
    if let Some(mix) = &config.mix {
        train = train.collating(Arc::new(mix.clone()));
    }
    let task = Classify::new(config, params, Box::new(model))?.evaluating(loader(30, false), Precision::F32);
    let run = RunFolder::open(dir, resume != Resume::No)?;
    Session::new(&train, &run).resume(resume).events(dir).run(&mut Trainer::new(plan.check()?, task)?)
}

fn short(epochs: usize) -> Plan {
    let schedule = CosineConfig { lr: 5e-3, min_lr: 1e-6, warmup: Span::Epochs(0.5) }.into();
    Plan { accum_iter: 2, save_every: 1, schedule, ..plan(epochs, 5e-3, 1e-6) }
}

fn files(dir: &Path) -> [Vec<u8>; 3] {
    let read = |p: &Path| std::fs::read(p).unwrap();
    [read(checkpoint::list(dir).last().unwrap()), read(&checkpoint::best(dir)), read(&dir.join("log.txt"))]
}

#[test]
fn a_resumed_finetuning_is_the_one_that_was_never_stopped_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    go(whole.path(), short(3), everything(), Resume::No).unwrap();
    for stop in [2, 6, 10] {
        let dir = tempfile::tempdir().unwrap();
        go(dir.path(), Plan { max_steps: Some(stop), ..short(3) }, everything(), Resume::No).unwrap();
        go(dir.path(), short(3), everything(), Resume::Auto).unwrap();
        let (a, b) = (files(dir.path()), files(whole.path()));
        assert!(a[0] == b[0], "the checkpoint, stopped after {stop} steps");
        assert!(a[2] == b[2], "log.txt, stopped after {stop} steps");
        assert!(a[1] == b[1], "the best weights, stopped after {stop} steps");
    }
    let line: serde_json::Value =
        serde_json::from_slice(files(whole.path())[2].split(|b| *b == b'\n').next().unwrap()).unwrap();
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let want = ["train_lr", "train_loss", "test_loss", "test_acc1", "test_acc5"];
    assert_eq!(keys[..5], want, "MAE's keys in MAE's order");
    assert_eq!(keys[keys.len() - 2..], ["epoch", "n_parameters"]);
    let said = checkpoint::describe(checkpoint::list(whole.path()).last().unwrap()).unwrap().unwrap();
    assert_eq!((said.kind.as_str(), said.classes.len(), said.evaluation.is_some()), ("classify", 10, true));
    assert_eq!(serde_json::from_value::<VitConfig>(said.model).unwrap(), everything().model);
}

#[test]
fn cached_features_train_the_same_head() {
    let config = || ClassifyConfig {
        peft: None,
        model: VitConfig { dropout: 0.0, drop_path: 0.0, ..tiny(Pool::Token, Head::Probe) },
        classes: 10,
        eval_every: Some(1),
        ..probe_config()
    };
    let fresh = || {
        let params = ParamStore::new();
        let model = Vit::new(&config().model, params.builder(Key::new(3))).unwrap();
        adapt::init_head(&params, &model.anatomy(), 0.01, &Key::new(4)).unwrap();
        (params, model)
    };
    let in_order = |n| loader(n, false);
    let plan = Plan { save_every: 1, ..plan(3, 1.0, 0.0) };
    let heads = |data: &dyn Batches, held_out: Box<dyn Batches>, model: Box<dyn Classifier>, params: ParamStore| {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::open(dir.path(), false).unwrap();
        let task = Classify::new(config(), params, model).unwrap().evaluating_on(held_out, Precision::F32);
        let mut trainer = Trainer::new(plan.clone().check().unwrap(), task).unwrap();
        Session::new(data, &run).run(&mut trainer).unwrap();
        let saved = candle_core::safetensors::load(checkpoint::list(dir.path()).pop().unwrap(), &Device::Cpu).unwrap();
        let scores = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
        (values(&saved["model.head.1.weight"]), values(&saved["model.head.0.running_var"]), scores)
    };
    let (params, model) = fresh();
    let extracted = |n| Features::extract(&model, &in_order(n), &Device::Cpu, |_| Ok(())).unwrap();
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("f.safetensors");
    extracted(48).save(&path, "here").unwrap();
    assert!(Features::load(&path, "there").unwrap().is_none(), "made from something else");
    let train = Features::load(&path, "here").unwrap().unwrap().training(8, 0);
    let held_out = extracted(30);
    let cached = heads(&train, Box::new(held_out), Box::new(HeadOnly(model)), params);
    // The same images, unaugmented, in the same order, through the whole model each time.
    let (params, model) = fresh();
    let normalize = Normalize { mean: vec![0.286], std: vec![0.353] };
    let load = LoaderConfig {
        batch_size: 8,
        size: (28, 28),
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers: 0,
        max_bad: 0.0,
        memory: None,
    };
    let images = Loader::new(shipped(48), Pipeline::evaluation((28, 28), normalize), load).unwrap();
    let plain = heads(&images, Box::new(in_order(30)), Box::new(model), params);
    close("head", &cached.0, &plain.0, 1e-5, 0.0);
    close("statistics", &cached.1, &plain.1, 1e-5, 0.0);
    let loss = |log: &str| {
        serde_json::from_str::<serde_json::Value>(log.lines().last().unwrap()).unwrap()["test_loss"].as_f64().unwrap()
    };
    assert!((loss(&cached.2) - loss(&plain.2)).abs() < 1e-5);
}

/// Each loss lowers itself on one batch, with hard labels and with mixed ones, and class weights and penalties are part of it.
#[test]
fn every_loss_trains_and_its_settings_are_checked() {
    use candlelight::engine::task::{At, Task};
    use candlelight::nn::loss::AsymmetricConfig;
    use candlelight::nn::penalty::{Norm, Penalty};
    let made = |config: ClassifyConfig<VitConfig>| {
        let params = ParamStore::new();
        let model = VitConfig { drop_path: 0.0, dropout: 0.0, ..config.model.clone() };
        let vit = Vit::new(&model, params.builder(Key::new(0))).unwrap();
        Classify::new(ClassifyConfig { model, mix: None, ..config }, params, Box::new(vit))
    };
    let (images, labels) = (Key::new(3).normal(6 * 28 * 28), vec![0, 1, 2, 3, 4, 9]);
    let batch = |soft: bool| {
        let mut batch = Batch::new(Pixels::F32(images.clone()), (28, 28), 1, labels.clone());
        batch.targets = soft.then(|| candlelight::nn::loss::one_hot(&labels, 10, 0.3).unwrap());
        batch
    };
    let losses = [
        LossConfig::CrossEntropy { smoothing: 0.1 },
        LossConfig::BinaryCrossEntropy { smoothing: 0.1, threshold: None, sum: false, pos_weight: None },
        LossConfig::BinaryCrossEntropy { smoothing: 0.0, threshold: Some(0.2), sum: true, pos_weight: Some(2.0) },
        LossConfig::Asymmetric(AsymmetricConfig::default()),
        LossConfig::Focal { gamma: 2.0, smoothing: 0.1 },
        LossConfig::Dice { smooth: 1.0 },
        LossConfig::Mse,
        LossConfig::Huber { delta: 0.5 },
        LossConfig::SmoothL1 { beta: 0.5 },
    ];
    let weights: Vec<f32> = (0..10).map(|c| 0.5 + c as f32 / 5.0).collect();
    let mut seen = vec![];
    for loss in losses {
        let takes = matches!(
            loss,
            LossConfig::CrossEntropy { .. } | LossConfig::BinaryCrossEntropy { .. } | LossConfig::Focal { .. }
        );
        for weighted in [false, true] {
            let class_weights = weighted.then(|| weights.clone());
            let config = ClassifyConfig { loss, class_weights, ema: None, ..everything() };
            let task = match made(config) {
                Ok(task) => task,
                Err(e) => {
                    assert!(weighted && !takes && e.to_string().contains("class_weights have no meaning"), "{e}");
                    continue;
                }
            };
            for soft in [false, true] {
                let images = candlelight::autograd::tensor_from(images.clone(), (6, 1, 28, 28)).unwrap();
                let mut optimizer = Optimizer::new(SgdConfig::default(), &mae_rules(0.0), task.params()).unwrap();
                let mut values = vec![];
                for step in 0..4 {
                    let tape = Tape::new(task.params());
                    let loss = task.loss(&tape, &images, &batch(soft), 0, At { epoch: 0, step }).unwrap();
                    values.push(loss.scalar().unwrap());
                    optimizer.step(&loss, 1e-2).unwrap();
                }
                assert!(values[3] < values[0], "{loss:?} weighted {weighted}, soft {soft}: {values:?}");
                seen.push(values[0].to_bits());
            }
        }
    }
    // No two of them are the same number.
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((all, seen.len()), (26, 26));

    let penalty = |p: Penalty| made(ClassifyConfig { penalties: vec![p], ..everything() });
    let with = penalty(Penalty::new(Norm::L1, 0.01)).unwrap();
    let without = made(everything()).unwrap();
    let value = |task: &Classify<VitConfig>| {
        let images = candlelight::autograd::tensor_from(images.clone(), (6, 1, 28, 28)).unwrap();
        let tape = Tape::new(task.params());
        task.loss(&tape, &images, &batch(false), 0, At { epoch: 0, step: 0 }).unwrap().scalar().unwrap()
    };
    let names = Penalty::new(Norm::L1, 0.01).names(with.params());
    let size = |n: &String| with.params().var(n).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let added: f32 = names.iter().map(size).sum::<f32>() * 0.01;
    assert!((value(&with) - value(&without) - added).abs() < 1e-4 * added, "{added}");

    let e = |c: ClassifyConfig<VitConfig>| made(c).unwrap_err().to_string();
    let lossy = |loss| e(ClassifyConfig { loss, ..everything() });
    assert!(lossy(LossConfig::Huber { delta: 0.0 }).contains("delta is 0"));
    assert!(lossy(LossConfig::Focal { gamma: -1.0, smoothing: 0.0 }).contains("gamma is -1"));
    assert!(lossy(LossConfig::Asymmetric(AsymmetricConfig { clip: 1.0, ..Default::default() })).contains("clip 1"));
    assert!(
        e(ClassifyConfig { class_weights: Some(vec![1.0]), ..everything() }).contains("class_weights are 1 numbers")
    );
    let nowhere = Penalty { pattern: "nothing".into(), ..Penalty::new(Norm::L2, 1.0) };
    for (bad, word) in [(Penalty::new(Norm::L1, -1.0), "factor is -1"), (Penalty::new(Norm::Lp(0.0), 1.0), "p is 0")] {
        assert!(penalty(bad).unwrap_err().to_string().contains(word));
    }
    assert!(penalty(nowhere).unwrap_err().to_string().contains("`nothing` is on no parameter"));
}

#[test]
fn what_does_not_fit_is_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        |c: ClassifyConfig<VitConfig>| go(&dir.path().join("a"), short(1), c, Resume::No).unwrap_err().to_string();
    let model = VitConfig { classes: 7, ..everything().model };
    let e = text(ClassifyConfig { model, classes: 7, mix: Some(Mix::mae_finetune(7)), ..everything() });
    assert!(e.contains("10 classes") && e.contains("head 7") && e.contains("nb_classes to 10"), "{e}");
    let e = text(ClassifyConfig { loss: LossConfig::CrossEntropy { smoothing: 1.5 }, ..everything() });
    assert!(e.contains("smoothing 1.5"), "{e}");
    let decay = LayerDecay { decay: 1.5, timm: false };
    assert!(text(ClassifyConfig { layer_decay: Some(decay), ..everything() }).contains("layer_decay 1.5"));
    let e = text(ClassifyConfig { trained: Some("nonsense.*".parse().unwrap()), ..everything() });
    assert!(e.contains("`nonsense.*` matches no parameter"), "{e}");

    let run = dir.path().join("b");
    go(&run, short(1), everything(), Resume::No).unwrap();
    let other = VitConfig { dim: 24, ..everything().model };
    let e = go(&run, short(2), ClassifyConfig { model: other, ..everything() }, Resume::Auto).unwrap_err().to_string();
    assert!(e.contains("another model"), "{e}");
    let e = go(&run, short(2), everything(), Resume::From(checkpoint::best(&run))).unwrap_err().to_string();
    assert!(e.contains("without an optimizer's state"), "{e}");
    let plain = ClassifyConfig { ema: None, ..everything() };
    let solo = dir.path().join("c");
    go(&solo, short(1), plain, Resume::No).unwrap();
    let e = go(&solo, short(2), everything(), Resume::Auto).unwrap_err().to_string();
    assert!(e.contains("without an EMA"), "{e}");
}
