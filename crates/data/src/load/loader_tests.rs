//! Tests of what the loader promises.

use super::*;
use crate::augment::Transform;
use crate::image::Image;
use crate::load::batch::Batch;
use crate::load::mix::Mix;
use crate::load::pipeline::{Normalize, Splits};
use crate::load::sampler::RepeatedAugmentation;
use crate::sets::{InOrder, Label, Picture, Repeat, Sample};

struct Made {
    n: usize,
    bad: Vec<usize>,
    panics: bool,
}

impl Dataset for Made {
    fn len(&self) -> usize {
        self.n
    }
    fn get(&self, i: usize) -> Result<Sample> {
        assert!(!(self.panics && i == 3), "made to panic");
        if self.bad.contains(&i) {
            return Err(Error::Decode("made to fail".into()));
        }
        let image = Image::new(9, 7, 3, (0..9 * 7 * 3).map(|p| (p * (i + 1) % 256) as u8).collect())?;
        Ok(Sample { picture: Picture::Image(image), label: Label::Class(i as u32) })
    }
    fn name(&self, i: usize) -> String {
        format!("made/{i}.jpg")
    }
}

fn loader(data: Made, workers: usize, max_bad: f64) -> Result<Loader> {
    let pipeline = Pipeline::mae_pretrain((4, 4), Normalize::imagenet());
    let config = LoaderConfig {
        batch_size: 4,
        size: (4, 4),
        seed: 5,
        shuffle: true,
        drop_last: true,
        workers,
        max_bad,
        memory: None,
    };
    Loader::new(Arc::new(data), pipeline, config)
}

fn all(l: &Loader, epoch: usize, start: usize) -> Vec<Batch> {
    l.epoch(epoch, start).map(|b| b.unwrap()).collect()
}

#[test]
fn workers_and_starting_points_do_not_change_the_batches() {
    let made = || Made { n: 30, bad: vec![7, 11], panics: false };
    let want = all(&loader(made(), 0, 0.5).unwrap(), 2, 0);
    assert_eq!(want.len(), 7);
    for workers in [1, 2, 5, 8] {
        let l = loader(made(), workers, 0.5).unwrap();
        assert_eq!(all(&l, 2, 0), want, "{workers} workers");
        assert_eq!(all(&l, 2, 5), want[5..]);
        assert!((1..=2).contains(&l.bad_samples()));
        assert_ne!(all(&l, 3, 0), want);
    }
}

#[test]
fn an_epoch_yields_each_sample_once() {
    let l = loader(Made { n: 32, bad: vec![], panics: false }, 3, 0.0).unwrap();
    let mut seen: Vec<usize> = all(&l, 0, 0).into_iter().flat_map(|b| b.indices).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..32));
}

#[test]
fn bad_samples_are_counted_named_and_bounded_and_panics_are_caught() {
    let l = loader(Made { n: 30, bad: vec![1, 2, 4, 8, 16], panics: false }, 2, 0.05).unwrap();
    let e = l.epoch(0, 0).find_map(Result::err).unwrap().to_string();
    assert!(e.contains("of 30 samples") && e.contains("made/") && e.contains("made to fail"), "{e}");
    let l = loader(Made { n: 30, bad: vec![], panics: true }, 2, 0.1).unwrap();
    assert_eq!(all(&l, 0, 0).len(), 7);
    assert_eq!(l.bad_samples(), 1);
}

#[test]
fn batches_larger_than_the_data_and_empty_data_are_refused() {
    let e = loader(Made { n: 3, bad: vec![], panics: false }, 0, 0.0).unwrap_err().to_string();
    assert!(e.contains("batch of 4") && e.contains("of 3"), "{e}");
    assert!(loader(Made { n: 0, bad: vec![], panics: false }, 0, 0.0).is_err());
}

#[test]
fn the_ways_with_bad_samples_do_what_they_say() {
    let made = || Made { n: 30, bad: vec![7, 11], panics: false };
    let l = loader(made(), 2, 0.5).unwrap().on_bad(OnBad::Skip);
    let sizes: Vec<usize> = all(&l, 2, 0).iter().map(|b| b.indices.len()).collect();
    assert!(sizes.iter().sum::<usize>() <= 28 && sizes.contains(&3) | sizes.contains(&2), "{sizes:?}");
    let e = loader(made(), 2, 0.5).unwrap().on_bad(OnBad::Fail).epoch(0, 0).find_map(Result::err);
    assert!(e.is_none_or(|e| e.to_string().contains("made/")));
    let strict = loader(Made { n: 30, bad: (0..30).collect(), panics: false }, 0, 1.0).unwrap().on_bad(OnBad::Fail);
    assert!(strict.epoch(0, 0).next().unwrap().unwrap_err().to_string().contains("made to fail"));
}

#[test]
fn a_stream_gives_the_same_batches_for_any_workers_and_start_and_its_parts_are_disjoint() {
    let stream = |bad: Vec<usize>| Arc::new(InOrder(Arc::new(Made { n: 37, bad, panics: false })));
    let make = |workers: usize, rank: usize, world: usize| {
        let l = loader(Made { n: 30, bad: vec![], panics: false }, workers, 0.5).unwrap();
        let (p, c) = (l.pipeline().clone(), LoaderConfig { drop_last: false, ..l.shared.config.clone() });
        Loader::streaming(stream(vec![5]), rank, world, p, c).unwrap()
    };
    let want = all(&make(0, 0, 1), 1, 0);
    assert_eq!(want.len(), 10);
    assert_eq!(want[1].indices, [4, 6, 7], "what cannot be read is left out");
    for workers in [1, 3] {
        assert_eq!(all(&make(workers, 0, 1), 1, 0), want);
        assert_eq!(all(&make(workers, 0, 1), 1, 6), want[6..]);
    }
    let labels =
        |rank: usize| -> Vec<u32> { all(&make(2, rank, 2), 0, 0).into_iter().flat_map(|b| b.labels).collect() };
    let (a, b) = (labels(0), labels(1));
    assert!(a.iter().all(|l| l % 2 == 0) && b.iter().all(|l| l % 2 == 1));
    let thrice = Repeat::new(InOrder(Arc::new(Made { n: 5, bad: vec![], panics: false })), 3);
    assert_eq!((Stream::len(&thrice, 1), thrice.open(0, 0, 1).unwrap().count()), (15, 15));
}

#[test]
fn streams_that_panic_or_end_early_and_unreadable_batches_end_nothing_else() {
    let c = LoaderConfig {
        drop_last: false,
        ..loader(Made { n: 30, bad: vec![], panics: false }, 0, 0.5).unwrap().shared.config.clone()
    };
    let p = Pipeline::mae_pretrain((4, 4), Normalize::imagenet());
    for workers in [0, 1, 3] {
        let c = LoaderConfig { workers, ..c.clone() };
        let make = |bad: Vec<usize>, panics: bool| {
            let stream = Arc::new(InOrder(Arc::new(Made { n: 37, bad, panics })));
            Loader::streaming(stream, 0, 1, p.clone(), c.clone()).unwrap()
        };
        // Sample 3 panics: it is left out, and the stream goes on behind it.
        let all_but_one: usize = all(&make(vec![], true), 0, 0).iter().map(|b| b.indices.len()).sum();
        assert_eq!(all_but_one, 36, "{workers} workers");
        let l = make(vec![36], false);
        assert_eq!(all(&l, 0, 0).len(), 9, "the last batch has nothing in it");
        for epoch in 0..30 {
            all(&l, epoch, 0); // one bad sample per epoch never adds up
        }
    }
    let e = Loader::with_sampler(
        Arc::new(Made { n: 8, bad: vec![], panics: false }),
        Arc::new(Sequential(20)),
        p.clone(),
        c.clone(),
    );
    let e = e.unwrap().epoch(0, 0).find_map(Result::err).unwrap().to_string();
    assert!(e.contains("sample 8 of a data set of 8"), "{e}");
    let bad = LoaderConfig { max_bad: f64::NAN, ..c };
    assert!(Loader::new(Arc::new(Made { n: 8, bad: vec![], panics: false }), p, bad).is_err());
}

#[test]
fn repeats_are_augmented_anew_and_views_and_mixing_reach_the_batch() {
    let data = || Arc::new(Made { n: 8, bad: vec![], panics: false });
    let base = loader(Made { n: 8, bad: vec![], panics: false }, 2, 0.0).unwrap();
    let (mut p, c) = (base.pipeline().clone(), base.shared.config.clone());
    let sampler = Arc::new(RepeatedAugmentation { n: 8, seed: 1, repeats: 4 });
    let l = Loader::with_sampler(data(), sampler, p.clone(), c.clone()).unwrap();
    let batch = all(&l, 0, 0).remove(0);
    let Pixels::F32(v) = &batch.images else { panic!() };
    assert!(batch.indices.iter().all(|i| *i == batch.indices[0]));
    assert!(v.chunks(48).skip(1).any(|o| o != &v[..48]), "the same sample four times, not the same pixels");

    p.splits = Some(Splits { count: 3, shared: 2, erase_clean: false });
    p.transforms.push(Transform::GaussianNoise { std: 0.2, p: 1.0 });
    let l = Loader::new(data(), p, c.clone()).unwrap();
    let batch = all(&l, 0, 0).remove(0);
    let Pixels::F32(v) = &batch.images else { panic!() };
    assert_eq!((v.len(), batch.views, batch.labels.len()), (3 * 4 * 48, 3, 4));

    let mix = || Arc::new(Mix::mae_finetune(8));
    let l = Loader::new(data(), base.pipeline().clone(), c.clone()).unwrap().collating(mix()).bytes();
    let batch = all(&l, 0, 0).remove(0);
    assert!(matches!(&batch.images, Pixels::U8(v) if v.len() == 4 * 48));
    assert_eq!(batch.targets.as_ref().unwrap().len(), 32);
    let again = Loader::new(data(), base.pipeline().clone(), c).unwrap().collating(mix()).bytes();
    l.recycle(batch.images.clone());
    assert_eq!(all(&again, 0, 0).remove(0), batch);
    assert_eq!(all(&l, 0, 0).remove(0), batch, "a used buffer is filled anew");
    let f32s = batch.images.into_f32(&Normalize::imagenet(), 16);
    assert!(f32s.len() == 192 && f32s.iter().all(|v| v.abs() < 3.0));
}

#[test]
fn dropping_an_epoch_early_stops_its_workers() {
    let l = loader(Made { n: 400, bad: vec![], panics: false }, 4, 0.0).unwrap();
    let mut e = l.epoch(0, 0);
    e.next().unwrap().unwrap();
    drop(e);
    assert_eq!(Arc::strong_count(&l.shared), 1, "a worker is still there");
}
