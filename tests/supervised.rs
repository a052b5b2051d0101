//! What timm-style training adds to a run: views and their divergence, a teacher, the scaling of the loss, updates of a last few batches,
//! checkpoints inside epochs, and the history of the best models.

mod goldens;

use candlelight::data::{
    Batch, Idx, Loader, LoaderConfig, Normalize, Pipeline, Pixels, Splits, Stats, Subset, Transform,
};
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::task::Batches;
use candlelight::engine::teacher::{DistillConfig, Teacher};
use candlelight::engine::train::{Outcome, Plan, Resume, Session, Trainer};
use candlelight::engine::{LossScaler, Metric, checkpoint};
use candlelight::models::{ModelConfig, ResNetConfig, weights};
use candlelight::nn::penalty::{Norm, Penalty};
use candlelight::optim::{AdamWConfig, ClipMode, EmaConfig, OptimizerConfig, Settings, SgdConfig};
use candlelight::prelude::*;
use candlelight::sched::{Curve, TimmConfig, WarmupConfig};
use candlelight::store::RunFolder;
use goldens::{Golden, close, golden, values};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn normalize() -> Normalize {
    Normalize { mean: vec![0.286], std: vec![0.353] }
}

fn loader(part: &str, n: usize, pipeline: Pipeline) -> Loader {
    let data = Idx::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), part).unwrap();
    let data = Subset::new(data, (0..n).collect()).unwrap();
    let config = LoaderConfig { batch_size: 8, size: (28, 28), seed: 0, workers: 1, ..LoaderConfig::default() };
    Loader::new(Arc::new(data), pipeline, config).unwrap()
}

/// The loader of most tests: 56 images, seven steps per epoch.
fn images() -> Loader {
    loader("train", 56, Pipeline::evaluation((28, 28), normalize()))
}

fn model() -> ModelConfig {
    let demo = registry::vit("vit_demo_patch4").unwrap();
    VitConfig { patch: 14, dim: 16, depth: 1, heads: 2, classes: 10, ..demo }.into()
}

fn config() -> ClassifyConfig<ModelConfig> {
    ClassifyConfig { optimizer: SgdConfig::default().into(), ..ClassifyConfig::new(model(), 10) }
}

fn plan() -> Plan {
    let schedule = CosineConfig { lr: 0.05, min_lr: 0.0, warmup: Span::Epochs(0.0) }.into();
    Plan { batch_size: 8, epochs: 2, schedule, ..Plan::default() }
}

fn task(config: ClassifyConfig<ModelConfig>) -> Classify<ModelConfig> {
    let params = ParamStore::new();
    let built = config.model.build(params.builder(Key::new(0))).unwrap();
    let held_out = loader("t10k", 24, Pipeline::evaluation((28, 28), normalize()));
    Classify::new(config, params, built).unwrap().evaluating(held_out, Precision::F32)
}

struct Run {
    dir: PathBuf,
    plan: Plan,
    data: Loader,
}

impl Run {
    fn new(dir: &Path, plan: Plan) -> Self {
        Run { dir: dir.into(), plan, data: images() }
    }

    fn go(&self, task: Classify<ModelConfig>, resume: Resume) -> (Outcome, Trainer<Classify<ModelConfig>>) {
        self.with(task, resume, |s| s)
    }

    fn with(
        &self,
        task: Classify<ModelConfig>,
        resume: Resume,
        change: impl FnOnce(Session<'_>) -> Session<'_>,
    ) -> (Outcome, Trainer<Classify<ModelConfig>>) {
        let mut trainer = Trainer::new(self.plan.clone().check().unwrap(), task).unwrap();
        let folder = RunFolder::open(&self.dir, true).unwrap();
        let outcome = change(Session::new(&self.data, &folder).resume(resume)).run(&mut trainer).unwrap();
        (outcome, trainer)
    }

    /// What a checkpoint says of the run's position.
    fn position(&self) -> serde_json::Value {
        let c = checkpoint::load::<serde_json::Value>(checkpoint::list(&self.dir).last().unwrap(), "classify").unwrap();
        c.record["position"].clone()
    }

    fn last(&self) -> Vec<u8> {
        std::fs::read(checkpoint::list(&self.dir).last().unwrap()).unwrap()
    }
}

/// The bits of all weights.
fn bits(trainer: &Trainer<Classify<ModelConfig>>) -> BTreeMap<String, Vec<u32>> {
    let all = trainer.task().params().state_dict().into_iter();
    let of = |t: candle_core::Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
    };
    all.map(|(n, t)| (n, of(t))).collect()
}

#[test]
fn the_last_few_batches_of_an_epoch_make_an_update_of_their_mean() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, accum_iter: usize, remainder: bool| {
        // Three steps, of which four would make an update.
        let plan = Plan { accum_iter, remainder, epochs: 1, ..plan() };
        let run = Run {
            data: loader("train", 24, Pipeline::evaluation((28, 28), normalize())),
            ..Run::new(&dir.path().join(name), plan)
        };
        let mut trainer = Trainer::new(run.plan.clone().check().unwrap(), task(config())).unwrap();
        for batch in run.data.epoch(0, 0) {
            trainer.step(batch.unwrap(), &normalize(), 3).unwrap();
        }
        bits(&trainer)
    };
    assert_eq!(with("rest", 4, true), with("three", 3, false));
    assert_ne!(with("rest2", 4, true), with("none", 4, false), "MAE's rule makes no update of them");
    let run = Run::new(&dir.path().join("counted"), Plan { accum_iter: 4, remainder: true, ..plan() });
    run.go(task(config()), Resume::No);
    assert_eq!(run.position()["updates"], 4, "two in each epoch of seven steps");
}

#[test]
fn a_scaled_loss_gives_the_same_bits_and_overflows_lower_the_scale() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, loss_scale: Option<LossScaler>| {
        let run = Run::new(&dir.path().join(name), Plan { loss_scale, clip_grad: Some(0.1), ..plan() });
        let trainer = run.go(task(config()), Resume::No).1;
        (bits(&trainer), run.position())
    };
    let plain = with("plain", None).0;
    let (scaled, position) = with("scaled", Some(LossScaler { growth_interval: 5, ..LossScaler::default() }));
    assert_eq!(scaled, plain, "unscaled before clipping, by a power of two");
    assert_eq!(position["scaler"], serde_json::json!({"scale": 65536.0 * 4.0, "good": 4}), "14 good updates");

    // Penalties make large gradients, which overflow at such a scale.
    let run = Run::new(
        &dir.path().join("over"),
        Plan { loss_scale: Some(LossScaler { init_scale: 2f64.powi(120), ..LossScaler::default() }), ..plan() },
    );
    let heavy = || ClassifyConfig { penalties: vec![Penalty::new(Norm::L2, 1e5)], ..config() };
    let small =
        Plan { schedule: CosineConfig { lr: 1e-7, min_lr: 0.0, warmup: Span::Epochs(0.0) }.into(), ..run.plan.clone() };
    let run = Run { plan: small, ..run };
    run.go(task(heavy()), Resume::No);
    let position = run.position();
    let skipped = position["skipped"].as_u64().unwrap();
    assert!((1..14).contains(&skipped), "{position}");
    assert_eq!(position["updates"].as_u64(), Some(14 - skipped));
    assert_eq!(position["scaler"]["scale"].as_f64(), Some(2f64.powi(120 - skipped as i32)));

    // Another process goes on with the same scale.
    let whole = run.last();
    let again =
        Run { dir: dir.path().join("again"), plan: Plan { max_steps: Some(2), ..run.plan.clone() }, data: images() };
    again.go(task(heavy()), Resume::No);
    let again = Run { plan: run.plan.clone(), ..again };
    again.go(task(heavy()), Resume::Auto);
    assert_eq!(again.last(), whole);
}

#[test]
fn checkpoints_inside_an_epoch_continue_at_their_step() {
    let dir = tempfile::tempdir().unwrap();
    let every = Plan { recovery_interval: Some(3), keep: 20, ..plan() };
    let whole = Run::new(&dir.path().join("whole"), every.clone());
    whole.go(task(config()), Resume::No);
    let names: Vec<String> = checkpoint::list(&whole.dir)
        .iter()
        .map(|p| p.file_stem().unwrap().to_str().unwrap().replace("checkpoint-", ""))
        .collect();
    let steps: Vec<u64> = names.iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(steps, [3, 6, 7, 10, 13, 14]);
    // A machine that stops behind step 10 leaves that checkpoint.
    let run = Run::new(&dir.path().join("again"), every);
    std::fs::create_dir_all(&run.dir).unwrap();
    std::fs::copy(&checkpoint::list(&whole.dir)[3], run.dir.join("checkpoint-00000010.safetensors")).unwrap();
    run.go(task(config()), Resume::Auto);
    let weights_of = |run: &Run| {
        let mut c =
            checkpoint::load::<serde_json::Value>(checkpoint::list(&run.dir).last().unwrap(), "classify").unwrap();
        c.names("model.")
            .iter()
            .map(|n| c.tensor(&format!("model.{n}")).unwrap().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(weights_of(&run), weights_of(&whole));
}

#[test]
fn the_best_models_by_a_metric_are_kept_and_those_of_the_weights_and_their_average() {
    let dir = tempfile::tempdir().unwrap();
    let config = || ClassifyConfig {
        ema: Some(EmaConfig { decay: 0.9, warmup: false, tau: None }),
        metric: Some(Metric::Loss),
        ..config()
    };
    let run = Run::new(dir.path(), Plan { epochs: 5, history: 2, ..plan() });
    let trainer = run.go(task(config()), Resume::No).1;
    let text = std::fs::read_to_string(run.dir.join("log.txt")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let best = |key: &str| {
        let losses = lines.iter().map(|l| l[key].as_f64().unwrap());
        losses.enumerate().fold((0, f64::INFINITY), |best, (i, v)| if v < best.1 { (i + 1, v) } else { best })
    };
    let (best_average, best_raw) = (trainer.best().unwrap(), trainer.best_raw().unwrap());
    assert_eq!((best_average.epochs, -best_average.score), best("test_ema_loss"));
    assert_eq!((best_raw.epochs, -best_raw.score), best("test_loss"));
    // The two best by their average, the better one first.
    let mut order: Vec<usize> = (1..=5).collect();
    order.sort_by(|a, b| {
        lines[a - 1]["test_ema_loss"].as_f64().partial_cmp(&lines[b - 1]["test_ema_loss"].as_f64()).unwrap()
    });
    let kept: Vec<usize> = trainer.history().iter().map(|b| b.epochs).collect();
    assert_eq!(kept, order[..2]);
    let files = |dir: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(dir.join("history"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut want: Vec<String> = kept.iter().map(|e| format!("epoch-{e:04}.safetensors")).collect();
    want.sort();
    assert_eq!(files(&run.dir), want);
    let best = run.dir.join(format!("history/epoch-{:04}.safetensors", kept[0]));
    assert_eq!(std::fs::read(run.dir.join("best.safetensors")).unwrap(), std::fs::read(best).unwrap());
    assert!(run.dir.join("best-raw.safetensors").exists());

    // The same comes out of a run that was stopped, and the history is part of what it continues with.
    let again = Run::new(&dir.path().join("again"), Plan { max_steps: Some(24), ..run.plan.clone() });
    again.go(task(config()), Resume::No);
    let again = Run { plan: run.plan.clone(), ..again };
    let trainer = again.go(task(config()), Resume::Auto).1;
    assert_eq!(trainer.history().iter().map(|b| b.epochs).collect::<Vec<_>>(), kept);
    assert_eq!(files(&again.dir), want);

    // From an older checkpoint of another branch, what is not of its past goes aside and is not lost.
    let old = Run::new(&dir.path().join("old"), Plan { epochs: 5, history: 5, keep: 9, ..plan() });
    old.go(task(config()), Resume::No);
    let second = checkpoint::list(&old.dir)[1].clone();
    let stopped =
        Run { plan: Plan { max_steps: Some(15), ..old.plan.clone() }, ..Run::new(&old.dir, old.plan.clone()) };
    stopped.go(task(config()), Resume::From(second));
    let aside: Vec<_> = (1..9).filter(|n| old.dir.join(format!("abandoned-{n}")).exists()).collect();
    assert!(!aside.is_empty() && files(&old.dir).len() < 5);
}

#[test]
fn a_run_can_begin_at_another_epoch_and_with_a_new_optimizer() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::new(dir.path(), Plan { max_steps: Some(7), ..plan() });
    run.go(task(config()), Resume::No);
    let first = checkpoint::list(&run.dir).last().unwrap().clone();
    let go = |name: &str, change: fn(Session<'_>) -> Session<'_>| {
        let run = Run::new(&dir.path().join(name), Plan { epochs: 4, ..plan() });
        let trainer = run.with(task(config()), Resume::From(first.clone()), change).1;
        let text = std::fs::read_to_string(run.dir.join("log.txt")).unwrap();
        let epochs: Vec<u64> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["epoch"].as_u64().unwrap())
            .collect();
        (epochs, bits(&trainer))
    };
    let (epochs, plain) = go("plain", |s| s);
    assert_eq!(epochs, [1, 2, 3]);
    assert_eq!(go("later", |s| s.start_epoch(2)).0, [2, 3]);
    let (epochs, other) = go("anew", |s| s.new_optimizer());
    assert_eq!(epochs, [1, 2, 3]);
    assert_ne!(other, plain, "the velocity starts at 0");
}

#[test]
fn a_new_optimizer_counts_its_own_updates_through_every_later_resume() {
    let dir = tempfile::tempdir().unwrap();
    let adam = || ClassifyConfig { optimizer: AdamWConfig::default().into(), ..config() };
    let plan = |max_steps: usize| Plan {
        epochs: 4,
        max_steps: Some(max_steps),
        schedule: CosineConfig { lr: 1e-3, min_lr: 0.0, warmup: Span::Epochs(0.0) }.into(),
        ..plan()
    };
    let run = Run::new(&dir.path().join("first"), plan(14));
    run.go(task(adam()), Resume::No);
    let from = Resume::From(checkpoint::list(&run.dir).last().unwrap().clone());
    let whole = Run::new(&dir.path().join("whole"), plan(28));
    let trainer = whole.with(task(adam()), from.clone(), |s| s.new_optimizer()).1;
    // Stopped right behind its beginning, and after three of its updates.
    for stop in [15, 17] {
        let again = Run::new(&dir.path().join(stop.to_string()), plan(stop));
        again.with(task(adam()), from.clone(), |s| s.new_optimizer());
        let again = Run { plan: plan(28), ..again };
        let other = again.go(task(adam()), Resume::Auto).1;
        assert_eq!(bits(&other), bits(&trainer), "stopped after {stop} steps");
    }
    // What it leaves behind is not the newest checkpoint of the folder, so nothing that goes back finds it.
    assert_eq!(
        checkpoint::load::<serde_json::Value>(&checkpoint::list(&whole.dir)[0], "classify").unwrap().record["position"]
            ["anew_at"],
        14
    );

    // From an earlier epoch on, later reports are not of the run's past.
    let best = Run::new(&dir.path().join("best"), Plan { epochs: 5, history: 5, keep: 9, ..self::plan() });
    best.go(task(config()), Resume::No);
    let early = Run { plan: Plan { epochs: 4, ..best.plan.clone() }, ..Run::new(&best.dir, best.plan.clone()) };
    let last = checkpoint::list(&best.dir).last().unwrap().clone();
    let trainer = early.with(task(config()), Resume::From(last), |s| s.start_epoch(2)).1;
    let mut epochs: Vec<usize> = trainer.history().iter().map(|b| b.epochs).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [1, 2, 3, 4]);
    assert!(!best.dir.join("history/epoch-0005.safetensors").exists() && best.dir.join("abandoned-1").exists());
}

#[test]
fn views_of_images_are_learned_together() {
    let dir = tempfile::tempdir().unwrap();
    let views = |count: usize| {
        let mut p = Pipeline::evaluation((28, 28), normalize());
        let shared = p.transforms.len();
        p.transforms.push(Transform::HorizontalFlip { p: 0.5 });
        p.splits = Some(Splits { count, shared, erase_clean: false });
        p
    };
    let losses = [
        LossConfig::Jsd { splits: 3, alpha: 12.0, smoothing: 0.1 },
        LossConfig::CrossEntropy { smoothing: 0.1 },
        LossConfig::BinaryCrossEntropy { smoothing: 0.1, threshold: None, sum: false, pos_weight: None },
    ];
    for (i, loss) in losses.into_iter().enumerate() {
        let data = loader("train", 56, views(3));
        let run = Run { data, ..Run::new(&dir.path().join(i.to_string()), Plan { epochs: 6, ..plan() }) };
        let (outcome, _) = run.go(task(ClassifyConfig { loss, ..config() }), Resume::No);
        let text = std::fs::read_to_string(run.dir.join("log.txt")).unwrap();
        let losses: Vec<f64> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["train_loss"].as_f64().unwrap())
            .collect();
        assert!(matches!(outcome, Outcome::Finished { .. }) && losses[5] < losses[0], "{loss:?}: {losses:?}");
    }
    // As many views as the loss is told, or an error.
    let run = Run { data: loader("train", 56, views(2)), ..Run::new(&dir.path().join("two"), plan()) };
    let loss = LossConfig::Jsd { splits: 3, alpha: 12.0, smoothing: 0.0 };
    let mut trainer =
        Trainer::new(run.plan.clone().check().unwrap(), task(ClassifyConfig { loss, ..config() })).unwrap();
    let batch = run.data.epoch(0, 0).next().unwrap().unwrap();
    let e = trainer.step(batch, &normalize(), 7).unwrap_err().to_string();
    assert!(e.contains("3 splits"), "{e}");
}

#[test]
fn a_teacher_counts_as_its_weights_say() {
    let first = |distill: Option<DistillConfig>, seed: u64, own: Normalize| {
        let mut task = task(ClassifyConfig { distill, ..config() });
        if distill.is_some() {
            let built = model().build(ParamStore::new().builder(Key::new(seed))).unwrap();
            task = task.taught_by(Teacher::new(built, &normalize(), &own));
        }
        let mut trainer = Trainer::new(plan().check().unwrap(), task).unwrap();
        let batch = images().epoch(0, 0).next().unwrap().unwrap();
        trainer.step(batch, &normalize(), 7).unwrap().loss
    };
    let plain = first(None, 0, normalize());
    let with = |weight: f64, task_weight: f64| Some(DistillConfig { temperature: 2.0, weight, task_weight });
    // A teacher that says the same adds nothing; one that only counts leaves no loss of labels.
    assert!((first(with(1.0, 1.0), 0, normalize()) - plain).abs() < 1e-5);
    assert!((first(with(1.0, 0.5), 0, normalize()) - plain / 2.0).abs() < 1e-5);
    assert!(first(with(1.0, 0.0), 0, normalize()).abs() < 1e-5);
    assert!(first(with(1.0, 0.0), 1, normalize()) > 1e-4, "another teacher says something else");
    // Images are brought to the teacher's own statistics.
    let other = Normalize { mean: vec![0.1], std: vec![0.9] };
    assert!(first(with(1.0, 0.0), 0, other) > 1e-6);
    // A configuration that wants a teacher does not train without one.
    let dir = tempfile::tempdir().unwrap();
    let mut trainer =
        Trainer::new(plan().check().unwrap(), task(ClassifyConfig { distill: with(1.0, 1.0), ..config() })).unwrap();
    let (data, folder) = (images(), RunFolder::open(dir.path(), false).unwrap());
    let e = Session::new(&data, &folder).run(&mut trainer).unwrap_err().to_string();
    assert!(e.contains("no teacher is given"), "{e}");
    let bad = DistillConfig { temperature: 0.0, ..DistillConfig::default() };
    let params = ParamStore::new();
    let built = model().build(params.builder(Key::new(0))).unwrap();
    let e = Classify::new(ClassifyConfig { distill: Some(bad), ..config() }, params, built).err().unwrap().to_string();
    assert!(e.contains("temperature 0"), "{e}");
}

/// The batches of a golden: five per epoch, and with `soft` targets of their own in every epoch.
struct Stored {
    golden: Golden,
    soft: bool,
    normalize: Normalize,
    stats: Stats,
}

impl Batches for Stored {
    fn steps(&self) -> usize {
        5
    }
    fn samples(&self) -> usize {
        40
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
        let labels: Vec<u32> = values(&self.golden["labels"]).into_iter().map(|v| v as u32).collect();
        let batch = move |step: usize| {
            let images = Pixels::F32(values(&self.golden["images"].get(step).unwrap()));
            let targets = self.soft.then(|| values(&self.golden["soft"].get(epoch).unwrap().get(step).unwrap()));
            Ok(Batch { epoch, step, targets, ..Batch::new(images, (24, 24), 3, labels[step * 8..][..8].to_vec()) })
        };
        Box::new((start..5).map(batch))
    }
    fn stats(&self) -> &Stats {
        &self.stats
    }
}

#[test]
fn fifty_steps_of_a_recipe_are_timms() {
    let g = golden("train");
    let network = ResNetConfig {
        depths: vec![1, 1],
        widths: vec![8, 12],
        classes: 5,
        zero_init_last: false,
        ..registry::resnet("resnet18").unwrap()
    };
    for (name, lr, weight_decay, clip_mode, clip, soft) in
        [("sgd", 0.05, 1e-2, ClipMode::Norm, 1.0, true), ("lamb", 0.01, 2e-2, ClipMode::Value, 0.05, false)]
    {
        let below = |part: &str| -> Vec<(String, candle_core::Tensor)> {
            let prefix = format!("{name}.{part}.");
            g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
        };
        let model = ModelConfig::from(network.clone());
        let params = ParamStore::new();
        let built = model.build(params.builder(Key::new(0))).unwrap();
        weights::load(&params, &below("weights"), true).unwrap();
        let config = ClassifyConfig {
            loss: LossConfig::CrossEntropy { smoothing: 0.1 },
            optimizer: OptimizerConfig::named(name, &Settings::default()).unwrap(),
            weight_decay,
            timm_groups: true,
            ema: Some(EmaConfig { decay: 0.9, warmup: false, tau: None }),
            ..ClassifyConfig::new(model, 5)
        };
        let schedule = TimmConfig {
            warmup: WarmupConfig { epochs: 2.0, lr: 1e-3, prefix: false },
            min_lr: 1e-4,
            ..TimmConfig::new(lr, 8.0, Curve::Cosine { k_decay: 1.0 })
        };
        let plan = Plan {
            batch_size: 8,
            accum_iter: 2,
            remainder: true,
            epochs: 10,
            schedule: schedule.into(),
            clip_grad: Some(clip),
            clip_mode,
            ..Plan::default()
        };
        let normalize = Normalize { mean: vec![0.0; 3], std: vec![1.0; 3] };
        let data = Stored { golden: g.clone(), soft, normalize, stats: Stats::default() };
        let mut trainer = Trainer::new(plan.check().unwrap(), Classify::new(config, params, built).unwrap()).unwrap();
        let (mut losses, mut rates) = (vec![], vec![]);
        for epoch in 0..10 {
            for batch in data.epoch(epoch, 0) {
                let report = trainer.step(batch.unwrap(), &data.normalize, 5).unwrap();
                losses.push(report.loss);
                if report.step == 1 {
                    rates.push(report.lr as f32);
                }
            }
            trainer.end_epoch().unwrap();
        }
        close(&format!("{name}: rates"), &rates, &values(&g[&format!("{name}.rates")]), 1e-6, 0.0);
        close(&format!("{name}: losses"), &losses, &values(&g[&format!("{name}.losses")]), 1e-4, 1e-5);
        let ema: std::collections::HashMap<String, candle_core::Tensor> =
            trainer.ema().unwrap().state().into_iter().collect();
        let ours: std::collections::HashMap<String, candle_core::Tensor> =
            trainer.task().params().state_dict().into_iter().collect();
        for (part, have) in [("after", &ours), ("ema", &ema)] {
            for (n, want) in below(part).into_iter().filter(|(n, _)| !n.ends_with("num_batches_tracked")) {
                close(&format!("{name}: {part} {n}"), &values(&have[&n]), &values(&want), 1e-3, 1e-4);
            }
        }
    }
}

#[test]
fn whichever_file_operation_fails_the_best_models_are_there() {
    use candlelight::store::faults::{Fault, arm, disarm};
    let config = || ClassifyConfig { ema: Some(EmaConfig { decay: 0.9, warmup: false, tau: None }), ..config() };
    let go = |dir: &Path| {
        let run = Run::new(dir, Plan { epochs: 3, history: 1, keep: 1, ..plan() });
        let mut trainer = Trainer::new(run.plan.clone().check().unwrap(), task(config())).unwrap();
        let outcome = RunFolder::open(&run.dir, true)
            .map_err(Into::into)
            .and_then(|folder| Session::new(&run.data, &folder).resume(Resume::Auto).run(&mut trainer));
        (outcome.is_ok(), trainer)
    };
    let whole = tempfile::tempdir().unwrap();
    arm(whole.path(), u64::MAX, Fault::Once);
    assert!(go(whole.path()).0);
    let operations = disarm();
    let mut finished = 0;
    for fault in [Fault::Once, Fault::Forever] {
        for n in 0..operations {
            let dir = tempfile::tempdir().unwrap();
            arm(dir.path(), n, fault);
            let (ok, trainer) = go(dir.path());
            disarm();
            finished += u64::from(ok);
            let what = format!("{fault:?}, operation {n} of {operations}");
            let position = |path: &Path| {
                let c =
                    checkpoint::load::<serde_json::Value>(path, "classify").unwrap_or_else(|e| panic!("{what}: {e}"));
                c.record["position"].clone()
            };
            for best in trainer.history() {
                let path = dir.path().join(format!("history/epoch-{:04}.safetensors", best.epochs));
                assert_eq!(position(&path)["epoch"], best.epochs, "{what}");
            }
            for (best, name) in [(trainer.best(), "best.safetensors"), (trainer.best_raw(), "best-raw.safetensors")] {
                if let Some(best) = best {
                    assert_eq!(position(&dir.path().join(name))["epoch"], best.epochs, "{what}: {name}");
                }
            }
        }
    }
    assert!(finished >= operations - 2, "one failure disturbs nothing: {finished} of {operations}");
}
