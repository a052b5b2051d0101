//! Jobs of several processes: those that end well, fail, do not end, and are started again.

use candlelight_dist::launch::Place;
use candlelight_dist::{Comm, Error, Event, Shared, Spawn};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a process of a job does.
#[test]
fn child() {
    let Ok(act) = std::env::var("SPAWN_CHILD") else { return };
    let p = Place::of_environment().unwrap().unwrap();
    let (act, file) = act.split_once(' ').unwrap();
    let first = !Path::new(file).exists();
    match act {
        // A group that adds up, and of which one dies in the first try.
        "again" => {
            let c = Shared::join(&p.job, p.rank, p.world, Duration::from_secs(30)).unwrap();
            if p.rank == 1 && first {
                std::fs::write(file, "died").unwrap();
                std::process::abort();
            }
            let mut sum = [1.0];
            match c.all_reduce(&mut sum) {
                Ok(()) => assert_eq!(sum, [p.world as f64]),
                Err(Error::Lost { rank: 1, .. }) => std::process::exit(9),
                Err(e) => panic!("{e}"),
            }
        }
        "fail" if p.rank == 2 => std::process::exit(3),
        "fail" => std::thread::sleep(Duration::from_secs(60)),
        // Signals are for the process, not for this thread.
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        other => panic!("{other}"),
    }
}

fn run(spawn: Spawn, act: &str, file: &Path, caught: impl Fn() -> Option<i32>) -> (i32, Vec<Event>) {
    let command = |_| {
        let mut c = Command::new(std::env::current_exe().unwrap());
        c.args(["--exact", "child"]).env("SPAWN_CHILD", format!("{act} {}", file.display()));
        c.stdout(Stdio::null()).stderr(Stdio::null());
        c
    };
    let mut events = vec![];
    (spawn.run(command, caught, |e| events.push(e)).unwrap(), events)
}

#[test]
fn a_job_of_which_one_dies_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let spawn = Spawn { world: 3, max_restarts: 1, grace: Duration::from_secs(20) };
    let (code, events) = run(spawn, "again", &dir.path().join("a"), || None);
    assert_eq!(code, 0, "{events:?}");
    assert!(matches!(&events[..], [Event::Failed { .. }, Event::Restarted { times: 1 }]), "{events:?}");
    // Without a restart its end is that of the job. Who is seen first is a matter of milliseconds.
    let (code, events) = run(Spawn { max_restarts: 0, ..spawn }, "again", &dir.path().join("b"), || None);
    assert!([9, 134].contains(&code) && events.len() == 1, "{code} {events:?}");
}

#[test]
fn processes_that_do_not_end_are_ended() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let spawn = Spawn { world: 3, max_restarts: 0, grace: Duration::from_millis(300) };
    let (code, events) = run(spawn, "fail", &dir.path().join("x"), || None);
    assert!(code == 3 && begun.elapsed() < Duration::from_secs(20), "{code} {events:?}");
    assert!(matches!(&events[0], Event::Failed { rank: 2, how, .. } if how.contains('3')), "{events:?}");
}

#[test]
fn a_signal_is_passed_on_and_ends_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let spawn = Spawn { world: 2, max_restarts: 5, grace: Duration::from_secs(20) };
    let after = || (begun.elapsed() > Duration::from_millis(500)).then_some(15);
    let (code, events) = run(spawn, "sleep", &dir.path().join("x"), after);
    assert_eq!((code, events.len()), (128 + 15, 1), "{events:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    let none = Spawn { world: 0, ..spawn }.run(|_| Command::new("true"), || None, |_| {}).unwrap_err().to_string();
    assert!(none.contains("0 processes"), "{none}");
    let e = spawn.run(|_| Command::new("/nowhere/at/all"), || None, |_| {}).unwrap_err().to_string();
    assert!(e.contains("/nowhere/at/all: cannot be started"), "{e}");
}
