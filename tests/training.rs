//! Training end to end on the shipped images: it learns, resumes bit for bit, and does not depend on threads.

use candle_core::Device;
use candlelight::data::{Dataset, Idx, Loader, LoaderConfig, Normalize, OnBad, Pipeline, Sample, Stream, Subset};
use candlelight::engine::pretrain::{Pretrain, PretrainConfig, Shown};
use candlelight::engine::train::{Outcome, Plan, Resume, Session, Trainer};
use candlelight::engine::{Error, checkpoint};
use candlelight::optim::ClipMode;
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

fn shipped() -> Idx {
    Idx::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), "train").unwrap()
}

fn normalize() -> Normalize {
    Normalize { mean: vec![0.286], std: vec![0.353] }
}

fn loader(n: usize, workers: usize) -> Loader {
    let data = Subset::new(shipped(), (0..n).collect()).unwrap();
    let config = LoaderConfig {
        batch_size: 8,
        size: (28, 28),
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers,
        max_bad: 0.0,
        memory: None,
    };
    Loader::new(Arc::new(data), Pipeline::mae_pretrain((28, 28), normalize()), config).unwrap()
}

/// Tiny: 4 patches of 14 pixels.
fn tiny() -> PretrainConfig {
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
    PretrainConfig { model, mask_ratio: 0.5, weight_decay: 0.05, picture_every: 0 }
}

fn plan(epochs: usize) -> Plan {
    Plan {
        batch_size: 8,
        accum_iter: 2,
        epochs,
        schedule: CosineConfig { lr: 5e-3, min_lr: 0.0, warmup: Span::Epochs(0.5) }.into(),
        seed: 0,
        precision: Precision::F32,
        clip_grad: None,
        clip_mode: ClipMode::Norm,
        max_steps: None,
        save_every: 1,
        keep: 2,
        max_non_finite: 3,
        ..Plan::default()
    }
}

fn go_with(
    dir: &Path,
    config: PretrainConfig,
    plan: Plan,
    loader: &Loader,
    resume: Resume,
) -> candlelight::engine::Result<Outcome> {
    go_showing(dir, config, plan, loader, loader, resume)
}

fn go_showing(
    dir: &Path,
    config: PretrainConfig,
    plan: Plan,
    loader: &Loader,
    shown: &Loader,
    resume: Resume,
) -> candlelight::engine::Result<Outcome> {
    let shown = Shown::new(shown, &config.model, 0.5, normalize())?;
    let mut run = Trainer::new(plan.clone().check()?, Pretrain::new(config, shown, plan.seed, &Device::Cpu)?)?;
    let folder = RunFolder::open(dir, resume != Resume::No)?;
    Session::new(loader, &folder).resume(resume).events(dir).run(&mut run)
}

/// A run on data whose first batch may be missing, which shows images of another loader.
fn go_from(
    dir: &Path,
    plan: Plan,
    loader: &Loader,
    shown: &Loader,
    resume: Resume,
) -> candlelight::engine::Result<Outcome> {
    go_showing(dir, tiny(), plan, loader, shown, resume)
}

fn go(dir: &Path, plan: Plan, loader: &Loader, resume: Resume) -> candlelight::engine::Result<Outcome> {
    go_with(dir, tiny(), plan, loader, resume)
}

fn last(dir: &Path) -> Vec<u8> {
    std::fs::read(checkpoint::list(dir).last().unwrap()).unwrap()
}

fn log(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("log.txt")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_shipped_images_are_balanced_and_a_model_learns_them() {
    let data = shipped();
    assert_eq!((data.len(), data.classes().len()), (10_000, 10));
    let dir = tempfile::tempdir().unwrap();
    let model = MaeConfig { patch: 7, dim: 32, ..tiny().model };
    let plan = Plan { accum_iter: 1, ..plan(4) };
    let outcome = go_with(dir.path(), PretrainConfig { model, ..tiny() }, plan, &loader(800, 2), Resume::No).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    let lines = log(dir.path());
    let losses: Vec<f64> = lines.iter().map(|l| l["train_loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 4);
    assert!(losses[3] < 0.8 * losses[0], "{losses:?}");
    let keys: Vec<_> = lines[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["train_lr", "train_loss", "epoch"], "MAE's keys in MAE's order");
    let png = std::fs::read(dir.path().join("reconstruction.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert_eq!(checkpoint::list(dir.path()).len(), 2, "the newest two are kept");
    RunFolder::open(dir.path(), true).expect("the folder is free again");
}

#[test]
fn a_resumed_run_is_the_run_that_was_never_stopped_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    go(whole.path(), plan(3), &loader(50, 0), Resume::No).unwrap();
    // Steps an epoch: 6. Stop inside an epoch and at its end, and with other loader threads.
    for (stop, workers) in [(2, 2), (6, 1), (8, 0), (10, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let first = Plan { max_steps: Some(stop), ..plan(3) };
        go(dir.path(), first, &loader(50, workers), Resume::No).unwrap();
        go(dir.path(), plan(3), &loader(50, 2), Resume::Auto).unwrap();
        assert_eq!(last(dir.path()), last(whole.path()), "stopped after {stop} steps");
        assert_eq!(log(dir.path()), log(whole.path()), "stopped after {stop} steps");
    }
}

#[test]
fn threads_do_not_change_a_trained_model() {
    for precision in ["f32", "bf16"] {
        let run = |threads: usize| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let plan = Plan { precision: precision.parse().unwrap(), max_steps: Some(4), ..plan(1) };
            pool.install(|| go(dir.path(), plan, &loader(50, 0), Resume::No).unwrap());
            last(dir.path())
        };
        let one = run(1);
        assert_eq!(one, run(2), "{precision}");
        assert_eq!(one, run(3), "{precision}");
    }
}

#[test]
fn losses_that_are_not_finite_are_skipped_and_then_end_the_run_with_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = plan(2);
    c.schedule = CosineConfig { lr: 1e30, min_lr: 0.0, warmup: Span::default() }.into();
    let e = go(dir.path(), c, &loader(200, 0), Resume::No).unwrap_err();
    assert!(matches!(e, Error::NonFinite { count: 3, .. }), "{e}");
    assert!(e.to_string().contains("epoch 0 step") && checkpoint::list(dir.path()).len() == 1, "{e}");
}

/// Images that go bad at some point of a run.
struct Failing(Idx, std::sync::atomic::AtomicUsize);

impl Dataset for Failing {
    fn len(&self) -> usize {
        50
    }
    fn get(&self, i: usize) -> candlelight::data::Result<candlelight::data::Sample> {
        let left = self.1.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        left.map_err(|_| candlelight::data::Error::Decode("gone".into()))?;
        self.0.get(i)
    }
}

#[test]
fn a_run_whose_data_fails_is_saved_at_its_last_update_and_continues_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    go(whole.path(), plan(2), &loader(50, 0), Resume::No).unwrap();
    let dir = tempfile::tempdir().unwrap();
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
    // 8 images for the picture, then 3 batches: the fourth fails, one step after the last update.
    let data = Failing(shipped(), (8 + 3 * 8).into());
    let failing = Loader::new(Arc::new(data), Pipeline::mae_pretrain((28, 28), normalize()), load).unwrap();
    let e = go(dir.path(), plan(2), &failing, Resume::No).unwrap_err().to_string();
    assert!(e.contains("gone"), "{e}");
    go(dir.path(), plan(2), &loader(50, 0), Resume::Auto).unwrap();
    // The class list, part of the record, differs between the two data sets; the weights do not.
    let weights = |d: &Path| {
        let (_, params, _) = candlelight::engine::pretrain::load_model(checkpoint::list(d).last().unwrap()).unwrap();
        params.entries().iter().map(|e| e.var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(weights(dir.path()), weights(whole.path()));
    assert_eq!(log(dir.path()), log(whole.path()));
}

/// A stream that announces 100 samples and has fewer.
struct Short(usize);

impl Stream for Short {
    fn open(
        &self,
        _: usize,
        _: usize,
        _: usize,
    ) -> candlelight::data::Result<Box<dyn Iterator<Item = candlelight::data::Result<Sample>> + Send>> {
        let data = shipped();
        Ok(Box::new((0..self.0).map(move |i| data.get(i))))
    }
    fn len(&self, _: usize) -> usize {
        100
    }
}

#[test]
fn epochs_that_are_shorter_than_announced_end_and_leave_updates_their_place() {
    let pipeline = || Pipeline::mae_pretrain((28, 28), normalize());
    let config = LoaderConfig { batch_size: 8, size: (28, 28), workers: 2, ..LoaderConfig::default() };
    let stream = |has: usize| {
        let config = LoaderConfig { max_bad: 1.0, ..config.clone() };
        Loader::streaming(Arc::new(Short(has)), 0, 1, pipeline(), config).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    // 12 steps are announced and 5 come: 3 updates of 2, of which the last has one batch.
    let at = |epochs: usize, resume: Resume| go_from(dir.path(), plan(epochs), &stream(43), &loader(8, 0), resume);
    at(2, Resume::No).unwrap();
    let epochs = |dir: &Path| log(dir).iter().map(|l| l["epoch"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(epochs(dir.path()), [0, 1]);
    at(3, Resume::Auto).unwrap();
    assert_eq!(epochs(dir.path()), [0, 1, 2]);
    let e = tempfile::tempdir().unwrap();
    let e = go_from(e.path(), plan(2), &stream(0), &loader(8, 0), Resume::No).unwrap_err().to_string();
    assert!(e.contains("epoch 0 gave no batch, although 12 were announced"), "{e}");
    // A batch in the middle whose samples are all left out, and the last one likewise.
    let gone = |steps: &[usize]| {
        let bad = steps.iter().flat_map(|s| s * 8..(s + 1) * 8).collect();
        let data = Arc::new(Holes(shipped(), bad));
        let config = LoaderConfig { shuffle: false, max_bad: 1.0, ..config.clone() };
        Loader::new(data, pipeline(), config).unwrap().on_bad(OnBad::Skip)
    };
    let weights = |steps: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        go_from(dir.path(), plan(1), &gone(steps), &loader(8, 0), Resume::No).unwrap();
        let (_, params, _) =
            candlelight::engine::pretrain::load_model(checkpoint::list(dir.path()).last().unwrap()).unwrap();
        params.entries().iter().map(|e| e.var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[2, 5]), weights(&[2, 5]));
    assert_ne!(weights(&[2, 5]), weights(&[2]), "the update of the last batches is made without the lost one");
}

/// The first 48 samples, of which some cannot be read.
struct Holes(Idx, Vec<usize>);

impl Dataset for Holes {
    fn len(&self) -> usize {
        48
    }
    fn get(&self, i: usize) -> candlelight::data::Result<Sample> {
        if self.1.contains(&i) {
            return Err(candlelight::data::Error::Decode("made to fail".into()));
        }
        self.0.get(i)
    }
}

#[test]
fn settings_and_files_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shown = || Shown::new(&loader(8, 0), &tiny().model, 0.5, normalize()).unwrap();
    let text = |c: PretrainConfig| Pretrain::new(c, shown(), 0, &Device::Cpu).unwrap_err().to_string();
    assert!(text(PretrainConfig { mask_ratio: 1.0, ..tiny() }).contains("mask_ratio 1"));
    let odd = MaeConfig { image: (30, 28), ..tiny().model };
    assert!(text(PretrainConfig { model: odd, ..tiny() }).contains("30x28"));
    let text = |p: Plan| p.check().unwrap_err().to_string();
    assert!(serde_json::from_str::<Plan>(r#"{"precision":"fp8"}"#).unwrap_err().to_string().contains("fp8"));
    assert!(text(Plan { batch_size: 0, ..plan(1) }).contains("batch_size"));
    assert!(text(Plan { clip_grad: Some(0.0), ..plan(1) }).contains("clip_grad"));
    let huge = Plan { accum_iter: 100, ..plan(1) };
    let e = go(&dir.path().join("a"), huge, &loader(50, 0), Resume::No).unwrap_err().to_string();
    assert!(e.contains("800") && e.contains("50"), "{e}");

    let run = dir.path().join("b");
    go(&run, plan(1), &loader(50, 0), Resume::No).unwrap();
    let e = go(&run, plan(1), &loader(50, 0), Resume::No).unwrap_err().to_string();
    assert!(e.contains("resume to auto"), "{e}");
    let e = go(&dir.path().join("d"), Plan { max_steps: Some(0), ..plan(1) }, &loader(50, 0), Resume::No);
    assert!(e.unwrap_err().to_string().contains("max_steps is 0"));
    let other = PretrainConfig { model: MaeConfig { dim: 24, ..tiny().model }, ..tiny() };
    let e = go_with(&run, other, plan(1), &loader(50, 0), Resume::Auto).unwrap_err().to_string();
    assert!(e.contains("another model"), "{e}");
    let weights = dir.path().join("weights.safetensors");
    let (_, params, _) = candlelight::engine::pretrain::load_model(checkpoint::list(&run).last().unwrap()).unwrap();
    candlelight::models::weights::write_safetensors(&weights, &params.state_dict(), None).unwrap();
    let e = go(&dir.path().join("c"), plan(1), &loader(50, 0), Resume::From(weights)).unwrap_err().to_string();
    assert!(e.contains("not a checkpoint of a run"), "{e}");
}
