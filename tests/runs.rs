//! Runs that are stopped, moved and continued with other settings: nothing is lost, and nothing continues from the wrong place.

use candle_core::Device;
use candlelight::data::{Batch, Idx, Loader, LoaderConfig, Normalize, Pipeline, Stats, Subset};
use candlelight::engine::checkpoint;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::pretrain::{Pretrain, PretrainConfig, Shown};
use candlelight::engine::signals::Signals;
use candlelight::engine::task::{Batches, Task};
use candlelight::engine::train::{Observer, Outcome, Plan, Resume, Session, StepReport, Trainer};
use candlelight::models::ModelConfig;
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Result<T> = candlelight::engine::Result<T>;

fn normalize() -> Normalize {
    Normalize { mean: vec![0.286], std: vec![0.353] }
}

/// The first `n` of the shipped images, in batches of `batch_size`.
fn loader(n: usize, batch_size: usize) -> Loader {
    let data = Idx::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), "train").unwrap();
    let config = LoaderConfig {
        batch_size,
        size: (28, 28),
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers: 1,
        max_bad: 0.0,
        memory: None,
    };
    let data = Subset::new(data, (0..n).collect()).unwrap();
    Loader::new(Arc::new(data), Pipeline::mae_pretrain((28, 28), normalize()), config).unwrap()
}

fn plan(batch_size: usize, epochs: usize) -> Plan {
    let schedule = CosineConfig { lr: 5e-3, min_lr: 0.0, warmup: Span::Epochs(0.5) }.into();
    Plan { batch_size, epochs, schedule, keep: 9, ..Plan::default() }
}

fn pretraining() -> Trainer<Pretrain> {
    pretraining_by(plan(8, 3))
}

fn pretraining_by(plan: Plan) -> Trainer<Pretrain> {
    let model = MaeConfig {
        patch: 14,
        dim: 16,
        depth: 1,
        heads: 2,
        decoder_dim: 8,
        decoder_depth: 1,
        decoder_heads: 2,
        ..registry::mae("mae_vit_demo_patch4").unwrap()
    };
    let config = PretrainConfig { model, mask_ratio: 0.5, weight_decay: 0.05, picture_every: 0 };
    let shown = Shown::new(&loader(8, 8), &config.model, 0.5, normalize()).unwrap();
    Trainer::new(plan.check().unwrap(), Pretrain::new(config, shown, 0, &Device::Cpu).unwrap()).unwrap()
}

/// Runs a plan on 48 images.
fn go(dir: &Path, plan: Plan, resume: Resume) -> Result<Outcome> {
    let (data, folder) = (loader(48, plan.batch_size), RunFolder::open(dir, resume != Resume::No)?);
    Session::new(&data, &folder).resume(resume).run(&mut pretraining_by(plan))
}

fn names(dir: &Path) -> Vec<u64> {
    let number = |p: &PathBuf| candlelight::store::CheckpointFolder::number(p).unwrap();
    checkpoint::list(dir).iter().map(number).collect()
}

/// The epochs in log.txt.
fn epochs(dir: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(dir.join("log.txt")).unwrap();
    text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["epoch"].as_u64().unwrap()).collect()
}

fn last(dir: &Path) -> Vec<u8> {
    std::fs::read(checkpoint::list(dir).last().unwrap()).unwrap()
}

#[test]
fn the_newest_state_continues_whatever_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), plan(8, 3), Resume::No).unwrap();
    assert_eq!(names(dir.path()), [6, 12, 18]);
    // Half as many steps an epoch: smaller step counts, and yet newer checkpoints.
    let outcome = go(dir.path(), plan(16, 5), Resume::Auto).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    assert_eq!((names(dir.path()), epochs(dir.path())), (vec![6, 12, 18, 19, 20], vec![0, 1, 2, 3, 4]));
    // The next one goes on from there, and not from 18.
    go(dir.path(), plan(16, 6), Resume::Auto).unwrap();
    assert_eq!((names(dir.path()).pop(), epochs(dir.path()).len()), (Some(21), 6));
    // A finished run is no error, and changes nothing.
    let before = last(dir.path());
    let outcome = go(dir.path(), plan(16, 6), Resume::Auto).unwrap();
    assert!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
    assert!(before == last(dir.path()) && names(dir.path()).len() == 6);
    assert!(!dir.path().join("abandoned-1").exists());
}

#[test]
fn an_older_checkpoint_sets_the_branch_after_it_aside() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(whole.path(), plan(8, 3), Resume::No).unwrap();
    go(dir.path(), plan(8, 3), Resume::No).unwrap();
    let old = checkpoint::list(dir.path()).remove(0);
    let stop = Plan { max_steps: Some(9), ..plan(8, 3) };
    go(dir.path(), stop, Resume::From(old)).unwrap();
    assert_eq!((names(dir.path()), names(&dir.path().join("abandoned-1"))), (vec![6, 9], vec![12, 18]));
    go(dir.path(), plan(8, 3), Resume::Auto).unwrap();
    assert_eq!((names(dir.path()), epochs(dir.path())), (vec![6, 9, 12, 18], vec![0, 1, 2]));
    assert!(last(dir.path()) == last(whole.path()), "the branch is the same run");
    // Into the folder of another run.
    let from = checkpoint::list(whole.path()).remove(1);
    go(dir.path(), plan(8, 3), Resume::From(from)).unwrap();
    assert_eq!((names(dir.path()), names(&dir.path().join("abandoned-2")).len()), (vec![12, 18], 4));
}

/// Rewrites the newest checkpoint with another record.
fn rewrite(dir: &Path, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = checkpoint::list(dir).pop().unwrap();
    let mut c = checkpoint::load::<serde_json::Value>(&path, "mae_pretrain").unwrap();
    let entries: Vec<_> = c
        .names("")
        .iter()
        .map(|n| candlelight::models::weights::entry(n, &c.tensor(n).unwrap().unwrap()).unwrap())
        .collect();
    change(c.record.as_object_mut().unwrap());
    checkpoint::save(&path, "mae_pretrain", &c.record, &entries).unwrap();
}

#[test]
fn records_of_the_first_checkpoints_load() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(whole.path(), plan(8, 3), Resume::No).unwrap();
    go(dir.path(), Plan { max_steps: Some(9), ..plan(8, 3) }, Resume::No).unwrap();
    let first = |record: &mut serde_json::Map<String, serde_json::Value>| {
        record.remove("data");
        for name in ["best", "bad_in_a_row"] {
            record["position"].as_object_mut().unwrap().remove(name);
        }
        for name in ["non_finite", "spike", "max_non_finite"] {
            record["plan"].as_object_mut().unwrap().remove(name);
        }
    };
    rewrite(dir.path(), first);
    go(dir.path(), plan(8, 3), Resume::Auto).unwrap();
    assert!(last(dir.path()) == last(whole.path()));
    // They do not say how long their epochs were, so another batch size inside one is refused.
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), Plan { max_steps: Some(9), ..plan(8, 3) }, Resume::No).unwrap();
    rewrite(dir.path(), first);
    let accumulating = Plan { accum_iter: 2, ..plan(8, 3) };
    let e = go(dir.path(), accumulating, Resume::Auto).unwrap_err().to_string();
    assert!(e.contains("step 3 of its epoch") && e.contains("updates of 2"), "{e}");
    // A record that does not fit is named.
    rewrite(dir.path(), |record| drop(record.remove("position")));
    let from = checkpoint::list(dir.path()).pop().unwrap();
    let e = go(dir.path(), plan(8, 3), Resume::From(from)).unwrap_err().to_string();
    assert!(e.contains("a record that does not fit") && e.contains("position"), "{e}");
}

#[test]
fn inside_an_epoch_the_place_follows_the_samples() {
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), Plan { max_steps: Some(4), ..plan(8, 2) }, Resume::No).unwrap();
    // 32 of 48 samples were seen: two of three steps of 16.
    let (data, folder) = (loader(48, 16), RunFolder::open(dir.path(), true).unwrap());
    let steps = Seen::default();
    let mut trainer = pretraining_by(plan(16, 2));
    Session::new(&data, &folder).resume(Resume::Auto).observe(steps.clone()).run(&mut trainer).unwrap();
    assert_eq!(*steps.0.lock().unwrap(), [(0, 3), (1, 1), (1, 2), (1, 3)]);
}

#[derive(Clone, Default)]
struct Seen(Arc<std::sync::Mutex<Vec<(usize, usize)>>>);

impl Observer for Seen {
    fn name(&self) -> &str {
        "seen"
    }
    fn step(&mut self, step: &StepReport, at: f64) -> Result<()> {
        assert!(at > step.epoch as f64 && at <= step.epoch as f64 + 1.0);
        self.0.lock().unwrap().push((step.epoch, step.step));
        Ok(())
    }
}

/// The loss, the norm and the samples of every step, as they are.
#[derive(Clone, Default)]
struct Told(Arc<std::sync::Mutex<Vec<Step>>>);

type Step = (u32, Option<u64>, Vec<usize>);

fn told(step: &StepReport) -> Step {
    (step.loss.to_bits(), step.norm.map(f64::to_bits), step.samples.clone())
}

impl Observer for Told {
    fn name(&self) -> &str {
        "told"
    }
    fn step(&mut self, step: &StepReport, _: f64) -> Result<()> {
        self.0.lock().unwrap().push(told(step));
        Ok(())
    }
}

#[test]
fn every_step_can_be_replayed() {
    let (dir, seen) = (tempfile::tempdir().unwrap(), Told::default());
    let (data, plan) = (loader(48, 8), || Plan { accum_iter: 2, keep: 1, ..plan(8, 3) });
    let folder = RunFolder::open(dir.path(), false).unwrap();
    let stop = Signals::default();
    let session = Session::new(&data, &folder).observe(seen.clone()).signals(&stop).observe(Stop(stop.clone(), 10));
    session.run(&mut pretraining_by(plan())).unwrap();
    Session::new(&data, &folder).resume(Resume::Auto).observe(seen.clone()).run(&mut pretraining_by(plan())).unwrap();
    // One checkpoint is left, at the end: every step is made from the seed. With more of them, from the nearest.
    let seen = seen.0.lock().unwrap().clone();
    assert_eq!(seen.len(), 18);
    let branch = tempfile::tempdir().unwrap();
    let more = RunFolder::open(branch.path(), false).unwrap();
    Session::new(&data, &more).run(&mut pretraining_by(Plan { keep: 9, ..plan() })).unwrap();
    for (i, want) in seen.iter().enumerate() {
        for folder in [&folder, &more] {
            let report = Session::new(&data, folder).replay(&mut pretraining_by(plan()), i + 1).unwrap();
            assert_eq!(&told(&report), want, "step {}", i + 1);
        }
    }
    assert_eq!(names(branch.path()), [6, 12, 18], "nothing is written");
    let e = Session::new(&data, &more).replay(&mut pretraining_by(plan()), 19).unwrap_err().to_string();
    assert!(e.contains("no step 19 in a run of 18"), "{e}");
    let other = loader(40, 8);
    let e = Session::new(&other, &more).replay(&mut pretraining_by(plan()), 9).unwrap_err().to_string();
    assert!(e.contains("other data"), "{e}");
}

struct Broken<'a>(&'a AtomicUsize);

impl Observer for Broken<'_> {
    fn name(&self) -> &str {
        "broken"
    }
    fn step(&mut self, _: &StepReport, _: f64) -> Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(candle_core::Error::wrap(std::io::Error::other("no space left on device")))?
    }
}

/// Sends a signal at a step, counted from 1 over the whole run.
struct Stop(Signals, usize);

impl Observer for Stop {
    fn name(&self) -> &str {
        "stop"
    }
    fn step(&mut self, _: &StepReport, _: f64) -> Result<()> {
        self.1 -= 1;
        if self.1 == 0 {
            self.0.stop(15);
        }
        Ok(())
    }
}

/// Stops a run of 12 steps after each of them and continues it; returns how often.
fn at_every_step<T: Task>(data: &dyn Batches, make: impl Fn(Plan) -> Trainer<T>) -> usize {
    let run = |dir: &Path, stop, resume: Resume| {
        let (folder, signals) = (RunFolder::open(dir, resume != Resume::No).unwrap(), Signals::default());
        let session = Session::new(data, &folder).resume(resume).signals(&signals);
        session.observe(Stop(signals.clone(), stop)).run(&mut make(plan(8, 2))).unwrap()
    };
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), 99, Resume::No);
    let read = |d: &Path, n: &str| std::fs::read(d.join(n)).ok();
    for stop in 1..=12 {
        let dir = tempfile::tempdir().unwrap();
        let stopped = run(dir.path(), stop, Resume::No);
        assert!(matches!(stopped, Outcome::Interrupted { .. }) || stop == 12);
        run(dir.path(), 99, Resume::Auto);
        assert!(last(dir.path()) == last(whole.path()), "{}, stopped after step {stop}", T::KIND);
        for n in ["log.txt", "best.safetensors"] {
            assert!(read(dir.path(), n) == read(whole.path(), n), "{n} of {}, stopped after step {stop}", T::KIND);
        }
    }
    12
}

fn built(plan: Plan, model: ModelConfig, config: ClassifyConfig<ModelConfig>) -> Trainer<Classify<ModelConfig>> {
    let params = ParamStore::new();
    let built = model.build(params.builder(Key::new(0))).unwrap();
    let task = Classify::new(ClassifyConfig { model, ..config }, params, built).unwrap();
    Trainer::new(plan.check().unwrap(), task.evaluating(loader(32, 8), Precision::F32)).unwrap()
}

fn small_resnet() -> ModelConfig {
    ResNetConfig {
        depths: vec![1, 1],
        widths: vec![8, 12],
        classes: 10,
        channels: 1,
        image: (28, 28),
        ..registry::resnet("resnet18").unwrap()
    }
    .into()
}

/// A batch that is not finite, or that fails in the middle of an update, leaves no trace in the running statistics.
#[test]
fn statistics_of_an_update_that_is_not_made_are_undone() {
    let resnet = small_resnet();
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() };
    let config = ClassifyConfig { optimizer: sgd.into(), ..ClassifyConfig::new(resnet.clone(), 10) };
    let plan = Plan { accum_iter: 2, ..plan(8, 2) };
    let mut trainer = built(plan, resnet, config);
    let values = |t: &Trainer<Classify<ModelConfig>>| -> Vec<(String, Vec<f32>)> {
        let all = t.task().params().state_dict().into_iter().filter(|(n, _)| n.contains("running"));
        all.map(|(n, t)| (n, t.flatten_all().unwrap().to_vec1::<f32>().unwrap())).collect()
    };
    let data = spoilt(vec![(0, 3)], f32::NAN);
    let batches: Vec<_> = data.epoch(0, 0).map(|b| b.unwrap()).collect();
    let mut batches = batches.into_iter();
    let mut step = |t: &mut Trainer<_>| t.step(batches.next().unwrap(), data.normalize(), data.steps());
    let begun = values(&trainer);
    step(&mut trainer).unwrap();
    step(&mut trainer).unwrap();
    let updated = values(&trainer);
    assert_ne!(updated, begun);
    step(&mut trainer).unwrap();
    assert_ne!(values(&trainer), updated, "the first batch of an update moves them");
    let report = step(&mut trainer).unwrap();
    assert!(report.skipped.is_some());
    assert_eq!(values(&trainer), updated, "the update is not made");
    // A batch of the wrong size fails.
    step(&mut trainer).unwrap();
    let mut broken = loader(48, 8).epoch(0, 5).next().unwrap().unwrap();
    broken.labels.pop();
    assert!(trainer.step(broken, data.normalize(), data.steps()).is_err());
    assert_eq!(values(&trainer), updated);
}

#[test]
fn every_step_of_every_recipe_is_a_place_to_stop() {
    use candlelight::models::freeze::Trained;
    use candlelight::models::vit::{Head, Pool};
    use candlelight::optim::LookaheadConfig;
    use candlelight::sched::PlateauConfig;
    let data = loader(48, 8);
    let mut equal = at_every_step(&data, pretraining_by);
    equal += at_every_step(&data, |plan| classifying_by(plan, Box::new(loader(32, 8))));
    let config = |model: ModelConfig| ClassifyConfig {
        peft: None,
        classes: 10,
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
        eval_every: Some(1),
        model,
    };
    let demo = registry::vit("vit_demo_patch4").unwrap();
    let probe: ModelConfig =
        VitConfig { patch: 14, dim: 16, depth: 1, heads: 2, classes: 10, pool: Pool::Token, head: Head::Probe, ..demo }
            .into();
    equal += at_every_step(&data, |plan| built(plan, probe.clone(), config(probe.clone())));
    let resnet = small_resnet();
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() };
    equal += at_every_step(&data, |plan| {
        built(plan, resnet.clone(), ClassifyConfig { optimizer: sgd.into(), trained: None, ..config(resnet.clone()) })
    });
    // Also in the middle of an update of several batches.
    equal += at_every_step(&data, |plan| pretraining_by(Plan { accum_iter: 3, ..plan }));
    // Slow weights that move at the end of an epoch too, and a rate that falls with the metric.
    for accum_iter in [1, 4] {
        equal += at_every_step(&data, |plan| {
            let optimizer = LookaheadConfig::new(AdamWConfig::default()).into();
            let plateau = PlateauConfig { patience: 0, threshold: 10.0, ..PlateauConfig::new(1e-2) };
            let plan = Plan { accum_iter, epochs: 4, max_steps: Some(12), schedule: plateau.into(), ..plan };
            built(plan, resnet.clone(), ClassifyConfig { optimizer, trained: None, ..config(resnet.clone()) })
        });
    }
    assert_eq!(equal, 84);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_steps() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
    };
    let steps = std::env::var("CANDLELIGHT_CAMPAIGN").map_or(1_000, |_| 10_000);
    let (data, mut trainer, mut begin) = (loader(48, 8), pretraining_by(plan(8, 2_000)), 0.0);
    for epoch in 0..steps / 6 {
        for batch in data.epoch(epoch, 0) {
            trainer.step(batch.unwrap(), Batches::normalize(&data), data.steps()).unwrap();
        }
        trainer.end_epoch().unwrap();
        if epoch == steps / 60 {
            begin = resident();
        }
    }
    let grown = (resident() - begin) / 1e6;
    println!("{grown:.1} MB more after {steps} steps than after a tenth of them");
    // Other tests of this process come and go meanwhile.
    assert!(grown < 200.0, "{grown} MB");
}

#[test]
fn no_log_ends_a_run() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(whole.path(), plan(8, 3), Resume::No).unwrap();
    // log.txt cannot be opened, and the events' folder cannot be made.
    std::fs::create_dir(dir.path().join("log.txt")).unwrap();
    std::fs::write(dir.path().join("events"), "").unwrap();
    let (data, folder, calls) = (loader(48, 8), RunFolder::open(dir.path(), true).unwrap(), AtomicUsize::new(0));
    let session = Session::new(&data, &folder).events(&dir.path().join("events")).observe(Broken(&calls));
    assert!(matches!(session.run(&mut pretraining()).unwrap(), Outcome::Finished { .. }));
    assert_eq!((calls.load(Ordering::Relaxed), names(dir.path())), (1, vec![6, 12, 18]));
    assert!(last(dir.path()) == last(whole.path()));
}

#[test]
fn a_save_that_fails_is_made_later_and_only_the_last_one_must_succeed() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(whole.path(), plan(8, 3), Resume::No).unwrap();
    let at = |n: usize| dir.path().join(format!("checkpoint-{n:08}.safetensors/full"));
    std::fs::create_dir_all(at(6)).unwrap();
    assert!(matches!(go(dir.path(), plan(8, 3), Resume::No).unwrap(), Outcome::Finished { .. }));
    assert_eq!((names(dir.path()), epochs(dir.path())), (vec![12, 18], vec![0, 1, 2]));
    assert!(last(dir.path()) == last(whole.path()), "and training was not disturbed");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("checkpoint-00000018.safetensors/full")).unwrap();
    let e = go(dir.path(), plan(8, 3), Resume::No).unwrap_err().to_string();
    assert!(e.contains("checkpoint-00000018") && e.contains("cannot be written"), "{e}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

/// Every file of the folder that stands under a checkpoint's name is whole, and no temporary file is left.
fn sound(dir: &Path, what: &str) {
    for path in checkpoint::list(dir) {
        let loaded = checkpoint::load::<serde_json::Value>(&path, "mae_pretrain");
        assert!(loaded.is_ok(), "{what}: {}", loaded.unwrap_err());
    }
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp"), "{what}: {name} is left");
    }
}

#[test]
fn whichever_file_operation_fails_no_state_is_bad() {
    use candlelight::store::faults::{Fault, arm, disarm};
    let plan = || Plan { keep: 1, ..plan(8, 3) };
    let whole = tempfile::tempdir().unwrap();
    arm(whole.path(), u64::MAX, Fault::Once);
    go(whole.path(), plan(), Resume::No).unwrap();
    let operations = disarm();
    assert!((25..200).contains(&operations), "{operations}");
    let (mut failed, mut finished) = (0, 0);
    for fault in [Fault::Once, Fault::Forever] {
        for n in 0..operations {
            let what = format!("{fault:?}, operation {n}");
            let dir = tempfile::tempdir().unwrap();
            arm(dir.path(), n, fault);
            let outcome = go(dir.path(), plan(), Resume::No);
            disarm();
            sound(dir.path(), &what);
            match outcome {
                // One failure disturbs nothing: it is tried again.
                Ok(_) => {
                    finished += 1;
                    assert!(last(dir.path()) == last(whole.path()), "{what}");
                }
                Err(e) => {
                    failed += 1;
                    assert!(fault == Fault::Forever && e.to_string().contains("made to fail"), "{what}: {e}");
                }
            }
            // There is room again: the run goes on from where it was saved.
            let there = !checkpoint::list(dir.path()).is_empty();
            go(dir.path(), plan(), Resume::Auto).unwrap();
            sound(dir.path(), &what);
            assert!(last(dir.path()) == last(whole.path()), "{what}, continued");
            if fault == Fault::Once || !there {
                assert_eq!(epochs(dir.path()), [0, 1, 2], "{what}");
            }
        }
    }
    assert!(failed > 5 && finished >= operations, "{failed} {finished}");
}

/// What is done to each batch of an epoch.
type Change = Box<dyn Fn(usize, &mut Batch) + Send + Sync>;

/// Images to whose batches something is done.
struct Changed(Loader, Change);

impl Batches for Changed {
    fn steps(&self) -> usize {
        self.0.steps()
    }
    fn samples(&self) -> usize {
        self.0.samples()
    }
    fn classes(&self) -> &[String] {
        Batches::classes(&self.0)
    }
    fn normalize(&self) -> &Normalize {
        Batches::normalize(&self.0)
    }
    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight::data::Result<Batch>> + 'a> {
        Box::new(Batches::epoch(&self.0, epoch, start).map(move |batch| {
            let mut batch = batch?;
            (self.1)(epoch, &mut batch);
            Ok(batch)
        }))
    }
    fn stats(&self) -> &Stats {
        Batches::stats(&self.0)
    }
}

/// Held-out images whose evaluation a signal meets in its second batch, the first time.
fn signalled(signals: &Signals, signal: Option<i32>) -> Box<dyn Batches> {
    let (signals, seen) = (signals.clone(), AtomicUsize::new(0));
    Box::new(Changed(
        loader(32, 8),
        Box::new(move |_, _| {
            if seen.fetch_add(1, Ordering::Relaxed) == 1 {
                signal.map_or_else(|| signals.save(), |s| signals.stop(s));
            }
        }),
    ))
}

/// Batches of which some are spoilt: the pixels of each epoch and step are multiplied.
fn spoilt(at: Vec<(usize, usize)>, factor: f32) -> Changed {
    Changed(
        loader(48, 8),
        Box::new(move |epoch, batch| {
            if at.contains(&(epoch, batch.step))
                && let candlelight::data::Pixels::F32(v) = &mut batch.images
            {
                v.iter_mut().for_each(|v| *v *= factor);
            }
        }),
    )
}

fn classifying(held_out: Box<dyn Batches>) -> Trainer<Classify<VitConfig>> {
    classifying_by(plan(8, 2), held_out)
}

fn classifying_by(plan: Plan, held_out: Box<dyn Batches>) -> Trainer<Classify<VitConfig>> {
    let model =
        VitConfig { patch: 14, dim: 16, depth: 1, heads: 2, classes: 10, ..registry::vit("vit_demo_patch4").unwrap() };
    let config = ClassifyConfig {
        peft: None,
        classes: 10,
        loss: LossConfig::CrossEntropy { smoothing: 0.1 },
        class_weights: None,
        penalties: vec![],
        distill: None,
        timm_groups: false,
        metric: None,
        optimizer: AdamWConfig::default().into(),
        weight_decay: 0.05,
        layer_decay: None,
        trained: None,
        ema: Some(candlelight::optim::EmaConfig { decay: 0.9, warmup: false, tau: None }),
        mix: None,
        eval_every: Some(1),
        model,
    };
    let params = ParamStore::new();
    let vit = Vit::new(&config.model, params.builder(Key::new(0))).unwrap();
    let task = Classify::new(config, params, Box::new(vit)).unwrap().evaluating_on(held_out, Precision::F32);
    Trainer::new(plan.check().unwrap(), task).unwrap()
}

#[test]
fn a_signal_is_answered_inside_an_evaluation() {
    let data = loader(48, 8);
    let run = |dir: &Path, held_out: Box<dyn Batches>, signals: &Signals, resume: Resume| {
        let folder = RunFolder::open(dir, resume != Resume::No).unwrap();
        Session::new(&data, &folder).resume(resume).signals(signals).run(&mut classifying(held_out)).unwrap()
    };
    let quiet = Signals::default();
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), Box::new(loader(32, 8)), &quiet, Resume::No);
    let same = |dir: &Path| {
        assert!(last(dir) == last(whole.path()), "the checkpoint");
        let read = |d: &Path, n: &str| std::fs::read(d.join(n)).unwrap();
        for n in ["log.txt", "best.safetensors"] {
            assert!(read(dir, n) == read(whole.path(), n), "{n}");
        }
    };
    // Stopped in the second of four batches of the first evaluation: the epoch is saved, its report is made when the run goes on.
    let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
    let outcome = run(dir.path(), signalled(&signals, Some(15)), &signals, Resume::No);
    let Outcome::Interrupted { signal: 15, checkpoint } = outcome else { panic!("{outcome:?}") };
    assert!(checkpoint.ends_with("checkpoint-00000006.safetensors") && checkpoint.exists());
    assert!(!dir.path().join("log.txt").exists(), "no report was made");
    run(dir.path(), Box::new(loader(32, 8)), &quiet, Resume::Auto);
    same(dir.path());
    // Asked to save: the evaluation is made again, and the run goes on.
    let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
    let outcome = run(dir.path(), signalled(&signals, None), &signals, Resume::No);
    assert!(matches!(outcome, Outcome::Finished { .. }));
    same(dir.path());
    // In training: stopped after the first step, and saved on request.
    let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
    signals.save();
    run(dir.path(), Box::new(loader(32, 8)), &signals, Resume::No);
    assert_eq!(names(dir.path()), [1, 6, 12]);
    same(dir.path());
    let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
    signals.stop(1);
    assert!(matches!(run(dir.path(), Box::new(loader(32, 8)), &signals, Resume::No), Outcome::Interrupted { .. }));
    assert_eq!(names(dir.path()), [1]);
}

#[test]
fn numbers_that_are_not_finite_follow_the_policy() {
    use candlelight::engine::train::NonFinite;
    let nan = |at| spoilt(at, f32::NAN);
    let run = |data: &dyn Batches, plan: Plan, dir: &Path| {
        let (folder, seen) = (RunFolder::open(dir, true).unwrap(), Seen::default());
        let outcome = Session::new(data, &folder).observe(seen.clone()).run(&mut pretraining_by(plan));
        (outcome, Arc::try_unwrap(seen.0).unwrap().into_inner().unwrap())
    };
    let policy = |non_finite| Plan { non_finite, max_non_finite: 3, ..plan(8, 3) };
    let dir = tempfile::tempdir().unwrap();
    let (outcome, seen) = run(&nan(vec![(1, 2)]), policy(NonFinite::Skip), dir.path());
    assert!(matches!(outcome.unwrap(), Outcome::Finished { loss, .. } if loss.is_finite()));
    assert_eq!(seen.len(), 18);
    let skipped = last(dir.path());
    // Back to the end of the first epoch; the bad batch does not come again, and the weights are those of a run that skipped it.
    let dir = tempfile::tempdir().unwrap();
    let (outcome, seen) = run(&nan(vec![(1, 2)]), policy(NonFinite::Rewind), dir.path());
    assert!(matches!(outcome.unwrap(), Outcome::Finished { .. }));
    let second: Vec<usize> = seen.iter().filter(|s| s.0 == 1).map(|s| s.1).collect();
    assert_eq!((second, epochs(dir.path())), (vec![1, 2, 3, 1, 2, 4, 5, 6], vec![0, 1, 2]));
    let weights = |bytes: &[u8]| {
        let all = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
        all["model.patch_embed.proj.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(weights(&last(dir.path())), weights(&skipped));
    let dir = tempfile::tempdir().unwrap();
    let (outcome, seen) = run(&nan(vec![(1, 2)]), policy(NonFinite::Stop), dir.path());
    let e = outcome.unwrap_err();
    assert!(matches!(e, candlelight::engine::Error::NonFinite { count: 1, epoch: 1, step: 3, .. }), "{e}");
    assert_eq!(seen.len(), 9);
    // Without a checkpoint there is nothing to go back to; too many bad updates end the run.
    let dir = tempfile::tempdir().unwrap();
    let (outcome, seen) = run(&nan(vec![(0, 1)]), policy(NonFinite::Rewind), dir.path());
    assert!(outcome.is_ok() && seen.len() == 18);
    let dir = tempfile::tempdir().unwrap();
    let (outcome, _) = run(&nan(vec![(1, 0), (1, 2), (1, 4), (2, 0)]), policy(NonFinite::Rewind), dir.path());
    assert!(matches!(outcome.unwrap_err(), candlelight::engine::Error::NonFinite { count: 3, .. }));
    // A spike is finite, and yet far above the losses before it.
    let spiked = |spike| {
        let dir = tempfile::tempdir().unwrap();
        run(&spoilt(vec![(2, 4)], 50.0), Plan { spike, ..plan(8, 3) }, dir.path()).0.unwrap();
        weights(&last(dir.path()))
    };
    let dir = tempfile::tempdir().unwrap();
    run(&nan(vec![(2, 4)]), plan(8, 3), dir.path()).0.unwrap();
    assert_eq!(spiked(Some(8.0)), weights(&last(dir.path())), "its update is not made");
    assert_ne!(spiked(None), weights(&last(dir.path())));
}

#[test]
fn steps_need_no_folder() {
    let (data, mut trainer) = (loader(48, 8), pretraining());
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), Plan { max_steps: Some(8), ..plan(8, 3) }, Resume::No).unwrap();
    let mut losses = vec![];
    for epoch in 0..2 {
        for batch in data.epoch(epoch, 0).take(if epoch == 0 { 6 } else { 2 }) {
            losses.push(trainer.step(batch.unwrap(), Batches::normalize(&data), data.steps()).unwrap());
        }
        if epoch == 0 {
            trainer.end_epoch().unwrap();
        }
    }
    assert_eq!((losses[7].epoch, losses[7].step, losses.iter().all(|l| l.boundary)), (1, 2, true));
    let (_, params, _) = candlelight::engine::pretrain::load_model(&checkpoint::list(dir.path())[1]).unwrap();
    let values = |p: &ParamStore| -> Vec<f32> {
        p.values().iter().flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    assert_eq!(values(&params), values(trainer.task().params()));
}
