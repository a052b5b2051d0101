//! What the tests of the example programs share.
#![allow(dead_code)] // each test uses a part

use std::path::{Path, PathBuf};
use std::process::Command;

/// The built example: cargo builds examples before it runs tests.
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo test` without --test, or build the examples", path.display());
    path
}

/// A program's status and everything it said.
pub fn run(dir: &Path, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program(name)).current_dir(dir).args(args).output().unwrap();
    (out.status.code(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// What a program says that must succeed.
#[track_caller]
pub fn ok(dir: &Path, name: &str, args: &[&str]) -> String {
    let (code, text) = run(dir, name, args);
    assert_eq!(code, Some(0), "{name} {args:?}: {text}");
    text
}

/// The flags of a small and quick training on [`folders`].
pub const SMALL: [&str; 14] = [
    "data",
    "--input_size",
    "3",
    "16",
    "16",
    "-b",
    "8",
    "--warmup_epochs",
    "0",
    "--cooldown_epochs",
    "0",
    "--output",
    "out",
    "-j1",
];

/// What `train` says of a small run of this name in the folder `out`.
#[track_caller]
pub fn trained(dir: &Path, name: &str, more: &[&str]) -> String {
    ok(dir, "train", &[&SMALL[..], &["--experiment", name], more].concat())
}

/// Runs a program that must refuse, with these words.
#[track_caller]
pub fn refused(dir: &Path, name: &str, args: &[&str], words: &[&str]) {
    let (code, text) = run(dir, name, args);
    assert!(code == Some(1) || code == Some(2), "{name} {args:?}: {code:?} {text}");
    words.iter().for_each(|w| assert!(text.contains(w), "{name} {args:?}: no `{w}` in: {text}"));
    assert!(!text.contains("panicked"), "{name} {args:?}: {text}");
}

/// Class folders of gray 16 x 16 PNG pictures: bright at the top, at the bottom, at the left. The first class has the most.
pub fn folders(dir: &Path) -> PathBuf {
    for (split, n, first) in [("train", 12, 0), ("validation", 5, 12)] {
        for (class, name) in ["1", "2", "10"].iter().enumerate() {
            let folder = dir.join("data").join(split).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for i in first..first + n - 2 * class.min(1) {
                let bright = |x: usize, y: usize| [y < 8, y >= 8, x < 8][class];
                let rgb = (0..256 * 3).map(|v| {
                    if bright(v / 3 % 16, v / 3 / 16) { 220 - (i * 3) as u8 } else { 30 + (v / 3 * i % 17) as u8 }
                });
                let picture = candlelight::engine::picture::Picture { width: 16, height: 16, rgb: rgb.collect() };
                std::fs::write(folder.join(format!("{i}.png")), picture.png().unwrap()).unwrap();
            }
        }
    }
    dir.join("data")
}

/// A gray picture.
pub fn png(w: u32, h: u32) -> Vec<u8> {
    let (width, height) = (w as usize, h as usize);
    candlelight::engine::picture::Picture { width, height, rgb: vec![90; width * height * 3] }.png().unwrap()
}
