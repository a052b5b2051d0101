//! The data engine against Pillow, timm, torchvision and OpenCV: `tests/golden/data.json`, written by
//! `tests/golden/data.py` from the pictures in `tests/pictures`.

use candle_core::{Device, Tensor};
use candlelight::data::{
    Dataset, Decode, Image, Label, Loader, LoaderConfig, Op, Picture, Pipeline, Sample, SurveyConfig, decode, survey,
};
use candlelight::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn golden() -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("golden/data.json")).unwrap()).unwrap()
}

fn picture(name: &str, options: &Decode) -> Image {
    decode(&std::fs::read(root().join("pictures").join(name)).unwrap(), options).unwrap()
}

fn number(v: &Value) -> usize {
    v.as_u64().unwrap() as usize
}

/// What differs from the golden result, if anything does.
fn difference(image: &Image, want: &Value) -> Option<String> {
    let dims = (number(&want["width"]), number(&want["height"]));
    if (image.width, image.height) != dims {
        return Some(format!("{}x{}, expected {}x{}", image.width, image.height, dims.0, dims.1));
    }
    let crc = match image.values() {
        Some(values) => reals(values),
        None => crc32fast::hash(&image.data),
    };
    (u64::from(crc) != want["crc32"].as_u64().unwrap()).then(|| "other pixels".into())
}

/// The sum of real numbers as bytes, the lowest first.
fn reals(values: &[f32]) -> u32 {
    crc32fast::hash(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// The decoding that a case asks for.
fn options(case: &Value) -> Decode {
    let mut options: Decode = match &case["options"] {
        Value::Null => Decode::default(),
        given => serde_json::from_value(given.clone()).unwrap(),
    };
    options.orientation = case["turned"].as_bool().unwrap();
    options
}

#[test]
fn every_kind_of_file_decodes_to_pillows_pixels() {
    let golden = golden();
    let all = golden["decoded"].as_array().unwrap();
    assert!(all.len() > 100, "{}", all.len());
    let mut wrong = vec![];
    for want in all {
        let name = want["picture"].as_str().unwrap();
        let bytes = std::fs::read(root().join("pictures").join(name)).unwrap();
        match decode(&bytes, &options(want)) {
            Ok(image) => wrong.extend(difference(&image, want).map(|d| format!("{want}: {d}"))),
            Err(e) => wrong.push(format!("{want}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn what_is_cut_is_an_error_or_the_whole_picture() {
    let golden = golden();
    let (mut cuts, mut wrong) = (0, vec![]);
    for case in golden["decoded"].as_array().unwrap() {
        let name = case["picture"].as_str().unwrap();
        let bytes = std::fs::read(root().join("pictures").join(name)).unwrap();
        // In text, a number that is cut is a number; a scan of a JPEG may lack its last bits.
        if bytes.len() > 4000 || name.starts_with("text") {
            continue;
        }
        for cut in (0..bytes.len()).step_by(5) {
            cuts += 1;
            if let Ok(image) = decode(&bytes[..cut], &options(case)) {
                wrong.extend(difference(&image, case).map(|d| format!("{case} cut at {cut} of {}: {d}", bytes.len())));
            }
        }
    }
    assert!(cuts > 5000, "{cuts}");
    assert!(wrong.is_empty(), "{} of {cuts} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn real_numbers_are_resized_as_pillow_resizes_them() {
    let golden = golden();
    let image = picture("chelsea.jpg", &Decode::default());
    let red = image.data.iter().step_by(3).map(|&v| f32::from(v)).collect();
    let red = Image::from_values(image.width, image.height, 1, red).unwrap();
    for want in golden["reals"].as_array().unwrap() {
        let filter = serde_json::from_value(want["filter"].clone()).unwrap();
        let op = Op::Resize { width: number(&want["width"]), height: number(&want["height"]), filter };
        assert_eq!(difference(&op.apply(red.clone()).unwrap(), want), None, "{want}");
    }
}

#[test]
fn every_operation_gives_the_references_pixels() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 800, "{}", cases.len());
    let (mut pictures, mut wrong): (BTreeMap<String, Image>, Vec<String>) = Default::default();
    for case in cases {
        let name = case["picture"].as_str().unwrap();
        let image = pictures.entry(name.into()).or_insert_with(|| {
            let (file, part) = name.split_once(':').unwrap_or((name, ""));
            let image = picture(file, &Decode::default());
            let image = if file.starts_with("gray") { image.to_gray() } else { image };
            match part.split_once('x') {
                Some((w, h)) => image.crop(7, 7, w.parse().unwrap(), h.parse().unwrap()).unwrap(),
                None => image,
            }
        });
        let op: Op = serde_json::from_value(case["op"].clone()).unwrap();
        match op.apply(image.clone()).map(|out| difference(&out, case)) {
            Ok(None) => {}
            Ok(Some(d)) => wrong.push(format!("{name} {op:?}: {d}")),
            Err(e) => wrong.push(format!("{name} {op:?}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// One picture many times over.
struct Same(Vec<u8>);

impl Dataset for Same {
    fn len(&self) -> usize {
        4
    }
    fn get(&self, i: usize) -> candlelight::data::Result<Sample> {
        Ok(Sample { picture: Picture::Encoded(self.0.clone()), label: Label::Class(i as u32 % 2) })
    }
}

#[test]
fn a_vision_transformer_sees_thirteen_bands_of_sixteen_bits() {
    let bytes = std::fs::read(root().join("pictures/bands.tif")).unwrap();
    for (channels, bit_depth) in [(13, 16), (13, 8), (1, 8), (3, 16)] {
        let bytes =
            if channels == 13 { bytes.clone() } else { std::fs::read(root().join("pictures/rgb.png")).unwrap() };
        let decode = Decode { channels: Some(channels), bit_depth, ..Decode::default() };
        let data = Arc::new(Same(bytes));
        let config = SurveyConfig { decode, ..SurveyConfig::default() };
        let own = survey(&[("all", &*data)], &config).unwrap().normalize().unwrap();
        assert_eq!(own.mean.len(), channels);
        let crop = Pipeline::mae_pretrain((8, 8), own);
        let config = LoaderConfig {
            batch_size: 4,
            size: (8, 8),
            seed: 0,
            shuffle: true,
            drop_last: true,
            workers: 2,
            max_bad: 0.0,
            memory: None,
        };
        let loader = Loader::new(data, crop, config).unwrap().decoding(decode);
        let batch = loader.epoch(0, 0).next().unwrap().unwrap();
        let values = batch.images.f32().unwrap();
        assert!(values.iter().any(|v| *v != 0.0) && values.iter().all(|v| v.is_finite()));
        let images = Tensor::from_vec(values, (4, channels, 8, 8), &Device::Cpu).unwrap();
        let model = VitConfig {
            image: (8, 8),
            patch: 4,
            dim: 16,
            depth: 1,
            heads: 2,
            classes: 5,
            channels,
            ..registry::vit("vit_base_patch16").unwrap()
        };
        let params = ParamStore::new();
        let model = Vit::new(&model, params.builder(Key::new(0))).unwrap();
        let tape = Tape::off();
        let logits = model.forward(&tape.constant(&images), None).unwrap();
        assert_eq!(logits.tensor().dims(), [4, 5]);
    }
}

/// `python tests/golden/data.py PHOTOS OUT.json`, then `CANDLELIGHT_PHOTOS=PHOTOS CANDLELIGHT_PHOTOS_JSON=OUT.json cargo test
/// --release --test data -- --ignored`.
#[test]
#[ignore = "needs a folder of photos"]
fn photos_of_ones_own() {
    let var = |name: &str| PathBuf::from(std::env::var_os(name).expect(name));
    let (folder, json) = (var("CANDLELIGHT_PHOTOS"), var("CANDLELIGHT_PHOTOS_JSON"));
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let (mut open, mut wrong): (Option<(String, Image)>, Vec<String>) = (None, vec![]);
    for case in &cases {
        let name = case["picture"].as_str().unwrap();
        if open.as_ref().is_none_or(|(n, _)| n != name) {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            match decode(&bytes, &Decode::default()) {
                Ok(image) => open = Some((name.into(), image)),
                Err(e) => {
                    wrong.push(format!("{name}: {e}"));
                    continue;
                }
            }
        }
        let (_, image) = open.as_ref().unwrap();
        let out = match case["crop"].as_array() {
            None => image.clone(),
            Some(c) => {
                let filter = serde_json::from_value(case["filter"].clone()).unwrap();
                let part = image.crop(number(&c[0]), number(&c[1]), number(&c[2]), number(&c[3])).unwrap();
                Op::Resize { width: 224, height: 224, filter }.apply(part).unwrap()
            }
        };
        wrong.extend(difference(&out, case).map(|d| format!("{case}: {d}")));
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} results are the same to the bit", cases.len());
}
