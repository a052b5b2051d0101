//! JSON files as people have them: with or without a byte order mark, numbers also as texts.

use crate::error::{Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// No file of settings is larger; what claims to be is something else.
const LARGEST: u64 = 64 << 20;

/// The value in a JSON file.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text = text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        let start = text.trim_start();
        let found = if start.is_empty() {
            "an empty file: download it again".to_string()
        } else if start.starts_with("version https://git-lfs") {
            "a pointer of Git LFS in its place: fetch the file with `git lfs pull`".to_string()
        } else if start.starts_with('<') {
            "a web page: download the file itself".to_string()
        } else {
            format!("something else or a damaged file ({e}): restore it, or move it away")
        };
        Error::File { path: path.into(), message: format!("expected JSON, found {found}") }
    })
}

/// The text of a small file, in UTF-8 or, where it starts with a byte order mark, in UTF-16.
pub(crate) fn text(path: &Path) -> Result<String> {
    let fail = |message: String| Error::File { path: path.into(), message };
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut bytes = vec![];
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(fail(format!("expected a small text file, found more than {} MiB", LARGEST >> 20)));
    }
    let wide = |from: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks(2).map(|c| from([c[0], c.get(1).copied().unwrap_or(0)])).collect();
        String::from_utf16(&units).map_err(|_| fail("starts as UTF-16 text but is damaged: save it as UTF-8".into()))
    };
    match &bytes[..] {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => {
            let text = String::from_utf8(bytes).map_err(|e| {
                fail(format!(
                    "expected UTF-8 text, found another encoding at byte {}: save it as UTF-8",
                    e.utf8_error().valid_up_to()
                ))
            })?;
            Ok(text.strip_prefix('\u{feff}').map(ToString::to_string).unwrap_or(text))
        }
    }
}

/// One JSON object of a file, whose entries are asked for by name; what is malformed is told with file and name.
pub(crate) struct Object<'a> {
    pub path: &'a Path,
    pub value: &'a Value,
}

impl<'a> Object<'a> {
    /// The entry of this name, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// The error that an entry is not as expected.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.value.get(key).map_or("nothing".to_string(), shortened);
        Error::File {
            path: self.path.into(),
            message: format!("{key}: expected {expected}, found {found}: correct the file, or move it away"),
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    /// A finite number, also one written as a text.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| number(v).ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    /// A list of finite numbers, or one number alone.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let list = |v: &Value| match v {
            Value::Array(all) => all.iter().map(number).collect(),
            one => number(one).map(|n| vec![n]),
        };
        let wrong = || self.wrong(key, "a list of numbers");
        self.get(key).map(|v| list(v).filter(|n: &Vec<f64>| !n.is_empty()).ok_or_else(wrong)).transpose()
    }

    /// A whole number of at least `least`.
    pub fn whole(&self, key: &str, least: usize) -> Result<Option<usize>> {
        let expected = format!("a whole number from {least} on");
        self.get(key).map(|v| whole(v, least).ok_or_else(|| self.wrong(key, &expected))).transpose()
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a text"))).transpose()
    }
}

/// A finite number, also one written as a text.
fn number(v: &Value) -> Option<f64> {
    let n = match v {
        Value::String(s) => s.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    n.is_finite().then_some(n)
}

/// A whole number of at least `least` and below 2^24, also one written as 224.0 or as a text.
pub(crate) fn whole(v: &Value, least: usize) -> Option<usize> {
    let n = number(v)?;
    (n.fract() == 0.0 && n >= least as f64 && n < (1 << 24) as f64).then_some(n as usize)
}

/// The value as it stands in the file, cut where it is long.
fn shortened(v: &Value) -> String {
    let text = v.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}
