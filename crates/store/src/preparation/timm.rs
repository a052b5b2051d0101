//! timm's `config.json`.

use super::beside::{Found, origin};
use super::transformers::by_number;
use super::{CropMode, Interpolation, Preparation, Setting};
use crate::error::Result;
use crate::json::{Object, whole};
use serde_json::Value;

/// Whether this is timm's, of today or of before it had `pretrained_cfg`.
pub(super) fn is(config: &Object) -> bool {
    config.get("pretrained_cfg").is_some_and(Value::is_object)
        || (config.get("architecture").is_some() && config.get("model_type").is_none_or(|t| t == "timm_wrapper"))
}

/// What it says. Settings that it leaves out stay unknown.
pub(super) fn read(config: &Object) -> Result<Found> {
    let inner = config.get("pretrained_cfg").filter(|v| v.is_object()).unwrap_or(config.value);
    let cfg = Object { path: config.path, value: inner };
    let mut notes = vec![];
    let (channels, size) = input_size(&cfg, "input_size")?.unzip();
    let test_size = input_size(&cfg, "test_input_size")?.map(|(_, size)| size);
    let floats = |key: &str| -> Result<Option<Vec<f32>>> {
        Ok(cfg.numbers(key)?.map(|v| v.into_iter().map(|x| x as f32).collect()))
    };
    let interpolation = match cfg.text("interpolation")? {
        Some("random") => {
            notes
                .push("config.json: interpolation `random` is one for training, and says nothing of evaluation".into());
            None
        }
        Some(name) => Some(
            name.parse()
                .map_err(|e: String| cfg.wrong("interpolation", e.split(": expected ").nth(1).unwrap_or_default()))?,
        ),
        None => None,
    };
    let crop_mode = match cfg.text("crop_mode")? {
        Some(name) => Some(name.parse().map_err(|_: String| cfg.wrong("crop_mode", "center, squash or border"))?),
        None => None,
    };
    // The head of the model goes before that of the weights it was made from.
    let num_classes = match config.whole("num_classes", 0)? {
        Some(n) => Some(n),
        None => cfg.whole("num_classes", 0)?,
    };
    let names = match names(config)? {
        Some(names) => Some(names),
        // Those in `pretrained_cfg` belong to the weights that training started from; a head of another size has other classes.
        None => names(&cfg)?.filter(|names| num_classes.is_none_or(|n| n == names.len())),
    };
    let test_crop_pct = cfg.number("test_crop_pct")?;
    let preparation = Preparation {
        size: size.map(|v| Setting::new(v, origin(config.path))),
        channels: channels.map(|v| Setting::new(v, origin(config.path))),
        mean: floats("mean")?.map(|v| Setting::new(v, origin(config.path))),
        std: floats("std")?.map(|v| Setting::new(v, origin(config.path))),
        crop_pct: cfg.number("crop_pct")?.map(|v| Setting::new(v, origin(config.path))),
        crop_mode: crop_mode.map(|v: CropMode| Setting::new(v, origin(config.path))),
        interpolation: interpolation.map(|v: Interpolation| Setting::new(v, origin(config.path))),
        test_size: test_size.map(|v| Setting::new(v, origin(config.path))),
        test_crop_pct: test_crop_pct.map(|v| Setting::new(v, origin(config.path))),
        classes: names.map(|v| Setting::new(v, origin(config.path))),
    };
    let architecture = config.text("architecture")?.or(cfg.text("architecture")?).map(ToString::to_string);
    Ok(Found { preparation, architecture, num_classes, notes })
}

/// Channels and (height, width) of `[channels, height, width]`.
fn input_size(cfg: &Object, key: &str) -> Result<Option<(usize, (usize, usize))>> {
    let Some(v) = cfg.get(key) else { return Ok(None) };
    let sides: Option<Vec<usize>> = v.as_array().and_then(|a| a.iter().map(|n| whole(n, 1)).collect());
    match sides.as_deref() {
        Some([c, h, w]) => Ok(Some((*c, (*h, *w)))),
        _ => Err(cfg.wrong(key, "[channels, height, width]")),
    }
}

/// `label_names`, a list or names by number, in the order of the outputs. timm gives WordNet's ids for some models and then the words in
/// `label_descriptions`; the ids are the names, since they are unique.
fn names(cfg: &Object) -> Result<Option<Vec<String>>> {
    let wrong = || cfg.wrong("label_names", "a list of names, one for each class from 0 on");
    match cfg.get("label_names") {
        Some(Value::Array(all)) if all.is_empty() => Ok(None),
        Some(Value::Array(all)) => {
            all.iter().map(|v| v.as_str().map(Into::into).ok_or_else(wrong)).collect::<Result<Vec<String>>>().map(Some)
        }
        Some(Value::Object(by)) => by_number(by).map(Some).ok_or_else(wrong),
        Some(_) => Err(wrong()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(text: &str) -> Result<Found, String> {
        let value = serde_json::from_str(text).unwrap();
        let path = Path::new("w/config.json");
        let o = Object { path, value: &value };
        assert!(is(&o));
        read(&o).and_then(|f| f.checked(path)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_configuration_is_read_whole() {
        let f = of(r#"{"architecture": "resnet50", "num_classes": 2, "label_names": ["cat", "dog"],
            "pretrained_cfg": {"tag": "a1_in1k", "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "num_classes": 1000,
            "interpolation": "bicubic", "crop_pct": 0.95, "test_crop_pct": 1.0, "crop_mode": "squash",
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}"#)
        .unwrap();
        assert_eq!((f.architecture.as_deref(), f.num_classes), (Some("resnet50"), Some(2)));
        assert_eq!(
            f.preparation.to_string(),
            "prepared for 224x224, crop 0.95, squash, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (config.json); \
             2 classes cat, dog (config.json); its makers evaluate at 288x288, crop 1 (config.json)"
        );
    }

    #[test]
    fn the_older_form_has_everything_at_the_top() {
        let f = of(
            r#"{"architecture": "resnet18", "num_classes": 3, "input_size": [3, 64, 32], "crop_pct": 0.875, "interpolation": "bilinear"}"#,
        );
        let f = f.unwrap();
        assert_eq!((f.num_classes, f.preparation.size.unwrap().value), (Some(3), (64, 32)));
        assert!(f.preparation.mean.is_none() && f.notes.is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let with = |cfg: &str| of(&format!(r#"{{"architecture": "x", "num_classes": 2, {cfg}}}"#)).unwrap_err();
        assert!(with(r#""label_names": ["cat", "dog", "ant"]"#).contains("the names of 2 classes, found 3"));
        assert!(with(r#""label_names": {"0": "cat", "2": "dog"}"#).contains("one for each class"));
        assert!(
            with(r#""pretrained_cfg": {"input_size": [224, 224]}"#)
                .contains("[channels, height, width], found [224,224]")
        );
        assert!(with(r#""pretrained_cfg": {"interpolation": "cubic"}"#).contains("bicubic"));
        assert!(with(r#""pretrained_cfg": {"crop_mode": "middle"}"#).contains("center, squash or border"));
        assert!(with(r#""pretrained_cfg": {"crop_pct": "wide"}"#).contains("a number, found \"wide\""));
        // Texts that are numbers are read as such.
        assert!(
            of(r#"{"architecture": "x", "pretrained_cfg": {"crop_pct": "0.9"}}"#)
                .unwrap()
                .preparation
                .crop_pct
                .unwrap()
                .value
                == 0.9
        );
    }

    #[test]
    fn names_of_an_earlier_head_are_not_the_models() {
        let f = of(r#"{"architecture": "x", "num_classes": 3, "pretrained_cfg": {"num_classes": 2, "label_names": ["cat", "dog"]}}"#).unwrap();
        assert!(f.preparation.classes.is_none());
        let f = of(r#"{"architecture": "x", "num_classes": 2, "pretrained_cfg": {"label_names": ["cat", "dog"]}}"#)
            .unwrap();
        assert_eq!(f.preparation.classes.unwrap().value, ["cat", "dog"]);
    }
}
