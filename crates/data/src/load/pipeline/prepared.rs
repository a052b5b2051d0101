//! The pipeline of a preparation, and the preparation that a pipeline is.

use super::{CropMode, Normalize, Pipeline};
use crate::augment::Transform;
use crate::error::{Error, Result};
use crate::image::Filter;
use candlelight_store::preparation::{self as store, Origin, Preparation, Setting};

impl Pipeline {
    /// The evaluation that a preparation describes. Every program that evaluates, predicts or embeds with weights makes its pipeline here,
    /// so that all of them prepare images alike.
    ///
    /// # Errors
    /// When the preparation leaves a setting open, which is named; when its settings cannot be meant; or for OpenCV's interpolation with
    /// anything but the whole image or its largest square.
    pub fn prepared(preparation: &Preparation) -> Result<Pipeline> {
        let p = preparation.clone().checked().map_err(Error::Config)?;
        let open: Vec<&str> = [
            ("size", p.size.is_none()),
            ("mean", p.mean.is_none()),
            ("std", p.std.is_none()),
            ("crop_pct", p.crop_pct.is_none()),
            ("crop_mode", p.crop_mode.is_none()),
            ("interpolation", p.interpolation.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, open)| open.then_some(name))
        .collect();
        let (Some(size), Some(mean), Some(std), Some(pct), Some(mode), Some(filter)) =
            (p.size, p.mean, p.std, p.crop_pct, p.crop_mode, p.interpolation)
        else {
            let message =
                format!("nothing says the {} of the images: give them, or assume the usual ones", open.join(", "));
            return Err(Error::Config(message));
        };
        let (size, pct) = (size.value, pct.value);
        let normalize = Normalize { mean: mean.value, std: std.value };
        let mode = match mode.value {
            store::CropMode::Center => CropMode::Center,
            store::CropMode::Squash => CropMode::Squash,
            store::CropMode::Border => CropMode::Border,
        };
        let filter = match filter.value {
            store::Interpolation::Nearest => Filter::Nearest,
            store::Interpolation::Box => Filter::Box,
            store::Interpolation::Bilinear => Filter::Bilinear,
            store::Interpolation::Hamming => Filter::Hamming,
            store::Interpolation::Bicubic => Filter::Bicubic,
            store::Interpolation::Lanczos => Filter::Lanczos,
            store::Interpolation::OpencvBilinear => {
                let resize = Transform::ResizeOpencv { size };
                let transforms = match mode {
                    CropMode::Squash if pct == 1.0 => vec![resize],
                    CropMode::Center if pct == 1.0 && size.0 == size.1 => vec![Transform::CenterSquare, resize],
                    _ => {
                        let message = format!(
                            "interpolation opencv_bilinear: expected crop_mode squash, or center with a square size, and crop_pct 1; \
                             found {mode:?}, {}x{} and {pct}",
                            size.0, size.1
                        );
                        return Err(Error::Config(message));
                    }
                };
                return Ok(Self::new(transforms, normalize));
            }
        };
        Ok(Self::evaluation_with(size, normalize, pct, mode, filter))
    }

    /// What this pipeline does as a preparation, for a checkpoint's record of its evaluation. Size, crop and filter stay open where the steps
    /// are not those of an evaluation.
    pub fn preparation(&self) -> Preparation {
        fn recorded<T>(value: T) -> Option<Setting<T>> {
            Some(Setting::new(value, Origin::Record))
        }
        let mut p = Preparation {
            channels: recorded(self.channels()),
            mean: recorded(self.normalize.mean.clone()),
            std: recorded(self.normalize.std.clone()),
            ..Preparation::default()
        };
        use Transform as T;
        let both = |n: usize| (n, n);
        let found = match &self.transforms[..] {
            [T::Resize { size: to, filter }, T::CenterCrop { size }] if size.0 == size.1 => {
                share(*size, both(*to)).map(|pct| (*size, pct, store::CropMode::Center, Some(*filter)))
            }
            [T::ResizeKeepRatio { size: to, longest: 0.0, filter }, T::CenterCrop { size }] => {
                share(*size, *to).map(|pct| (*size, pct, store::CropMode::Center, Some(*filter)))
            }
            [T::ResizeKeepRatio { size: to, longest: 1.0, filter }, T::CenterCropOrPad { size, .. }] => {
                share(*size, *to).map(|pct| (*size, pct, store::CropMode::Border, Some(*filter)))
            }
            [T::ResizeTo { size: to, filter }, T::CenterCrop { size }] => {
                share(*size, *to).map(|pct| (*size, pct, store::CropMode::Squash, Some(*filter)))
            }
            [T::ResizeTo { size, filter }] => Some((*size, 1.0, store::CropMode::Squash, Some(*filter))),
            [T::ResizeOpencv { size }] => Some((*size, 1.0, store::CropMode::Squash, None)),
            [T::CenterSquare, T::ResizeOpencv { size }] if size.0 == size.1 => {
                Some((*size, 1.0, store::CropMode::Center, None))
            }
            _ => None,
        };
        if let Some((size, pct, mode, filter)) = found {
            p.size = recorded(size);
            p.crop_pct = recorded(pct);
            p.crop_mode = recorded(mode);
            p.interpolation = recorded(match filter {
                None => store::Interpolation::OpencvBilinear,
                Some(Filter::Nearest) => store::Interpolation::Nearest,
                Some(Filter::Box) => store::Interpolation::Box,
                Some(Filter::Bilinear) => store::Interpolation::Bilinear,
                Some(Filter::Hamming) => store::Interpolation::Hamming,
                Some(Filter::Bicubic) => store::Interpolation::Bicubic,
                Some(Filter::Lanczos) => store::Interpolation::Lanczos,
            });
        }
        p
    }
}

/// The share that a crop of `size` keeps of an image that was resized to `to`, such that `floor(size / share)` is `to` again on both sides.
/// The record has the sides and not the share, so it is one of those that give them; `None` where no share does.
fn share(size: (usize, usize), to: (usize, usize)) -> Option<f64> {
    // Each side leaves the shares in (size / (to + 1), size / to], and the greatest that both leave is the smaller of their upper ends.
    let upper = |n: usize, t: usize| n as f64 / t as f64;
    let pct = upper(size.0, to.0).min(upper(size.1, to.1));
    let gives = |pct: &f64| (size.0 as f64 / pct) as usize == to.0 && (size.1 as f64 / pct) as usize == to.1;
    // Rounding may leave the quotient just below the whole number.
    [pct, pct.next_down()].into_iter().find(|pct| *pct > 0.0 && *pct <= 1.0 && gives(pct))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preparation_and_its_pipeline_are_one() {
        for side in [(224, 224), (28, 28), (96, 64), (33, 57)] {
            for pct in [1.0, 0.965, 0.95, 0.9, 0.875, 224.0 / 242.0, 0.5] {
                for mode in [store::CropMode::Center, store::CropMode::Squash, store::CropMode::Border] {
                    let mut p = Preparation::assumed(side, 3);
                    p.crop_pct = Some(Setting::new(pct, Origin::Assumed));
                    p.crop_mode = Some(Setting::new(mode, Origin::Assumed));
                    let pipeline = Pipeline::prepared(&p).unwrap();
                    let back = pipeline.preparation();
                    assert_eq!(back.resized(), p.resized(), "{side:?} {pct} {mode}");
                    assert_eq!(back.crop_mode.as_ref().map(|m| m.value), Some(mode));
                    assert_eq!(Pipeline::prepared(&back).unwrap(), pipeline, "{side:?} {pct} {mode}");
                }
            }
        }
    }

    #[test]
    fn the_evaluation_of_every_program_is_the_assumed_one() {
        for side in [28, 224, 384] {
            let p = Preparation::assumed((side, side), 3);
            assert_eq!(Pipeline::prepared(&p).unwrap(), Pipeline::evaluation((side, side), Normalize::imagenet()));
        }
    }

    #[test]
    fn opencv_keeps_the_whole_image_or_its_square() {
        let mut p = Preparation::assumed((64, 64), 3);
        p.interpolation = Some(Setting::new(store::Interpolation::OpencvBilinear, Origin::Assumed));
        assert!(Pipeline::prepared(&p).unwrap_err().to_string().contains("crop_pct 1; found Center, 64x64 and 0.875"));
        p.crop_pct = Some(Setting::new(1.0, Origin::Assumed));
        let square = Pipeline::prepared(&p).unwrap();
        assert_eq!(square.transforms, [Transform::CenterSquare, Transform::ResizeOpencv { size: (64, 64) }]);
        assert_eq!(Pipeline::prepared(&square.preparation()).unwrap(), square);
    }

    #[test]
    fn what_is_open_is_named_and_what_is_no_evaluation_stays_open() {
        let e = Pipeline::prepared(&Preparation { mean: None, size: None, ..Preparation::assumed((8, 8), 3) });
        assert!(e.unwrap_err().to_string().contains("nothing says the size, mean of the images"));
        let train = Pipeline::mae_pretrain((8, 8), Normalize::imagenet()).preparation();
        assert_eq!((train.size, train.channels.map(|c| c.value)), (None, Some(3)));
    }
}
