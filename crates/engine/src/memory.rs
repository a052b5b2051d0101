//! Compares a rough estimate of a step's memory with what the machine or the container allows, before the first step.

/// The bytes that this process may use: the container's limit or the available memory of the machine, whichever is less. `None` where
/// neither is known.
pub fn available() -> Option<u64> {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|p| std::fs::read_to_string(p).ok()?.trim().parse::<u64>().ok());
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
    });
    match (cgroup, machine) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Refuses a run whose estimate of `need` bytes per step exceeds the available memory.
///
/// # Errors
/// When the estimate exceeds what is available.
pub fn check(need: u64, available: Option<u64>) -> crate::Result<()> {
    let gib = |b: u64| b as f64 / (1u64 << 30) as f64;
    match available {
        Some(have) if need > have => Err(crate::Error::Config(format!(
            "a step needs about {:.1} GiB, {:.1} GiB are available: lower batch_size and raise accum_iter",
            gib(need),
            gib(have)
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_run_that_cannot_fit_is_refused_with_advice() {
        let c = candlelight_models::registry::mae("mae_vit_base_patch16").unwrap();
        let need = c.memory(16, 0.75, 111_907_840);
        assert!((2u64 << 30..6 << 30).contains(&need), "{need}");
        assert!(super::check(need, Some(1 << 30)).unwrap_err().to_string().contains("batch_size"));
        super::check(need, Some(64 << 30)).unwrap();
    }
}
