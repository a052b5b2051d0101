//! Tests of files of features: growing, being interrupted, being read.

use super::*;
use candle_core::Tensor;
use candlelight_data::{Dataset, Image, Label, Loader, LoaderConfig, OnBad, Picture, Pipeline, Sample};
use candlelight_models::Frozen;
use std::cell::Cell;
use std::sync::Arc;

/// Pictures of one colour each, of which some cannot be read.
struct Colours(usize, Vec<usize>);

impl Dataset for Colours {
    fn len(&self) -> usize {
        self.0
    }
    fn get(&self, i: usize) -> candlelight_data::Result<Sample> {
        if self.1.contains(&i) {
            return Err(candlelight_data::Error::Decode("made to fail".into()));
        }
        let image = Image::new(4, 4, 1, (0..16).map(|p| ((p * 5 + i * 13) % 256) as u8).collect())?;
        Ok(Sample { picture: Picture::Image(image), label: Label::Class(i as u32 % 3) })
    }
    fn name(&self, i: usize) -> String {
        format!("colour {i}")
    }
}

fn loader(n: usize, bad: Vec<usize>, batch_size: usize) -> Loader {
    let normalize = Normalize { mean: vec![0.5], std: vec![0.25] };
    let config = LoaderConfig {
        batch_size,
        size: (4, 4),
        shuffle: false,
        drop_last: false,
        max_bad: 1.0,
        ..LoaderConfig::default()
    };
    Loader::new(Arc::new(Colours(n, bad)), Pipeline::new(vec![], normalize), config).unwrap()
}

/// Takes the first five pixels of an image, counts batches, and fails at the one numbered `at`.
fn model(calls: &Cell<usize>, at: usize) -> impl FeatureExtractor + '_ {
    Frozen::new(5, move |images: &Tensor| {
        if calls.get() == at {
            candle_core::bail!("made to stop");
        }
        calls.set(calls.get() + 1);
        images.flatten_from(1)?.narrow(1, 0, 5)?.contiguous()
    })
}

fn extract(path: &Path, made_from: &str, data: &Loader, stop: usize) -> (Result<Features>, usize, Vec<usize>) {
    let (calls, mut shown) = (Cell::new(0), vec![]);
    let got = Features::extract_to(path, made_from, &model(&calls, stop), data, &Device::Cpu, |n| {
        shown.push(n);
        Ok(())
    });
    (got, calls.get(), shown)
}

fn in_memory(data: &Loader) -> Features {
    Features::extract(&model(&Cell::new(0), usize::MAX), data, &Device::Cpu, |_| Ok(())).unwrap()
}

fn batches(f: &Features, epoch: usize) -> Vec<Batch> {
    Batches::epoch(f, epoch, 0).map(|b| b.unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_that_grew_is_a_saved_one_and_serves_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let data = loader(23, vec![], 4);
    let (file, calls, shown) = extract(&path, "here", &data, usize::MAX);
    assert_eq!((calls, shown), (6, vec![4, 8, 12, 16, 20, 23]));
    assert_eq!(names(dir.path()), ["f.safetensors"]);
    let memory = in_memory(&data);
    let saved = dir.path().join("saved.safetensors");
    memory.save(&saved, "here").unwrap();
    assert_eq!(std::fs::read(&saved).unwrap(), std::fs::read(&path).unwrap());
    let (file, memory) = (file.unwrap().training(5, 7), memory.training(5, 7));
    for epoch in 0..3 {
        assert_eq!(batches(&file, epoch), batches(&memory, epoch));
        assert!(batches(&file, epoch).iter().enumerate().all(|(i, b)| (b.epoch, b.step) == (epoch, i)));
    }
    assert!(file.stats().read.load(Ordering::Relaxed) > 0);
    // Other programs read it too, and a copy of a file is the file.
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    assert_eq!(tensors["features"].dims(), [23, 5]);
    assert_eq!(tensors["labels"].to_vec1::<u32>().unwrap(), (0..23).map(|i| i % 3).collect::<Vec<u32>>());
    file.save(&saved, "there").unwrap();
    assert!(Features::load(&saved, "here").unwrap().is_none());
    assert_eq!(batches(&Features::load(&saved, "there").unwrap().unwrap().training(5, 7), 1), batches(&memory, 1));
    assert!(Features::load(&dir.path().join("none"), "here").unwrap().is_none());
}

#[test]
fn what_was_computed_before_a_kill_is_taken_over_and_damage_is_not() {
    let data = loader(23, vec![], 4);
    let want = batches(&in_memory(&data), 0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let (log, rows) = (dir.path().join(".f.safetensors.partial.log"), dir.path().join(".f.safetensors.partial"));
    let interrupted = || {
        assert!(extract(&path, "here", &data, 3).0.unwrap_err().to_string().contains("made to stop"));
        assert!(!path.exists(), "half a file has the name of a whole one");
    };
    let damage = |which: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(which).unwrap();
        change(&mut bytes);
        std::fs::write(which, bytes).unwrap();
    };
    // Each kind of damage with the batches that are still to be computed.
    type Damage<'a> = (&'a str, usize, &'a dyn Fn());
    let cases: [Damage<'_>; 8] = [
        ("none", 3, &|| ()),
        ("half a line of the log", 4, &|| damage(&log, &|b| b.truncate(b.len() - 4))),
        ("rubbish behind the log", 3, &|| damage(&log, &|b| b.extend([0xff, 0xfe, b'\n']))),
        ("vectors without a line", 3, &|| damage(&rows, &|b| b.extend([7; 33]))),
        ("a vector cut off", 4, &|| damage(&rows, &|b| b.truncate(b.len() - 1))),
        ("a bit of the second batch", 5, &|| {
            damage(&rows, &|b| {
                let at = b.len() - 4 * 5 * 8 + 1;
                b[at] ^= 1;
            })
        }),
        ("no log", 6, &|| std::fs::remove_file(&log).unwrap()),
        ("no vectors", 6, &|| std::fs::remove_file(&rows).unwrap()),
    ];
    for (what, left, damage) in cases {
        interrupted();
        damage();
        let (got, calls, shown) = extract(&path, "here", &data, usize::MAX);
        assert_eq!((calls, shown.last()), (left, Some(&23)), "{what}");
        assert_eq!(batches(&got.unwrap(), 0), want, "{what}");
        assert_eq!(names(dir.path()), ["f.safetensors"], "{what}");
        std::fs::remove_file(&path).unwrap();
    }
    // What belongs to other features or other batches is not taken over.
    interrupted();
    assert_eq!(extract(&path, "there", &data, usize::MAX).1, 6);
    std::fs::remove_file(&path).unwrap();
    interrupted();
    assert_eq!(extract(&path, "here", &loader(23, vec![], 5), usize::MAX).1, 5);
}

#[test]
fn samples_that_are_left_out_leave_no_gap_and_replaced_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    // The second batch and one more sample cannot be read.
    let bad = vec![4, 5, 6, 7, 9];
    let data = || loader(23, bad.clone(), 4).on_bad(OnBad::Skip);
    assert!(extract(&path, "here", &data(), 2).0.is_err());
    let (got, calls, _) = extract(&path, "here", &data(), usize::MAX);
    assert_eq!(calls, 3, "two of the five batches that come were there");
    let got = got.unwrap();
    let want = in_memory(&data());
    assert_eq!((got.samples(), batches(&got, 0)), (18, batches(&want, 0)));
    let e = extract(&path, "else", &loader(23, bad, 4), usize::MAX).0.unwrap_err().to_string();
    assert!(e.contains("sample 8 comes after sample 8") && e.contains("OnBad::Skip"), "{e}");
}

#[test]
fn one_process_computes_and_files_that_are_damaged_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let data = loader(8, vec![], 4);
    let calls = Cell::new(0);
    let inner = |_: usize| {
        let e = extract(&path, "here", &data, usize::MAX).0.unwrap_err().to_string();
        assert!(e.contains("another process"), "{e}");
        Ok(())
    };
    Features::extract_to(&path, "here", &model(&calls, usize::MAX), &data, &Device::Cpu, inner).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        Features::load(&path, "here").unwrap_err().to_string()
    };
    for length in [0, 7, 8, 100, whole.len() - 1] {
        let e = with(&|b| b.truncate(length));
        assert!(e.contains("f.safetensors") && e.contains("remove it"), "{length}: {e}");
    }
    assert!(with(&|b| b.push(0)).contains("expected"));
    assert!(with(&|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes())).contains("header"));
    assert!(with(&|b| b[20] = 0xff).contains("JSON"));
    let narrow = whole.windows(3).position(|w| w == b"F32").unwrap();
    assert!(with(&|b| b[narrow + 1..narrow + 3].copy_from_slice(b"16")).contains("expected F32"));
}
