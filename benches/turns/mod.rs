//! What the benches share: timing steps, and answering a peer script on standard input.

#![allow(dead_code)] // each bench uses a part

use std::io::BufRead;
use std::time::Instant;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Something that does one step.
pub type Step = Box<dyn FnMut() -> Result<()>>;

/// Seconds of `n` steps.
pub fn run(n: usize, step: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..n {
        step()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// `ready`, then the seconds of N steps for each `run N`; other lines are `other`'s.
pub fn serve(mut step: Step, other: impl Fn(&str, &mut Step) -> Result<Option<u64>>) -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", n] => println!("{}", run(n.parse()?, &mut *step)?),
            _ => println!("{}", other(&line, &mut step)?.ok_or_else(|| format!("{line}: expected `run N`"))?),
        }
    }
    Ok(())
}

/// Prints the best of three steps after one.
pub fn print(name: &str, batch: usize, mut step: Step) -> Result<()> {
    run(1, &mut *step)?;
    let times = (0..3).map(|_| run(1, &mut *step)).collect::<Result<Vec<_>>>()?;
    let best = times.into_iter().fold(f64::INFINITY, f64::min);
    println!("{name}: {best:.3} s, {:.2} img/s", batch as f64 / best);
    Ok(())
}

/// The arguments behind `serve`, if that is what is asked for.
pub fn served() -> Option<Vec<String>> {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    (args.next().as_deref() == Some("serve")).then(|| args.collect())
}
