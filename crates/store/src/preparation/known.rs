//! The preparation of published weights, as timm and torchvision give it.

use super::{CropMode, Interpolation, Origin, Preparation, Setting};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

/// What `tests/golden/preparations.py` writes.
#[derive(Deserialize)]
struct Tables {
    profiles: Vec<Profile>,
    timm: BTreeMap<String, Row>,
    torchvision: BTreeMap<String, Row>,
    timm_default_tags: BTreeMap<String, String>,
}

/// Weights: the number of their profile, and the file they are published in.
#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Nameless((usize,)),
    Filed(usize, String),
}

#[derive(Deserialize)]
struct Profile {
    size: (usize, usize),
    channels: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
    crop_pct: f64,
    crop_mode: CropMode,
    interpolation: Interpolation,
    num_classes: usize,
    test_size: Option<(usize, usize)>,
    test_crop_pct: Option<f64>,
}

fn tables() -> &'static Tables {
    static ALL: OnceLock<Tables> = OnceLock::new();
    ALL.get_or_init(|| {
        serde_json::from_str(include_str!("known.json")).expect("the table that this crate ships is whole")
    })
}

impl Row {
    fn profile(&self) -> &'static Profile {
        let (Row::Nameless((i,)) | Row::Filed(i, _)) = self;
        &tables().profiles[*i]
    }

    fn is_file(&self, name: &str) -> bool {
        matches!(self, Row::Filed(_, file) if file == name)
    }
}

/// What a table knows of some weights.
pub(crate) struct Known {
    pub preparation: Preparation,
    pub num_classes: usize,
}

impl Profile {
    fn known(&self, library: &str, name: &str) -> Known {
        let origin = || Origin::Table { library: library.into(), name: name.into() };
        let preparation = Preparation {
            size: Some(Setting::new(self.size, origin())),
            channels: Some(Setting::new(self.channels, origin())),
            mean: Some(Setting::new(self.mean.clone(), origin())),
            std: Some(Setting::new(self.std.clone(), origin())),
            crop_pct: Some(Setting::new(self.crop_pct, origin())),
            crop_mode: Some(Setting::new(self.crop_mode, origin())),
            interpolation: Some(Setting::new(self.interpolation, origin())),
            test_size: self.test_size.map(|v| Setting::new(v, origin())),
            test_crop_pct: self.test_crop_pct.map(|v| Setting::new(v, origin())),
            classes: None,
        };
        Known { preparation, num_classes: self.num_classes }
    }
}

/// The weights of this name: timm's with or without its tag, also as `timm/NAME` and `hf:timm/NAME`; torchvision's as
/// `resnet50.IMAGENET1K_V2`; or the name of the file that either library downloads.
pub(crate) fn named(name: &str) -> Option<Known> {
    let name = name.strip_prefix("hf:").unwrap_or(name).split([':', '@']).next().unwrap_or_default();
    let name = name.strip_prefix("timm/").unwrap_or(name);
    let t = tables();
    if let Some(row) = t.timm.get(name) {
        return Some(row.profile().known("timm", name));
    }
    if let Some(row) = t.torchvision.get(name) {
        return Some(row.profile().known("torchvision", name));
    }
    if let Some(tag) = t.timm_default_tags.get(name) {
        let name = if tag.is_empty() { name.to_string() } else { format!("{name}.{tag}") };
        return t.timm.get(&name).map(|row| row.profile().known("timm", &name));
    }
    file(name)
}

/// The weights that are published under this file name. torchvision goes first: timm lists some of its files with other preparations.
fn file(name: &str) -> Option<Known> {
    let t = tables();
    [("torchvision", &t.torchvision), ("timm", &t.timm)].into_iter().find_map(|(library, table)| {
        let (weights, row) = table.iter().find(|(_, row)| row.is_file(name))?;
        Some(row.profile().known(library, weights))
    })
}

/// The weights that a path is certain to hold: a file by its published name, one called as timm calls the weights, tag included, or one in
/// the hub's cache. `resnet50.pth` alone says too little.
pub(crate) fn at(path: &Path) -> Option<Known> {
    if let Some(repo) = path.iter().rev().find_map(|p| p.to_str()?.strip_prefix("models--timm--")) {
        return named(repo);
    }
    let name = path.file_name()?.to_str()?;
    let stem = [".safetensors", ".pth", ".pt", ".bin"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(name);
    let tagged = tables().timm.get_key_value(stem).filter(|(n, _)| n.contains('.'));
    file(name).or_else(|| tagged.map(|(n, row)| row.profile().known("timm", n)))
}

impl Preparation {
    /// The preparation of published weights: by timm's name, with or without its tag and also as `timm/NAME` (without a tag, timm's default
    /// one is meant, and the origin names it), by torchvision's (`resnet50.IMAGENET1K_V2`), or by the name of the file that either library
    /// downloads (`resnet50-0676ba61.pth`). `None` where the name is not in the tables, which hold the vision transformers and residual
    /// networks of timm 1.0.31 and torchvision 0.29.2.
    ///
    /// ```
    /// use candlelight_store::Preparation;
    /// let p = Preparation::known("vit_base_patch16_224.augreg_in21k_ft_in1k").unwrap();
    /// assert_eq!(p.mean.unwrap().value, [0.5; 3]);
    /// assert!(Preparation::known("my_model").is_none());
    /// ```
    pub fn known(name: &str) -> Option<Preparation> {
        named(name).map(|k| k.preparation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(k: Option<Known>) -> String {
        k.unwrap().preparation.size.unwrap().origin.to_string()
    }

    #[test]
    fn every_row_of_the_tables_can_be_meant() {
        let t = tables();
        assert!(t.timm.len() > 400 && t.torchvision.len() > 25);
        for name in t.timm.keys().chain(t.torchvision.keys()).chain(t.timm_default_tags.keys()) {
            let known = named(name).unwrap_or_else(|| panic!("{name}"));
            known.preparation.checked().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn weights_are_known_by_each_of_their_names() {
        for name in
            ["resnet50.a1_in1k", "timm/resnet50.a1_in1k", "hf:timm/resnet50.a1_in1k@main", "resnet50_a1_0-14fe96d1.pth"]
        {
            assert_eq!(origin(named(name)), "timm's table for resnet50.a1_in1k", "{name}");
        }
        assert_eq!(origin(named("resnet50")), "timm's table for resnet50.a1_in1k");
        assert_eq!(origin(named("resnet50-0676ba61.pth")), "torchvision's table for resnet50.IMAGENET1K_V1");
        assert!(named("resnet").is_none() && named("").is_none() && named("facebook/resnet50").is_none());
        let p = Preparation::known("resnet50.a1_in1k").unwrap();
        assert_eq!((p.size.as_ref().unwrap().value, p.crop_pct.as_ref().unwrap().value), ((224, 224), 0.95));
        let p = p.at_test_size();
        assert_eq!((p.size.unwrap().value, p.crop_pct.unwrap().value), ((288, 288), 1.0));
    }

    #[test]
    fn the_sides_are_those_that_torchvision_resizes_to() {
        let resized = |n: &str| Preparation::known(n).unwrap().resized().unwrap();
        assert_eq!(resized("resnet50.IMAGENET1K_V1"), (256, 256));
        assert_eq!(resized("resnet50.IMAGENET1K_V2"), (232, 232));
        assert_eq!(resized("vit_l_16.IMAGENET1K_V1"), (242, 242));
        assert_eq!(resized("vit_h_14.IMAGENET1K_SWAG_E2E_V1"), (518, 518));
    }

    #[test]
    fn a_path_is_believed_where_it_is_certain() {
        assert_eq!(origin(at(Path::new("w/vit_b_16-c867db91.pth"))), "torchvision's table for vit_b_16.IMAGENET1K_V1");
        assert_eq!(origin(at(Path::new("w/resnet18.a1_in1k.safetensors"))), "timm's table for resnet18.a1_in1k");
        let cached = Path::new("hub/models--timm--resnet18.tv_in1k/snapshots/0123/model.safetensors");
        assert_eq!(origin(at(cached)), "timm's table for resnet18.tv_in1k");
        assert!(at(Path::new("w/resnet50.pth")).is_none() && at(Path::new("/")).is_none());
    }
}
