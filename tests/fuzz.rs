//! Bytes and strings nobody should have written: an error is right, a panic is not.
//!
//! `cargo test --test fuzz` looks at each target for a second; `CANDLELIGHT_FUZZ_SECONDS=60 cargo test --release --test fuzz`
//! for a minute. Inputs are mutations of good ones, drawn from a seed that is printed.

use candlelight::data::{Archive, ClassOrder, Decode, Limits, Policy, PolicyHints, Table, decode, orientation};
use candlelight::kernels::rng::Rng;
use candlelight::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.below(of.len() as u64) as usize]
}

/// Changes, inserts, removes, repeats and cuts bytes; sometimes splices two inputs.
fn mutate(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut v = pick(rng, seeds).clone();
    for _ in 0..=rng.below(8) {
        let at = rng.below(v.len().max(1) as u64) as usize;
        match rng.below(7) {
            0 if !v.is_empty() => v[at] ^= 1 << rng.below(8),
            1 if !v.is_empty() => v[at] = *pick(rng, &[0, 1, 0x7f, 0x80, 0xff, b'-', b'9']),
            2 => v.insert(at.min(v.len()), rng.below(256) as u8),
            3 if !v.is_empty() => drop(v.remove(at)),
            4 => v.truncate(at),
            5 => {
                let end = (at + rng.below(64) as usize).min(v.len());
                let part = v[at.min(end)..end].to_vec();
                v.splice(at.min(v.len())..at.min(v.len()), part);
            }
            _ => {
                let other = pick(rng, seeds);
                let from = rng.below(other.len().max(1) as u64) as usize;
                v.truncate(at);
                v.extend_from_slice(&other[from.min(other.len())..]);
            }
        }
    }
    v
}

/// Runs `f` on mutations for the time given; names the input of the first panic.
fn fuzz(name: &str, seeds: &[Vec<u8>], f: impl Fn(&[u8])) {
    let seconds = std::env::var("CANDLELIGHT_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let seed = std::env::var("CANDLELIGHT_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let (start, end) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut runs = 0u64;
    while start.elapsed() < end {
        let input = mutate(&mut Key::new(seed).child(name).index(runs).rng(), seeds);
        if catch_unwind(AssertUnwindSafe(|| f(&input))).is_err() {
            let path = std::env::temp_dir().join(format!("candlelight-{name}-{seed}-{runs}"));
            std::fs::write(&path, &input).expect("the input can be kept");
            panic!("{name}: input {runs} of seed {seed} panics; it is in {}", path.display());
        }
        runs += 1;
    }
    println!("{name}: {runs} inputs of seed {seed} in {seconds} s");
    assert!(runs > 0);
}

#[test]
fn decoding() {
    let pictures = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures")).unwrap();
    let mut files: Vec<_> =
        pictures.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e != "md")).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|p| std::fs::read(p).unwrap()).filter(|b| b.len() < 8000).collect();
    assert!(seeds.len() > 10);
    let limits = Limits { pixels: 1_000_000, bytes: 1 << 20 };
    for (truncated, bit_depth) in [(false, 8), (true, 8), (false, 32)] {
        for channels in [None, Some(1), Some(4)] {
            let options = Decode { limits, truncated, orientation: true, channels, bit_depth };
            fuzz("decode", &seeds, |bytes| match decode(bytes, &options) {
                Ok(image) => {
                    let n = image.width * image.height * image.channels;
                    assert_eq!(image.values().map_or(image.data.len(), <[f32]>::len), n);
                    assert_eq!(image.values().is_some(), bit_depth > 8);
                }
                // Decoders of other crates may panic, which is caught; ours do not.
                Err(e) => {
                    let e = e.to_string();
                    let ours = ["TIFF", "PNM", "NPY"].iter().any(|kind| e.starts_with(kind));
                    assert!(!ours || !e.contains("panicked"), "{e}");
                }
            });
            fuzz("orientation", &seeds, |bytes| assert!(orientation(bytes).is_none_or(|o| (1..=8).contains(&o))));
        }
    }
}

#[test]
fn policies() {
    let texts = [
        "rand-m9-mstd0.5-inc1",
        "rand-m7-n3-p0.7-mmax20-tweights",
        "augmix-m3-w3-d-1-a1-b0",
        "original-mstd0.5",
        "v0r",
        "3a",
        "trivial",
        "rand-t3aw-n2",
        "",
    ];
    let seeds: Vec<Vec<u8>> = texts.iter().map(|t| t.as_bytes().to_vec()).collect();
    let image = candlelight::data::Image::new(9, 7, 3, (0..189).collect()).unwrap();
    fuzz("policy", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match text.parse::<Policy>() {
            Ok(p) => {
                assert_eq!(p.to_string(), text);
                let out = p.apply(image.clone(), &PolicyHints::default(), Key::new(1)).unwrap();
                assert_eq!((out.width, out.height), (9, 7));
            }
            Err(e) => assert!(e.to_string().contains("allowed"), "{e}"),
        }
    });
}

#[test]
fn archives_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let (tar_path, index, csv) = (dir.path().join("a.tar"), dir.path().join("a.tar.index"), dir.path().join("a.csv"));
    let mut tar = tar::Builder::new(Vec::new());
    for (name, size) in [("cat/1.jpg", 700), ("dog/2.jpg", 0), ("dog/a-rather-long-name.cls", 3)] {
        let mut h = tar::Header::new_gnu();
        h.set_size(size);
        tar.append_data(&mut h, name, &vec![b'7'; size as usize][..]).unwrap();
    }
    fuzz("tar", &[tar.into_inner().unwrap()], |bytes| {
        std::fs::write(&tar_path, bytes).unwrap();
        let _ = std::fs::remove_file(&index);
        if let Ok(a) = Archive::open(&tar_path) {
            (0..a.len()).for_each(|i| drop(a.read(i, 1 << 20)));
        }
    });
    let seeds = ["path,label\n1.jpg,a\n2.jpg,b;c\n", "1.jpg\t3\n", "\"a,b\".jpg,0\n"].map(|s| s.as_bytes().to_vec());
    fuzz("table", &seeds, |bytes| {
        std::fs::write(&csv, bytes).unwrap();
        if let Ok(c) = open(&csv, &OpenConfig::default()) {
            c.parts().iter().for_each(|p| (0..p.data.len()).for_each(|i| drop(p.data.label(i))));
        }
    });
}
