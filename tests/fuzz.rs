//! Bytes and strings nobody should have written: an error is right, a panic is not.
//!
//! `cargo test --test fuzz` tries 2,000 inputs of each reader; `just fuzz` tries 100,000 (`CANDLELIGHT_FUZZ_RUNS`). Inputs are mutations of
//! good ones, drawn from a seed that is printed (`CANDLELIGHT_FUZZ_SEED`). An input that takes longer than a minute hangs; memory is bounded.

use candlelight::data::{Decode, LabelKind, Limits, OpenConfig, Policy, PolicyHints, decode, open, orientation};
use candlelight::kernels::rng::Rng;
use candlelight::models::weights;
use candlelight::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// A reader that needs longer than this for a few kilobytes hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most memory that this program may have used, in KiB: the decoders' limits, and room for the tests that run side by side.
const MEMORY: u64 = 3 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// The highest memory use so far in KiB, where the system tells.
fn peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Runs `f` on mutations; names the input of the first panic, and ends the program at an input that hangs.
fn fuzz(name: &str, seeds: &[Vec<u8>], f: impl Fn(&[u8])) {
    let (runs, seed) = (setting("CANDLELIGHT_FUZZ_RUNS", 2000), setting("CANDLELIGHT_FUZZ_SEED", 0));
    let done = AtomicU64::new(0);
    let keep = |input: &[u8], run: u64| {
        let path = std::env::temp_dir().join(format!("candlelight-{name}-{seed}-{run}"));
        std::fs::write(&path, input).expect("the input can be kept");
        path
    };
    let input = |run: u64| mutate(&mut Key::new(seed).child(name).index(run).rng(), seeds);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                std::thread::sleep(Duration::from_millis(20));
                match done.load(Ordering::Acquire) {
                    u64::MAX => return,
                    n if n != last => (last, since) = (n, Instant::now()),
                    n if since.elapsed() > PATIENCE => {
                        eprintln!("{name}: input {n} of seed {seed} hangs; it is in {}", keep(&input(n), n).display());
                        std::process::abort();
                    }
                    _ => {}
                }
            }
        });
        for run in 0..runs {
            let bytes = input(run);
            if catch_unwind(AssertUnwindSafe(|| f(&bytes))).is_err() {
                done.store(u64::MAX, Ordering::Release);
                panic!("{name}: input {run} of seed {seed} panics; it is in {}", keep(&bytes, run).display());
            }
            done.store(run + 1, Ordering::Release);
        }
        done.store(u64::MAX, Ordering::Release);
    });
    let peak = peak();
    println!("{name}: {runs} inputs of seed {seed}, {} MiB at most", peak >> 10);
    assert!(peak < MEMORY, "{name}: {} MiB of memory, more than {}", peak >> 10, MEMORY >> 10);
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

/// Opens a file under a name, as data, and reads all of it.
fn opened(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    let _ = std::fs::remove_file(dir.join(format!("{name}.index")));
    for labels in [LabelKind::Classes, LabelKind::None, LabelKind::Numbers] {
        let config = OpenConfig { labels, limits: Limits { pixels: 1 << 20, bytes: 1 << 20 }, ..OpenConfig::default() };
        let Ok(c) = open(&path, &config) else { continue };
        assert!(!c.to_string().is_empty());
        for p in c.parts() {
            (0..p.data.len()).for_each(|i| drop((p.data.label(i), p.data.get(i))));
        }
    }
}

#[test]
fn archives() {
    let dir = tempfile::tempdir().unwrap();
    let png = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/one_bit.png")).unwrap();
    let header = |kind: tar::EntryType, size: usize| {
        let mut h = tar::Header::new_gnu();
        h.set_size(size as u64);
        h.set_entry_type(kind);
        h
    };
    let mut folders = tar::Builder::new(Vec::new());
    for name in ["train/cat/1.png", "train/dog/2.png", "val/cat/a-rather-long-name.png"] {
        folders.append_data(&mut header(tar::EntryType::Regular, png.len()), name, &png[..]).unwrap();
    }
    folders.append_link(&mut header(tar::EntryType::Symlink, 0), "train/cat/link.png", "../dog/2.png").unwrap();
    folders.append_link(&mut header(tar::EntryType::Symlink, 0), "train/more", "cat").unwrap();
    folders
        .append_data(
            &mut header(tar::EntryType::Regular, png.len()),
            format!("train/{}/1.png", "x".repeat(120)),
            &png[..],
        )
        .unwrap();
    let mut shard = tar::Builder::new(Vec::new());
    for (name, bytes) in [("0.png", &png[..]), ("0.cls", b"1"), ("1.png", &png), ("1.json", b"{\"label\": 0}")] {
        shard.append_data(&mut header(tar::EntryType::Regular, bytes.len()), name, bytes).unwrap();
    }
    let (folders, shard) = (folders.into_inner().unwrap(), shard.into_inner().unwrap());
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &folders).unwrap();
    let seeds = [folders.clone(), shard.clone(), [&folders[..], &shard].concat(), gz.finish().unwrap()];
    fuzz("tar", &seeds, |bytes| opened(dir.path(), "a.tar", bytes));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for name in ["cat/1.png", "dog/2.png"] {
        zip.start_file(
            name,
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
        )
        .unwrap();
        std::io::Write::write_all(&mut zip, &png).unwrap();
    }
    fuzz("zip", &[zip.finish().unwrap().into_inner()], |bytes| opened(dir.path(), "a.zip", bytes));
}

#[test]
fn lists_and_small_pictures() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["1.png", "2.png"] {
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/one_bit.png"), dir.path().join(name))
            .unwrap();
    }
    let utf16: Vec<u8> = "path;label\r\n1.png;caf\u{e9}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        "path,label\n1.png,a\n2.png,b;c\n",
        "1.png\t3\n",
        "\"1.png\",0\n2.png,1.0\n",
        "id,cat,dog\n1,0,1\n2,1,0\n",
        "path,x,y\n1.png,0.5,2\n2.png,1,-3e2\n",
        "path,label,split\n1.png,0,train\n2.png,1,val\n",
        "sep=;\n1.png;nan\n",
        "/home/x/1.png 7\n/home/x/2.png -1\n",
    ];
    let seeds: Vec<Vec<u8>> = texts.iter().map(|s| s.as_bytes().to_vec()).chain([utf16]).collect();
    fuzz("list", &seeds, |bytes| opened(dir.path(), "a.csv", bytes));
    let idx = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[7; 8]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 1, 2];
    let (images, other) =
        (dir.path().join("idx/train-images-idx3-ubyte"), dir.path().join("idx/train-labels-idx1-ubyte"));
    std::fs::create_dir(dir.path().join("idx")).unwrap();
    fuzz("idx", &[idx, labels.to_vec()], |bytes| {
        std::fs::write(&images, bytes).unwrap();
        std::fs::write(&other, labels).unwrap();
        drop(open(&dir.path().join("idx"), &OpenConfig::default()));
        std::fs::write(&other, bytes).unwrap();
        drop(open(&images, &OpenConfig::default()));
    });
}

#[test]
fn weights_of_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let golden = |n: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(n)).unwrap();
    let small = candlelight::autograd::tensor_from(vec![1.0, 2.0, 3.0], 3).unwrap();
    let path = dir.path().join("w");
    weights::write_safetensors(&path, &[("head.weight".into(), small)], None).unwrap();
    // Deep nesting, which must not overflow a stack that is as small as a test thread's.
    let deep = [&[0x80, 2, b'N'][..], &[0x85; 20_000], b"."].concat();
    let seeds = [
        std::fs::read(&path).unwrap(),
        golden("zip.pth"),
        golden("legacy.pth"),
        golden("nested.pth"),
        golden("module.pth"),
        deep,
    ];
    assert!(seeds.iter().all(|s| s.len() < 200_000));
    fuzz("weights", &seeds, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        for options in [weights::Options::default(), weights::Options::ema(), weights::Options::set("model")] {
            drop(weights::open(&path, &options));
        }
    });
    let seeds = [
        r#"{"architecture": "vit_tiny", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}}"#,
        r#"{"id2label": {"0": "cat", "1": "dog"}, "image_size": 224, "model_type": "vit", "architectures": ["ViTForImageClassification"]}"#,
    ];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|s| s.as_bytes().to_vec()).collect();
    fuzz("config.json", &seeds, |bytes| {
        std::fs::write(dir.path().join("config.json"), bytes).unwrap();
        std::fs::write(dir.path().join("preprocessor_config.json"), bytes).unwrap();
        drop(candlelight::store::Preparation::beside(&path));
    });
}
