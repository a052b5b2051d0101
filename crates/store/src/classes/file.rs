//! Files of class names.

use super::forms;
use super::imagenet::synset;
use crate::error::{Error, Result};
use crate::json;
use serde_json::Value;
use std::path::Path;

/// What a file of names says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesFile {
    /// The names, in the order of the classes.
    pub names: Vec<String>,
    /// What was guessed of its form, for the log.
    pub notes: Vec<String>,
}

/// The class names in a file: text with one name per line, a table, JSON, YAML with a key `names`, or a list or dictionary of Python.
///
/// Lines may be numbered (`0 cat`, `1: dog`), from 0 or from 1 on, or start with WordNet's id (`n01440764 tench`), which is the name then.
/// A table has a header; its rows are numbered by a column (`id`, `class_id`, ..) or by their order. JSON is a list of names, names by
/// number, numbers by name, or ImageNet's usual `{"0": ["n01440764", "tench"]}`.
///
/// # Errors
/// When the file cannot be read, is not UTF-8 or UTF-16, has an empty line among the names, or leaves numbers out.
pub fn read(path: &Path) -> Result<NamesFile> {
    let fail = |message: String| Error::File { path: path.into(), message };
    let text = json::text(path)?;
    let is = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let found = if is("json") {
        of_json(&json::read(path)?).map_err(fail)?
    } else if let Some(value) = serde_json::from_str(&text).ok().filter(|v: &Value| v.is_object() || v.is_array()) {
        of_json(&value).map_err(fail)?
    } else if let Some(found) = forms::of_mapping(&text).map_err(fail)? {
        found
    } else if is("yaml") || is("yml") {
        return Err(fail("expected a key `names` with the names of classes, found none".into()));
    } else if let Some(found) = forms::of_table(&text).map_err(fail)? {
        found
    } else {
        of_text(&text).map_err(fail)?
    };
    if found.names.is_empty() {
        return Err(fail("expected the names of classes, found none".into()));
    }
    Ok(found)
}

fn of_json(value: &Value) -> Result<NamesFile, String> {
    let name = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        // An id and a word: the id is unique.
        Value::Array(a) => a.first().and_then(|s| s.as_str()).map(ToString::to_string),
        _ => None,
    };
    let wrong =
        || "expected a list of names, names by number, or numbers by name, for every number from 0 on".to_string();
    let map = match value {
        Value::Array(all) => {
            let names = all.iter().map(name).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            return Ok(NamesFile { names, notes: vec![] });
        }
        Value::Object(map) => map,
        _ => return Err(wrong()),
    };
    let mut names = vec![None; map.len()];
    for (key, v) in map {
        let (number, name) = match json::whole(v, 0).filter(|_| v.is_number()) {
            Some(n) => (n, key.clone()),
            None => (key.trim().parse().map_err(|_| wrong())?, name(v).ok_or_else(wrong)?),
        };
        *names.get_mut(number).ok_or_else(wrong)? = Some(name);
    }
    Ok(NamesFile { names: names.into_iter().collect::<Option<Vec<_>>>().ok_or_else(wrong)?, notes: vec![] })
}

fn of_text(text: &str) -> Result<NamesFile, String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let used = lines.iter().rposition(|l| !l.is_empty()).map_or(0, |last| last + 1);
    let quoted = |l: &&str| l.len() > 2 && ['"', '\''].iter().any(|q| l.starts_with(*q) && l.ends_with(*q));
    let all_quoted = used > 0 && lines[..used].iter().all(quoted);
    let lines: Vec<&str> = lines[..used].iter().map(|l| if all_quoted { &l[1..l.len() - 1] } else { l }).collect();
    if let Some(empty) = lines.iter().position(|l| l.is_empty()) {
        return Err(format!(
            "line {} is empty: expected one name per line, since the line is the class's number",
            empty + 1
        ));
    }
    let split = |l: &'_ str| -> Option<(String, String)> {
        let (a, b) = l.split_once([' ', '\t', ',', ':', ';'])?;
        Some((a.trim().into(), b.trim_start_matches([' ', '\t', ',', ':', ';']).trim().into()))
            .filter(|(_, b): &(_, String)| !b.is_empty())
    };
    let pairs: Option<Vec<(String, String)>> = lines.iter().map(|l| split(l)).collect();
    if let Some(pairs) = pairs {
        if pairs.iter().all(|(a, _)| synset(a).is_some()) {
            let notes = vec!["each line starts with one of WordNet's ids, which is the class's name".into()];
            return Ok(NamesFile { names: pairs.into_iter().map(|(a, _)| a).collect(), notes });
        }
        let numbers: Option<Vec<usize>> = pairs.iter().map(|(a, _)| a.parse().ok()).collect();
        if let Some(numbers) = numbers
            && pairs.len() > 1
            && !numbers.is_sorted()
        {
            // Numbered in another order: the number is what counts.
            let least = numbers.iter().copied().min().unwrap_or(0);
            let mut sorted: Vec<(usize, String)> =
                numbers.iter().copied().zip(pairs.iter().map(|(_, b)| b.clone())).collect();
            sorted.sort();
            if least > 1 || sorted.iter().enumerate().any(|(i, (n, _))| *n != i + least) {
                return Err(format!("its lines are numbered, but not each number from {least} on is there once"));
            }
            let notes = vec![format!("its lines are numbered from {least} on and were sorted by their numbers")];
            return Ok(NamesFile { names: sorted.into_iter().map(|(_, b)| b).collect(), notes });
        }
        let first = pairs.first().and_then(|(a, _)| a.parse::<usize>().ok()).filter(|n| *n <= 1);
        if let Some(first) = first
            && pairs.iter().enumerate().all(|(i, (a, _))| a.parse() == Ok(i + first))
            && pairs.len() > 1
        {
            let notes = vec![format!("its lines are numbered from {first} on; the numbers are not part of the names")];
            return Ok(NamesFile { names: pairs.into_iter().map(|(_, b)| b).collect(), notes });
        }
    }
    Ok(NamesFile { names: lines.iter().map(ToString::to_string).collect(), notes: vec![] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, bytes: &[u8]) -> Result<NamesFile, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_read_from_every_usual_form() {
        let wide: Vec<u8> = "\u{feff}cat\r\ndog\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (name, bytes, notes) in [
            ("a.txt", &b"cat\ndog\n"[..], 0),
            ("a.txt", "\u{feff}cat\r\ndog\r\n\r\n".as_bytes(), 0),
            ("a.txt", &wide, 0),
            ("a.txt", b"0 cat\n1 dog", 1),
            ("a.txt", b"1: cat\n2: dog", 1),
            ("a.txt", b"1,dog\n0,cat\n", 1),
            ("a.txt", b"\"cat\"\n\"dog\"", 0),
            ("a.csv", b"class_id,class_name\n0,cat\n1,dog\n", 1),
            ("a.csv", b"name;id;note\ndog;2;x\ncat;1;y\n", 1),
            ("a.csv", b"label\tname\n0\tcat\n1\tdog\n", 1),
            ("a.csv", b"id,what\n0,cat\n1,dog\n", 1),
            ("a.txt", b"{0: 'cat',\n 1: 'dog'}", 0),
            ("a.txt", b"{1: \"dog\", 0: 'cat',}", 0),
            ("a.txt", b"['cat', 'dog']", 0),
            ("a.txt", b"[\"cat\", \"dog\"]", 0),
            ("a.yaml", b"path: x\nnames:\n  0: cat\n  1: dog # best\nnc: 2\n", 0),
            ("a.yaml", b"nc: 2\nnames: ['cat', 'dog']\n", 0),
            ("a.yml", b"names:\n- cat\n- dog\n", 0),
            ("a.json", br#"["cat", "dog"]"#, 0),
            ("a.json", br#"{"1": "dog", "0": "cat"}"#, 0),
            ("a.json", br#"{"dog": 1, "cat": 0}"#, 0),
            ("a.json", br#"{"0": ["cat", "x"], "1": ["dog", "y"]}"#, 0),
        ] {
            let found = of(name, bytes).unwrap();
            let what = String::from_utf8_lossy(bytes);
            assert_eq!((found.names, found.notes.len()), (vec!["cat".to_string(), "dog".into()], notes), "{what}");
        }
        assert_eq!(
            of("a.txt", b"n01440764 tench, Tinca tinca\nn01443537 goldfish").unwrap().names,
            ["n01440764", "n01443537"]
        );
        assert_eq!(
            of("a.txt", b"{0: 'tench, Tinca tinca',\n 1: \"jack-o'-lantern\",\n 2: 'devil\\'s bit: x'}").unwrap().names,
            ["tench, Tinca tinca", "jack-o'-lantern", "devil's bit: x"]
        );
        assert_eq!(of("a.txt", b"bird, small\ncat, big").unwrap().names, ["bird, small", "cat, big"]);
        assert_eq!(of("a.txt", b"polar bear\nblack bear").unwrap().names, ["polar bear", "black bear"]);
        assert_eq!(of("a.txt", b"7 up\n12 angry men").unwrap().names, ["7 up", "12 angry men"]);
    }

    #[test]
    fn damaged_files_are_told() {
        assert!(of("a.txt", b"cat\n\ndog").unwrap_err().contains("line 2 is empty"));
        assert!(of("a.txt", b" \n").unwrap_err().contains("found none"));
        assert!(of("a.txt", b"caf\xe9\n").unwrap_err().contains("UTF-8"));
        assert!(of("a.json", br#"{"0": "cat", "2": "dog"}"#).unwrap_err().contains("from 0 on"));
        assert!(of("a.csv", b"id,name\n0,cat\n2,dog").unwrap_err().contains("from 0 on"));
        assert!(of("a.txt", b"{0: 'cat', 2: 'dog'}").unwrap_err().contains("from 0 on"));
        assert!(of("a.yaml", b"nc: 3").unwrap_err().contains("`names`"));
        assert!(of("a.json", b"[1]").unwrap_err().contains("a list of names"));
        assert!(of("a.json", b"[\"cat\"").unwrap_err().contains("expected JSON"));
    }
}
