//! Tests of what holds while epochs run: threads, memory, giving up, samples that cannot be read, streams that are short.

use super::*;
use crate::image::Image;
use crate::load::batch::{Collate, Moment, Pixels};
use crate::load::loader::Loader;
use crate::load::pipeline::{Normalize, Pipeline};
use crate::load::sampler::Sequential;
use crate::load::shared::{LoaderConfig, OnBad};
use crate::sets::{Dataset, Label, Picture, Sample, Stream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Pictures of one colour each, of which some are slow and some cannot be read.
#[derive(Default)]
struct Colours {
    n: usize,
    bad: Vec<usize>,
    slow: Duration,
    /// How often each sample fails before it can be read, with an error that passes.
    hiccups: Vec<usize>,
    tries: Mutex<Vec<usize>>,
    reads: AtomicUsize,
}

impl Colours {
    fn of(n: usize) -> Self {
        Colours { n, ..Colours::default() }
    }

    fn sample(i: usize) -> Result<Sample> {
        let image = Image::new(6, 5, 3, (0..90).map(|p| ((p * 7 + i * 31) % 256) as u8).collect())?;
        Ok(Sample { picture: Picture::Image(image), label: Label::Class(i as u32) })
    }
}

impl Dataset for Colours {
    fn len(&self) -> usize {
        self.n
    }
    fn get(&self, i: usize) -> Result<Sample> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.slow);
        if self.hiccups.contains(&i) {
            let mut tries = self.tries.lock().unwrap();
            tries.push(i);
            if tries.iter().filter(|t| **t == i).count() <= 2 {
                let source = std::io::Error::from_raw_os_error(if cfg!(target_os = "linux") { 116 } else { 70 });
                return Err(Error::Io { path: format!("{i}.jpg").into(), source });
            }
        }
        if self.bad.contains(&i) { Err(Error::Decode("made to fail".into())) } else { Colours::sample(i) }
    }
    fn name(&self, i: usize) -> String {
        format!("colour {i}")
    }
}

/// A stream that announces more samples than it has.
struct Short {
    has: usize,
    announces: usize,
}

impl Stream for Short {
    fn open(&self, _: usize, rank: usize, world: usize) -> Result<Box<dyn Iterator<Item = Result<Sample>> + Send>> {
        Ok(Box::new((rank..self.has).step_by(world).map(Colours::sample)))
    }
    fn len(&self, world: usize) -> usize {
        self.announces / world
    }
}

fn config(workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size: 8,
        size: (4, 4),
        seed: 3,
        shuffle: true,
        drop_last: false,
        workers,
        max_bad: 0.0,
        memory: None,
    }
}

fn pipeline() -> Pipeline {
    Pipeline::mae_finetune((4, 4), Normalize::imagenet(), "rand-m9-mstd0.5-inc1", 0.5).unwrap()
}

fn loader(data: Colours, config: LoaderConfig) -> Loader {
    Loader::new(Arc::new(data), pipeline(), config).unwrap()
}

fn all(loader: &Loader, epoch: usize) -> Vec<Batch> {
    loader.epoch(epoch, 0).map(|b| b.unwrap()).collect()
}

/// The bytes of a whole batch of `config`.
const BATCH: u64 = 8 * 3 * 4 * 4 * 4;

#[test]
fn workers_budgets_and_replaced_or_skipped_samples_do_not_change_the_bits() {
    for policy in [OnBad::Replace, OnBad::Skip] {
        let make = |workers: usize, memory: Option<u64>| {
            let data = Colours { bad: vec![3, 4, 5, 20, 59], ..Colours::of(60) };
            loader(data, LoaderConfig { max_bad: 0.1, memory, ..config(workers) }).on_bad(policy)
        };
        let want = all(&make(0, None), 1);
        assert!(want.iter().map(|b| b.step).eq(0..8));
        let samples: usize = want.iter().map(|b| b.indices.len()).sum();
        assert_eq!(samples, if policy == OnBad::Skip { 55 } else { 60 });
        for workers in [0, 1, 3, 8] {
            for memory in [None, Some(2 * BATCH), Some(3 * BATCH + 5), Some(100 * BATCH)] {
                let l = make(workers, memory);
                let mut epoch = l.epoch(1, 0);
                for (step, want) in want.iter().enumerate() {
                    let got = epoch.next().unwrap().unwrap();
                    assert_eq!(&got, want, "{policy:?}, {workers} workers, {memory:?} bytes, step {step}");
                }
                assert!(epoch.next().is_none());
                assert_eq!((epoch.delivered(), epoch.missing()), (8, 0));
                let bad: Vec<usize> = l.bad().iter().map(|b| b.index).collect();
                assert_eq!(bad, [3, 4, 5, 20, 59]);
                assert!(l.bad()[0].message.contains("colour 3") && l.bad()[0].message.contains("made to fail"));
            }
        }
    }
}

#[test]
fn the_limit_of_bad_samples_is_met_at_the_same_step_by_any_workers() {
    let outcome = |workers: usize| {
        let data = Colours { bad: (0..60).filter(|i| i % 7 == 0).collect(), ..Colours::of(60) };
        let l = loader(data, LoaderConfig { max_bad: 0.05, ..config(workers) });
        let mut epoch = l.epoch(0, 0);
        let ok = epoch.by_ref().take_while(Result::is_ok).count();
        (ok, l.bad_samples(), l.bad())
    };
    let want = outcome(0);
    assert_eq!(want.1, 4, "the fourth is one too many");
    for workers in [1, 3, 8] {
        for _ in 0..10 {
            assert_eq!(outcome(workers), want);
        }
    }
    // Where nothing can be read, it does not take every sample to find that out.
    let data = Arc::new(Colours { bad: (0..5000).collect(), ..Colours::of(5000) });
    let l = Loader::new(data.clone(), pipeline(), LoaderConfig { max_bad: 0.001, ..config(0) }).unwrap();
    let e = l.epoch(0, 0).next().unwrap().unwrap_err().to_string();
    assert!(e.contains("of 5000 samples cannot be read"), "{e}");
    assert!(data.reads.load(Ordering::SeqCst) <= 8 * 6);
}

#[test]
fn a_batch_without_a_readable_sample_leaves_the_steps_of_the_others() {
    for workers in [0, 1, 3] {
        let data = Colours { bad: (8..24).collect(), ..Colours::of(40) };
        let c = LoaderConfig { shuffle: false, max_bad: 1.0, ..config(workers) };
        let l = loader(data, c).on_bad(OnBad::Skip);
        let mut epoch = l.epoch(2, 0);
        let came: Vec<(usize, usize, usize)> =
            epoch.by_ref().map(|b| b.unwrap()).map(|b| (b.epoch, b.step, b.indices[0])).collect();
        assert_eq!(came, [(2, 0, 0), (2, 3, 24), (2, 4, 32)]);
        assert_eq!((epoch.delivered(), epoch.missing()), (3, 2));
    }
}

#[test]
fn a_stream_that_is_shorter_than_announced_ends_the_epoch_and_says_so() {
    for workers in [0, 1, 3] {
        for (drop_last, has, sizes) in
            [(false, 19, vec![8, 8, 3]), (true, 19, vec![8, 8]), (false, 16, vec![8, 8]), (false, 0, vec![])]
        {
            let c = LoaderConfig { drop_last, ..config(workers) };
            let stream = Arc::new(Short { has, announces: 8 * 100_000 });
            let l = Loader::streaming(stream, 0, 1, pipeline(), c).unwrap();
            for _ in 0..2 {
                let mut epoch = l.epoch(0, 0);
                let came: Vec<usize> = epoch.by_ref().map(|b| b.unwrap().indices.len()).collect();
                assert_eq!(came, sizes, "{workers} workers");
                assert_eq!((epoch.delivered(), epoch.missing()), (sizes.len(), 100_000 - sizes.len()));
                assert!(epoch.next().is_none());
            }
        }
    }
}

#[test]
fn errors_that_pass_are_tried_again_and_change_nothing() {
    for workers in [0, 2] {
        let want = all(&loader(Colours::of(16), config(workers)), 0);
        let l = loader(Colours { hiccups: vec![2, 9], ..Colours::of(16) }, config(workers));
        assert_eq!(all(&l, 0), want);
        assert_eq!((l.stats().retries.load(Ordering::SeqCst), l.bad_samples()), (4, 0));
    }
}

#[test]
fn memory_stays_within_the_budget_with_many_workers_and_a_slow_consumer() {
    for (workers, batches) in [(1, 2), (8, 2), (8, 3), (16, 7)] {
        let memory = Some(batches * BATCH);
        let l = loader(Colours::of(400), LoaderConfig { memory, ..config(workers) });
        let plan = l.plan();
        assert!(plan.bytes() <= batches * BATCH && plan.batches >= 2, "{plan}");
        for epoch in 0..3 {
            for (i, batch) in l.epoch(epoch, 0).enumerate() {
                let batch = batch.unwrap();
                if i % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                assert!(l.memory().held() <= plan.buffer_bytes());
                batch.home.recycle(batch.images);
            }
        }
        let peak = l.memory().peak();
        assert!(peak <= plan.buffer_bytes(), "{peak} bytes in {plan}");
        assert_eq!(l.memory().held(), 0, "nothing is kept between epochs");
    }
    let e =
        Loader::new(Arc::new(Colours::of(400)), pipeline(), LoaderConfig { memory: Some(2 * BATCH - 1), ..config(4) });
    let e = e.unwrap_err().to_string();
    assert!(e.contains("memory") && e.contains("two batches of 8"), "{e}");
}

#[test]
fn a_buffer_given_back_is_filled_again() {
    let l = loader(Colours::of(80), LoaderConfig { memory: Some(2 * BATCH), ..config(1) });
    let mut seen = std::collections::HashSet::new();
    for batch in l.epoch(0, 0) {
        let batch = batch.unwrap();
        let Pixels::F32(v) = &batch.images else { panic!("f32 was asked for") };
        seen.insert(v.as_ptr() as usize);
        batch.home.recycle(batch.images);
    }
    assert!(seen.len() <= 4, "{} buffers for 10 batches", seen.len());
}

#[test]
fn threads_are_started_once_and_end_with_the_last_loader() {
    let l = loader(Colours::of(24), LoaderConfig { batch_size: 4, ..config(2) });
    let alive = l.threads();
    assert_eq!(alive.load(Ordering::SeqCst), 0, "a loader that is never used starts none");
    let want = all(&l, 0).len();
    let started = alive.load(Ordering::SeqCst);
    assert_eq!(started, 5, "two workers, three that lead them");
    for epoch in 1..1000 {
        // Some epochs are read to their end, some are dropped at once or half-way.
        assert_eq!(l.epoch(epoch, 0).take(epoch % 9).count(), want.min(epoch % 9));
        assert_eq!(alive.load(Ordering::SeqCst), started);
    }
    let (copy, open) = (l.clone().on_bad(OnBad::Skip), l.epoch(0, 0));
    drop(l);
    all(&copy, 1);
    drop(copy);
    assert_eq!(alive.load(Ordering::SeqCst), started, "an open epoch keeps them");
    drop(open);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dropped_epoch_is_given_up_at_once() {
    let data = Arc::new(Colours { slow: Duration::from_millis(20), ..Colours::of(4000) });
    let l = Loader::new(data.clone(), pipeline(), config(4)).unwrap();
    let mut epoch = l.epoch(0, 0);
    epoch.next().unwrap().unwrap();
    let start = std::time::Instant::now();
    drop(epoch);
    // What is in work is one sample per worker; the batches ahead would take more than a hundred milliseconds.
    let reads = data.reads.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(data.reads.load(Ordering::SeqCst), reads, "somebody still reads {:?} after the end", start.elapsed());
    assert!(reads < 100, "{reads} samples were read for one batch");
}

#[test]
fn loaders_that_share_have_one_pool_and_their_own_batches() {
    let a = loader(Colours::of(64), LoaderConfig { memory: Some(3 * BATCH), ..config(2) });
    let make = || loader(Colours::of(64), LoaderConfig { seed: 9, ..config(5) });
    let others: Vec<Loader> = (0..10).map(|_| make().sharing(&a).unwrap()).collect();
    let want = all(&make(), 0);
    let mut epochs: Vec<Epoch> = others.iter().map(|l| l.epoch(0, 0)).collect();
    for want in &want {
        for epoch in &mut epochs {
            assert_eq!(&epoch.next().unwrap().unwrap(), want);
        }
    }
    let started = a.threads().load(Ordering::SeqCst);
    assert!(started == 5, "{started} threads for eleven loaders");
    // Ten open epochs are allowed a batch each, even where the budget is three.
    assert!(a.memory().peak() <= 10 * BATCH, "{}", a.memory().peak());
    let large = loader(Colours::of(64), LoaderConfig { batch_size: 32, ..config(2) });
    let e = large.sharing(&a).unwrap_err().to_string();
    assert!(e.contains("32 samples") && e.contains("shared budget"), "{e}");
}

#[test]
fn views_are_those_of_a_loader_each_and_decode_once() {
    let views: Vec<Pipeline> = [0.0, 1.0]
        .map(|p| {
            let mut pipeline = Pipeline::evaluation((4, 4), Normalize::imagenet());
            pipeline.transforms.push(crate::augment::Transform::HorizontalFlip { p });
            pipeline
        })
        .to_vec();
    let data = Arc::new(Colours::of(20));
    let base = || Loader::new(data.clone(), views[0].clone(), LoaderConfig { shuffle: false, ..config(2) }).unwrap();
    let both = all(&base().viewing(views.clone()).unwrap(), 0);
    assert_eq!(data.reads.load(Ordering::SeqCst), 20);
    for (v, view) in views.iter().enumerate() {
        let own = Loader::new(data.clone(), view.clone(), LoaderConfig { shuffle: false, ..config(0) }).unwrap();
        for (both, own) in both.iter().zip(all(&own, 0)) {
            assert_eq!((both.views, &both.indices), (2, &own.indices));
            let (Pixels::F32(both), Pixels::F32(own)) = (&both.images, &own.images) else { panic!("f32") };
            assert_eq!(both[v * own.len()..(v + 1) * own.len()], own[..], "view {v}");
        }
    }
    let gray = Pipeline::evaluation((4, 4), Normalize { mean: vec![0.5], std: vec![0.5] });
    assert!(base().viewing(vec![gray]).unwrap_err().to_string().contains("same normalisation"));
    assert!(base().viewing(vec![]).is_err());
}

struct Panics;

impl Collate for Panics {
    fn collate(&self, batch: Batch, moment: &Moment) -> Result<Batch> {
        assert_ne!(moment.step, 1, "made to panic");
        Ok(batch)
    }
}

#[test]
fn a_panic_is_the_error_of_its_batch_alone() {
    for workers in [0, 2] {
        let l = loader(Colours::of(24), config(workers)).collating(Arc::new(Panics));
        let got: Vec<Result<Batch>> = l.epoch(0, 0).collect();
        let e = got[1].as_ref().unwrap_err().to_string();
        assert!(e.contains("step 1") && e.contains("made to panic"), "{e}");
        assert!(got[0].is_ok() && got[2].is_ok() && got.len() == 3);
    }
}

#[test]
fn a_sampler_past_the_end_is_an_error_by_any_workers() {
    for workers in [0, 2] {
        let data = Arc::new(Colours::of(8));
        let l = Loader::with_sampler(data, Arc::new(Sequential(20)), pipeline(), config(workers)).unwrap();
        let e = l.epoch(0, 0).find_map(Result::err).unwrap().to_string();
        assert!(e.contains("sample 8 of a data set of 8"), "{e}");
    }
}
