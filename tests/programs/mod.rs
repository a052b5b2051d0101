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

/// A gray picture.
pub fn png(w: u32, h: u32) -> Vec<u8> {
    let (width, height) = (w as usize, h as usize);
    candlelight::engine::picture::Picture { width, height, rgb: vec![90; width * height * 3] }.png().unwrap()
}
