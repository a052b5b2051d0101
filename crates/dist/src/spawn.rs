//! Starting the processes of a job on this machine, watching them, and starting them again.

use crate::{Error, Result};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How the processes of a job are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawn {
    /// The number of processes.
    pub world: usize,
    /// How often all are started again after one of them failed.
    pub max_restarts: usize,
    /// How long the others may take to end by themselves when one has ended: they save, and say why they end. Then they are ended. After a signal they have ten times as long.
    pub grace: Duration,
}

/// What happens to the processes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process failed, as the first of its job.
    Failed {
        /// Its number.
        rank: usize,
        /// Its process number.
        pid: u32,
        /// What the system says, such as `exit status: 1`.
        how: String,
    },
    /// A process did not end by itself in time and was ended.
    Ended {
        /// Its number.
        rank: usize,
        /// Its process number.
        pid: u32,
    },
    /// All are started again.
    Restarted {
        /// How often they have been.
        times: usize,
    },
}

/// What a status is as the exit code of a shell: the code, or 128 and the signal.
fn code(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(1)
}

/// Sends a signal to a process that this one started and has not asked for its status yet.
fn signal(child: &Child, signal: i32) {
    #[cfg(unix)]
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: the call only sends a signal; the number is still the child's, because its status was not taken.
        unsafe { libc::kill(pid, signal) };
    }
    #[cfg(not(unix))]
    let _ = (child, signal);
}

#[cfg(unix)]
const TERM: i32 = libc::SIGTERM;
#[cfg(not(unix))]
const TERM: i32 = 15;

/// The processes of one try; those that are left are killed when this goes.
struct Running {
    children: Vec<(Child, Option<ExitStatus>)>,
}

impl Running {
    fn alive(&mut self) -> impl Iterator<Item = (usize, &mut Child)> {
        self.children.iter_mut().enumerate().filter(|(_, (_, status))| status.is_none()).map(|(r, (c, _))| (r, c))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (_, child) in self.alive() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Spawn {
    /// Starts `command(rank)` for every number, with the variables of torchrun, which [`Place`](crate::launch::Place) reads. Waits until all have
    /// ended, and starts all again where one failed, up to `max_restarts` times. A signal that `caught` gives is passed on once, and nothing is
    /// started again after it. `say` is told what happens. Returns the exit code: 0, that of the process that failed first, or 128 and its signal.
    ///
    /// # Errors
    /// When there are no processes to start, or the system cannot start them.
    pub fn run(
        &self,
        command: impl Fn(usize) -> Command,
        caught: impl Fn() -> Option<i32>,
        mut say: impl FnMut(Event),
    ) -> Result<i32> {
        if self.world == 0 {
            return Err(Error::Config("0 processes to start, expected at least 1".into()));
        }
        let mut times = 0;
        loop {
            let code = self.once(&command, times, &caught, &mut say)?;
            if code == 0 || times == self.max_restarts || caught().is_some() {
                return Ok(code);
            }
            times += 1;
            say(Event::Restarted { times });
        }
    }

    fn once(
        &self,
        command: &impl Fn(usize) -> Command,
        times: usize,
        caught: &impl Fn() -> Option<i32>,
        say: &mut impl FnMut(Event),
    ) -> Result<i32> {
        let mut running = Running { children: vec![] };
        for rank in 0..self.world {
            let mut command = command(rank);
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            command.env("WORLD_SIZE", self.world.to_string()).env("LOCAL_WORLD_SIZE", self.world.to_string());
            command.env("TORCHELASTIC_RUN_ID", format!("nproc-{}", std::process::id()));
            command.env("TORCHELASTIC_RESTART_COUNT", times.to_string()).env_remove("MASTER_PORT");
            // A terminal signals its whole group, and a second signal would end a process before it has saved: only this process signals them.
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            let program = command.get_program().to_string_lossy().into_owned();
            let child = command.spawn().map_err(|e| Error::Config(format!("{program}: cannot be started: {e}")))?;
            running.children.push((child, None));
        }
        // The first failure, and when those that are left are told to end, and are killed.
        let mut failed: Option<i32> = None;
        let (mut passed, mut ends, mut kills) = (false, None, None);
        loop {
            for (rank, (child, status)) in running.children.iter_mut().enumerate() {
                if status.is_some() {
                    continue;
                }
                *status = child.try_wait().map_err(|e| Error::Config(format!("process {rank}: {e}")))?;
                let Some(found) = status.filter(|s| !s.success()) else { continue };
                if failed.is_none() {
                    failed = Some(code(found));
                    ends = Some(Instant::now() + self.grace);
                    say(Event::Failed { rank, pid: child.id(), how: found.to_string() });
                }
            }
            if running.alive().next().is_none() {
                return Ok(failed.unwrap_or(0));
            }
            if let (Some(number), false) = (caught(), passed) {
                passed = true;
                // Saving takes longer than ending.
                ends.get_or_insert(Instant::now() + 10 * self.grace);
                running.alive().for_each(|(_, child)| signal(child, number));
            }
            if ends.is_some_and(|at| Instant::now() >= at) {
                (ends, kills) = (None, Some(Instant::now() + self.grace));
                running.alive().for_each(|(_, child)| signal(child, TERM));
            }
            if kills.is_some_and(|at| Instant::now() >= at) {
                kills = None;
                for (rank, child) in running.alive() {
                    let _ = child.kill();
                    say(Event::Ended { rank, pid: child.id() });
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
