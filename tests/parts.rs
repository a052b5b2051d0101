//! A task of two parts: each has its optimizer and its loss, and one trainer runs both.

use candle_core::Tensor;
use candlelight::data::{Batch, Dataset, Image, Label, Picture, Sample};
use candlelight::engine::Result;
use candlelight::engine::checkpoint;
use candlelight::engine::signals::Signals;
use candlelight::engine::task::{At, Findings, Moment, Part, Task};
use candlelight::engine::train::{Observer, Outcome, Plan, Resume, Session, StepReport, Trainer};
use candlelight::nn::Linear;
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use std::path::Path;
use std::sync::Arc;

/// A generator that changes images so that a discriminator takes them for others.
struct Adversary {
    config: u32,
    stores: [ParamStore; 2],
    discriminator: Linear,
    generator: Linear,
}

impl Adversary {
    fn new() -> Self {
        let stores = [ParamStore::new(), ParamStore::new()];
        let discriminator = Linear::new(64, 2, stores[0].builder(Key::new(1)).pp("layer")).unwrap();
        let generator = Linear::new(64, 64, stores[1].builder(Key::new(2)).pp("layer")).unwrap();
        Adversary { config: 7, stores, discriminator, generator }
    }
}

impl Task for Adversary {
    const KIND: &'static str = "adversary";
    const LOSS: &'static str = "generator_loss";
    type Config = u32;

    fn config(&self) -> &u32 {
        &self.config
    }
    fn same_model(&self, other: &u32) -> bool {
        *other == self.config
    }
    fn params(&self) -> &ParamStore {
        &self.stores[1]
    }
    fn optimizer(&self) -> Result<Optimizer> {
        self.part_optimizer(1)
    }
    fn parts(&self) -> Vec<Part<'_>> {
        let names = ["discriminator", "generator"];
        names.into_iter().zip(&self.stores).map(|(name, params)| Part { name, params }).collect()
    }
    fn part_optimizer(&self, part: usize) -> Result<Optimizer> {
        Ok(Optimizer::new(AdamWConfig::default(), &mae_rules(0.0), &self.stores[part])?)
    }
    fn loss(&self, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value> {
        self.part_loss(1, tape, images, batch, seed, at)
    }
    fn part_loss(&self, part: usize, tape: &Tape, images: &Tensor, _: &Batch, _: u64, _: At) -> Result<Value> {
        let n = images.dim(0)?;
        let real = tape.constant(&images.flatten_from(1)?); // (B, 64)
        let made = self.generator.forward(&real)?; // (B, 64)
        let judged = self.discriminator.forward(&made)?; // (B, 2)
        if part == 1 {
            return Ok(judged.cross_entropy(&vec![1; n], 0.0)?);
        }
        let (real, made) = (
            self.discriminator.forward(&real)?.cross_entropy(&vec![1; n], 0.0)?,
            judged.cross_entropy(&vec![0; n], 0.0)?,
        );
        Ok(real.add(&made)?)
    }
    fn report(&mut self, _: &Moment<'_>) -> Result<Findings> {
        Ok(Findings::default())
    }
}

struct Noise;

impl Dataset for Noise {
    fn len(&self) -> usize {
        24
    }
    fn get(&self, i: usize) -> candlelight::data::Result<Sample> {
        let image = Image::new(8, 8, 1, (0..64).map(|p| (p * (i + 3) * 37 % 251) as u8).collect())?;
        Ok(Sample { picture: Picture::Image(image), label: Label::Class(0) })
    }
}

fn loader() -> Loader {
    let normalize = Normalize { mean: vec![0.5], std: vec![0.5] };
    let config = LoaderConfig { batch_size: 6, size: (8, 8), workers: 0, ..LoaderConfig::default() };
    Loader::new(Arc::new(Noise), Pipeline::evaluation((8, 8), normalize), config).unwrap()
}

fn plan() -> Plan {
    let schedule = CosineConfig { lr: 1e-2, min_lr: 0.0, warmup: Span::Steps(0.0) };
    Plan { batch_size: 6, epochs: 2, schedule: schedule.into(), save_every: 1, ..Plan::default() }
}

fn trainer(plan: Plan) -> Result<Trainer<Adversary>> {
    Trainer::new(plan.check()?, Adversary::new())
}

fn values(params: &ParamStore) -> Vec<f32> {
    params.values().iter().flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

#[test]
fn each_part_has_its_own_update_by_its_own_loss() {
    let (data, mut t) = (loader(), trainer(plan()).unwrap());
    let before = t.task().stores.each_ref().map(values);
    let first = || data.epoch(0, 0).next().unwrap().unwrap();
    let report = t.step(first(), &data.pipeline().normalize, 4).unwrap();
    let after = t.task().stores.each_ref().map(values);
    assert!(before[0] != after[0] && before[1] != after[1]);
    assert!(report.boundary && report.norm.unwrap() > 0.0);
    // By hand: the discriminator first, then the generator against the one that was updated.
    let by_hand = Adversary::new();
    let mut batch = first();
    let images =
        candlelight::engine::batch::images(&mut batch, &data.pipeline().normalize, &candle_core::Device::Cpu).unwrap();
    let at = At { epoch: 0, step: 0 };
    let mut losses = vec![];
    for part in 0..2 {
        let tape = Tape::new(&by_hand.stores[part]);
        let loss = by_hand.part_loss(part, &tape, &images, &batch, 0, at).unwrap();
        losses.push(loss.scalar().unwrap());
        let mut optimizer = by_hand.part_optimizer(part).unwrap();
        optimizer.step(&loss, report.lr).unwrap();
    }
    assert_eq!(report.loss, losses[1], "the loss that is shown is the generator's, after the discriminator's update");
    assert_eq!(after, by_hand.stores.each_ref().map(values));
}

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

#[test]
fn a_run_of_two_parts_continues_bit_for_bit_from_every_step() {
    let data = loader();
    let run = |dir: &Path, stop: usize, resume: Resume| {
        let (folder, signals) = (RunFolder::open(dir, resume != Resume::No).unwrap(), Signals::default());
        let session = Session::new(&data, &folder).resume(resume).signals(&signals);
        session.observe(Stop(signals.clone(), stop)).run(&mut trainer(plan()).unwrap()).unwrap()
    };
    let last = |dir: &Path| std::fs::read(checkpoint::list(dir).pop().unwrap()).unwrap();
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), 99, Resume::No);
    let names = candle_core::safetensors::load_buffer(&last(whole.path()), &candle_core::Device::Cpu).unwrap();
    for name in ["model.discriminator.layer.weight", "model.generator.layer.bias"] {
        assert!(names.contains_key(name), "{name} of {:?}", names.keys());
    }
    assert!(
        names.keys().any(|n| n.starts_with("optim.discriminator."))
            && names.keys().any(|n| n.starts_with("optim.generator."))
    );
    for stop in 1..8 {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(run(dir.path(), stop, Resume::No), Outcome::Interrupted { .. }));
        run(dir.path(), 99, Resume::Auto);
        assert!(last(dir.path()) == last(whole.path()), "stopped after step {stop}");
    }
}

#[test]
fn what_several_parts_cannot_do_is_refused() {
    let refused = |plan: Plan| trainer(plan).map(|_| ()).unwrap_err().to_string();
    assert!(refused(Plan { accum_iter: 2, ..plan() }).contains("accum_iter"));
    assert!(refused(Plan { spike: Some(8.0), ..plan() }).contains("spike"));
}
