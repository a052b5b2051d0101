//! What happens to a sample on its way into a batch.

mod prepared;

use crate::augment::{PolicyHints, RandomErasing, Transform};
use crate::error::{Error, Result};
use crate::image::{Filter, Image, luma, luma_of_values};
use candlelight_kernels::{Key, image::resize as kernel};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt;

/// Per-channel mean and standard deviation: of pixels in [0, 1] for images of bytes, and in the images' own units for those
/// of real numbers. There is one number for each channel of the batch; those of ImageNet are for RGB, and those of other
/// channels come from the data, such as from [`survey`](crate::survey()).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// The mean of each channel.
    pub mean: Vec<f32>,
    /// The standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Normalize {
    /// The means and deviations of ImageNet.
    pub fn imagenet() -> Self {
        Normalize { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// The value of byte `v` in channel `c`, in torchvision's order: to [0, 1], minus the mean, over the deviation.
    pub fn value(&self, c: usize, v: u8) -> f32 {
        (f32::from(v) / 255.0 - self.mean[c]) / self.std[c]
    }

    /// The value of the real number `v` in channel `c`: minus the mean, over the deviation.
    pub fn real_value(&self, c: usize, v: f32) -> f32 {
        (v - self.mean[c]) / self.std[c]
    }

    /// The mean colour in bytes, which timm fills rotated corners with.
    pub fn fill(&self) -> [u8; 3] {
        [0, 1, 2].map(|c| {
            let mean = self.mean.get(c).or(self.mean.last()).copied().unwrap_or(0.5);
            (255.0 * mean).round_ties_even().clamp(0.0, 255.0) as u8
        })
    }

    fn check(&self) -> Result<()> {
        let (mean, std) = (self.mean.len(), self.std.len());
        let wrong = self.std.iter().any(|s| s.is_nan() || *s <= 0.0) || self.mean.iter().any(|m| !m.is_finite());
        if mean == 0 || mean != std || wrong {
            return Err(Error::Config(format!(
                "normalisation: means {:?} and deviations {:?}; expected one number each for every channel, and deviations \
                 above 0",
                self.mean, self.std
            )));
        }
        Ok(())
    }
}

/// Several differently augmented views of each sample, for AugMix's consistency loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Views per sample; the first of them is clean.
    pub count: usize,
    /// How many transforms, from the first on, all views share, such as crop and flip. The first view skips the rest.
    pub shared: usize,
    /// Whether random erasing erases the first view too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erase_clean: bool,
}

/// Steps from a decoded image to the pixels of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The steps, in order.
    pub transforms: Vec<Transform>,
    /// Normalisation, applied after the steps with the change to channels-first f32; a loader of bytes leaves it to the
    /// consumer.
    pub normalize: Normalize,
    /// Random erasing, applied last and only to f32 values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<RandomErasing>,
    /// Several views per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splits: Option<Splits>,
}

/// The buffer that a sample's pixels (C, H, W) are written to.
#[derive(Debug)]
pub enum Out<'a> {
    /// Normalised values.
    F32(&'a mut [f32]),
    /// Bytes as they are.
    U8(&'a mut [u8]),
}

impl Out<'_> {
    fn len(&self) -> usize {
        match self {
            Out::F32(o) => o.len(),
            Out::U8(o) => o.len(),
        }
    }
}

thread_local! {
    static PLANES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Pipeline {
    /// A pipeline of these steps and nothing more.
    pub fn new(transforms: Vec<Transform>, normalize: Normalize) -> Self {
        Pipeline { transforms, normalize, erase: None, splits: None }
    }

    /// MAE's pretraining: RandomResizedCrop(scale 0.2-1, bicubic), horizontal flip.
    pub fn mae_pretrain(size: (usize, usize), normalize: Normalize) -> Self {
        let (scale, ratio) = ((0.2, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        let crop = Transform::RandomResizedCrop { size, scale, ratio, filter: Filter::Bicubic.into() };
        Self::new(vec![crop, Transform::HorizontalFlip { p: 0.5 }], normalize)
    }

    /// MAE's linear probing: one draw of a crop (scale 0.08-1, bicubic), horizontal flip.
    pub fn mae_linprobe(size: (usize, usize), normalize: Normalize) -> Self {
        let (scale, ratio) = ((0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        let crop = Transform::RandomResizedCropOnce { size, scale, ratio, filter: Filter::Bicubic.into() };
        Self::new(vec![crop, Transform::HorizontalFlip { p: 0.5 }], normalize)
    }

    /// MAE's finetuning: RandomResizedCrop(scale 0.08-1, bicubic), horizontal flip, the policy `aa`, random erasing.
    ///
    /// # Errors
    /// When `aa` is not understood.
    pub fn mae_finetune(size: (usize, usize), normalize: Normalize, aa: &str, reprob: f64) -> Result<Self> {
        let mut p = Self::mae_pretrain(size, normalize);
        if let Transform::RandomResizedCrop { scale, .. } = &mut p.transforms[0] {
            *scale = (0.08, 1.0);
        }
        if !aa.is_empty() {
            let hints = PolicyHints { fill: p.normalize.fill(), filter: Some(Filter::Bicubic) };
            p.transforms.push(Transform::Policy { policy: aa.parse()?, hints });
        }
        p.erase = (reprob > 0.0).then(|| RandomErasing::new(reprob));
        Ok(p)
    }

    /// MAE's evaluation: the short side to `size / 0.875` (`size` itself above 224), then a centre crop.
    pub fn evaluation(size: (usize, usize), normalize: Normalize) -> Self {
        let pct = if size.0.max(size.1) <= 224 { 0.875 } else { 1.0 };
        Self::evaluation_with(size, normalize, pct, CropMode::Center, Filter::Bicubic)
    }

    /// timm's evaluation: resized to `size / crop_pct` as the mode says, then cropped.
    pub fn evaluation_with(
        size: (usize, usize),
        normalize: Normalize,
        crop_pct: f64,
        mode: CropMode,
        filter: Filter,
    ) -> Self {
        let scaled = |n: usize| (n as f64 / crop_pct) as usize;
        let target = (scaled(size.0), scaled(size.1));
        let fill = normalize.fill();
        let transforms = match mode {
            CropMode::Squash => vec![Transform::ResizeTo { size: target, filter }, Transform::CenterCrop { size }],
            CropMode::Border => vec![
                Transform::ResizeKeepRatio { size: target, longest: 1.0, filter },
                Transform::CenterCropOrPad { size, fill },
            ],
            CropMode::Center if size.0 == size.1 => {
                vec![Transform::Resize { size: target.0, filter }, Transform::CenterCrop { size }]
            }
            CropMode::Center => {
                vec![Transform::ResizeKeepRatio { size: target, longest: 0.0, filter }, Transform::CenterCrop { size }]
            }
        };
        Self::new(transforms, normalize)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn check(&self) -> Result<()> {
        self.normalize.check()?;
        self.transforms.iter().try_for_each(Transform::check)?;
        if !matches!(self.channels(), 1 | 3)
            && let Some(t) = self.transforms.iter().find(|t| !t.is_geometric())
        {
            return Err(Error::Config(format!(
                "{t} works on images of 1 or 3 channels, and the normalisation has means for {}: leave it out",
                self.channels()
            )));
        }
        self.erase.as_ref().map_or(Ok(()), RandomErasing::check)?;
        match &self.splits {
            Some(s) if s.count < 2 || s.shared > self.transforms.len() => Err(Error::Config(format!(
                "splits: {} views that share {} of {} steps; expected at least 2 views and no more shared steps than steps",
                s.count,
                s.shared,
                self.transforms.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Channels of the output.
    pub fn channels(&self) -> usize {
        self.normalize.mean.len()
    }

    /// Views of each sample.
    pub fn views(&self) -> usize {
        self.splits.as_ref().map_or(1, |s| s.count)
    }

    /// Runs the steps and writes the pixels, channels first, to `out`. View 0 is the only one without splits, the clean one
    /// with them.
    ///
    /// # Errors
    /// When a step fails or the result does not fill `out`.
    pub fn apply(&self, image: Image, key: &Key, view: usize, out: Out<'_>) -> Result<()> {
        let (steps, views) = match &self.splits {
            Some(s) if view == 0 => (&self.transforms[..s.shared], Some(s.shared)),
            Some(s) => (&self.transforms[..], Some(s.shared)),
            None => (&self.transforms[..], None),
        };
        // Steps after the shared ones draw anew in each view.
        let own = |i: usize| match views {
            Some(shared) if i >= shared => key.child("view").index(view as u64).index(i as u64),
            _ => key.index(i as u64),
        };
        let mut image = image;
        for (i, t) in steps.iter().enumerate() {
            // Where nothing but flips follows a crop, crop, resize, flip and planes are one pass over the pixels.
            let rest = &steps[i + 1..];
            let crop = if image.values().is_none() && rest.iter().all(|t| matches!(t, Transform::HorizontalFlip { .. }))
            {
                t.cropped(image.width, image.height, own(i))
            } else {
                None
            };
            if let Some((c, filter)) = crop.and_then(|c| c.filter.kernel().map(|f| (c, f))) {
                let turns = rest.iter().enumerate().filter(|(j, t)| t.flips(own(i + 1 + j)) == Some(true)).count();
                let (x, y, w, h) = c.part;
                let (height, width) = c.size;
                let mut planes = PLANES.take();
                planes.resize(width * height * image.channels, 0);
                let part = image.view()?.crop(x, y, w, h)?;
                kernel::resize(&part, width, height, filter, None, turns % 2 == 1, &mut planes)?;
                let done =
                    self.finish(Pixels::Planes(&planes, width, height, image.channels), own(steps.len()), view, out);
                PLANES.set(planes);
                return done;
            }
            image = t.apply(image, own(i))?;
        }
        self.finish(Pixels::Image(&image), own(steps.len()), view, out)
    }

    fn finish(&self, pixels: Pixels<'_>, key: Key, view: usize, mut out: Out<'_>) -> Result<()> {
        let channels = self.channels();
        let (width, height, from) = pixels.dims();
        let n = width * height;
        if out.len() != n * channels {
            return Err(Error::Config(format!(
                "the transforms gave {width}x{height} pixels, but the batch needs {} values per channel: end them with a \
                 crop or a resize to the loader's size",
                out.len() / channels.max(1)
            )));
        }
        if from != channels && !(matches!(from, 1 | 3) && matches!(channels, 1 | 3)) {
            return Err(Error::Config(format!(
                "the picture has {from} channels and the batch {channels}, as many as the normalisation has means: decode with \
                 `channels` {channels}, or give {from} means and deviations"
            )));
        }
        if let Pixels::Image(image) = &pixels
            && let Some(values) = image.values()
        {
            self.finish_values(values, from, &mut out)?;
            return self.erased(height, width, key, view, out);
        }
        for c in 0..channels {
            match &mut out {
                Out::F32(o) => {
                    let mut table = [0.0f32; 256];
                    table.iter_mut().zip(0..=255).for_each(|(t, v)| *t = self.normalize.value(c, v));
                    pixels.channel(c, channels, from, &mut o[c * n..(c + 1) * n], |v| table[usize::from(v)]);
                }
                Out::U8(o) => pixels.channel(c, channels, from, &mut o[c * n..(c + 1) * n], |v| v),
            }
        }
        self.erased(height, width, key, view, out)
    }

    /// Writes real numbers of `from` channels to `out`.
    fn finish_values(&self, values: &[f32], from: usize, out: &mut Out<'_>) -> Result<()> {
        let Out::F32(out) = out else {
            return Err(Error::Config(
                "a batch of bytes cannot hold pictures of real numbers: decode with `bit_depth` 8, or use a loader without \
                 `bytes`"
                    .into(),
            ));
        };
        let channels = self.channels();
        let n = out.len() / channels;
        for (c, out) in out.chunks_exact_mut(n).enumerate() {
            if from == 3 && channels == 1 {
                let luma = values.chunks_exact(3).map(|p| luma_of_values([p[0], p[1], p[2]]));
                out.iter_mut().zip(luma).for_each(|(o, v)| *o = self.normalize.real_value(c, v));
            } else {
                let channel = values.iter().skip(c.min(from - 1)).step_by(from);
                out.iter_mut().zip(channel).for_each(|(o, v)| *o = self.normalize.real_value(c, *v));
            }
        }
        Ok(())
    }

    /// Random erasing, where it is asked for.
    fn erased(&self, height: usize, width: usize, key: Key, view: usize, out: Out<'_>) -> Result<()> {
        match (&self.erase, out) {
            // The clean view stays whole, unless it is asked for.
            (Some(erase), Out::F32(o)) if view > 0 || self.splits.as_ref().is_none_or(|s| s.erase_clean) => {
                erase.apply(o, height, width, key)
            }
            (Some(_), Out::U8(_)) => {
                return Err(Error::Config(
                    "random erasing works on f32 values, not on bytes: leave out `erase`, or use a loader without `bytes`"
                        .into(),
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// How evaluation makes an image fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropMode {
    /// The short side is resized and the centre cut out.
    #[default]
    Center,
    /// Both sides are resized, and the aspect ratio is lost.
    Squash,
    /// The long side is resized, and a border fills the rest.
    Border,
}

impl fmt::Display for Pipeline {
    /// One step per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.transforms.iter().enumerate() {
            writeln!(f, "{t}")?;
            if self.splits.as_ref().is_some_and(|s| s.shared == i + 1) {
                writeln!(f, "-- {} views, the first clean", self.views())?;
            }
        }
        write!(f, "normalize(mean: {:?}, std: {:?})", self.normalize.mean, self.normalize.std)?;
        if let Some(e) = &self.erase {
            write!(f, "\nrandom_erasing(p: {}, mode: {:?}, count: {})", e.p, e.mode, e.count)?;
        }
        Ok(())
    }
}

/// Pixels of a whole image or of its channels one by one.
enum Pixels<'a> {
    Image(&'a Image),
    Planes(&'a [u8], usize, usize, usize),
}

impl Pixels<'_> {
    fn dims(&self) -> (usize, usize, usize) {
        match self {
            Pixels::Image(i) => (i.width, i.height, i.channels),
            Pixels::Planes(_, w, h, c) => (*w, *h, *c),
        }
    }

    /// Channel `c` of `want` from `have`: gray from colour is luma, colour from gray repeats it.
    fn channel<T>(&self, c: usize, want: usize, have: usize, out: &mut [T], f: impl Fn(u8) -> T) {
        let (n, source) = (out.len(), c.min(have - 1));
        let gray = have == 3 && want == 1;
        match self {
            Pixels::Image(i) if gray => {
                out.iter_mut().zip(i.data.chunks_exact(3)).for_each(|(o, p)| *o = f(luma([p[0], p[1], p[2]])));
            }
            Pixels::Image(i) => out.iter_mut().zip(i.channel(source)).for_each(|(o, v)| *o = f(v)),
            Pixels::Planes(p, ..) if gray => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = f(luma([p[i], p[n + i], p[2 * n + i]]));
                }
            }
            Pixels::Planes(p, ..) => out.iter_mut().zip(&p[source * n..(source + 1) * n]).for_each(|(o, v)| *o = f(*v)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Op;

    fn image(w: usize, h: usize, c: usize) -> Image {
        Image::new(w, h, c, (0..w * h * c).map(|i| (i * 31 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn pixels_are_normalised_and_sizes_checked() {
        let p = Pipeline::new(vec![], Normalize { mean: vec![0.5; 3], std: vec![0.25; 3] });
        let mut out = vec![0.0; 6];
        let two = Image::new(2, 1, 3, vec![0, 255, 51, 255, 0, 51]).unwrap();
        p.apply(two.clone(), &Key::new(0), 0, Out::F32(&mut out)).unwrap();
        for (o, w) in out.iter().zip([-2.0, 2.0, 2.0, -2.0, -1.2, -1.2]) {
            assert!((o - w).abs() < 1e-6);
        }
        let mut bytes = vec![0; 6];
        p.apply(two, &Key::new(0), 0, Out::U8(&mut bytes)).unwrap();
        assert_eq!(bytes, [0, 255, 255, 0, 51, 51]);
        assert!(p.apply(image(3, 1, 3), &Key::new(0), 0, Out::F32(&mut out)).is_err());
    }

    #[test]
    fn the_fused_crop_gives_the_bytes_of_its_steps() {
        let mut p = Pipeline::mae_pretrain((9, 7), Normalize::imagenet());
        for (w, h, c) in [(30, 20, 3), (5, 40, 3), (17, 13, 1), (9, 7, 3)] {
            for i in 0..40 {
                let key = Key::new(i);
                let (mut fused, mut plain) = (vec![0; 189], vec![0; 189]);
                p.apply(image(w, h, c), &key, 0, Out::U8(&mut fused)).unwrap();
                // A step that changes nothing keeps the steps apart.
                p.transforms.push(Transform::Sometimes { op: Op::Invert, p: 0.0 });
                p.apply(image(w, h, c), &key, 0, Out::U8(&mut plain)).unwrap();
                p.transforms.pop();
                assert_eq!(fused, plain, "{w}x{h}x{c} {i}");
            }
        }
    }

    #[test]
    fn views_share_the_crop_and_the_first_is_clean() {
        let mut p = Pipeline::mae_finetune((8, 8), Normalize::imagenet(), "augmix-m8-w3", 1.0).unwrap();
        p.splits = Some(Splits { count: 3, shared: 2, erase_clean: false });
        p.check().unwrap();
        let views: Vec<Vec<f32>> = (0..3)
            .map(|v| {
                let mut out = vec![0.0; 192];
                p.apply(image(20, 20, 3), &Key::new(4), v, Out::F32(&mut out)).unwrap();
                out
            })
            .collect();
        let mut clean = vec![0.0; 192];
        let base = Pipeline::new(p.transforms[..2].to_vec(), Normalize::imagenet());
        base.apply(image(20, 20, 3), &Key::new(4), 0, Out::F32(&mut clean)).unwrap();
        assert_eq!(views[0], clean);
        assert!(views[1] != clean && views[1] != views[2]);
        assert!(p.to_string().contains("3 views") && p.to_string().contains("augmix-m8-w3"));
        p.splits = Some(Splits { count: 1, shared: 2, erase_clean: false });
        assert!(p.check().is_err());
    }

    #[test]
    fn evaluation_fits_any_image_in_every_mode() {
        for mode in [CropMode::Center, CropMode::Squash, CropMode::Border] {
            for size in [(8, 8), (6, 10)] {
                let p = Pipeline::evaluation_with(size, Normalize::imagenet(), 0.875, mode, Filter::Bicubic);
                for (w, h) in [(20, 10), (10, 30), (8, 8), (3, 2)] {
                    let mut out = vec![0.0; 3 * size.0 * size.1];
                    p.apply(image(w, h, 3), &Key::new(0), 0, Out::F32(&mut out)).unwrap();
                }
            }
        }
    }

    #[test]
    fn any_number_of_channels_and_real_numbers_go_through() {
        let thirteen = Normalize { mean: vec![0.5; 13], std: vec![0.25; 13] };
        let p = Pipeline::mae_pretrain((6, 5), thirteen.clone());
        p.check().unwrap();
        let bytes = image(20, 17, 13);
        let values = bytes.data.iter().map(|&v| f32::from(v) / 255.0).collect();
        let wide = Image::from_values(20, 17, 13, values).unwrap();
        for i in 0..20 {
            let (mut narrow, mut real) = (vec![0.0; 13 * 30], vec![0.0; 13 * 30]);
            p.apply(bytes.clone(), &Key::new(i), 0, Out::F32(&mut narrow)).unwrap();
            p.apply(wide.clone(), &Key::new(i), 0, Out::F32(&mut real)).unwrap();
            // Bytes are rounded and clipped twice.
            let near = |(a, b): (&f32, &f32)| (a - b.clamp(-2.0, 2.0)).abs() < 0.04;
            assert!(narrow.iter().zip(&real).all(near), "{narrow:?} {real:?}");
        }
        let mut bytes_out = vec![0; 13 * 30];
        let e = p.apply(wide.clone(), &Key::new(0), 0, Out::U8(&mut bytes_out)).unwrap_err().to_string();
        assert!(e.contains("real numbers") && e.contains("bit_depth"), "{e}");
        let rgb = Pipeline::mae_pretrain((6, 5), Normalize::imagenet());
        let e = rgb.apply(wide, &Key::new(0), 0, Out::F32(&mut [0.0; 90])).unwrap_err().to_string();
        assert!(e.contains("13 channels and the batch 3"), "{e}");
        let policy = Pipeline::mae_finetune((6, 5), thirteen, "rand-m9-mstd0.5-inc1", 0.0).unwrap();
        assert!(policy.check().unwrap_err().to_string().contains("means for 13"));
        let e = policy.apply(bytes, &Key::new(0), 0, Out::F32(&mut [0.0; 390])).unwrap_err().to_string();
        assert!(e.contains("policy") && e.contains("13 channels"), "{e}");
    }

    #[test]
    fn a_pipeline_survives_its_text() {
        let p = Pipeline::mae_finetune((8, 8), Normalize::imagenet(), "rand-m9-mstd0.5-inc1", 0.25).unwrap();
        let text = serde_json::to_string(&p).unwrap();
        assert_eq!(serde_json::from_str::<Pipeline>(&text).unwrap(), p);
        assert!(Normalize { mean: vec![0.5], std: vec![0.0] }.check().is_err());
    }
}
