//! A real program is killed and signalled at random instants, and trained for long. CI does this a few times; `just campaign`, which sets
//! CANDLELIGHT_CAMPAIGN to the number of kills, is the long form whose figures are in docs/reliability.md.
#![cfg(unix)]

mod programs;

use candlelight::engine::checkpoint;
use candlelight::kernels::rng::Key;
use programs::program;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const EPOCHS: usize = 30;

fn count(short: usize) -> usize {
    std::env::var("CANDLELIGHT_CAMPAIGN").ok().and_then(|n| n.parse().ok()).unwrap_or(short)
}

/// 40 pictures, all different.
fn pictures(dir: &Path) {
    std::fs::create_dir(dir.join("data")).unwrap();
    for i in 0..40u8 {
        let rgb: Vec<u8> = (0..24 * 24 * 3).map(|p| (p as u8).wrapping_mul(i + 1).wrapping_add(i)).collect();
        let picture = candlelight::engine::picture::Picture { width: 24, height: 24, rgb };
        std::fs::write(dir.join(format!("data/{i}.png")), picture.png().unwrap()).unwrap();
    }
}

fn training(dir: &Path, output: &str) -> Command {
    let mut c = Command::new(program("mae_pretrain"));
    c.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    c.args(["--data_path", "data", "--model", "mae_vit_tiny_patch16", "--input_size", "32", "--batch_size", "8"]);
    c.args(["--warmup_epochs", "2", "--save_every", "1", "--picture_every", "0", "--num_workers", "1", "--keep", "3"]);
    c.args(["--epochs", &EPOCHS.to_string(), "--output_dir", output, "--resume", "auto"]);
    c
}

fn temporaries(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter(|e| e.file_name().to_string_lossy().ends_with(".tmp")).count()
}

/// Waits for a child until an instant; kills it by SIGKILL where it still runs then. Returns whether it was killed.
fn killed(mut child: Child, at: Instant) -> bool {
    while Instant::now() < at {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

fn compared(whole: &Path, dir: &Path) {
    let newest = |d: &Path| std::fs::read(checkpoint::list(d).last().unwrap()).unwrap();
    assert!(newest(whole) == newest(dir), "the checkpoint differs from that of a run that was never stopped");
    let log = |d: &Path| std::fs::read_to_string(d.join("log.txt")).unwrap();
    assert_eq!(log(whole), log(dir));
    assert_eq!(temporaries(dir), 0);
}

#[test]
fn kills_at_random_instants_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let start = Instant::now();
    assert!(training(dir.path(), "whole").status().unwrap().success());
    let length = start.elapsed();
    let whole = dir.path().join("whole");
    let (kills, mut rng) = (count(6), Key::new(11).rng());
    let (mut done, mut runs, mut in_saves, mut newest) = (0, 0, 0, None);
    while done < kills || newest.is_some() {
        let name = format!("run{runs}");
        let folder = dir.path().join(&name);
        let child = training(dir.path(), &name).spawn().unwrap();
        // Some kills meet the start, others a run that goes on for a third of its length.
        let after =
            if done < kills { length.mul_f64(rng.below(1000) as f64 / 3000.0) } else { Duration::from_secs(600) };
        if killed(child, Instant::now() + after) {
            done += 1;
            in_saves += usize::from(temporaries(&folder) > 0);
            let list = checkpoint::list(&folder);
            for path in &list {
                checkpoint::load::<serde_json::Value>(path, "mae_pretrain").unwrap();
            }
            let now = list.last().cloned();
            assert!(now >= newest, "{newest:?} was there, and now {now:?} is the newest");
            newest = now;
        } else {
            compared(&whole, &folder);
            (newest, runs) = (None, runs + 1);
        }
    }
    println!(
        "{done} kills over {runs} runs, {in_saves} of them while a checkpoint was written: 0 unreadable, 0 lost, 0 temporaries left, \
         every run equal to one that was never stopped"
    );
}

#[test]
fn signals_at_random_instants_are_answered_in_time() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let start = Instant::now();
    assert!(training(dir.path(), "whole").status().unwrap().success());
    let length = start.elapsed();
    let (signals, mut rng) = (count(12).div_ceil(4), Key::new(12).rng());
    let (mut answered, mut runs, mut times) = (0, 0, vec![]);
    while answered < signals {
        let name = format!("run{runs}");
        let mut child = training(dir.path(), &name).spawn().unwrap();
        // The program installs its handlers before it reads the data; a signal before that ends it at once.
        let after = Duration::from_millis(300) + length.mul_f64(rng.below(1000) as f64 / 3000.0);
        std::thread::sleep(after);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            compared(&dir.path().join("whole"), &dir.path().join(name));
            runs += 1;
            continue;
        }
        let (signal, code) = [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 0)][answered % 4];
        let sent = Instant::now();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        if signal == "USR1" {
            // It saves and goes on to its end.
            assert!(child.wait().unwrap().success());
            compared(&dir.path().join("whole"), &dir.path().join(&name));
            runs += 1;
        } else {
            let status = child.wait().unwrap();
            times.push(sent.elapsed().as_secs_f64());
            // A run that was at its end finishes.
            assert!(status.code() == Some(code) || status.success(), "{signal}: {status}");
        }
        answered += 1;
    }
    assert!(training(dir.path(), &format!("run{runs}")).status().unwrap().success());
    compared(&dir.path().join("whole"), &dir.path().join(format!("run{runs}")));
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{answered} signals: saved and ended after {median:.3} s in the median, {worst:.3} s at most");
    assert!(worst < 2.0, "a signal was answered after {worst} s");
}

#[test]
fn two_programs_on_one_folder_are_one_too_many() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let spawn = || training(dir.path(), "run").stderr(Stdio::piped()).spawn().unwrap();
    let both = [spawn(), spawn()].map(|c| c.wait_with_output().unwrap());
    let refused: Vec<String> =
        both.iter().filter(|o| !o.status.success()).map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).collect();
    // The second one either meets the first or comes after its end.
    assert!(refused.len() <= 1 && refused.iter().all(|e| e.contains("is training here")), "{refused:?}");
    assert!(training(dir.path(), "run").status().unwrap().success());
}

/// A file system that is full, and one that cannot be written: made by `unshare` and `mount`, which not every machine allows. Therefore it
/// runs where CANDLELIGHT_MOUNTS is set, as CI and `just campaign` do.
#[cfg(target_os = "linux")]
#[test]
fn full_and_read_only_disks_lose_nothing() {
    if std::env::var_os("CANDLELIGHT_MOUNTS").is_none() {
        println!("not tried: set CANDLELIGHT_MOUNTS=1 where `unshare -rm` may mount");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("m")).unwrap();
    // 16 MB hold one checkpoint of 11 MB and not two.
    let script = r#"
        go() { "$PROGRAM" --num_workers 1 --picture_every 0 --batch_size 8 --resume auto "$@" >>out.txt 2>&1; }
        mount -t tmpfs -o size=16m tmpfs m
        go --output_dir whole --max_steps 4 || exit 11
        go --output_dir m/run --max_steps 2 || exit 12
        go --output_dir m/run --max_steps 4 && exit 13
        [ "$(ls m/run | grep -c checkpoint)" = 1 ] && [ -f m/run/checkpoint-00000002.safetensors ] || exit 14
        ls -A m/run | grep tmp && exit 15
        mount -o remount,size=64m m
        go --output_dir m/run --max_steps 4 || exit 16
        cmp whole/checkpoint-00000004.safetensors m/run/checkpoint-00000004.safetensors || exit 17
        mount -o remount,ro m
        ls -lA m/run >before.txt
        go --output_dir m/run --max_steps 6 && exit 18
        go --output_dir m/new --max_steps 6 && exit 19
        ls -lA m/run | cmp - before.txt || exit 20
        mount -o remount,rw m
        go --output_dir m/run --max_steps 6 || exit 21
    "#;
    let mut shell = Command::new("unshare");
    shell.current_dir(dir.path()).env("PROGRAM", program("mae_pretrain")).args(["-rm", "sh", "-c", script]);
    let status = shell.status().unwrap();
    let said = std::fs::read_to_string(dir.path().join("out.txt")).unwrap_or_default();
    assert!(status.success(), "{status}: {said}");
    let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("No space left") && errors[0].contains("checkpoint-00000004"), "{errors:?}");
    assert!(errors[1..].iter().all(|e| e.contains("m/") && e.contains("Read-only file system")), "{errors:?}");
    assert!(!said.contains("panicked"), "{said}");
}
