//! Configuration files, in YAML, JSON or TOML, as flags of a program.

use crate::Result;
use candlelight_store::nearest;
use serde_json::{Map, Value};
use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The value of an entry.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    /// Nothing, which leaves a flag as if it were not given.
    Nothing,
    Switch(bool),
    One(String),
    Many(Vec<String>),
}

fn of_json(value: &Value) -> std::result::Result<Entry, String> {
    let plain = |v: &Value| match v {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => Err("expected a number, a text, or a list of them".to_string()),
    };
    Ok(match value {
        Value::Null => Entry::Nothing,
        Value::Bool(b) => Entry::Switch(*b),
        Value::Array(values) => Entry::Many(values.iter().map(plain).collect::<std::result::Result<_, _>>()?),
        other => Entry::One(plain(other)?),
    })
}

/// The line of a key at the left of a file, counted from 1.
fn line(text: &str, key: &str) -> Option<usize> {
    let is = |l: &str| {
        let rest = l.trim_start_matches(['"', '\'']).strip_prefix(key)?;
        rest.trim_start_matches(['"', '\'']).trim_start().starts_with([':', '=']).then_some(())
    };
    text.lines().position(|l| is(l).is_some()).map(|i| i + 1)
}

/// A configuration file.
pub(crate) struct File {
    path: PathBuf,
    text: String,
    /// Its entries.
    pub(crate) entries: Map<String, Value>,
}

impl File {
    /// Reads a file: YAML where the name ends in `.yaml` or `.yml`, JSON where it ends in `.json`, else TOML.
    ///
    /// # Errors
    /// When it cannot be read, or is no list of names and values.
    pub(crate) fn read(path: &Path) -> Result<File> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(path, text)
    }

    /// The same for a text, whose kind its name tells.
    pub(crate) fn parse(path: &Path, text: String) -> Result<File> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let kind = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let value: Value = match kind.as_str() {
            "yaml" | "yml" => yaml_serde::from_str(&text).map_err(|e| named(&e))?,
            "json" => serde_json::from_str(&text).map_err(|e| named(&e))?,
            _ => toml::from_str(&text).map_err(|e| named(&e))?,
        };
        let entries = match value {
            Value::Null => Map::new(),
            Value::Object(map) => map,
            _ => return Err(named(&"expected lines of `name: value`").into()),
        };
        Ok(File { path: path.into(), text, entries })
    }

    /// An error about an entry, with its line where that is found.
    pub(crate) fn at(&self, key: &str, e: &str) -> String {
        match line(&self.text, key) {
            Some(n) => format!("{}: line {n}: {e}", self.path.display()),
            None => format!("{}: {e}", self.path.display()),
        }
    }

    /// Entries as flags of a program.
    ///
    /// # Errors
    /// When one is no flag; the error names the line.
    pub(crate) fn flags<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a String, &'a Value)>,
        command: &clap::Command,
    ) -> Result<Vec<OsString>> {
        let mut all: Vec<OsString> = vec![];
        for (key, value) in entries {
            let entry = of_json(value).map_err(|e| self.at(key, &format!("`{key}`: {e}")))?;
            let name = key.replace('-', "_");
            let is = |a: &clap::Arg| {
                a.get_long() == Some(&name) || a.get_all_aliases().is_some_and(|all| all.contains(&name.as_str()))
            };
            let Some(arg) = command.get_arguments().find(|a| is(a)).filter(|_| name != "config") else {
                let near = nearest(command.get_arguments().filter_map(clap::Arg::get_long), &name);
                let meant =
                    if near.is_empty() { String::new() } else { format!("; did you mean `{}`?", near.join("` or `")) };
                return Err(self.at(key, &format!("`{key}` is not a flag of this program{meant}")).into());
            };
            let takes_values = arg.get_action().takes_values();
            let flag = format!("--{name}");
            match entry {
                Entry::Nothing => {}
                // timm writes '' for a path that is not given.
                Entry::One(value)
                    if value.is_empty() && arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() => {}
                Entry::Switch(true) if !takes_values => all.push(flag.into()),
                Entry::Switch(false) if !takes_values => {}
                _ if !takes_values => return Err(self.at(key, &format!("`{key}` must be true or false")).into()),
                Entry::Switch(b) => all.push(format!("{flag}={b}").into()),
                Entry::Many(values) if values.is_empty() => {}
                Entry::Many(values) => {
                    all.push(flag.into());
                    all.extend(values.into_iter().map(OsString::from));
                }
                Entry::One(value) => all.push(format!("{flag}={value}").into()),
            }
        }
        Ok(all)
    }
}

/// The entries of a configuration file as flags.
///
/// # Errors
/// When it cannot be read, or has an entry that is no flag; the error names the line.
pub(crate) fn flags(path: &Path, command: &clap::Command) -> Result<Vec<OsString>> {
    let file = File::read(path)?;
    file.flags(&file.entries, command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser, Debug)]
    #[command(rename_all = "snake_case")]
    struct Args {
        #[arg(long, alias = "finetune")]
        weights: Option<String>,
        #[arg(long, num_args = 1.., action = clap::ArgAction::Set)]
        mean: Option<Vec<f32>>,
        #[arg(long)]
        fast: bool,
    }

    fn read(name: &str, text: &str) -> Result<Vec<OsString>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        flags(&path, &Args::command())
    }

    #[test]
    fn entries_of_a_file_are_flags_under_any_of_their_names() {
        let found = read("c.toml", "finetune = \"w.pth\"\nmean = [0.5, 0.25]\nfast = true\n").unwrap();
        assert_eq!(found, ["--fast", "--finetune=w.pth", "--mean", "0.5", "0.25"]);
        assert_eq!(read("c.json", r#"{"mean": [0.5], "fast": null}"#).unwrap(), ["--mean", "0.5"]);
        assert_eq!(read("c.yaml", "mean: [0.5, 0.25]\nfast: true\n").unwrap(), ["--mean", "0.5", "0.25", "--fast"]);
        assert!(read("c.toml", "fast = false\n").unwrap().is_empty());
        for (text, words) in [
            ("fsat = true\n", "did you mean `fast`"),
            ("\nfast = 3\n", "line 2: `fast` must be true or false"),
            ("= 3", "c.toml"),
        ] {
            let e = read("c.toml", text).unwrap_err().to_string();
            assert!(e.contains(words) && e.contains("c.toml"), "{e}");
        }
    }

    #[test]
    fn yaml_is_read_as_timm_writes_it() {
        let text = "finetune: w.pth\nfast: true\nmean:\n- 0.5\n- 0.25\n";
        assert_eq!(read("args.yaml", text).unwrap(), ["--finetune=w.pth", "--fast", "--mean", "0.5", "0.25"]);
        assert!(read("c.yml", "weights: null\nfast: false\n").unwrap().is_empty());
        assert!(read("c.yaml", "").unwrap().is_empty());
        for (text, words) in [
            ("fast: true\nweigths: x\n", "line 2: `weigths` is not a flag of this program; did you mean `weights`?"),
            ("mean: [0.5, 0.5\nfast: true\n", "line 2"),
            ("weights: {a: 1}\n", "line 1: `weights`: expected a number, a text, or a list"),
            ("- a\n- b\n", "name: value"),
            ("fast: 1\n", "line 1: `fast` must be true or false"),
        ] {
            let e = read("c.yaml", text).unwrap_err().to_string();
            assert!(e.contains(words) && e.contains("c.yaml"), "{e}");
        }
    }
}
