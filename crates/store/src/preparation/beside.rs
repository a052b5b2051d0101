//! What lies beside weights: the files in which libraries keep a model's settings.

use super::{Origin, Preparation, known, processor, timm, transformers};
use crate::error::{Error, Result};
use crate::json::{self, Object};
use std::path::{Path, PathBuf};

/// What is known of weights without reading them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// How their images are prepared, and the names of their classes.
    pub preparation: Preparation,
    /// The architecture by the name that its library gives it, such as `vit_base_patch16_224` or `ViTForImageClassification`.
    pub architecture: Option<String>,
    /// The number of the model's outputs.
    pub num_classes: Option<usize>,
    /// What was ignored, guessed or contradictory, one sentence each, for the log.
    pub notes: Vec<String>,
}

impl Found {
    /// What is found here, with what is not known taken from `other`.
    pub(super) fn or(mut self, other: Found) -> Found {
        self.notes.extend(other.notes);
        Found {
            preparation: self.preparation.or(other.preparation),
            architecture: self.architecture.or(other.architecture),
            num_classes: self.num_classes.or(other.num_classes),
            notes: self.notes,
        }
    }

    /// The settings after a check that they can be meant.
    pub(super) fn checked(mut self, path: &Path) -> Result<Found> {
        let preparation = std::mem::take(&mut self.preparation).checked();
        let fail = |message| Error::File {
            path: path.into(),
            message: format!("{message}: correct the file, or move it away"),
        };
        self.preparation = preparation.map_err(fail)?;
        if let (Some(names), Some(count)) = (&self.preparation.classes, self.num_classes)
            && names.value.len() != count
        {
            let message = format!("expected the names of {count} classes, found {} names", names.value.len());
            return Err(fail(message));
        }
        Ok(self)
    }
}

impl Preparation {
    /// Reads what lies beside weights: timm's or transformers' `config.json`, and transformers' `preprocessor_config.json` or
    /// `processor_config.json`. `path` is the file of the weights, the index of weights in several files, or the folder they are in.
    ///
    /// timm's `pretrained_cfg` goes before the image processor, and that before transformers' `config.json`. `LABEL_0`, `LABEL_1` and so
    /// on, which transformers makes up, are not names. Files of other kinds are ignored with a note.
    ///
    /// # Errors
    /// When one of these files is damaged or holds what cannot be meant. The error names it.
    pub fn beside(path: &Path) -> Result<Found> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let at = |name: &str| -> Option<PathBuf> { Some(folder.join(name)).filter(|p| p.is_file()) };
        let mut found = Found::default();
        let mut model_type = None;
        if let Some(config) = at("config.json") {
            let value = json::read(&config)?;
            let object = Object { path: &config, value: &value };
            if timm::is(&object) {
                found = timm::read(&object)?.checked(&config)?;
            } else if transformers::is(&object) {
                model_type = object.text("model_type")?.map(ToString::to_string);
                found = transformers::read(&object)?.checked(&config)?;
            } else {
                found.notes.push(
                    "config.json is neither timm's nor that of a vision model of transformers, and was ignored".into(),
                );
            }
        }
        for name in ["preprocessor_config.json", "processor_config.json"] {
            let Some(file) = at(name) else { continue };
            let value = json::read(&file)?;
            // processor_config.json has it inside, beside those of other modalities.
            let value = value.get("image_processor").filter(|v| v.is_object()).unwrap_or(&value);
            let object = Object { path: &file, value };
            if !processor::is(&object) {
                found.notes.push(format!("{name} says nothing of images, and was ignored"));
                continue;
            }
            let read = processor::read(&object, model_type.as_deref())?.checked(&file)?;
            found = merged(found, read, name);
            break;
        }
        // Where each half came from another file, they must fit one another, too.
        found = found.checked(&folder.join("config.json"))?;
        let settled = found != Found::default() && !path.is_dir();
        found.notes.extend(if settled { crowd(folder, path) } else { None });
        Ok(found)
    }

    /// [`Preparation::beside`], with what is not found there taken from what is known of published weights: of `name`, if one is given, such
    /// as `hf:timm/resnet18.a1_in1k`, else of the file by its own name.
    ///
    /// # Errors
    /// Those of [`Preparation::beside`].
    pub fn of_weights(path: &Path, name: Option<&str>) -> Result<Found> {
        let beside = Preparation::beside(path)?;
        let known = name.and_then(known::named).or_else(|| known::at(path));
        let Some(known) = known else { return Ok(beside) };
        // A finetuned model in a folder that is still called by its origin has its own number of classes and its own settings.
        let table = Found { preparation: known.preparation, num_classes: Some(known.num_classes), ..Found::default() };
        Ok(beside.or(table))
    }
}

/// The settings of the model's configuration and of its image processor. Of transformers' two files the image processor goes first, as it
/// is what prepares images there; timm's configuration goes before both.
fn merged(config: Found, mut processor: Found, name: &str) -> Found {
    // A size that only the processor's class gives is nobody's statement about this model.
    if processor.preparation.size.as_ref().is_some_and(|s| matches!(s.origin, Origin::Table { .. })) {
        processor.preparation.size = config.preparation.size.clone().or(processor.preparation.size);
    }
    let timm = config.preparation.mean.is_some() || config.preparation.crop_pct.is_some();
    let (a, b) = (&config.preparation, &processor.preparation);
    let differs = |what: &str| {
        format!(
            "config.json and {name} differ in {what}; the one of {} is taken",
            if timm { "config.json" } else { name }
        )
    };
    let mut notes = vec![];
    if let (Some(x), Some(y)) = (&a.size, &b.size)
        && x.value != y.value
    {
        notes.push(differs(&format!("the size, {}x{} and {}x{}", x.value.0, x.value.1, y.value.0, y.value.1)));
    }
    for (what, x, y) in [("the mean", &a.mean, &b.mean), ("the std", &a.std, &b.std)] {
        if let (Some(x), Some(y)) = (x, y)
            && x.value.iter().zip(&y.value).any(|(p, q)| (p - q).abs() > 1e-3)
        {
            notes.push(differs(what));
        }
    }
    let mut found = if timm {
        config.or(processor)
    } else {
        // The processor's size is how images come in; the model's own names and counts stay.
        Found { architecture: config.architecture.clone(), num_classes: config.num_classes, ..processor.or(config) }
    };
    found.notes.extend(notes);
    found
}

/// A note where the settings lie beside weights of several models, so that they may be another one's.
fn crowd(folder: &Path, path: &Path) -> Option<String> {
    let stem = |p: &Path| p.file_stem().and_then(|s| s.to_str()).map(|s| s.split('.').next().unwrap_or(s).to_string());
    let canonical = |s: &str| s.starts_with("model") || s.starts_with("pytorch_model") || s.starts_with("open_clip");
    let own = stem(path)?;
    if canonical(&own) {
        return None;
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut others: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|e| {
            let other = e.ok()?.path();
            let weights = other
                .extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| ["safetensors", "pth", "pt", "bin"].contains(&e));
            (weights && stem(&other)? != own).then(|| other.file_name()?.to_str().map(ToString::to_string)).flatten()
        })
        .collect();
    others.sort();
    let (first, name) = (others.first()?, path.file_name()?.to_str()?);
    Some(format!(
        "the settings beside {name} are taken to be its own, although {first} lies there, too: give each model its own folder if they are not"
    ))
}

/// An origin in a file beside the weights.
pub(super) fn origin(path: &Path) -> Origin {
    Origin::File(path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const VIT: &str = r#"{"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32, "num_channels": 3,
        "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}"#;

    #[test]
    fn weights_and_folders_find_what_lies_beside_them() {
        let d = folder(&[
            ("config.json", VIT),
            ("preprocessor_config.json", r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": 0.5}"#),
        ]);
        let whole = Preparation::beside(d.path()).unwrap();
        assert_eq!(Preparation::beside(&d.path().join("model.safetensors")).unwrap(), whole);
        assert_eq!(Preparation::beside(&d.path().join("model.safetensors.index.json")).unwrap(), whole);
        assert_eq!((whole.num_classes, whole.architecture.as_deref()), (Some(2), Some("ViTForImageClassification")));
        let p = whole.preparation;
        assert_eq!((p.size.unwrap().value, p.std.as_ref().unwrap().value.len()), ((32, 32), 3));
        assert_eq!(p.std.unwrap().origin, Origin::File("preprocessor_config.json".into()));
        assert_eq!(p.classes.unwrap().value, ["cat", "dog"]);
        let empty = folder(&[]);
        assert_eq!(Preparation::beside(empty.path()).unwrap(), Found::default());
        assert_eq!(Preparation::beside(Path::new("nowhere/model.safetensors")).unwrap(), Found::default());
    }

    #[test]
    fn damaged_files_are_errors_and_other_files_are_ignored() {
        for (name, text) in [
            ("config.json", "{\"model_type\": \"vit\", "),
            ("config.json", r#"{"model_type": "vit", "image_size": "large"}"#),
            ("config.json", r#"{"architecture": "x", "pretrained_cfg": {"mean": [123.0, 116.0, 103.0]}}"#),
            ("preprocessor_config.json", r#"{"image_mean": [0.5, null]}"#),
            ("preprocessor_config.json", r#"{"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#),
        ] {
            let d = folder(&[(name, text)]);
            let e = Preparation::beside(d.path()).unwrap_err().to_string();
            assert!(e.contains(name) && e.contains("move it away"), "{text}: {e}");
        }
        let d = folder(&[
            ("config.json", r#"{"model_type": "bert", "vocab_size": 30522}"#),
            ("preprocessor_config.json", r#"{"sampling_rate": 16000}"#),
        ]);
        let found = Preparation::beside(d.path()).unwrap();
        assert_eq!((found.preparation, found.notes.len()), (Preparation::default(), 2));
    }

    #[test]
    fn what_the_files_leave_open_is_known_of_published_weights() {
        let d = folder(&[(
            "config.json",
            r#"{"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#,
        )]);
        let found =
            Preparation::of_weights(&d.path().join("model.safetensors"), Some("hf:timm/resnet18.a1_in1k")).unwrap();
        assert_eq!(found.num_classes, Some(2));
        assert_eq!(found.preparation.mean.unwrap().value, [0.5; 3]);
        assert_eq!(found.preparation.size.unwrap().origin.to_string(), "timm's table for resnet18.a1_in1k");
        let found = Preparation::of_weights(Path::new("x/resnet50-11ad3fa6.pth"), None).unwrap();
        assert_eq!((found.num_classes, found.preparation.resized()), (Some(1000), Some((232, 232))));
    }

    #[test]
    fn settings_beside_several_models_are_said_to_be_a_guess() {
        let d = folder(&[("config.json", VIT), ("a.pth", ""), ("b.safetensors", ""), ("a.ema.pth", "")]);
        let notes = |n: &str| Preparation::beside(&d.path().join(n)).unwrap().notes;
        assert!(notes("a.pth")[0].contains("b.safetensors"), "{:?}", notes("a.pth"));
        assert!(notes("model.safetensors").is_empty());
    }

    #[test]
    fn files_that_disagree_are_told() {
        let d = folder(&[
            ("config.json", VIT),
            (
                "preprocessor_config.json",
                r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}"#,
            ),
        ]);
        let found = Preparation::beside(d.path()).unwrap();
        assert_eq!(found.preparation.size.unwrap().value, (48, 48));
        assert!(found.notes.iter().any(|n| n.contains("32x32 and 48x48")), "{:?}", found.notes);
    }

    #[test]
    fn no_value_of_any_entry_is_the_programs_end() {
        let timm = r#"{"architecture": "a", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": {"input_size": [3, 8, 8],
            "test_input_size": [3, 9, 9], "mean": [0.5], "std": [0.5], "crop_pct": 0.9, "test_crop_pct": 1, "crop_mode": "center",
            "interpolation": "bicubic", "num_classes": 2, "label_names": ["a", "b"]}}"#;
        let processor = r#"{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8},
            "do_center_crop": true, "do_resize": true, "resample": 3, "do_rescale": true, "rescale_factor": 0.00392156862745098,
            "rescale_offset": false, "do_normalize": true, "image_mean": [0.5], "image_std": [0.5], "crop_pct": 0.9,
            "include_top": false, "do_flip_channel_order": false}"#;
        let odd = [
            "null",
            "true",
            "-1",
            "0",
            "1e300",
            "16777215",
            "0.5",
            r#""x""#,
            r#""""#,
            "[]",
            "[null]",
            "[1, 2]",
            "{}",
            r#"{"0": 1}"#,
            r#"{"height": 7}"#,
        ];
        let (mut read, mut refused) = (0, 0);
        for (name, text) in [("config.json", timm), ("config.json", VIT), ("preprocessor_config.json", processor)] {
            let whole: serde_json::Value = serde_json::from_str(text).unwrap();
            let inner: Vec<_> = whole["pretrained_cfg"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| format!("/pretrained_cfg/{k}"))
                .collect();
            let outer = whole.as_object().unwrap().keys().map(|k| format!("/{k}"));
            for pointer in outer.chain(inner) {
                for value in odd {
                    let mut changed = whole.clone();
                    *changed.pointer_mut(&pointer).unwrap() = serde_json::from_str(value).unwrap();
                    let d = folder(&[(name, &changed.to_string())]);
                    match Preparation::beside(d.path()) {
                        Ok(found) => {
                            let side = found.preparation.or(Preparation::assumed((8, 8), 3)).resized();
                            read += usize::from(side.is_some());
                        }
                        Err(e) => {
                            assert!(e.to_string().contains(name), "{pointer} = {value}: {e}");
                            refused += 1;
                        }
                    }
                }
            }
            for cut in (0..text.len()).step_by(7) {
                let d = folder(&[(name, &text[..cut])]);
                assert!(Preparation::beside(d.path()).unwrap_err().to_string().contains(name));
            }
        }
        assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
        for (text, why) in [
            ("", "empty"),
            ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            ("<!doctype html>", "web page"),
        ] {
            let d = folder(&[("config.json", text)]);
            assert!(Preparation::beside(d.path()).unwrap_err().to_string().contains(why));
        }
    }
}
