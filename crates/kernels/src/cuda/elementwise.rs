//! Sums, casts and copies of parts.

use crate::cuda::Gpu;
use crate::cuda::gpu::{Arg, Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Error, Result, expect_len};

fn packs(kind: Kind, n: usize) -> Shape {
    Shape::each(n.div_ceil(kind.pack()))
}

/// `y = a + b`; where one is in bf16 and the other in f32, `a` and `y` are in bf16.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn add(gpu: &Gpu, a: Slice<'_>, b: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let (ka, kb) = (a.float("add", "a")?, b.float("add", "b")?);
    if ka == Kind::F32 && kb == Kind::Bf16 {
        return add(gpu, b, a, y);
    }
    y.expect("add", "y", ka, a.len())?;
    expect_len("add", "b", b.len(), a.len())?;
    let name = format!("add_{}_{}", ka.name(), kb.name());
    // SAFETY: all three have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Elementwise, &name, packs(ka, a.len()), args![a, b, y, a.len() as u64]) }
}

/// `y = factor x`.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn scale(gpu: &Gpu, factor: f32, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let kind = x.float("scale", "x")?;
    y.expect("scale", "y", kind, x.len())?;
    let name = format!("scale_{}", kind.name());
    // SAFETY: both have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Elementwise, &name, packs(kind, x.len()), args![factor, x, y, x.len() as u64]) }
}

/// x in f32 as y in bf16, rounded to nearest, or x in bf16 as y in f32.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn cast(gpu: &Gpu, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let name = match (x.kind(), y.kind()) {
        (Kind::F32, Kind::Bf16) => "narrow_bf16",
        (Kind::Bf16, Kind::F32) => "widen_f32",
        (a, b) => return Err(Error::Value { op: "cast", message: format!("from {a:?} to {b:?}") }),
    };
    expect_len("cast", "y", y.len(), x.len())?;
    // SAFETY: both have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Elementwise, name, Shape::each(x.len().div_ceil(8)), args![x, y, x.len() as u64]) }
}

/// Part of the columns of a matrix: y (rows, n) = x (rows, width) from column `first` on.
///
/// # Errors
/// When they are not there.
pub fn columns(gpu: &Gpu, x: Slice<'_>, y: Slice<'_>, rows: usize, width: usize, first: usize, n: usize) -> Result<()> {
    part(gpu, "columns", (x, rows * width), (y, rows * n), [rows, width, first, n], rows * n)
}

/// The reverse of [`columns`]: y (rows, width) is x (rows, n) from column `first` on, and 0 elsewhere.
///
/// # Errors
/// When there are too few columns.
pub fn spread(gpu: &Gpu, x: Slice<'_>, y: Slice<'_>, rows: usize, width: usize, first: usize, n: usize) -> Result<()> {
    part(gpu, "spread", (x, rows * n), (y, rows * width), [rows, width, first, n], rows * width)
}

fn part(
    gpu: &Gpu,
    op: &'static str,
    x: (Slice<'_>, usize),
    y: (Slice<'_>, usize),
    sizes: [usize; 4],
    values: usize,
) -> Result<()> {
    let ((x, x_len), (y, y_len)) = (x, y);
    let kind = x.float(op, "x")?;
    expect_len(op, "x", x.len(), x_len)?;
    y.expect(op, "y", kind, y_len)?;
    let [rows, width, first, n] = sizes;
    if first + n > width {
        return Err(Error::Value { op, message: format!("{n} columns from {first} on of {width}") });
    }
    // Sixteen bytes at a time where everything is a multiple of them.
    let pack = kind.pack();
    let whole = [width, first, n].iter().all(|v| v % pack == 0) && (x.at | y.at) % 16 == 0;
    let (unit, per) = if whole { (16, pack) } else { (kind.size(), 1) };
    let sizes = [rows, width / per, first / per, n / per].map(|v| Arg::Size(v as u64));
    let args = [x.into(), y.into(), sizes[0], sizes[1], sizes[2], sizes[3]];
    // SAFETY: both matrices have the sizes that the kernel is told.
    unsafe { gpu.launch(Source::Elementwise, &format!("{op}_{unit}"), Shape::each(values / per), &args) }
}

/// Where a sum over rows goes: to a buffer, which it overwrites, or to which it is added.
#[derive(Debug, Clone, Copy)]
pub struct Into<'a> {
    /// The buffer, in f32.
    pub to: Slice<'a>,
    /// Whether to add to what is there.
    pub add: bool,
}

/// The sums of the columns of x (rows, n) -> (n), in an order that depends on the sizes alone.
///
/// # Errors
/// When the lengths do not fit.
pub fn column_sum(gpu: &Gpu, x: Slice<'_>, out: Into<'_>) -> Result<()> {
    let (kind, n) = (x.float("column_sum", "x")?, out.to.len());
    let rows = x.len() / n.max(1);
    expect_len("column_sum", "x", x.len(), rows * n)?;
    let (suffix, per) = if n % kind.pack() == 0 && x.at % 16 == 0 { ("", 32 * kind.pack()) } else { ("_any", 32) };
    let across = n.div_ceil(per);
    let parts = (gpu.processors() * 4).div_ceil(across.max(1)).min(rows.div_ceil(32)).max(1);
    let partial = Buffer::new(gpu, Kind::F32, parts * n)?;
    let p = partial.slice(gpu);
    let shape = Shape { grid: (across, parts, 1), block: (32, 8), shared: 0 };
    let name = format!("column_sum_{}{suffix}", kind.name());
    // SAFETY: x has rows of n values, and every block in y has a row of `partial`.
    unsafe { gpu.launch(Source::Elementwise, &name, shape, args![x, p, rows as u64, int("column_sum", n)?])? };
    reduce(gpu, p, parts, Some(out), None)
}

/// Adds up the rows of `partial` (parts, n), whose columns belong to `a` and behind them to `b`; those of an output that is `None` are dropped.
pub(super) fn reduce(
    gpu: &Gpu,
    partial: Slice<'_>,
    parts: usize,
    a: Option<Into<'_>>,
    b: Option<Into<'_>>,
) -> Result<()> {
    let width = partial.len() / parts.max(1);
    let split = match (a, b) {
        (Some(a), None) => a.to.len(),
        (_, Some(b)) => width.saturating_sub(b.to.len()),
        (None, None) => return Ok(()),
    };
    for (what, out, n) in [("a", a, split), ("b", b, width - split)] {
        if let Some(out) = out {
            out.to.expect("reduce", what, Kind::F32, n)?;
        }
    }
    let shape = Shape { grid: (width.div_ceil(32), 1, 1), block: (32, 8), shared: 0 };
    let sizes = [parts, width, split].map(|v| int("reduce", v));
    let [parts, width, split] = sizes;
    let add = |o: Option<Into<'_>>| i32::from(o.is_some_and(|o| o.add));
    let args = args![partial, a.map(|o| o.to), b.map(|o| o.to), parts?, width?, split?, add(a), add(b)];
    // SAFETY: `partial` has parts rows of width values, and the outputs their shares of the columns.
    unsafe { gpu.launch(Source::Elementwise, "reduce_parts", shape, args) }
}

/// `out[0]` = `factor` times the sum of x, in f32.
///
/// # Errors
/// When the types do not fit.
pub fn total(gpu: &Gpu, x: Slice<'_>, factor: f32, out: Slice<'_>) -> Result<()> {
    x.expect("total", "x", Kind::F32, x.len())?;
    out.expect("total", "out", Kind::F32, 1)?;
    let shape = Shape { grid: (1, 1, 1), block: (1024, 1), shared: 0 };
    // SAFETY: x has as many values as the kernel is told, and out has one.
    unsafe { gpu.launch(Source::Elementwise, "total", shape, args![x, out, x.len() as u64, factor]) }
}
