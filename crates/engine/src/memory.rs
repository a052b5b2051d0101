//! Will it fit? A rough estimate before the first step, against what the machine or the container allows.

use candlelight_models::{MaeConfig, VitConfig};

/// Bytes a pretraining step holds at its peak: four values a parameter, and what the backward pass needs of every token.
pub fn mae(c: &MaeConfig, batch: usize, mask_ratio: f64, params: usize) -> u64 {
    let l = c.grid().patches() as f64;
    // Kept a token: two norms' inputs and outputs, qkv, attention, two residuals, the MLP's two widths twice.
    let stack = |tokens: f64, dim: usize, depth: usize| tokens * (dim * depth * (10 + 2 * c.mlp_ratio)) as f64;
    let encoder = stack(l * (1.0 - mask_ratio) + 1.0, c.dim, c.depth);
    let decoder = stack(l + 1.0, c.decoder_dim, c.decoder_depth);
    let images = 4.0 * l * c.grid().patch_len() as f64;
    ((encoder + decoder + images) * 4.0 * batch as f64 + params as f64 * 16.0) as u64
}

/// Bytes a training step of a classifier holds at its peak, as [`mae`]; `all` and `trained` parameters.
pub fn vit(c: &VitConfig, batch: usize, all: usize, trained: usize) -> u64 {
    let l = c.grid().patches() as f64;
    // A frozen model keeps nothing for a backward pass.
    let depth = if trained * 10 < all { 1 } else { c.depth };
    let tokens = (l + 1.0) * (c.dim * depth * (10 + 2 * c.mlp_ratio)) as f64;
    let images = l * c.grid().patch_len() as f64;
    ((tokens + images) * 4.0 * batch as f64 + all as f64 * 4.0 + trained as f64 * 12.0) as u64
}

/// Bytes this process may use: the container's limit or the machine's available memory, whichever is less.
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

/// Refuses a run that cannot fit.
///
/// # Errors
/// When the estimate exceeds what is available.
pub fn check(need: u64, available: Option<u64>) -> crate::Result<()> {
    let gib = |b: u64| b as f64 / (1u64 << 30) as f64;
    match available {
        Some(have) if need > have => Err(crate::Error::Config(format!(
            "a step needs about {:.1} GiB, {:.1} GiB are available: lower --batch_size and raise --accum_iter",
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
        let need = super::mae(&c, 16, 0.75, 111_907_840);
        assert!((2u64 << 30..6 << 30).contains(&need), "{need}");
        assert!(super::check(need, Some(1 << 30)).unwrap_err().to_string().contains("--batch_size"));
        super::check(need, Some(64 << 30)).unwrap();
    }
}
