//! Who started this process, and as which of how many: torchrun, OpenMPI, MPICH and other users of PMI, Slurm, or a program that sets the names
//! of torchrun.

use crate::{Error, Result};

/// Who started the processes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// torchrun, `accelerate launch`, or whoever else sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// OpenMPI's mpirun.
    OpenMpi,
    /// MPICH's mpirun and other launchers that speak PMI.
    Pmi,
    /// Slurm's srun.
    Slurm,
}

impl Launcher {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "OpenMPI's mpirun",
            Launcher::Pmi => "mpirun (PMI)",
            Launcher::Slurm => "srun",
        }
    }
}

/// The place of a process in its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world: usize,
    /// The number of this process among those of its machine, from 0.
    pub local_rank: usize,
    /// The number of processes on its machine.
    pub local_world: usize,
    /// A name that the processes of this job have, and no other job on the machine.
    pub job: String,
    /// Who started it.
    pub by: Launcher,
}

impl Place {
    /// The place of this process, from the environment; `None` where nobody started several.
    ///
    /// ```
    /// # use candlelight_dist::launch::Place;
    /// assert!(Place::of_environment()?.is_none_or(|p| p.rank < p.world));
    /// # Ok::<(), candlelight_dist::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a launcher's variables contradict each other or are no numbers.
    pub fn of_environment() -> Result<Option<Place>> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    /// The same from any variables. Launchers are asked in this order: torchrun, OpenMPI, PMI, Slurm; the first whose variables are there has
    /// started the process, whatever else is set: torchrun under srun is torchrun.
    ///
    /// # Errors
    /// The same as [`Place::of_environment`].
    pub fn from_variables(of: impl Fn(&str) -> Option<String>) -> Result<Option<Place>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = of(name) else { return Ok(None) };
            let wrong = || Error::Config(format!("the environment's {name} is `{text}`, expected a number from 0"));
            text.trim().parse().map(Some).map_err(|_| wrong())
        };
        let first = |names: &[&str]| -> Result<Option<usize>> {
            for name in names {
                if let Some(n) = number(name)? {
                    return Ok(Some(n));
                }
            }
            Ok(None)
        };
        let job = |names: &[&str]| -> String {
            let all: Vec<String> = names.iter().filter_map(|n| of(n)).collect();
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            // Without a name of the job its processes still have the same parent.
            if all.is_empty() { format!("parent-{}", parent()) } else { all.join("-").chars().map(plain).collect() }
        };
        // In a batch script or a shell of salloc Slurm's variables describe the job; only srun starts processes. Its own steps for scripts and shells have
        // numbers from 0xfffffff0 on.
        let step = first(&["SLURM_STEP_ID", "SLURM_STEPID"])?;
        let shell = step.is_none_or(|s| s >= 0xffff_fff0);
        let found = [
            (Launcher::Torchrun, &["RANK"][..], &["WORLD_SIZE"][..]),
            (Launcher::OpenMpi, &["OMPI_COMM_WORLD_RANK"], &["OMPI_COMM_WORLD_SIZE"]),
            (Launcher::Pmi, &["PMI_RANK", "PMIX_RANK"], &["PMI_SIZE", "PMIX_SIZE"]),
            (Launcher::Slurm, &["SLURM_PROCID"], &["SLURM_NTASKS", "SLURM_NPROCS"]),
        ];
        for (by, ranks, worlds) in found {
            if by == Launcher::Slurm && shell {
                continue;
            }
            let (Some(rank), world) = (first(ranks)?, first(worlds)?) else { continue };
            let Some(world) = world else {
                // PMIx gives a number without the count, which others then give.
                if by == Launcher::Pmi {
                    continue;
                }
                let (rank, world) = (ranks[0], worlds[0]);
                return Err(Error::Config(format!(
                    "the environment has {rank}, but not {world}: {} sets both",
                    by.name()
                )));
            };
            // Slurm's PMI says nothing of machines, Slurm itself does.
            if by == Launcher::Pmi && of("MPI_LOCALRANKID").is_none() && of("SLURM_PROCID").is_some() {
                continue;
            }
            if rank >= world {
                return Err(Error::Config(format!(
                    "{} says that this is process {rank} of {world}, counted from 0",
                    by.name()
                )));
            }
            let (local_rank, local_world, job) = match by {
                Launcher::Torchrun => (
                    number("LOCAL_RANK")?,
                    number("LOCAL_WORLD_SIZE")?,
                    job(&["TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"]),
                ),
                Launcher::OpenMpi => (
                    number("OMPI_COMM_WORLD_LOCAL_RANK")?,
                    number("OMPI_COMM_WORLD_LOCAL_SIZE")?,
                    job(&["PMIX_NAMESPACE"]),
                ),
                Launcher::Pmi => (number("MPI_LOCALRANKID")?, number("MPI_LOCALNRANKS")?, job(&["PMIX_NAMESPACE"])),
                Launcher::Slurm => (
                    number("SLURM_LOCALID")?,
                    tasks_here(&of)?,
                    job(&["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"]),
                ),
            };
            // Nothing said about machines means one.
            let (local_rank, local_world) = (local_rank.unwrap_or(rank), local_world.unwrap_or(world));
            if local_rank >= local_world || local_world > world {
                return Err(Error::Config(format!(
                    "{} says that this is process {local_rank} of {local_world} on its machine, and {rank} of {world} in all",
                    by.name()
                )));
            }
            return Ok((world > 1).then_some(Place { rank, world, local_rank, local_world, job, by }));
        }
        Ok(None)
    }

    /// Whether the processes are on several machines.
    pub fn is_spread(&self) -> bool {
        self.local_world < self.world
    }
}

/// The number of tasks on this machine, from Slurm's list such as `4(x2),3`, which has an entry for each machine of the step.
fn tasks_here(of: &impl Fn(&str) -> Option<String>) -> Result<Option<usize>> {
    let name = "SLURM_STEP_TASKS_PER_NODE";
    let Some(text) = of(name).or_else(|| of("SLURM_TASKS_PER_NODE")) else { return Ok(None) };
    let node = of("SLURM_NODEID").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut all: Vec<usize> = vec![];
    for part in text.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')').unwrap_or_default()),
            None => (part, "1"),
        };
        match (tasks.trim().parse::<usize>(), times.parse::<usize>()) {
            (Ok(tasks), Ok(times)) if times <= 1 << 20 => all.extend(std::iter::repeat_n(tasks, times)),
            _ => return Err(Error::Config(format!("the environment's {name} is `{text}`, expected such as 4(x2),3"))),
        }
    }
    Ok(all.get(node).copied())
}

/// The number of the process that started this one.
fn parent() -> u32 {
    #[cfg(unix)]
    {
        std::os::unix::process::parent_id()
    }
    #[cfg(not(unix))]
    {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Option<Place>> {
        let all: Vec<(&str, &str)> = text.split_whitespace().filter_map(|p| p.split_once('=')).collect();
        Place::from_variables(|name| all.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    fn found(text: &str) -> (usize, usize, usize, usize, String, Launcher) {
        let p = place(text).unwrap().unwrap();
        (p.rank, p.world, p.local_rank, p.local_world, p.job, p.by)
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0";
        assert_eq!(found(torchrun), (3, 4, 1, 2, "none-29500-0".into(), Launcher::Torchrun));
        assert!(place(torchrun).unwrap().unwrap().is_spread());
        // torchrun that srun started is torchrun.
        let both = format!("{torchrun} SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_JOB_ID=7");
        assert_eq!(found(&both).5, Launcher::Torchrun);
        let mpi = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE=3412983809 PMIX_RANK=1";
        assert_eq!(found(mpi), (1, 2, 1, 2, "3412983809".into(), Launcher::OpenMpi));
        let mpich = "PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2";
        assert_eq!(found(mpich), (0, 2, 0, 2, format!("parent-{}", parent()), Launcher::Pmi));
        let slurm = "SLURM_PROCID=8 SLURM_NTASKS=11 SLURM_LOCALID=0 SLURM_NODEID=2 SLURM_STEP_TASKS_PER_NODE=4(x2),3 SLURM_JOB_ID=55 SLURM_STEP_ID=1";
        assert_eq!(found(slurm), (8, 11, 0, 3, "55-1".into(), Launcher::Slurm));
        // Slurm with PMIx, which knows no count.
        let pmix = format!("PMIX_RANK=8 {slurm}");
        assert_eq!(found(&pmix).5, Launcher::Slurm);
        let pmi2 = format!("PMI_RANK=8 PMI_SIZE=11 {slurm}");
        assert_eq!((found(&pmi2).3, found(&pmi2).5), (3, Launcher::Slurm));
        // Nothing, one process, a batch script, a shell of salloc.
        for none in [
            "",
            "RANK=0 WORLD_SIZE=1",
            "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_NAME=script.sh",
            "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_STEP_ID=4294967290",
            "PMIX_RANK=0",
        ] {
            assert_eq!(place(none).unwrap(), None, "{none}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, words) in [
            ("RANK=4 WORLD_SIZE=4", "process 4 of 4"),
            ("RANK=one WORLD_SIZE=4", "RANK is `one`"),
            ("RANK=0", "not WORLD_SIZE"),
            ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=1", "process 1 of 1 on its machine"),
            (
                "SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=2(y3)",
                "expected such as 4(x2),3",
            ),
        ] {
            let e = place(text).unwrap_err().to_string();
            assert!(e.contains(words), "{text}: {e}");
        }
    }
}
