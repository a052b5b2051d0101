//! The image processors of transformers: `preprocessor_config.json`.

use super::beside::{Found, origin};
use super::transformers::sides;
use super::{CropMode, Interpolation, Origin, Preparation, Setting};
use crate::error::{Error, Result};
use crate::json::{Object, whole};
use serde_json::Value;

/// Whether these are an image processor's settings.
pub(super) fn is(config: &Object) -> bool {
    let own = ["image_processor_type", "image_mean", "image_std", "crop_size", "size", "resample"];
    let steps = ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_factor"];
    own.iter().chain(&steps).any(|k| config.get(k).is_some())
}

/// What an image processor does where its file does not say so. These are the defaults of transformers 5.23; those of the classes that
/// were called feature extractors are the same.
struct Defaults {
    /// The class's name without its ending.
    family: &'static str,
    /// What `size` means as a number, and what it is without one.
    size: Size,
    /// The side of the centre crop; `None` crops nothing.
    crop: Option<usize>,
    filter: Interpolation,
    mean: [f32; 3],
    std: [f32; 3],
}

/// What an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    /// Both sides.
    Both(usize, usize),
    /// The shorter side.
    Short(usize),
}

const HALF: [f32; 3] = [0.5; 3];
const IMAGENET: ([f32; 3], [f32; 3]) = (super::MEAN, super::STD);
const CLIP: ([f32; 3], [f32; 3]) = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.2613026, 0.2757771]);

const fn row(
    family: &'static str,
    size: Size,
    crop: Option<usize>,
    filter: Interpolation,
    (mean, std): ([f32; 3], [f32; 3]),
) -> Defaults {
    Defaults { family, size, crop, filter, mean, std }
}

use Interpolation::{Bicubic, Bilinear};
use Size::{Both, Short};

const DEFAULTS: &[Defaults] = &[
    row("vit", Both(224, 224), None, Bilinear, (HALF, HALF)),
    row("deit", Both(256, 256), Some(224), Bicubic, (HALF, HALF)),
    row("beit", Both(224, 224), None, Bicubic, (HALF, HALF)),
    row("bit", Short(224), Some(224), Bicubic, CLIP),
    row("clip", Short(224), Some(224), Bicubic, CLIP),
    row("convnext", Short(384), None, Bicubic, (HALF, HALF)),
    row("levit", Short(224), Some(224), Bicubic, IMAGENET),
    row("mobilenetv1", Short(256), Some(224), Bilinear, (HALF, HALF)),
    row("mobilenetv2", Short(256), Some(224), Bilinear, (HALF, HALF)),
    row("pvt", Both(224, 224), None, Bicubic, IMAGENET),
    row("dinov3vit", Both(224, 224), None, Bilinear, IMAGENET),
    row("siglip", Both(224, 224), None, Bicubic, (HALF, HALF)),
];

/// Which processor a type of model has, for files that name no processor.
const OF_MODEL: &[(&str, &str)] = &[
    ("vit", "ViT"),
    ("vit_mae", "ViT"),
    ("vit_msn", "ViT"),
    ("swin", "ViT"),
    ("ijepa", "ViT"),
    ("deit", "DeiT"),
    ("beit", "Beit"),
    ("data2vec-vision", "Beit"),
    ("bit", "Bit"),
    ("dinov2", "Bit"),
    ("clip", "CLIP"),
    ("resnet", "ConvNext"),
    ("regnet", "ConvNext"),
    ("convnext", "ConvNext"),
    ("convnextv2", "ConvNext"),
];

/// The image processor's settings. `model_type` is that of the model's `config.json`.
pub(super) fn read(config: &Object, model_type: Option<&str>) -> Result<Found> {
    let mut notes = vec![];
    let here = || origin(config.path);
    let file = match here() {
        Origin::File(name) => name,
        _ => String::new(),
    };
    if config.bool("do_flip_channel_order")? == Some(true) {
        return Err(config.wrong("do_flip_channel_order", "false: models that want blue before red are not supported"));
    }
    let class = match config.text("image_processor_type")? {
        Some(c) => Some(c),
        None => config.text("feature_extractor_type")?,
    };
    let family = match class {
        Some(c) => Some(ENDINGS.iter().find_map(|e| c.strip_suffix(e)).unwrap_or(c)),
        None => OF_MODEL.iter().find(|(m, _)| Some(*m) == model_type).map(|(_, family)| *family),
    };
    let defaults = family.and_then(|f| DEFAULTS.iter().find(|d| d.family == f.to_ascii_lowercase()));
    if let (Some(class), None) = (class, defaults) {
        notes.push(format!("{file}: what {class} does beyond the settings in the file is not known here"));
    }
    let by_class = |d: &Defaults| Origin::Table {
        library: "transformers".into(),
        name: class.map_or_else(|| format!("{}ImageProcessor", family.unwrap_or(d.family)), ToString::to_string),
    };

    let mut p = Preparation::default();
    pixels(config, defaults.map(|d| (d, by_class(d))), &mut p)?;
    p.interpolation = match config.get("resample") {
        Some(v) => Some(Setting::new(
            filter(v).ok_or_else(|| config.wrong("resample", "Pillow's number of a filter, 0 to 5"))?,
            here(),
        )),
        None => defaults.map(|d| Setting::new(d.filter, by_class(d))),
    };
    if config.bool("do_resize")? == Some(false) {
        notes.push(format!("{file}: do_resize is false, so it says nothing of sizes and crops"));
    } else {
        geometry(config, family, defaults.map(|d| (d, by_class(d))), &mut p, &mut notes)?;
    }
    Ok(Found { preparation: p, notes, ..Found::default() })
}

const ENDINGS: [&str; 4] = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"];

/// Pillow's filters by its numbers, also by name.
fn filter(v: &Value) -> Option<Interpolation> {
    use Interpolation::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
    match v {
        Value::String(s) if s.parse::<f64>().is_err() => s.to_ascii_lowercase().parse().ok(),
        other => [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming].get(whole(other, 0)?).copied(),
    }
}

/// The mean and deviation of pixels from 0 to 1 that do what rescaling and normalising do together: a pixel of x in 0..1 becomes
/// `(255 factor x - offset - mean) / std`.
fn pixels(config: &Object, defaults: Option<(&Defaults, Origin)>, p: &mut Preparation) -> Result<()> {
    let factor = match (config.bool("do_rescale")?, config.number("rescale_factor")?) {
        (Some(false), _) => 1.0,
        (_, Some(f)) if f > 0.0 => f,
        (_, Some(_)) => return Err(config.wrong("rescale_factor", "a number above 0")),
        (_, None) => 1.0 / 255.0,
    };
    let offset = if config.bool("rescale_offset")? == Some(true) { 1.0 } else { 0.0 };
    let here = || origin(config.path);
    let floats = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let (mean, std) = if config.bool("do_normalize")? == Some(false) {
        (Some((vec![0.0], here())), Some((vec![1.0], here())))
    } else {
        let mean = config.numbers("image_mean")?.map(|v| (v, here()));
        let std = config.numbers("image_std")?.map(|v| (v, here()));
        let default = |of: fn(&Defaults) -> &[f32; 3]| defaults.as_ref().map(|(d, o)| (floats(of(d)), o.clone()));
        (mean.or_else(|| default(|d| &d.mean)), std.or_else(|| default(|d| &d.std)))
    };
    let scale = 255.0 * factor;
    // The usual factor makes the scale 1 up to rounding, and then the numbers of the file are kept as they are.
    let plain = (scale - 1.0).abs() < 1e-6;
    let to = |v: Vec<f64>, shift: f64| -> Vec<f32> {
        let scaled = |x: f64| if plain { x + shift } else { (x + shift) / scale };
        v.into_iter().map(|x| scaled(x) as f32).collect()
    };
    p.mean = mean.map(|(v, o)| Setting::new(to(v, offset), o));
    p.std = std.map(|(v, o)| Setting::new(to(v, 0.0), o));
    // EfficientNet's divides by the deviation twice for models with their head.
    if config.bool("include_top")? == Some(true)
        && let Some(std) = &mut p.std
    {
        // The second deviation is not scaled: (x - mean) / std / std.
        let times = if plain { 1.0 } else { scale as f32 };
        std.value.iter_mut().for_each(|s| *s = *s * *s * times);
    }
    // One number alone is that of every channel.
    let longest = [&p.mean, &p.std].into_iter().flatten().map(|l| l.value.len()).max().unwrap_or(0);
    for list in [&mut p.mean, &mut p.std].into_iter().flatten().filter(|l| l.value.len() == 1) {
        list.value = vec![list.value[0]; longest];
    }
    Ok(())
}

/// Size, crop and how the image is fitted to it. Where an odd number of pixels is cut off, transformers rounds the place of the crop down and
/// torchvision and timm round it to even, so that the crop can be one pixel apart.
fn geometry(
    config: &Object,
    family: Option<&str>,
    defaults: Option<(&Defaults, Origin)>,
    p: &mut Preparation,
    notes: &mut Vec<String>,
) -> Result<()> {
    let kind = family.map(str::to_ascii_lowercase).unwrap_or_default();
    let cuts = config.bool("do_center_crop")?.or(defaults.as_ref().map(|(d, _)| d.crop.is_some()));
    let Some((size, origin)) = size(config, &defaults, cuts)? else { return Ok(()) };
    let crop = match (cuts.unwrap_or(false), config.get("crop_size")) {
        (false, _) => None,
        (true, Some(v)) => {
            Some(rectangle(v).ok_or_else(|| config.wrong("crop_size", "a number of pixels, or height and width"))?)
        }
        (true, None) => defaults.as_ref().and_then(|(d, _)| d.crop).map(|c| (c, c)),
    };
    let mut set = |size: (usize, usize), pct: f64, mode: CropMode| {
        p.size = Some(Setting::new(size, origin.clone()));
        p.crop_pct = Some(Setting::new(pct, origin.clone()));
        p.crop_mode = Some(Setting::new(mode, origin.clone()));
    };
    let beyond = |what: &str| Error::File {
        path: config.path.into(),
        message: format!("size and crop_size: {what}, which is not supported here: correct the file, or move it away"),
    };
    match (size, crop) {
        // ConvNeXT's: below 384 the short side becomes size / crop_pct and the centre is cut out, from there on both sides become size.
        (Short(s), _) if kind == "convnext" => {
            let pct = config.number("crop_pct")?.unwrap_or(224.0 / 256.0);
            if s < 384 { set((s, s), pct, CropMode::Center) } else { set((s, s), 1.0, CropMode::Squash) }
        }
        // LeViT's: the short side becomes 256/224 of the size.
        (Short(s), Some(crop)) => {
            let s = if kind == "levit" { 256 * s / 224 } else { s };
            match config.number("crop_pct")? {
                // PoolFormer's: the short side becomes size / crop_pct.
                Some(pct) => set(crop, crop.0 as f64 / (s as f64 / pct).floor(), CropMode::Center),
                None if crop.0.max(crop.1) > s => {
                    return Err(beyond(&format!(
                        "the crop {}x{} is larger than the image's short side {s}",
                        crop.0, crop.1
                    )));
                }
                None if crop.0 != crop.1 => return Err(beyond("the crop is not a square")),
                None => set(crop, share(crop.0, s), CropMode::Center),
            }
        }
        (Short(s), None) => {
            notes.push(format!(
                "images are resized to a short side of {s} and not cropped, which makes no batch: their centre of {s}x{s} is taken"
            ));
            set((s, s), 1.0, CropMode::Center);
        }
        (Both(h, w), None) => set((h, w), 1.0, CropMode::Squash),
        (Both(h, w), Some((ch, cw))) if (ch as u64 * w as u64) == (cw as u64 * h as u64) && ch <= h => {
            set((ch, cw), share(ch, h), CropMode::Squash)
        }
        (Both(h, w), Some((ch, cw))) => return Err(beyond(&format!("a crop of {ch}x{cw} of an image of {h}x{w}"))),
    }
    Ok(())
}

/// The share that a crop keeps, such that the share gives the side again.
fn share(crop: usize, side: usize) -> f64 {
    let pct = crop as f64 / side as f64;
    // Where rounding would give one pixel less, the next smaller share is the right one.
    if (crop as f64 / pct) as usize == side { pct } else { pct.next_down() }
}

/// What images are resized to, and where that is said. `None` where nothing is known.
fn size(config: &Object, defaults: &Option<(&Defaults, Origin)>, cuts: Option<bool>) -> Result<Option<(Size, Origin)>> {
    let here = origin(config.path);
    let Some(v) = config.get("size") else {
        return Ok(defaults.as_ref().map(|(d, o)| (d.size, o.clone())));
    };
    let wrong = || config.wrong("size", "a number of pixels, {height, width} or {shortest_edge}");
    let size = match v {
        Value::Object(map) => match (map.get("shortest_edge"), rectangle(v)) {
            (_, Some((h, w))) => Both(h, w),
            (Some(s), None) => Short(whole(s, 1).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        },
        Value::Array(_) => sides(v).map(|(h, w)| Both(h, w)).ok_or_else(wrong)?,
        one => {
            let n = whole(one, 1).ok_or_else(wrong)?;
            match defaults {
                Some((Defaults { size: Both(..), .. }, _)) => Both(n, n),
                Some(_) => Short(n),
                // A class that is not known: one that crops resizes the short side, as most do.
                None if cuts == Some(true) => return Ok(Some((Short(n), Origin::Assumed))),
                None => return Ok(Some((Both(n, n), Origin::Assumed))),
            }
        }
    };
    Ok(Some((size, here)))
}

/// Height and width of a number of pixels, [height, width] or {height, width}.
fn rectangle(v: &Value) -> Option<(usize, usize)> {
    match v {
        Value::Object(map) => Some((whole(map.get("height")?, 1)?, whole(map.get("width")?, 1)?)),
        other => sides(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(text: &str, model_type: Option<&str>) -> Result<Found, String> {
        let value = serde_json::from_str(text).unwrap();
        let path = Path::new("w/preprocessor_config.json");
        let o = Object { path, value: &value };
        assert!(is(&o), "{text}");
        read(&o, model_type).and_then(|f| f.checked(path)).map_err(|e| e.to_string())
    }

    /// Size, resized size and mode.
    fn geometry_of(text: &str) -> (usize, usize, CropMode) {
        let p = of(text, None).unwrap_or_else(|e| panic!("{text}: {e}")).preparation;
        (p.size.as_ref().unwrap().value.0, p.resized().unwrap().0, p.crop_mode.unwrap().value)
    }

    #[test]
    fn sizes_and_crops_are_those_of_the_class() {
        use CropMode::{Center, Squash};
        for (text, want) in [
            (
                r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}"#,
                (224, 224, Squash),
            ),
            (r#"{"feature_extractor_type": "ViTFeatureExtractor", "size": 384}"#, (384, 384, Squash)),
            (r#"{"image_processor_type": "ViTImageProcessorFast", "resample": 2}"#, (224, 224, Squash)),
            (r#"{"image_processor_type": "DeiTImageProcessor", "size": 256, "crop_size": 224}"#, (224, 256, Squash)),
            (
                r#"{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}"#,
                (224, 256, Center),
            ),
            (r#"{"image_processor_type": "CLIPImageProcessor", "size": 336, "crop_size": 336}"#, (336, 336, Center)),
            (
                r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875}"#,
                (224, 256, Center),
            ),
            (
                r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}"#,
                (384, 384, Squash),
            ),
            (r#"{"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}}"#, (224, 256, Center)),
            (r#"{"size": 256, "crop_size": 224, "do_center_crop": true}"#, (224, 256, Center)),
            (r#"{"size": "224"}"#, (224, 224, Squash)),
        ] {
            assert_eq!(geometry_of(text), want, "{text}");
        }
        let tall = of(r#"{"size": {"height": 96, "width": 48}, "do_center_crop": false}"#, None).unwrap().preparation;
        assert_eq!(tall.size.unwrap().value, (96, 48));
        for side in 1..600 {
            let crop = side.min(224);
            assert_eq!((crop as f64 / share(crop, side)) as usize, side, "{crop} of {side}");
        }
    }

    #[test]
    fn rescaling_and_normalising_are_one() {
        let pair = |text: &str| {
            let p = of(text, None).unwrap().preparation;
            (p.mean.unwrap().value[0], p.std.unwrap().value[0])
        };
        assert_eq!(
            pair(
                r#"{"image_mean": [0.485, 0.4, 0.4], "image_std": [0.229, 0.2, 0.2], "rescale_factor": 0.00392156862745098}"#
            ),
            (0.485, 0.229)
        );
        assert_eq!(pair(r#"{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}"#), (0.0, 1.0));
        // To -1..1 by rescaling alone.
        assert_eq!(
            pair(r#"{"do_normalize": false, "rescale_factor": 0.00784313725490196, "rescale_offset": true}"#),
            (0.5, 0.5)
        );
        let (mean, std) =
            pair(r#"{"do_rescale": false, "image_mean": [127.5, 127.5, 127.5], "image_std": [127.5, 127.5, 127.5]}"#);
        assert!((mean - 0.5).abs() < 1e-6 && (std - 0.5).abs() < 1e-6);
        let e = of(r#"{"image_mean": [127.5, 127.5, 127.5], "image_std": [127.5, 127.5, 127.5]}"#, None).unwrap_err();
        assert!(e.contains("found 127.5"), "{e}");
    }

    #[test]
    fn what_the_file_leaves_out_is_the_classs() {
        let p = of(
            r#"{"do_resize": true, "size": 224, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#,
            Some("vit_mae"),
        )
        .unwrap()
        .preparation;
        let i = p.interpolation.unwrap();
        assert_eq!((i.value, i.origin.to_string().as_str()), (Bilinear, "transformers' table for ViTImageProcessor"));
        assert_eq!(p.crop_mode.unwrap().value, CropMode::Squash);
        let f = of(r#"{"image_processor_type": "GLPNImageProcessor", "do_rescale": true}"#, None).unwrap();
        assert!(f.preparation.mean.is_none() && f.notes[0].contains("GLPNImageProcessor"));
        let f = of(r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#, None).unwrap();
        assert!(f.preparation.size.is_none() && f.preparation.interpolation.is_none());
    }

    #[test]
    fn what_cannot_be_done_or_meant_is_told() {
        let e = |text: &str| of(text, None).unwrap_err();
        assert!(e(r#"{"resample": 9}"#).contains("0 to 5, found 9"));
        assert!(e(r#"{"size": {"longest_edge": 5}}"#).contains("shortest_edge"));
        assert!(
            e(r#"{"size": {"height": 224, "width": 224}, "crop_size": 256, "do_center_crop": true}"#)
                .contains("256x256 of an image of 224x224")
        );
        assert!(e(r#"{"do_rescale": "yes"}"#).contains("true or false, found \"yes\""));
        assert!(e(r#"{"do_rescale": true, "do_flip_channel_order": true}"#).contains("blue before red"));
        let f = of(r#"{"size": {"shortest_edge": 224}, "do_center_crop": false}"#, None).unwrap();
        assert!(f.notes[0].contains("224x224"), "{:?}", f.notes);
    }
}
