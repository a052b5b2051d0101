//! Optimizers over many tensors in one launch.

use crate::cuda::gpu::{Arg, Gpu, Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::cuda::upload::upload;
use crate::error::{Error, Result};
pub use crate::optim::fused::Update;
use cudarc::driver::CudaSlice;

/// Values that a block works on.
const CHUNK: usize = 2048;

/// A tensor with what an update of it needs.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The parameter, which is written.
    pub param: Slice<'a>,
    /// Its gradient.
    pub grad: Slice<'a>,
    /// What is kept between updates, and written.
    pub slots: [Option<Slice<'a>>; 2],
    /// The learning rate, as the method uses it.
    pub lr: f32,
    /// What the parameter is multiplied by: the weight decay of AdamW.
    pub keep: f32,
    /// The share of the parameter that is added to the gradient: the weight decay of Adam.
    pub coupled: f32,
}

/// The bytes of a line as the kernels read it: five words and four numbers.
const ROW: usize = 5 * 8 + 4 * 4;

/// A table of tensors on the device.
struct Table {
    bytes: CudaSlice<u8>,
    rows: usize,
    blocks: usize,
}

impl Table {
    /// The lines, and behind them each line's first block.
    fn new(gpu: &Gpu, lines: &[Line<'_>]) -> Result<Self> {
        let mut starts = Vec::with_capacity(lines.len() + 1);
        let mut bytes = Vec::with_capacity(lines.len() * (ROW + 4) + 4);
        let mut blocks = 0usize;
        for line in lines {
            let n = line.param.len();
            let at = |s: Option<Slice<'_>>| s.map_or(0, |s| s.at);
            let slots = line.slots.map(at);
            for word in [line.param.at, line.grad.at, slots[0], slots[1], n as u64] {
                bytes.extend(word.to_ne_bytes());
            }
            for number in [line.lr, line.keep, line.coupled, 0.0] {
                bytes.extend(number.to_ne_bytes());
            }
            starts.push(blocks as u32);
            blocks += n.div_ceil(CHUNK);
        }
        if blocks > i32::MAX as usize {
            return Err(Error::Value { op: "optimizer", message: format!("{blocks} blocks of {CHUNK} values") });
        }
        starts.push(blocks as u32);
        starts.iter().for_each(|s| bytes.extend(s.to_ne_bytes()));
        Ok(Table { bytes: upload(gpu, &bytes)?, rows: lines.len(), blocks })
    }

    fn shape(&self) -> Shape {
        Shape { grid: (self.blocks, 1, 1), block: (256, 1), shared: 0 }
    }

    fn args(&self, gpu: &Gpu) -> Result<[Arg; 3]> {
        let all = Slice::new(&self.bytes.as_view(), gpu);
        let starts = all.part(self.rows * ROW, (self.rows + 1) * 4)?;
        Ok([all.into(), starts.into(), int("optimizer", self.rows)?.into()])
    }
}

fn check(lines: &[Line<'_>], slots: usize) -> Result<()> {
    let op = "optimizer";
    for line in lines {
        let n = line.param.len();
        line.param.expect(op, "param", Kind::F32, n)?;
        line.grad.expect(op, "grad", Kind::F32, n)?;
        for slot in &line.slots[..slots] {
            let slot = slot.ok_or_else(|| Error::Value { op, message: "a slot is missing".into() })?;
            slot.expect(op, "slot", Kind::F32, n)?;
        }
    }
    Ok(())
}

/// Updates all tensors. `factor`, from [`clip_factor`], is what gradients are multiplied by; where it says that they are not finite, nothing
/// changes.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn update(gpu: &Gpu, lines: &[Line<'_>], how: Update, factor: Option<Slice<'_>>) -> Result<()> {
    check(lines, how.slots())?;
    if let Some(factor) = factor {
        factor.expect("optimizer", "factor", Kind::F32, 3)?;
    }
    if lines.is_empty() {
        return Ok(());
    }
    let table = Table::new(gpu, lines)?;
    let mut args = table.args(gpu)?.to_vec();
    let name = match how {
        Update::AdamW { take1, b2, take2, root, eps } => {
            args.extend(args![factor, take1, b2, take2, root, eps]);
            "adamw"
        }
        Update::Sgd { momentum, nesterov } => {
            args.extend(args![factor, momentum, i32::from(nesterov)]);
            "sgd"
        }
        Update::Lion { take1, take2 } => {
            args.extend(args![factor, take1, take2]);
            "lion"
        }
        Update::Average { take } => {
            args.extend(args![factor, take]);
            "average"
        }
    };
    // SAFETY: the table names tensors that are there for the call, with their lengths, and the stream keeps their memory until it is done.
    unsafe { gpu.launch(Source::Multi, name, table.shape(), &args) }
}

/// Three numbers on the device: what gradients are multiplied by so that their common norm is at most `most` (0 means any norm), 1 where they and
/// the loss, if it is given, are finite, else 0, and the norm. The host waits for nothing.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn clip_factor(gpu: &Gpu, grads: &[Slice<'_>], most: f32, loss: Option<Slice<'_>>) -> Result<Buffer> {
    let lines: Vec<Line<'_>> =
        grads.iter().map(|&g| Line { param: g, grad: g, slots: [None; 2], lr: 0.0, keep: 0.0, coupled: 0.0 }).collect();
    check(&lines, 0)?;
    if let Some(loss) = loss {
        loss.expect("optimizer", "loss", Kind::F32, 1)?;
    }
    if grads.iter().all(Slice::is_empty) {
        return gpu.values(&[1.0, 1.0, 0.0]);
    }
    let table = Table::new(gpu, &lines)?;
    let partial = Buffer::new(gpu, Kind::F32, table.blocks)?;
    let out = Buffer::new(gpu, Kind::F32, 3)?;
    let mut args = table.args(gpu)?.to_vec();
    args.extend(args![partial.slice(gpu)]);
    // SAFETY: the table names gradients that are there for the call, and `partial` has a number per block.
    unsafe { gpu.launch(Source::Multi, "squares", table.shape(), &args)? };
    let one = Shape { grid: (1, 1, 1), block: (1024, 1), shared: 0 };
    let args = args![partial.slice(gpu), int("clip", table.blocks)?, most, loss, out.slice(gpu)];
    // SAFETY: `partial` has this many numbers, the loss one, and `out` three.
    unsafe { gpu.launch(Source::Multi, "clip_factor", one, args)? };
    Ok(out)
}
