//! Which instructions the kernels use, chosen once at run time.
//!
//! `CANDLELIGHT_CPU=portable|avx2|avx512|avx512_bf16` forces a level for every kernel, matrix products included. If the CPU lacks that
//! level, its best one is used instead, and [`requested`] gives the reason.

use std::sync::OnceLock;

/// An instruction level. Higher levels include the lower ones; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust; fused multiply-add from the compiler's library where the CPU has none.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The name `CANDLELIGHT_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512_bf16",
        }
    }
}

/// The best level this CPU has.
pub fn detected() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx512 && is_x86_feature_detected!("avx512bf16") {
            return Level::Avx512Bf16;
        }
        if avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// The level that `CANDLELIGHT_CPU` asks for, or the reason why it is not used.
pub fn requested() -> Result<Option<Level>, String> {
    let Ok(name) = std::env::var("CANDLELIGHT_CPU") else { return Ok(None) };
    let Some(level) = Level::ALL.into_iter().find(|l| l.name() == name) else {
        return Err(format!("CANDLELIGHT_CPU={name}: expected portable, avx2, avx512 or avx512_bf16"));
    };
    if level > detected() {
        return Err(format!("CANDLELIGHT_CPU={name}: this CPU has {} only", detected().name()));
    }
    Ok(Some(level))
}

#[cfg(test)]
thread_local! {
    /// A level forced for one test's thread. Worker threads do not see it, so such tests use shapes that stay on the
    /// calling thread or go through [`with_level`]'s one-thread pool.
    static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// The level that kernels use on this thread.
#[inline]
pub fn level() -> Level {
    #[cfg(test)]
    if let Some(level) = FORCED.get() {
        return level;
    }
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| requested().ok().flatten().unwrap_or_else(detected))
}

/// Runs `f` at `level` in a pool of one thread.
#[cfg(test)]
pub(crate) fn with_level<R: Send>(level: Level, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    pool.install(|| {
        FORCED.set(Some(level));
        f()
    })
}
