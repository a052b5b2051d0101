//! Images to patches and back.
//!
//! Two orders inside a patch: a convolution's `(channel, row, column)`, which the patch embedding multiplies, and MAE's
//! `(row, column, channel)`, in which it predicts pixels.

use crate::error::{Error, Result, expect_len};
use rayon::prelude::*;

/// A batch of images cut into square patches, numbered row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// The number of channels.
    pub channels: usize,
    /// Image height, a multiple of `patch`.
    pub height: usize,
    /// Image width, a multiple of `patch`.
    pub width: usize,
    /// The side of a patch in pixels.
    pub patch: usize,
}

impl Grid {
    /// The number of patches of an image.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// The number of values in a patch.
    pub fn patch_len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// The number of values in an image.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Checks that the patches tile the image.
    ///
    /// # Errors
    /// When a side is zero or not a multiple of the patch.
    pub fn check(&self) -> Result<()> {
        let Grid { channels: c, height: h, width: w, patch: p } = *self;
        if p == 0 || c == 0 || h == 0 || w == 0 || h % p != 0 || w % p != 0 {
            return Err(Error::Value {
                op: "patchify",
                message: format!("a {c}x{h}x{w} image does not divide into {p}x{p} patches"),
            });
        }
        Ok(())
    }

    /// Calls `f(index in image, index in patch)` for the pixels of patch `t`, index in patch in MAE's order.
    fn pixels(&self, t: usize, mut f: impl FnMut(usize, usize)) {
        let (p, c) = (self.patch, self.channels);
        let (y0, x0) = (t / (self.width / p) * p, t % (self.width / p) * p);
        for y in 0..p {
            for ch in 0..c {
                let row = (ch * self.height + y0 + y) * self.width + x0;
                for x in 0..p {
                    f(row + x, (y * p + x) * c + ch);
                }
            }
        }
    }

    /// One patch in MAE's order.
    pub(crate) fn read_patch(&self, image: &[f32], t: usize, out: &mut [f32]) {
        self.pixels(t, |i, j| out[j] = image[i]);
    }
}

/// Cuts images (B, C, H, W) into patches (B, L, p p C) in MAE's order.
///
/// # Errors
/// When the lengths do not fit.
pub fn patchify(g: &Grid, images: &[f32], out: &mut [f32]) -> Result<()> {
    g.check()?;
    expect_len("patchify", "out", out.len(), images.len())?;
    expect_len("patchify", "images modulo an image", images.len() % g.image_len(), 0)?;
    out.par_chunks_mut(g.image_len()).zip(images.par_chunks(g.image_len())).for_each(|(out, image)| {
        for (t, patch) in out.chunks_exact_mut(g.patch_len()).enumerate() {
            g.read_patch(image, t, patch);
        }
    });
    Ok(())
}

/// Joins patches (B, L, p p C) in MAE's order to images (B, C, H, W); the inverse of [`patchify`] and, on gradients, its backward.
///
/// # Errors
/// When the lengths do not fit.
pub fn unpatchify(g: &Grid, patches: &[f32], out: &mut [f32]) -> Result<()> {
    g.check()?;
    expect_len("unpatchify", "out", out.len(), patches.len())?;
    expect_len("unpatchify", "patches modulo an image", patches.len() % g.image_len(), 0)?;
    out.par_chunks_mut(g.image_len()).zip(patches.par_chunks(g.image_len())).for_each(|(image, patches)| {
        for (t, patch) in patches.chunks_exact(g.patch_len()).enumerate() {
            g.pixels(t, |i, j| image[i] = patch[j]);
        }
    });
    Ok(())
}

/// The patches a convolution with kernel = stride = patch would multiply, `(channel, row, column)` inside a patch: all of
/// them, or for each sample only those that `ids` (B, K) names. out (B, K or L, C p p).
///
/// # Errors
/// When the lengths do not fit or an id is past the last patch.
pub fn conv_patches(g: &Grid, images: &[f32], ids: Option<&[u32]>, out: &mut [f32]) -> Result<()> {
    g.check()?;
    let batch = images.len() / g.image_len();
    expect_len("patch embedding", "images", images.len(), batch * g.image_len())?;
    let keep = ids.map_or(g.patches(), |ids| ids.len() / batch.max(1));
    expect_len("patch embedding", "out", out.len(), batch * keep * g.patch_len())?;
    if let Some(ids) = ids {
        expect_len("patch embedding", "ids", ids.len(), batch * keep)?;
        check_ids("patch embedding", ids, g.patches())?;
    }
    let p = g.patch;
    out.par_chunks_mut(g.patch_len()).enumerate().with_min_len(8).for_each(|(row, out)| {
        let image = &images[row / keep * g.image_len()..][..g.image_len()];
        let t = ids.map_or(row % keep, |ids| ids[row] as usize);
        let (y0, x0) = (t / (g.width / p) * p, t % (g.width / p) * p);
        for (i, line) in out.chunks_exact_mut(p).enumerate() {
            let at = ((i / p) * g.height + y0 + i % p) * g.width + x0;
            line.copy_from_slice(&image[at..at + p]);
        }
    });
    Ok(())
}

/// Computes the gradient of [`conv_patches`] over all patches: (B, L, C p p) -> images (B, C, H, W).
///
/// # Errors
/// When the lengths do not fit.
pub fn conv_patches_backward(g: &Grid, d: &[f32], out: &mut [f32]) -> Result<()> {
    g.check()?;
    expect_len("patch embedding backward", "d", d.len(), out.len())?;
    expect_len("patch embedding backward", "d modulo an image", d.len() % g.image_len(), 0)?;
    let p = g.patch;
    out.par_chunks_mut(g.image_len()).zip(d.par_chunks(g.image_len())).for_each(|(image, d)| {
        for (t, patch) in d.chunks_exact(g.patch_len()).enumerate() {
            let (y0, x0) = (t / (g.width / p) * p, t % (g.width / p) * p);
            for (i, line) in patch.chunks_exact(p).enumerate() {
                let at = ((i / p) * g.height + y0 + i % p) * g.width + x0;
                image[at..at + p].copy_from_slice(line);
            }
        }
    });
    Ok(())
}

/// Checks that every index is below `len`.
///
/// # Errors
/// When an index is too large; the error names the first such index.
pub fn check_ids(op: &'static str, ids: &[u32], len: usize) -> Result<()> {
    match ids.iter().find(|&&i| i as usize >= len) {
        Some(i) => Err(Error::Value { op, message: format!("index {i} is past the last of {len}") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpatchify_inverts_patchify(b in 1usize..3, c in 1usize..4, gh in 1usize..4, gw in 1usize..4, p in 1usize..5) {
            let g = Grid { channels: c, height: gh * p, width: gw * p, patch: p };
            let images = random("images", b * g.image_len());
            let (mut patches, mut back) = (vec![0.0; images.len()], vec![0.0; images.len()]);
            patchify(&g, &images, &mut patches).unwrap();
            unpatchify(&g, &patches, &mut back).unwrap();
            prop_assert_eq!(&back, &images);
            conv_patches(&g, &images, None, &mut patches).unwrap();
            conv_patches_backward(&g, &patches, &mut back).unwrap();
            prop_assert_eq!(&back, &images);
        }
    }

    #[test]
    fn orders_inside_a_patch_are_those_of_mae_and_of_a_convolution() {
        let g = Grid { channels: 2, height: 2, width: 4, patch: 2 };
        let image: Vec<f32> = (0..16).map(|v| v as f32).collect(); // channel 0: 0..8, channel 1: 8..16
        let mut out = vec![0.0; 16];
        patchify(&g, &image, &mut out).unwrap();
        assert_eq!(out[8..], [2., 10., 3., 11., 6., 14., 7., 15.]);
        let mut one = vec![0.0; 8];
        conv_patches(&g, &image, Some(&[1]), &mut one).unwrap();
        assert_eq!(one, [2., 3., 6., 7., 10., 11., 14., 15.]);
        assert!(conv_patches(&g, &image, Some(&[2]), &mut one).is_err());
        assert!(Grid { width: 5, ..g }.check().unwrap_err().to_string().contains("2x2x5"));
    }
}
