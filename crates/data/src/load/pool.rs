//! The threads of loaders. They are started once, for the first epoch, and serve every epoch of every loader that shares
//! them until the last of these loaders is dropped.
//!
//! Workers fill the units of batches. Leaders, which mostly sleep, each see one batch through: they read a stream's
//! samples, hand units to the workers, and collate. All that is known about open epochs is under one lock; whoever changes
//! it wakes the others. The order of locks is this one, then those of `Memory`.

use crate::error::{Error, Result};
use crate::load::memory::Memory;
use crate::load::shared::lock;
use crate::load::worker::{Job, Made, Raw};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, ThreadId};

/// The threads that loaders share, started when an epoch first needs them.
pub(crate) struct Pool {
    core: Arc<Core>,
    workers: usize,
    leaders: usize,
    threads: Mutex<Option<Threads>>,
    /// The threads that run, for tests.
    pub(crate) alive: Arc<AtomicUsize>,
}

struct Threads {
    workers: Arc<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

/// What the threads of a pool share.
pub(crate) struct Core {
    pub(crate) memory: Arc<Memory>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<Open>,
    next_id: u64,
    closed: bool,
}

/// An epoch that a consumer reads.
struct Open {
    id: u64,
    job: Arc<Job>,
    /// The next step that a leader takes.
    next: usize,
    /// The step after the last one that comes.
    end: usize,
    /// Batches being made.
    active: usize,
    /// Whether a leader reads the stream. The next batch is taken after that, so that samples come in their order.
    reading: bool,
    done: BTreeMap<usize, Made>,
}

impl Open {
    fn in_memory(&self) -> usize {
        self.active + self.done.len()
    }

    fn ready(&self) -> bool {
        !self.job.stopped() && !self.reading && self.next < self.end && self.in_memory() < self.job.shared.plan.ahead()
    }
}

/// A batch that a leader sees through.
struct Task {
    id: u64,
    job: Arc<Job>,
    step: usize,
}

impl Core {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: std::sync::MutexGuard<'a, State>) -> std::sync::MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch to make, as soon as there is one with room in memory; none when the pool is closed.
    fn take(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            // The epoch that has the fewest batches comes first, of equal ones the oldest.
            let mut ready: Vec<usize> = (0..state.open.len()).filter(|i| state.open[*i].ready()).collect();
            ready.sort_by_key(|i| state.open[*i].in_memory());
            for i in ready {
                let open = &mut state.open[i];
                let bytes = open.job.shared.plan.batch_bytes;
                if self.memory.reserve(bytes, open.in_memory() == 0) {
                    open.active += 1;
                    open.next += 1;
                    open.reading = open.job.shared.source.streamed();
                    return Some(Task { id: open.id, job: open.job.clone(), step: open.next - 1 });
                }
            }
            state = self.wait(state);
        }
    }

    /// Notes that the samples of a step were read from the stream; after the stream's end no further step comes.
    fn read(&self, id: u64, step: usize, raw: &Raw) {
        let mut state = self.state();
        if let Some(open) = state.open.iter_mut().find(|o| o.id == id) {
            open.reading = false;
            if raw.ended {
                open.end = open.end.min(step + usize::from(!raw.is_empty()));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn finish(&self, task: Task, made: Made) {
        let mut state = self.state();
        if let Some(open) = state.open.iter_mut().find(|o| o.id == task.id) {
            open.active -= 1;
            open.done.insert(task.step, made);
        }
        // An epoch that is being closed waits until nobody else holds its job.
        drop(task);
        drop(state);
        self.changed.notify_all();
    }

    fn lead(&self, workers: &rayon::ThreadPool) {
        while let Some(task) = self.take() {
            let raw = lock(&task.job.stream).as_mut().map(|samples| task.job.pull(samples, task.step));
            if let Some(raw) = &raw {
                self.read(task.id, task.step, raw);
            }
            let made = task.job.make(task.step, raw, Some(workers));
            self.finish(task, made);
        }
    }

    /// The batch of a step, as soon as it is made; none behind the last one.
    pub(crate) fn wait_for(&self, id: u64, step: usize) -> Option<Made> {
        let mut state = self.state();
        loop {
            let open = state.open.iter_mut().find(|o| o.id == id)?;
            if let Some(made) = open.done.remove(&step) {
                self.memory.release(open.job.shared.plan.batch_bytes);
                drop(state);
                self.changed.notify_all();
                return Some(made);
            }
            if step >= open.end {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Ends an epoch: what is being made is given up, and nothing of it is held any more on return.
    pub(crate) fn close(&self, id: u64) {
        let mut state = self.state();
        if let Some(open) = state.open.iter().find(|o| o.id == id) {
            open.job.stop.store(true, Ordering::Relaxed);
        }
        while state.open.iter().any(|o| o.id == id && o.active > 0) {
            state = self.wait(state);
        }
        let Some(at) = state.open.iter().position(|o| o.id == id) else { return };
        let open = state.open.remove(at);
        self.memory.release(open.done.len() as u64 * open.job.shared.plan.batch_bytes);
        let idle = state.open.is_empty();
        drop(state);
        self.changed.notify_all();
        if idle {
            self.memory.clear();
        }
    }
}

impl Pool {
    /// A pool for batches of `batch_size`, whose threads are not started yet.
    pub(crate) fn new(memory: Arc<Memory>, workers: usize, batch_size: usize) -> Self {
        // Two batches keep the workers busy while the last samples of one are decoded and the next is collated; small
        // batches do not occupy all workers, so it takes more of them.
        let leaders = if workers == 0 { 0 } else { 2 + workers.div_ceil(batch_size.max(1)) };
        let core = Arc::new(Core { memory, state: Mutex::default(), changed: Condvar::new() });
        Pool { core, workers, leaders, threads: Mutex::default(), alive: Arc::default() }
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.core.memory
    }

    /// Opens an epoch, of which the steps from `start` to `end` come.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(crate) fn open(&self, job: Arc<Job>, start: usize, end: usize) -> Result<(Arc<Core>, u64)> {
        let mut threads = lock(&self.threads);
        if threads.is_none() {
            *threads = Some(self.start()?);
        }
        drop(threads);
        let mut state = self.core.state();
        let id = state.next_id;
        state.next_id += 1;
        state.open.push(Open { id, job, next: start, end, active: 0, reading: false, done: BTreeMap::new() });
        drop(state);
        self.core.changed.notify_all();
        Ok((self.core.clone(), id))
    }

    fn start(&self) -> Result<Threads> {
        let fail = |e: &dyn std::fmt::Display| {
            let (workers, leaders) = (self.workers, self.leaders);
            Error::Config(format!(
                "cannot start {workers} loader threads and {leaders} that lead them: {e}; lower workers"
            ))
        };
        let handles = Arc::new(Mutex::new(vec![]));
        let run = |name: String, work: Box<dyn FnOnce() + Send>| {
            let alive = Counted::new(&self.alive);
            let handle = Builder::new().name(name).spawn(move || {
                let _alive = alive;
                work();
            })?;
            lock(&handles).push(handle);
            Ok(())
        };
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(self.workers)
            .spawn_handler(|thread| run(format!("loader-{}", thread.index()), Box::new(move || thread.run())))
            .build()
            .map_err(|e| fail(&e))?;
        let workers = Arc::new(workers);
        for i in 0..self.leaders {
            let (core, workers) = (self.core.clone(), workers.clone());
            run(format!("loader-lead-{i}"), Box::new(move || core.lead(&workers)))
                .map_err(|e: std::io::Error| fail(&e))?;
        }
        let handles = std::mem::take(&mut *lock(&handles));
        Ok(Threads { workers, handles })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.core.state().closed = true;
        self.core.changed.notify_all();
        let Some(Threads { workers, handles }) = lock(&self.threads).take() else { return };
        // The workers end when nobody holds their pool: the leaders let go of it first.
        drop(workers);
        let own: ThreadId = std::thread::current().id();
        for handle in handles {
            // A thread of the pool can drop the last loader, with a data set that holds one: it cannot wait for itself.
            if handle.thread().id() != own {
                // Threads catch panics; nothing is lost if one ended otherwise.
                let _ = handle.join();
            }
        }
    }
}

/// Counts a thread for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
