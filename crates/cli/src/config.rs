//! Configuration files, in YAML or TOML, as flags of a program.

use crate::Result;
use candlelight_store::nearest;
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

fn of_toml(value: &toml::Value) -> Entry {
    let plain = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), Into::into);
    match value {
        toml::Value::Boolean(b) => Entry::Switch(*b),
        toml::Value::Array(values) => Entry::Many(values.iter().map(plain).collect()),
        other => Entry::One(plain(other)),
    }
}

fn of_yaml(value: &yaml_serde::Value) -> std::result::Result<Entry, String> {
    use yaml_serde::Value;
    let plain = |v: &Value| match v {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => Err("expected a number, a text, or a list of them".to_string()),
    };
    Ok(match value {
        Value::Null => Entry::Nothing,
        Value::Bool(b) => Entry::Switch(*b),
        Value::Sequence(values) => Entry::Many(values.iter().map(plain).collect::<std::result::Result<_, _>>()?),
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

/// The entries of a configuration file as flags: YAML where the name ends in `.yaml` or `.yml`, else TOML.
///
/// # Errors
/// When it cannot be read, or has an entry that is no flag; the error names the line.
pub(crate) fn flags(path: &Path, command: &clap::Command) -> Result<Vec<OsString>> {
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| named(&e))?;
    let yaml = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("yaml") || e.eq_ignore_ascii_case("yml"));
    let at = |key: &str, e: &str| match line(&text, key) {
        Some(n) => named(&format!("line {n}: {e}")),
        None => named(&e),
    };
    let mut entries = vec![];
    if yaml {
        let value: yaml_serde::Value = yaml_serde::from_str(&text).map_err(|e| named(&e))?;
        let map = match value {
            yaml_serde::Value::Null => yaml_serde::Mapping::new(),
            yaml_serde::Value::Mapping(map) => map,
            _ => return Err(named(&"expected lines of `name: value`").into()),
        };
        for (key, value) in &map {
            let key = key.as_str().ok_or_else(|| named(&"expected names that are texts"))?;
            entries.push((key.to_string(), of_yaml(value).map_err(|e| at(key, &format!("`{key}`: {e}")))?));
        }
    } else {
        let table: toml::Table = text.parse().map_err(|e| named(&e))?;
        entries.extend(table.iter().map(|(k, v)| (k.clone(), of_toml(v))));
    }
    let mut all: Vec<OsString> = vec![];
    for (key, entry) in entries {
        let name = key.replace('-', "_");
        let is = |a: &clap::Arg| {
            a.get_long() == Some(&name) || a.get_all_aliases().is_some_and(|all| all.contains(&name.as_str()))
        };
        let Some(arg) = command.get_arguments().find(|a| is(a)).filter(|_| name != "config") else {
            let near = nearest(command.get_arguments().filter_map(clap::Arg::get_long), &name);
            let meant =
                if near.is_empty() { String::new() } else { format!("; did you mean `{}`?", near.join("` or `")) };
            return Err(at(&key, &format!("`{key}` is not a flag of this program{meant}")).into());
        };
        let takes_values = arg.get_action().takes_values();
        let flag = format!("--{name}");
        match entry {
            Entry::Nothing => {}
            // timm writes '' for a path that is not given.
            Entry::One(value) if value.is_empty() && arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() => {}
            Entry::Switch(true) if !takes_values => all.push(flag.into()),
            Entry::Switch(false) if !takes_values => {}
            _ if !takes_values => return Err(at(&key, &format!("`{key}` must be true or false")).into()),
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
