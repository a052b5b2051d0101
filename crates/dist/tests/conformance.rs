//! What every group of processes must do: each operation, in groups of 1 to 8, with sizes from nothing to more than any buffer, and with
//! members that die, stop, hang, come twice, or call something else.

use candlelight_dist::{Comm, Error, Result, Shared, Solo};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other group has.
fn name(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{of}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs every member of a group in a thread of its own, and gives what they return.
fn group<T: Send>(world: usize, of: &str, member: impl Fn(&dyn Comm) -> T + Sync) -> Vec<T> {
    let (name, member) = (name(of), &member);
    std::thread::scope(|s| {
        let start = |rank| {
            let name = name.clone();
            s.spawn(move || member(&Shared::join(&name, rank, world, PATIENCE).unwrap()))
        };
        let all: Vec<_> = (0..world).map(start).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// The value that a member gives at a place.
fn value(rank: usize, i: usize) -> f64 {
    ((i * 7 + rank * 13) % 101) as f64 * 0.37 - 11.0
}

/// The sum by the tree whose shape the group's size decides.
fn tree<T: Copy + std::ops::Add<Output = T>>(mut values: Vec<T>) -> T {
    let mut step = 1;
    while step < values.len() {
        for left in (0..values.len() - step).step_by(2 * step) {
            values[left] = values[left] + values[left + step];
        }
        step *= 2;
    }
    values[0]
}

fn every_operation(c: &dyn Comm) -> Result<()> {
    let (rank, world) = (c.rank(), c.world());
    for n in [0, 1, 5, 1000, 131_071, 131_072, 131_073, 400_000] {
        let mut sums: Vec<f64> = (0..n).map(|i| value(rank, i)).collect();
        c.all_reduce(&mut sums)?;
        for i in (0..n).step_by(n / 97 + 1) {
            assert_eq!(sums[i], tree((0..world).map(|r| value(r, i)).collect()), "value {i} of {n} in {world}");
        }
        let mut sums: Vec<f32> = (0..n).map(|i| value(rank, i) as f32).collect();
        c.all_reduce_f32(&mut sums)?;
        for i in (0..n).step_by(n / 97 + 1) {
            assert_eq!(sums[i], tree((0..world).map(|r| value(r, i) as f32).collect()), "value {i} of {n} in {world}");
        }
        // Each gives another number of bytes; the last gives none.
        let len = |r: usize| if r + 1 == world && world > 1 { 0 } else { n + 3 * r };
        let byte = |r: usize, i: usize| (i * 31 + r) as u8;
        let own: Vec<u8> = (0..len(rank)).map(|i| byte(rank, i)).collect();
        for (r, bytes) in c.all_gather(&own)?.iter().enumerate() {
            assert!(bytes.len() == len(r) && bytes.iter().enumerate().all(|(i, b)| *b == byte(r, i)), "{r} of {world}");
        }
        for root in 0..world {
            let mut bytes = if rank == root { (0..n * 3).map(|i| byte(root, i)).collect() } else { vec![9; rank] };
            c.broadcast(root, &mut bytes)?;
            assert!(bytes.len() == n * 3 && bytes.iter().enumerate().all(|(i, b)| *b == byte(root, i)));
        }
        c.barrier()?;
        // Around the ring, one message behind the other.
        if world > 1 {
            let (next, before) = ((rank + 1) % world, (rank + world - 1) % world);
            for message in [own.as_slice(), b"", b"last"] {
                if rank == 0 {
                    c.send(next, message)?;
                }
                let got = c.receive(before)?;
                if rank != 0 {
                    c.send(next, &got)?;
                } else {
                    assert_eq!(got, message, "around the ring of {world}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_operation_does_what_it_says_in_every_group() {
    every_operation(&Solo).unwrap();
    for world in [1, 2, 3, 4, 8] {
        group(world, "all", |c| every_operation(c).unwrap());
    }
}

#[test]
fn sixty_four_megabytes_go_through() {
    let found = group(2, "large", |c| {
        let n = 8 << 20;
        let mut sums: Vec<f64> = (0..n).map(|i| value(c.rank(), i)).collect();
        c.all_reduce(&mut sums).unwrap();
        let mut bytes = if c.rank() == 1 { vec![3u8; 64 << 20] } else { vec![] };
        c.broadcast(1, &mut bytes).unwrap();
        (sums[n - 1], bytes.len(), bytes[bytes.len() - 1])
    });
    let last = (8 << 20) - 1;
    assert_eq!(found, [(value(0, last) + value(1, last), 64 << 20, 3); 2]);
}

#[test]
fn members_that_call_something_else_are_told_so() {
    for rank in [0, 1] {
        let found = group(2, "calls", |c| {
            let e = if c.rank() == rank { c.barrier() } else { c.all_reduce(&mut [1.0]) }.unwrap_err().to_string();
            // A group that is broken stays so.
            assert_eq!(c.barrier().unwrap_err().to_string(), e);
            e
        });
        assert!(found.iter().any(|e| e.contains("calls all_reduce") && e.contains("barrier")), "{found:?}");
    }
    let found = group(3, "lengths", |c| c.all_reduce(&mut vec![0.0; 2 + c.rank() / 2]).unwrap_err().to_string());
    assert!(found[0].contains("process 2 gives 3 values") && found[2].contains("gives 2 values"), "{found:?}");
    let found = group(2, "roots", |c| c.broadcast(c.rank(), &mut vec![]).unwrap_err().to_string());
    assert!(found[0].contains("root 1") && found[1].contains("root 0"), "{found:?}");
    group(2, "nobody", |c| {
        assert!(c.send(5, b"").unwrap_err().to_string().contains("no process 5"));
        assert!(c.receive(c.rank()).unwrap_err().to_string().contains("itself"));
        assert!(c.broadcast(2, &mut vec![]).unwrap_err().to_string().contains("no process 2"));
    });
}

#[test]
fn what_is_no_group_is_refused() {
    let join = |name: &str, rank, world| Shared::join(name, rank, world, Duration::from_millis(200)).unwrap_err();
    assert!(join("x", 2, 2).to_string().contains("process 2 of 2"));
    assert!(join("x", 0, 0).to_string().contains("1 to 256 processes"));
    assert!(join("a/b", 0, 1).to_string().contains("letters, digits"));
    // Nobody comes.
    let e = join(&name("alone"), 0, 2);
    assert!(matches!(&e, Error::Lost { rank: 1, world: 2, message } if message.contains("has not come")), "{e}");
    let e = join(&name("nobody"), 1, 2);
    assert!(matches!(&e, Error::Lost { rank: 0, .. }), "{e}");
    // Told of other numbers, twice the same number, a name that is taken.
    let taken = name("taken");
    std::thread::scope(|s| {
        let first = s.spawn(|| Shared::join(&taken, 0, 2, Duration::from_secs(2)).unwrap_err().to_string());
        std::thread::sleep(Duration::from_millis(300));
        assert!(join(&taken, 1, 3).to_string().contains("told of 3 processes, process 0 of 2"));
        assert!(join(&taken, 0, 2).to_string().contains("is taken by a group"));
        assert!(first.join().unwrap().contains("process 1 of 2"));
    });
    let twice = name("twice");
    std::thread::scope(|s| {
        let waiting = |rank| {
            let name = &twice;
            s.spawn(move || Shared::join(name, rank, 3, Duration::from_secs(2)).map(|_| ()).unwrap_err().to_string())
        };
        let (a, b) = (waiting(0), waiting(1));
        std::thread::sleep(Duration::from_millis(300));
        assert!(join(&twice, 1, 3).to_string().contains("is there twice"));
        assert!(a.join().unwrap().contains("has not come") && b.join().unwrap().contains("has not come"));
    });
}

/// What a member of its own process does; see `child`.
fn start(name: &str, rank: usize, world: usize, act: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env("DIST_CHILD", format!("{name} {rank} {world} {act}"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Not a test by itself: the other process of the tests below.
#[test]
fn child() {
    let Ok(text) = std::env::var("DIST_CHILD") else { return };
    let words: Vec<&str> = text.split(' ').collect();
    let patience = if words[3] == "hang" { Duration::from_secs(2) } else { PATIENCE };
    let c = Shared::join(words[0], words[1].parse().unwrap(), words[2].parse().unwrap(), patience).unwrap();
    match words[3] {
        "all" => every_operation(&c).unwrap(),
        "die" => std::process::abort(),
        "panic" => panic!("on purpose"),
        "leave" => {}
        "stop" => {
            Command::new("kill").args(["-STOP", &std::process::id().to_string()]).status().unwrap();
            std::thread::sleep(Duration::from_secs(50));
        }
        "hang" => std::thread::sleep(Duration::from_secs(30)),
        "slow" => {
            c.deadline(Duration::from_secs(30));
            std::thread::sleep(Duration::from_secs(3));
            c.barrier().unwrap();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn processes_do_what_threads_do() {
    let name = name("processes");
    let mut others: Vec<Child> = (1..3).map(|rank| start(&name, rank, 3, "all")).collect();
    every_operation(&Shared::join(&name, 0, 3, PATIENCE).unwrap()).unwrap();
    assert!(others.iter_mut().all(|c| c.wait().unwrap().success()));
    let left = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    assert!(left.into_iter().all(|f| !f.file_name().to_string_lossy().contains(&name)), "a file is left behind");
}

/// What the member 0 of a group sees when member 1 fails so, and after how long; `patience` is how long each may do nothing.
fn failing(act: &str, patience: Duration) -> (Result<()>, Duration) {
    let name = name(act);
    let mut other = start(&name, 1, 2, act);
    let c = Shared::join(&name, 0, 2, patience).unwrap();
    let begun = Instant::now();
    let result = c.all_reduce(&mut [1.0]).map(|()| panic!("nobody added"));
    let taken = begun.elapsed();
    let _ = other.kill();
    let _ = other.wait();
    (result, taken)
}

#[test]
fn a_member_that_is_lost_is_named_within_seconds() {
    for (act, words) in [("die", "has died"), ("panic", "ended"), ("leave", "ended")] {
        let (result, taken) = failing(act, PATIENCE);
        let e = result.unwrap_err();
        assert!(
            matches!(&e, Error::Lost { rank: 1, world: 2, message } if message.contains(words) || message.contains("died")),
            "{act}: {e}"
        );
        assert!(taken < Duration::from_secs(10), "{act}: {taken:?}");
    }
    for (act, words) in [("stop", "no sign of life"), ("hang", "hangs")] {
        let e = failing(act, PATIENCE).0.unwrap_err().to_string();
        assert!(e.contains(words), "{act}: {e}");
    }
}

#[test]
fn a_deadline_lets_a_member_be_slow() {
    let name = name("slow");
    let mut other = start(&name, 1, 2, "slow");
    let c = Shared::join(&name, 0, 2, Duration::from_secs(2)).unwrap();
    c.barrier().unwrap();
    assert!(other.wait().unwrap().success());
}

#[test]
fn members_that_wait_for_each_other_are_told_so() {
    // A large message waits until it is taken out; both send first.
    let name = name("circle");
    std::thread::scope(|s| {
        let both = |rank: usize| {
            let name = &name;
            s.spawn(move || {
                let c = Shared::join(name, rank, 2, Duration::from_secs(1)).unwrap();
                let sent = c.send(1 - rank, &[7; 200_000]);
                sent.and_then(|()| c.receive(1 - rank).map(|_| ())).unwrap_err().to_string()
            })
        };
        let found = [both(0), both(1)].map(|t| t.join().unwrap());
        assert!(found.iter().any(|e| e.contains("waits for others that wait for it")), "{found:?}");
    });
    let name = self::name("crossed");
    let found = {
        std::thread::scope(|s| {
            let receive = s.spawn(|| {
                let c = Shared::join(&name, 0, 2, Duration::from_secs(1)).unwrap();
                c.receive(1).unwrap_err().to_string()
            });
            let gate = s.spawn(|| {
                let c = Shared::join(&name, 1, 2, Duration::from_secs(1)).unwrap();
                c.barrier().unwrap_err().to_string()
            });
            [receive.join().unwrap(), gate.join().unwrap()]
        })
    };
    assert!(found.iter().any(|e| e.contains("waits for others that wait for it")), "{found:?}");
}

#[test]
fn a_name_can_be_used_again_at_once() {
    let name = name("again");
    std::thread::scope(|s| {
        for rank in 0..3 {
            let name = &name;
            s.spawn(move || {
                for _ in 0..20 {
                    let c = Shared::join(name, rank, 3, PATIENCE).unwrap();
                    let mut sum = [1.0];
                    c.all_reduce(&mut sum).unwrap();
                    assert_eq!(sum, [3.0]);
                }
            });
        }
    });
}
