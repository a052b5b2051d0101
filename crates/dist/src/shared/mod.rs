//! A group of processes on one machine, over shared memory: nothing to install, no ports.

mod life;
mod meeting;
mod memory;
mod places;

use crate::{Comm, Error, Result};
use meeting::{find, folder, make};
use memory::{Memory, Number};
use places::{
    ARRIVED, FULL, GENERATION, HALF, LAST_BEAT, MAIL, MAIL_HEADER, PID, Places, REACHED, STATE, TOTAL, UNTIL, WAITS,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The time between signs of life.
const BEAT: Duration = Duration::from_millis(200);

/// A process without a sign of life for so long is stopped. Its thread has nothing else to do, so only a machine that is far behind its work
/// makes others wait for it.
const STILL: Duration = Duration::from_secs(8);

/// How long a wait lasts before the others are looked at.
const ROUND: Duration = Duration::from_millis(50);

/// A wait of so long was none: this process was stopped meanwhile, as by Ctrl-Z or a scheduler that suspends whole jobs.
const STOPPED: Duration = Duration::from_secs(1);

/// Most processes of a group.
const MOST: usize = 256;

const ABSENT: u32 = 0;
const JOINED: u32 = 1;
const LEFT: u32 = 2;

/// A call of the whole group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Barrier = 1,
    AllReduce = 2,
    AllReduceF32 = 3,
    AllGather = 4,
    Broadcast = 5,
}

impl Kind {
    fn name(number: u32) -> &'static str {
        match number {
            1 => "barrier",
            2 => "all_reduce",
            3 => "all_reduce_f32",
            4 => "all_gather",
            5 => "broadcast",
            _ => "nothing",
        }
    }
}

/// A process of a group on one machine.
///
/// Processes meet in a file, which is removed once all have come: nothing is left behind, however they end. Each has a thread that gives
/// signs of life. Whoever waits looks at those that it waits for, and names the one that died, stopped, or did nothing for longer than it may.
#[derive(Debug)]
pub struct Shared {
    memory: Arc<Memory>,
    rank: usize,
    world: usize,
    patience: Duration,
    /// Calls of the group so far; whoever holds it may call.
    calls: Mutex<Calls>,
    beating: Arc<AtomicBool>,
    heart: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Calls {
    made: u32,
    /// Why nothing can be called any more.
    broken: Option<Error>,
    /// Milliseconds for which this process was stopped, and with it perhaps all: they are nobody's silence.
    slack: u64,
    /// Until then others may still be waking up.
    waking: u64,
}

impl Shared {
    /// Joins the group of this name as number `rank` of `world` processes, and waits until all have come. `patience` is how long they may
    /// take for that, and how long each may do nothing for the group later; [`Comm::deadline`] extends it for single times.
    ///
    /// # Errors
    /// When the numbers make no sense, the name is taken by another group, a number is there twice, a process does not come, or the memory cannot
    /// be had.
    pub fn join(name: &str, rank: usize, world: usize, patience: Duration) -> Result<Self> {
        if world == 0 || world > MOST || rank >= world {
            return Err(Error::Config(format!(
                "process {rank} of {world}: expected 1 to {MOST} processes, counted from 0"
            )));
        }
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(letter) {
            return Err(Error::Config(format!("a group is called `{name}`: expected letters, digits, - and _")));
        }
        let path = folder().join(format!("candlelight-{name}"));
        let places = Places { world };
        let begun = life::now();
        let memory = Arc::new(if rank == 0 { make(&path, places)? } else { find(&path, (rank, world), patience)? });
        let record = |what| places.record(rank, what);
        let state = memory.word(record(STATE));
        if state.compare_exchange(ABSENT, JOINED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let other = memory.word(record(PID)).load(Ordering::Acquire);
            return Err(Error::Config(format!(
                "process {rank} of {world} is there twice: process {other} has this number already"
            )));
        }
        let until = life::now().saturating_add(patience.as_millis() as u64);
        memory.long(record(UNTIL)).store(until, Ordering::Release);
        memory.long(record(LAST_BEAT)).store(life::now(), Ordering::Release);
        // Whoever sees the process's number sees the rest, too.
        memory.word(record(PID)).store(std::process::id(), Ordering::Release);
        let beating = Arc::new(AtomicBool::new(true));
        let heart = beat(memory.clone(), record(LAST_BEAT), beating.clone());
        let heart = Some(heart.map_err(|e| Error::Config(format!("no thread for signs of life: {e}")))?);
        let calls = Mutex::default();
        let group = Shared { memory, rank, world, patience, calls, beating, heart };
        let mut calls = group.calls()?;
        // Those that come late have as long as those that came first.
        let late = begun + patience.as_millis() as u64;
        let met = group.meet(&mut calls, Kind::Barrier, (0, 0), Some(late));
        if rank == 0 {
            let _ = std::fs::remove_file(&path);
        }
        // Nobody goes on, and perhaps to another group of this name, before the file is away.
        met.and_then(|_| group.meet(&mut calls, Kind::Barrier, (0, 0), None))?;
        drop(calls);
        Ok(group)
    }

    fn places(&self) -> Places {
        Places { world: self.world }
    }

    fn record(&self, rank: usize, what: usize) -> usize {
        self.places().record(rank, what)
    }

    /// The right to call, unless the group is broken.
    fn calls(&self) -> Result<MutexGuard<'_, Calls>> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match &calls.broken {
            Some(e) => Err(e.clone()),
            None => Ok(calls),
        }
    }

    /// Lets this process do nothing for so long.
    fn extend(&self, silence: Duration) {
        let until = life::now().saturating_add(silence.as_millis() as u64);
        self.memory.long(self.record(self.rank, UNTIL)).store(until, Ordering::Release);
    }

    /// Why another process will not do what others wait for.
    fn fault(&self, rank: usize, late: Option<u64>, slack: u64) -> Option<String> {
        let word = |what| self.memory.word(self.record(rank, what)).load(Ordering::Acquire);
        let long = |what| self.memory.long(self.record(rank, what)).load(Ordering::Acquire);
        let (pid, now) = (word(PID), life::now());
        let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
        match word(STATE) {
            ABSENT => {
                let since = late.filter(|late| now > *late)?;
                Some(format!("it has not come within {}", seconds(self.patience.as_millis() as u64 + now - since)))
            }
            LEFT => Some(format!("process {pid} ended, and others still wait for it")),
            // It is joining at this moment.
            _ if pid == 0 => None,
            _ if life::ended(pid) => Some(format!("process {pid} has died")),
            _ => {
                let still = now.saturating_sub(long(LAST_BEAT));
                if u128::from(still) > STILL.as_millis() {
                    return Some(format!(
                        "process {pid} has given no sign of life for {}: it is stopped",
                        seconds(still)
                    ));
                }
                let over = now.saturating_sub(long(UNTIL).saturating_add(slack));
                let allowed = seconds(self.patience.as_millis() as u64);
                (over > 0).then(|| format!("process {pid} hangs: it has done nothing for the group for longer than it may ({allowed}, or what its deadline said)"))
            }
        }
    }

    /// Whether this process waits for others that wait for it. Those that do not wait do something, and may do it for long.
    fn in_a_circle(&self) -> bool {
        let word = |rank, what| self.memory.word(self.record(rank, what)).load(Ordering::Acquire);
        let waits = |rank: usize| -> Vec<usize> {
            match word(rank, WAITS) as usize {
                0 => vec![],
                one if one <= self.world => vec![one - 1],
                _ => (0..self.world).filter(|r| word(*r, REACHED) != word(rank, REACHED)).collect(),
            }
        };
        let (mut seen, mut next) = (vec![false; self.world], waits(self.rank));
        while let Some(rank) = next.pop() {
            if rank == self.rank {
                return true;
            }
            if !std::mem::replace(&mut seen[rank], true) {
                next.extend(waits(rank));
            }
        }
        false
    }

    /// Waits until a word is as it should be; `whom` is the process that can make it so, or nothing where all that have not reached the gate can.
    fn wait(
        &self,
        calls: &mut Calls,
        word: &AtomicU32,
        done: impl Fn(u32) -> bool,
        whom: Option<usize>,
        late: Option<u64>,
    ) -> Result<()> {
        if life::spin(word, &done) {
            return Ok(());
        }
        let waits = self.memory.word(self.record(self.rank, WAITS));
        waits.store(whom.unwrap_or(self.world) as u32 + 1, Ordering::Release);
        let result = self.doze(calls, word, done, whom, late);
        waits.store(0, Ordering::Release);
        if let Err(e) = &result {
            calls.broken = Some(e.clone());
        }
        result
    }

    fn doze(
        &self,
        calls: &mut Calls,
        word: &AtomicU32,
        done: impl Fn(u32) -> bool,
        whom: Option<usize>,
        late: Option<u64>,
    ) -> Result<()> {
        let reached = |r: usize| self.memory.word(self.record(r, REACHED)).load(Ordering::Acquire);
        let begun = life::now();
        let mut seen = begun;
        loop {
            let value = word.load(Ordering::Acquire);
            if done(value) {
                return Ok(());
            }
            life::doze(word, value, ROUND);
            if done(word.load(Ordering::Acquire)) {
                return Ok(());
            }
            // Waiting is no silence.
            self.extend(self.patience);
            let now = life::now();
            let gap = now.saturating_sub(seen);
            seen = now;
            if gap > STOPPED.as_millis() as u64 {
                calls.slack += gap;
                calls.waking = now + STILL.as_millis() as u64;
            }
            if now < calls.waking {
                continue;
            }
            let owes = |r: usize| whom.map_or_else(|| reached(r) != reached(self.rank), |w| w == r);
            let others: Vec<usize> = (0..self.world).filter(|r| *r != self.rank).collect();
            // One that reached the gate may still end before it has opened it.
            let all = !others.iter().any(|r| owes(*r));
            for rank in others.into_iter().filter(|r| all || owes(*r)) {
                let Some(message) = self.fault(rank, late, calls.slack) else { continue };
                // It may have done its part before it ended.
                if done(word.load(Ordering::Acquire)) {
                    return Ok(());
                }
                return Err(Error::Lost { rank, world: self.world, message });
            }
            let long = u128::from(now - begun) > self.patience.as_millis();
            // What it waits for may have come while the others were looked at.
            if long && self.in_a_circle() && !done(word.load(Ordering::Acquire)) {
                return Err(Error::Config(format!(
                    "process {} waits for others that wait for it: sends and receives, or calls of the group, are not in the same order everywhere",
                    self.rank
                )));
            }
        }
    }

    /// Waits until all have come here.
    fn gate(&self, calls: &mut Calls, late: Option<u64>) -> Result<()> {
        self.extend(self.patience);
        let generation = self.memory.word(GENERATION);
        let next = generation.load(Ordering::Acquire).wrapping_add(1);
        self.memory.word(self.record(self.rank, REACHED)).store(next, Ordering::Release);
        let arrived = self.memory.word(ARRIVED);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.world as u32 {
            arrived.store(0, Ordering::Release);
            generation.store(next, Ordering::Release);
            life::wake(generation);
            return Ok(());
        }
        self.wait(calls, generation, |g| g == next, None, late)
    }

    /// Begins a call of the whole group: says what it is, and learns what the others say. Returns the length that each has given.
    fn meet(
        &self,
        calls: &mut Calls,
        kind: Kind,
        (root, len): (usize, usize),
        late: Option<u64>,
    ) -> Result<Vec<usize>> {
        self.extend(self.patience);
        let number = calls.made;
        calls.made = number.wrapping_add(1);
        let own = self.places().call(self.rank, number);
        self.memory.word(own).store(kind as u32, Ordering::Relaxed);
        self.memory.word(own + 4).store(root as u32, Ordering::Relaxed);
        self.memory.long(own + 8).store(len as u64, Ordering::Relaxed);
        self.gate(calls, late)?;
        let mut lengths = Vec::with_capacity(self.world);
        for rank in 0..self.world {
            let at = self.places().call(rank, number);
            let (theirs, from) =
                (self.memory.word(at).load(Ordering::Relaxed), self.memory.word(at + 4).load(Ordering::Relaxed));
            if theirs != kind as u32 || from != root as u32 {
                let (theirs, ours) = (Kind::name(theirs), Kind::name(kind as u32));
                let why = format!(
                    "process {rank} calls {theirs} (root {from}) where process {} calls {ours} (root {root}): all must make the same calls in the same order",
                    self.rank
                );
                calls.broken = Some(Error::Config(why.clone()));
                return Err(Error::Config(why));
            }
            lengths.push(self.memory.long(at + 8).load(Ordering::Relaxed) as usize);
        }
        Ok(lengths)
    }

    fn reduce<T: Number>(&self, kind: Kind, values: &mut [T]) -> Result<()> {
        let mut calls = self.calls()?;
        let lengths = self.meet(&mut calls, kind, (0, values.len()), None)?;
        if let Some(rank) = lengths.iter().position(|n| *n != values.len()) {
            let (theirs, ours) = (lengths[rank], values.len());
            let why = format!("process {rank} gives {theirs} values to be added, process {} gives {ours}", self.rank);
            calls.broken = Some(Error::Config(why.clone()));
            return Err(Error::Config(why));
        }
        let size = size_of::<T>();
        for (i, part) in values.chunks_mut(HALF / size).enumerate() {
            let half = |rank| self.places().half(rank, i);
            self.memory.write(half(self.rank), part);
            self.gate(&mut calls, None)?;
            // Each adds up a share of the values.
            let (from, to) = (self.rank * part.len() / self.world, (self.rank + 1) * part.len() / self.world);
            let places: Vec<usize> = (0..self.world).map(|r| half(r) + from * size).collect();
            self.memory.tree::<T>(&places, to - from);
            self.gate(&mut calls, None)?;
            self.memory.read(half(0), part);
        }
        Ok(())
    }

    fn other(&self, rank: usize) -> Result<()> {
        let world = self.world;
        match rank {
            r if r >= world => Err(Error::Config(format!("there is no process {rank}: the group has {world}, from 0"))),
            r if r == self.rank => Err(Error::Config(format!("process {rank} cannot send to itself"))),
            _ => Ok(()),
        }
    }
}

/// Gives signs of life until it is told to end.
fn beat(memory: Arc<Memory>, at: usize, on: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        while on.load(Ordering::Acquire) {
            memory.long(at).store(life::now(), Ordering::Release);
            std::thread::park_timeout(BEAT);
        }
    };
    std::thread::Builder::new().name("signs of life".into()).spawn(run)
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.memory.word(self.record(self.rank, STATE)).store(LEFT, Ordering::Release);
        life::wake(self.memory.word(GENERATION));
        self.beating.store(false, Ordering::Release);
        if let Some(heart) = self.heart.take() {
            heart.thread().unpark();
            let _ = heart.join();
        }
    }
}

impl Comm for Shared {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, values: &mut [f64]) -> Result<()> {
        self.reduce(Kind::AllReduce, values)
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        self.reduce(Kind::AllReduceF32, values)
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut calls = self.calls()?;
        let lengths = self.meet(&mut calls, Kind::AllGather, (0, own.len()), None)?;
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|n| Vec::with_capacity(*n)).collect();
        let rounds = lengths.iter().map(|n| n.div_ceil(HALF)).max().unwrap_or(0);
        for i in 0..rounds {
            let part = |n: usize| (i * HALF).min(n)..((i + 1) * HALF).min(n);
            self.memory.write(self.places().half(self.rank, i), &own[part(own.len())]);
            self.gate(&mut calls, None)?;
            for (rank, bytes) in all.iter_mut().enumerate() {
                let range = part(lengths[rank]);
                bytes.resize(range.end, 0);
                self.memory.read(self.places().half(rank, i), &mut bytes[range]);
            }
        }
        Ok(all)
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        if root >= self.world {
            let world = self.world;
            return Err(Error::Config(format!("there is no process {root}: the group has {world}, from 0")));
        }
        let mut calls = self.calls()?;
        let lengths = self.meet(&mut calls, Kind::Broadcast, (root, bytes.len()), None)?;
        bytes.resize(lengths[root], 0);
        for (i, part) in bytes.chunks_mut(HALF).enumerate() {
            let half = self.places().half(root, i);
            if self.rank == root {
                self.memory.write(half, part);
            }
            self.gate(&mut calls, None)?;
            self.memory.read(half, part);
        }
        Ok(())
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        self.other(to)?;
        let mut calls = self.calls()?;
        let mail = self.places().mail(self.rank, to);
        let full = self.memory.word(mail + FULL);
        // A message without bytes is one, too.
        let parts = bytes.chunks(MAIL).chain(bytes.is_empty().then_some(bytes));
        for part in parts {
            self.extend(self.patience);
            self.wait(&mut calls, full, |f| f == 0, Some(to), None)?;
            self.memory.long(mail + TOTAL).store(bytes.len() as u64, Ordering::Relaxed);
            self.memory.write(mail + MAIL_HEADER, part);
            full.store(1, Ordering::Release);
            life::wake(full);
        }
        Ok(())
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        self.other(from)?;
        let mut calls = self.calls()?;
        let mail = self.places().mail(from, self.rank);
        let full = self.memory.word(mail + FULL);
        let mut bytes = vec![];
        loop {
            self.extend(self.patience);
            self.wait(&mut calls, full, |f| f == 1, Some(from), None)?;
            let total = self.memory.long(mail + TOTAL).load(Ordering::Relaxed) as usize;
            let begin = bytes.len();
            bytes.resize((begin + MAIL).min(total), 0);
            self.memory.read(mail + MAIL_HEADER, &mut bytes[begin..]);
            full.store(0, Ordering::Release);
            life::wake(full);
            if bytes.len() >= total {
                return Ok(bytes);
            }
        }
    }

    fn barrier(&self) -> Result<()> {
        let mut calls = self.calls()?;
        self.meet(&mut calls, Kind::Barrier, (0, 0), None).map(|_| ())
    }

    fn deadline(&self, silence: Duration) {
        self.extend(silence.max(self.patience));
    }
}
