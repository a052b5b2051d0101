//! GIF: the first frame on its canvas, as Pillow shows it.

use crate::error::Result;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_size};
use crate::image::decode::{Decode, fail};
use std::num::NonZeroU64;

/// Decodes the first frame. Where a frame does not cover the canvas, the rest has the frame's transparent colour, or the first
/// colour where none is transparent; transparent pixels keep their colour. A frame that reaches over the canvas enlarges it.
pub(super) fn decode(bytes: &[u8], options: &Decode) -> Result<Samples> {
    let wrong = |e: &dyn std::fmt::Display| fail(Kind::Gif, e);
    let mut settings = gif::DecodeOptions::new();
    settings.set_color_output(gif::ColorOutput::Indexed);
    settings.check_frame_consistency(false);
    let most = NonZeroU64::new(options.limits.pixels.saturating_mul(4)).unwrap_or(NonZeroU64::MIN);
    settings.set_memory_limit(gif::MemoryLimit::Bytes(most));
    let mut decoder = settings.read_info(bytes).map_err(|e| wrong(&e))?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let shared = decoder.global_palette().map(<[u8]>::to_vec);
    check_size(Kind::Gif, screen.0.max(1) as u64, screen.1.max(1) as u64, options)?;
    let frame = decoder.read_next_frame().map_err(|e| wrong(&e))?;
    let frame = frame.ok_or_else(|| wrong(&"the file is truncated: it has no picture"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (w, h) = (usize::from(frame.width), usize::from(frame.height));
    let (width, height) = (screen.0.max(left + w), screen.1.max(top + h));
    let (width, height) = check_size(Kind::Gif, width as u64, height as u64, options)?;
    if w == 0 || h == 0 || frame.buffer.len() < w * h {
        return Err(wrong(&format!("the file is damaged: {} pixels of a frame of {w}x{h}", frame.buffer.len())));
    }
    // Colours past the end of a palette are gray.
    let palette = frame.palette.as_deref().or(shared.as_deref()).unwrap_or_default();
    let colour = |i: u8| match palette.get(usize::from(i) * 3..usize::from(i) * 3 + 3) {
        Some(p) => [p[0], p[1], p[2]],
        None => [i; 3],
    };
    let table: Vec<[u8; 3]> = (0..=255).map(colour).collect();
    let mut data = table[usize::from(frame.transparent.unwrap_or(0))].repeat(width * height);
    for (y, row) in frame.buffer.chunks_exact(w).take(h).enumerate() {
        let to = ((top + y) * width + left) * 3;
        for (to, i) in data[to..to + w * 3].chunks_exact_mut(3).zip(row) {
            to.copy_from_slice(&table[usize::from(*i)]);
        }
    }
    Ok(Samples { width, height, channels: 3, model: Model::Rgb, values: Values::U8(data) })
}
