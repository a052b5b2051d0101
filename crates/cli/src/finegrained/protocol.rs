//! The file of a comparison: data, seeds, folds, and methods with the flags of `train`.

use crate::Result;
use crate::config::File;
use crate::train;
use clap::CommandFactory;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What is compared without a file: two small networks on the images that come with the repository.
const DEMO: &str = include_str!("demo.toml");

/// The entries that are not flags of `train`.
const OWN: [&str; 5] = ["seeds", "folds", "holdout", "output", "methods"];
/// Entries of a method, and above all methods, that are not flags of `train` either.
const BESIDE: [&str; 2] = ["name", "grid"];

/// Flags of `train` that a comparison decides itself, and what does so.
const DECIDED: [(&str, &str); 9] = [
    ("seed", "give `seeds`, as a list or their number"),
    ("train_split", "it trains on the part `train`"),
    ("val_split", "`holdout` or the part `validation` chooses the best epoch"),
    ("labels", "each sample has one class"),
    ("experiment", "runs are named by method and seed"),
    ("resume", "the same command goes on where it ended"),
    ("start_epoch", "the same command goes on where it ended"),
    ("no_resume_opt", "the same command goes on where it ended"),
    ("style", "runs leave the files of `train`"),
];

/// Most methods that a grid makes of one.
const MOST: usize = 64;

/// A way to train.
#[derive(Debug, Clone)]
pub struct Method {
    /// Its name, which its folder has too.
    pub name: String,
    /// The method of the file that this is a point of the grid of.
    pub of: Option<String>,
    /// The flags of `train`, with a value for each that has a default.
    pub args: train::Args,
}

/// A comparison.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// The folder of all runs.
    pub output: PathBuf,
    /// The seeds; each method is trained with every one.
    pub seeds: Vec<u64>,
    /// The number of folds into which the samples are divided; `None` where the data has a part to test on.
    pub folds: Option<usize>,
    /// The share of the training samples that chooses the best epoch, where the data has no part for that.
    pub holdout: f64,
    /// The methods.
    pub methods: Vec<Method>,
}

/// The names of coursework files that are not those of flags, and what they are called here.
fn called(name: &str, value: &Value) -> Option<(&'static str, Value)> {
    Some(match name {
        "use_fp16" => ("precision", if value == &Value::Bool(true) { "bf16".into() } else { Value::Null }),
        "MODEL_METHOD" | "MODEL_NAME" => ("model", value.clone()),
        "MODEL_PRETRAINED" | "PRE_TRAINED" => ("pretrained", value.clone()),
        "DATA_PATH" => ("data", value.clone()),
        "BATCH_SIZE" => ("batch_size", value.clone()),
        "EPOCHS" | "num_epochs" => ("epochs", value.clone()),
        "LR" | "learning_rate" => ("lr", value.clone()),
        "image_size" | "IMAGE_SIZE" => ("img_size", value.clone()),
        "optimizer" => ("opt", lower(value)),
        "scheduler" => ("sched", lower(value)),
        "label_smoothing" => ("smoothing", value.clone()),
        "dropout" => ("drop", value.clone()),
        _ => return None,
    })
}

/// Names of optimizers and schedules in any spelling, such as `AdamW`.
fn lower(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |s| s.to_lowercase().into())
}

fn whole(file: &File, key: &str, value: &Value, least: u64) -> Result<u64> {
    let found = value.as_u64().filter(|n| *n >= least);
    found
        .ok_or_else(|| file.at(key, &format!("`{key}` is {value}, expected a whole number of at least {least}")).into())
}

impl Protocol {
    /// Reads a file, or the demo without one.
    ///
    /// # Errors
    /// When it cannot be read, has an entry that is none, or a method that cannot be trained.
    pub fn read(path: Option<&Path>) -> Result<Protocol> {
        let file = match path {
            Some(path) => File::read(path)?,
            None => File::parse(Path::new("demo.toml"), DEMO.into())?,
        };
        let entry = |key: &str| file.entries.get(key).filter(|v| !v.is_null());
        let seeds = match entry("seeds") {
            None => vec![0, 1, 2],
            Some(Value::Array(all)) => all.iter().map(|s| whole(&file, "seeds", s, 0)).collect::<Result<_>>()?,
            Some(n) => (0..whole(&file, "seeds", n, 1)?).collect(),
        };
        let mut once = seeds.clone();
        once.sort_unstable();
        once.dedup();
        if seeds.is_empty() || once.len() < seeds.len() {
            return Err(file.at("seeds", "`seeds` needs at least one seed, and each once").into());
        }
        let folds = entry("folds").map(|n| whole(&file, "folds", n, 2)).transpose()?.map(|n| n as usize);
        let holdout = entry("holdout").map_or(Some(0.1), Value::as_f64);
        let holdout = holdout.filter(|s| *s > 0.0 && *s < 1.0);
        let holdout = holdout.ok_or_else(|| file.at("holdout", "`holdout` must be a share between 0 and 1"))?;
        let stem = path.and_then(Path::file_stem).map_or("demo".into(), |s| s.to_string_lossy().into_owned());
        let output = match entry("output") {
            None => Path::new("output/finegrained").join(stem),
            Some(Value::String(o)) => o.into(),
            Some(_) => return Err(file.at("output", "`output` must be a folder").into()),
        };
        let methods = methods(&file, path.is_none())?;
        Ok(Protocol { output, seeds, folds, holdout, methods })
    }

    /// What the runs depend on, to be kept beside them.
    pub fn resolved(&self) -> Value {
        let flags = |m: &Method| serde_json::to_value(&m.args).unwrap_or_default();
        let methods: Map<String, Value> = self.methods.iter().map(|m| (m.name.clone(), flags(m))).collect();
        serde_json::json!({ "seeds": self.seeds, "folds": self.folds, "holdout": self.holdout, "methods": methods })
    }
}

/// Every combination of a grid's values: each flag has a list of them.
fn points(file: &File, grid: &Value) -> Result<Vec<Map<String, Value>>> {
    let wrong =
        || file.at("grid", "`grid` must be a table of flags with lists of values, as in `grid = { lr = [0.01, 0.1] }`");
    let mut all = vec![Map::new()];
    for (flag, values) in grid.as_object().filter(|g| !g.is_empty()).ok_or_else(wrong)? {
        let values = values.as_array().filter(|v| !v.is_empty()).ok_or_else(wrong)?;
        let with = |point: &Map<String, Value>, value: &Value| {
            let mut point = point.clone();
            point.insert(flag.clone(), value.clone());
            point
        };
        all = all.iter().flat_map(|point| values.iter().map(|v| with(point, v)).collect::<Vec<_>>()).collect();
        if all.len() > MOST {
            return Err(file
                .at("grid", &format!("`grid` has more than {MOST} combinations: give fewer values"))
                .into());
        }
    }
    Ok(all)
}

/// A point of a grid as a part of a folder's name: `lr=0.1 lora_r=8`.
fn shown(point: &Map<String, Value>) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from).replace(['/', '\\', '"', ' '], "");
    point.iter().map(|(k, v)| format!("{k}={}", text(v))).collect::<Vec<_>>().join(" ")
}

fn methods(file: &File, demo: bool) -> Result<Vec<Method>> {
    let command = train::Args::command().args_override_self(true);
    let flags = |entries: &Map<String, Value>| -> Result<Vec<OsString>> {
        let mut named = Map::new();
        for (key, value) in entries.iter().filter(|(k, _)| !OWN.contains(&k.as_str()) && !BESIDE.contains(&k.as_str()))
        {
            if let Some((_, instead)) = DECIDED.iter().find(|(d, _)| *d == key.replace('-', "_")) {
                return Err(file.at(key, &format!("`{key}` is none of a comparison: {instead}")).into());
            }
            let (key, value) = called(key, value).map_or((key.clone(), value.clone()), |(k, v)| (k.into(), v));
            named.insert(key, value);
        }
        file.flags(&named, &command)
    };
    let common = flags(&file.entries)?;
    let expected = "expected tables `[[methods]]`, each with a `name` and flags of train";
    let tables = match file.entries.get("methods") {
        Some(Value::Array(tables)) if !tables.is_empty() => tables,
        _ => return Err(file.at("methods", &format!("no methods to compare: {expected}")).into()),
    };
    let mut all: Vec<Method> = vec![];
    for table in tables {
        let table = table.as_object().ok_or_else(|| file.at("methods", expected))?;
        let name = table.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(file.at("name", &format!("a method is called `{name}`, expected the name of a folder")).into());
        }
        if all.iter().any(|m| m.name == name || m.of.as_ref() == Some(&name)) {
            return Err(file.at("name", &format!("two methods are called `{name}`")).into());
        }
        if let Some(own) = OWN.iter().find(|k| table.contains_key(**k)) {
            return Err(file
                .at(own, &format!("`{own}` is the same for all methods: put it above the first one"))
                .into());
        }
        let own = table.get("grid").or(file.entries.get("grid"));
        let points = own.map(|g| points(file, g)).transpose()?.unwrap_or_else(|| vec![Map::new()]);
        for point in points {
            let name = match point.is_empty() {
                true => name.clone(),
                false => format!("{name} {}", shown(&point)),
            };
            // What a method says counts more than what all have, and a point of its grid most.
            let mut line = vec![OsString::from("finegrained")];
            line.extend(common.iter().cloned().chain(flags(table)?).chain(flags(&point)?));
            let matches = command.clone().try_get_matches_from(line).map_err(|e| format!("method `{name}`: {e}"))?;
            let args = <train::Args as clap::FromArgMatches>::from_arg_matches(&matches)?;
            let mut args = args.filled().map_err(|e| format!("method `{name}`: {e}"))?;
            if args.data.demo() && !demo {
                return Err(file.at("data", "no data: give `data`, the folder of the images").into());
            }
            args.quiet = !all.is_empty();
            let of =
                (!point.is_empty()).then(|| table.get("name").and_then(Value::as_str).unwrap_or_default().to_string());
            all.push(Method { name, of, args });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Protocol> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("birds.toml");
        std::fs::write(&path, text)?;
        Protocol::read(Some(&path))
    }

    const BIRDS: &str = r#"
data = "birds"
seeds = [3, 5]
epochs = 4
lr = 0.1
model = "resnet20"
[[methods]]
name = "all"
[[methods]]
name = "head"
trained = "head"
lr = 0.01
use_fp16 = true
"#;

    #[test]
    fn a_grid_makes_a_method_of_every_combination() {
        let grid = format!("{BIRDS}grid = {{ lr = [0.01, 0.1], trained = [\"head\", \"last(1)\"] }}\n");
        let p = read(&grid).unwrap();
        let names: Vec<&str> = p.methods.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names[0], "all");
        assert_eq!(
            names[1..],
            [
                "head lr=0.01 trained=head",
                "head lr=0.01 trained=last(1)",
                "head lr=0.1 trained=head",
                "head lr=0.1 trained=last(1)",
            ]
        );
        let last = &p.methods[4];
        assert_eq!((last.args.optim.lr, last.of.as_deref()), (Some(0.1), Some("head")));
        assert_eq!(last.args.model.trained.as_ref().unwrap().to_string(), "last(1)");
        // Above the methods it is for all that have none of their own.
        let all = read(&format!("grid = {{ lr = [0.2, 0.3] }}\n{BIRDS}")).unwrap();
        assert_eq!(all.methods.len(), 4);
        let many = (0..65).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        for bad in [
            "grid = 3",
            "grid = {}",
            "grid = { lr = 0.1 }",
            "grid = { lr = [] }",
            &format!("grid = {{ seed = [{many}] }}"),
        ] {
            let e = read(&format!("{BIRDS}{bad}\n")).unwrap_err().to_string();
            assert!(e.contains("grid"), "{bad}: {e}");
        }
        assert!(read(&format!("{BIRDS}grid = {{ seed = [1, 2] }}\n")).unwrap_err().to_string().contains("seeds"));
    }

    #[test]
    fn methods_have_the_flags_of_all_and_their_own() {
        let p = read(BIRDS).unwrap();
        assert_eq!((p.seeds.clone(), p.folds, p.holdout), (vec![3, 5], None, 0.1));
        assert_eq!(p.output, Path::new("output/finegrained/birds"));
        let [all, head] = &p.methods[..] else { panic!() };
        assert_eq!((all.name.as_str(), head.name.as_str()), ("all", "head"));
        assert_eq!((all.args.optim.lr, head.args.optim.lr), (Some(0.1), Some(0.01)));
        assert_eq!(head.args.optim.precision.as_deref(), Some("bf16"));
        assert_eq!((all.args.optim.epochs, head.args.optim.epochs), (Some(4), Some(4)));
        assert!(all.args.model.trained.is_none() && head.args.model.trained.is_some());
        assert_eq!(p.resolved()["methods"]["head"]["trained"], "head");
        assert_eq!(read(&BIRDS.replace("[3, 5]", "2")).unwrap().seeds, [0, 1]);
        assert_eq!(Protocol::read(None).unwrap().methods.len(), 2);
    }

    #[test]
    fn the_names_of_courseworks_are_those_of_flags() {
        let text = r#"
DATA_PATH = "birds"
MODEL_METHOD = "vit_tiny_patch16"
BATCH_SIZE = 8
EPOCHS = 3
LR = 0.02
image_size = 448
optimizer = "SGD"
dropout = 0.1
attention_dropout = 0.2
l1_reg = 1e-5
lp_reg = 1e-4
transforms = ["Resize(480)", "RandomCrop(448)", "RandomRotation(15)", "GaussianNoise(sigma=0.02)"]
[[methods]]
name = "all"
MODEL_PRETRAINED = false
"#;
        let p = read(text).unwrap();
        let a = &p.methods[0].args;
        assert_eq!((a.data.batch_size, a.optim.epochs, a.optim.lr), (Some(8), Some(3), Some(0.02)));
        assert_eq!((a.data.img_size, a.model.drop, a.model.attn_drop), (Some(448), Some(0.1), Some(0.2)));
        assert_eq!((a.loss.l1_reg, a.loss.lp_reg, a.model.name()), (Some(1e-5), Some(1e-4), "vit_tiny_patch16"));
        assert_eq!(a.augment.transforms.as_ref().map(Vec::len), Some(4));
        // What is listed is kept as it was written, and read again.
        let yaml = yaml_serde::to_string(a).unwrap();
        assert!(yaml.contains("- RandomRotation(15)") && !yaml.contains("hflip: 0.5"), "{yaml}");
        let e = read(&text.replace("RandomRotation(15)", "RandomRotate(15)")).unwrap_err().to_string();
        assert!(e.contains("no transform is called `RandomRotate`"), "{e}");
        let e = read(&format!("hflip = 0.3\n{text}")).unwrap_err().to_string();
        assert!(e.contains("transforms"), "{e}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, words) in [
            ("epochs", "epoks", "line 4: `epoks` is not a flag of this program; did you mean `epochs`"),
            ("seeds = [3, 5]", "seeds = [3, 3]", "each once"),
            ("seeds = [3, 5]", "seeds = 0", "at least 1"),
            ("seeds = [3, 5]", "folds = 1", "line 3: `folds` is 1, expected a whole number of at least 2"),
            ("seeds = [3, 5]", "holdout = 1.5", "between 0 and 1"),
            ("name = \"head\"", "name = \"all\"", "two methods are called `all`"),
            ("name = \"head\"", "name = \"a/b\"", "the name of a folder"),
            ("trained = \"head\"", "folds = 3", "the same for all methods"),
            ("trained = \"head\"", "trained = \"hea()\"", "method `head`"),
            ("data = \"birds\"", "", "give `data`"),
            ("seeds = [3, 5]", "seed = 3", "give `seeds`"),
            ("trained = \"head\"", "val-split = \"\"", "`val-split` is none of a comparison"),
        ] {
            let e = read(&BIRDS.replace(from, to)).unwrap_err().to_string();
            assert!(e.contains(words), "{to}: {e}");
        }
        let e = read("data = \"birds\"\n").unwrap_err().to_string();
        assert!(e.contains("[[methods]]"), "{e}");
    }
}
