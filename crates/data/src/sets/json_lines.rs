//! Lists with one JSON object on each line, as `metadata.jsonl` of HuggingFace's image folders: the keys are the columns.

use serde_json::{Map, Value};

/// A line's number and its cells.
pub(crate) type Line = (u64, Vec<String>);

/// The first line names the columns, with number 0; each further one has its number in the file. `None` where the content is no JSON.
///
/// # Errors
/// When it is JSON of another form, or a line is damaged.
pub(crate) fn lines(content: &str) -> Result<Option<Vec<Line>>, String> {
    let begin = content.trim_start();
    let numbered = || content.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let one = |l: &str| serde_json::from_str::<Map<String, Value>>(l);
    if !begin.starts_with(['{', '[']) {
        return Ok(None);
    }
    let first = numbered().next().and_then(|(_, l)| one(l).ok());
    // A whole document on one line names no file, as a row does.
    if !first.is_some_and(|f| f.values().any(Value::is_string)) {
        if serde_json::from_str::<Value>(content).is_err() && !begin.starts_with("{\"") {
            return Ok(None);
        }
        return Err("one JSON document; expected `path,label` on each line, or one JSON object on each line such as \
                    {\"file_name\": \"1.png\", \"label\": 0}"
            .into());
    }
    let mut keys: Vec<String> = vec![];
    let mut rows = vec![];
    for (i, l) in numbered() {
        let row = one(l).map_err(|e| format!("line {}: {e}", i + 1))?;
        let mut cells = vec![String::new(); keys.len()];
        for (key, value) in row {
            let Some(text) = cell(&value) else { continue };
            match keys.iter().position(|k| *k == key) {
                Some(c) => cells[c] = text,
                None => {
                    keys.push(key);
                    cells.push(text);
                }
            }
        }
        rows.push((i as u64 + 1, cells));
    }
    if keys.is_empty() {
        return Err("its objects hold neither texts nor numbers".into());
    }
    rows.insert(0, (0, keys));
    Ok(Some(rows))
}

/// A value as a cell of a table; several labels are joined by `|`. Objects are no cells.
fn cell(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => u8::from(*b).to_string(),
        Value::Array(all) if all.iter().all(|v| !v.is_array() && !v.is_object()) => {
            all.iter().filter_map(cell).collect::<Vec<_>>().join("|")
        }
        Value::Array(_) | Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_rows_under_their_keys() {
        let text = "{\"file_name\": \"a.png\", \"label\": 3, \"box\": {\"x\": 1}}\n\n{\"label\": [\"x\", \"y\"], \"new\": true}\n";
        let want = [(0, vec!["file_name", "label", "new"]), (1, vec!["a.png", "3"]), (3, vec!["", "x|y", "1"])];
        let found = lines(text).unwrap().unwrap();
        let found: Vec<(u64, Vec<&str>)> =
            found.iter().map(|(n, c)| (*n, c.iter().map(String::as_str).collect())).collect();
        assert_eq!(found, want);
        assert_eq!(lines("a.png,1\n").unwrap(), None);
        assert_eq!(lines("[old] a.png 1\n").unwrap(), None);
        assert!(lines("[{\"image\": \"a.png\"}]").unwrap_err().contains("one JSON object on each line"));
        assert!(lines("{\"images\": [\n1]}").unwrap_err().contains("one JSON object on each line"));
        assert!(lines("{\"a\": \"1\"}\n{\"a\": \n").unwrap_err().starts_with("line 2"));
    }
}
