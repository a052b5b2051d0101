//! The numbered course on tiny data: each part runs to its end and prints what its head says.

mod programs;

use programs::run;
use std::path::Path;

/// IDX files of 28 x 28 pixels: bright at the top or at the bottom.
fn idx(dir: &Path, name: &str, n: usize) {
    let head = |kind: u8, dims: &[u32]| -> Vec<u8> {
        let mut h = vec![0, 0, 8, kind];
        dims.iter().for_each(|d| h.extend(d.to_be_bytes()));
        h
    };
    let mut images = head(3, &[n as u32, 28, 28]);
    let mut labels = head(1, &[n as u32]);
    for i in 0..n {
        let class = (i % 2) as u8;
        images.extend((0..784).map(|p| if (p / 28 < 14) == (class == 0) { 200 - (i % 50) as u8 } else { 20 }));
        labels.push(class);
    }
    std::fs::write(dir.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
    std::fs::write(dir.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
}

#[test]
fn every_part_of_the_course_runs_and_prints_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::create_dir(d.join("tiny")).unwrap();
    idx(&d.join("tiny"), "train", 128);
    idx(&d.join("tiny"), "t10k", 64);
    let ok = |name: &str, args: &[&str], words: &[&str]| {
        let (code, text) = run(d, name, args);
        assert_eq!(code, Some(0), "{name}: {text}");
        words.iter().for_each(|w| assert!(text.contains(w), "{name}: no `{w}` in: {text}"));
    };
    ok("01_data", &["tiny"], &["IDX files", "train      128 samples", "random_resized_crop", "128 images in"]);
    ok("02_own_model", &["tiny"], &["epoch 2: 100.00 % of 64 test images"]);
    ok("03_resnet", &["3", "r.safetensors"], &["step 0: loss", "saved r.safetensors"]);
    ok("04_trainer", &["tiny"], &["Finished", "best: "]);
    assert!(d.join("output_dir/04_trainer/log.txt").exists());
    ok("04_trainer", &["tiny"], &["Complete"]);
}

#[test]
fn programs_are_a_page_and_parts_of_the_course_below_a_hundred_lines() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let course = path.file_name().unwrap().to_string_lossy().starts_with('0');
            let (lines, most) = (text.lines().count(), if course { 100 } else { 70 });
            assert!(lines <= most, "{}: {lines} lines, {most} at most", path.display());
            assert!(text.starts_with("//!"), "{} says in its head what it prints", path.display());
        }
    }
}
