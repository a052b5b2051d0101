//! Other forms in which people list classes: tables with a header, YAML, Python's dictionaries and lists.

use super::file::NamesFile;

/// Names of a column of classes' names, and of their numbers, in lower case without separators.
const NAME: [&str; 10] = [
    "name",
    "classname",
    "class",
    "label",
    "labelname",
    "category",
    "categoryname",
    "species",
    "displayname",
    "classnames",
];
const NUMBER: [&str; 14] = [
    "id",
    "index",
    "idx",
    "classid",
    "labelid",
    "classindex",
    "classidx",
    "number",
    "target",
    "code",
    "categoryid",
    "labelindex",
    "labelidx",
    "",
];

/// A table whose first row names its columns; `None` if the text is none.
///
/// # Errors
/// When the numbers of its rows are not 0 or 1 and those after it, each once.
pub(super) fn of_table(text: &str) -> Result<Option<NamesFile>, String> {
    let Some(first) = text.lines().next() else { return Ok(None) };
    let Some(separator) = ['\t', ';', ','].into_iter().find(|s| first.contains(*s)) else { return Ok(None) };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator as u8)
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let Ok(rows) = reader.records().collect::<Result<Vec<_>, _>>() else { return Ok(None) };
    let [header, rows @ ..] = rows.as_slice() else { return Ok(None) };
    let plain = |s: &str| s.to_lowercase().replace(['_', ' ', '-'], "");
    let column = |known: &[&str]| header.iter().position(|h| known.contains(&plain(h).as_str()));
    let whole = |s: &str| s.parse::<usize>().ok();
    // `label` and `class` also name numbers; a column of names has something else in it.
    let numbers = |c: usize| rows.iter().all(|r| r.get(c).and_then(whole).is_some());
    let known: Vec<usize> =
        (0..header.len()).filter(|&c| NAME.contains(&plain(&header[c]).as_str()) && !numbers(c)).collect();
    let number = column(&NUMBER)
        .or_else(|| header.iter().position(|h| NAME.contains(&plain(h).as_str())))
        .filter(|&c| !rows.is_empty() && numbers(c));
    let name = match (known.as_slice(), number) {
        ([first, ..], _) => *first,
        // Of two columns the other one, whatever it is called.
        ([], Some(n)) if header.len() == 2 && whole(&header[n]).is_none() && !numbers(1 - n) => 1 - n,
        _ => return Ok(None),
    };
    let mut found: Vec<(usize, String)> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| (number.and_then(|n| whole(&r[n])).unwrap_or(i), r[name].to_string()))
        .collect();
    found.sort();
    let least = found.first().map_or(0, |(n, _)| *n);
    if least > 1 || found.iter().enumerate().any(|(i, (n, _))| *n != i + least) {
        return Err(format!("its rows are numbered, but not each number from {least} on is there once"));
    }
    let by =
        number.map_or("in the order of the rows".into(), |n| format!("numbered from {least} on by `{}`", &header[n]));
    let note = format!("a table: the names are those of the column `{}`, {by}", &header[name]);
    Ok(Some(NamesFile { names: found.into_iter().map(|(_, n)| n).collect(), notes: vec![note] }))
}

/// YAML with a key `names`, as Ultralytics' data sets have it, or a dictionary or a list as Python prints it; `None` if the text is none.
///
/// # Errors
/// When the numbers are not 0 and those after it, each once.
pub(super) fn of_mapping(text: &str) -> Result<Option<NamesFile>, String> {
    let body = match text.trim_start().chars().next() {
        Some('{') if text.trim_end().ends_with('}') => text.trim().to_string(),
        Some('[') if text.trim_end().ends_with(']') => text.trim().to_string(),
        _ => match yaml_names(text) {
            Some(body) => body,
            None => return Ok(None),
        },
    };
    let inner = body.trim().trim_start_matches(['{', '[']).trim_end_matches(['}', ']']);
    let mut numbered: Vec<(Option<usize>, String)> = vec![];
    for entry in entries(inner) {
        let entry = entry.trim().trim_start_matches("- ").trim();
        if entry.is_empty() {
            continue;
        }
        let pair =
            entry.split_once(':').and_then(|(n, name)| Some((n.trim().trim_matches(['\'', '"']).parse().ok()?, name)));
        match pair {
            Some((n, name)) => numbered.push((Some(n), unquoted(name))),
            None => numbered.push((None, unquoted(entry))),
        }
    }
    let in_order = numbered.iter().all(|(n, _)| n.is_none());
    if !in_order {
        numbered.sort();
        if numbered.iter().enumerate().any(|(i, (n, _))| *n != Some(i)) {
            return Err("its names are numbered, but not each number from 0 on is there once".into());
        }
    }
    Ok(Some(NamesFile { names: numbered.into_iter().map(|(_, n)| n).collect(), notes: vec![] }))
}

/// What stands under the key `names` of a YAML file: the rest of its line, or the lines below that are indented or begin with a hyphen.
fn yaml_names(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|l| !l.starts_with("names:"));
    let first = lines.next()?.strip_prefix("names:")?.trim();
    let first = if first.starts_with('#') { "" } else { first };
    let below =
        lines.take_while(|l| l.starts_with([' ', '\t', '-', ']', '}']) || l.trim().is_empty() || l.starts_with('#'));
    let below: Vec<&str> = below.filter(|l| !l.trim_start().starts_with('#')).collect();
    Some(format!("{first}\n{}", below.join("\n")))
}

/// The entries of a list or a dictionary, between commas and line ends that are not inside quotes.
fn entries(text: &str) -> Vec<String> {
    let (mut all, mut now, mut quote, mut escaped) = (vec![], String::new(), None, false);
    let flow = text.contains(',');
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) => {
                if c == q && !escaped {
                    quote = None;
                }
                escaped = c == '\\' && !escaped;
                now.push(c);
            }
            // An apostrophe inside a word opens nothing.
            (None, '\'' | '"') if now.trim_end().is_empty() || now.trim_end().ends_with([':', '-']) => {
                quote = Some(c);
                now.push(c);
            }
            (None, '\n') => all.push(std::mem::take(&mut now)),
            (None, ',') if flow => all.push(std::mem::take(&mut now)),
            (None, c) => now.push(c),
        }
    }
    all.push(now);
    all
}

/// A text without the quotes around it, and with Python's escapes of quotes undone; of YAML without the remark behind it.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    for q in ['\'', '"'] {
        if let Some(inner) =
            text.strip_prefix(q).and_then(|t| t.split_once(q).filter(|_| !t.contains('\\')).map(|(a, _)| a))
        {
            return inner.to_string();
        }
        if let Some(inner) = text.strip_prefix(q).and_then(|t| t.strip_suffix(q)) {
            return inner.replace(&format!("\\{q}"), &q.to_string()).replace("\\\\", "\\");
        }
    }
    text.split(" #").next().unwrap_or(text).trim().to_string()
}
