//! Lists of images with labels: CSV, TSV and text files as spreadsheets, pandas, Kaggle and ImageNet's tools write them.

use crate::error::{Error, Result, file};
use crate::sets::classes::{Texts, is_missing};
use crate::sets::json_lines;
use crate::sets::names::{EXTENSIONS, canonical_split, class_name, extension, text};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Names of columns that hold paths, the most explicit first.
const PATHS: [&str; 22] = [
    "path",
    "file_path",
    "filepath",
    "image_path",
    "img_path",
    "relative_path",
    "file",
    "file_name",
    "filename",
    "image_file",
    "image_name",
    "img_name",
    "imagename",
    "image",
    "img",
    "images",
    "image_id",
    "img_id",
    "id_code",
    "name",
    "uri",
    "id",
];
/// Names of columns that hold labels, the most explicit first.
const LABELS: [&str; 24] = [
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "class_id",
    "classid",
    "class_name",
    "classname",
    "label_id",
    "label_name",
    "category",
    "category_id",
    "category_name",
    "tags",
    "y",
    "ground_truth",
    "species",
    "breed",
    "dx",
    "diagnosis",
    "disease",
    "finding_labels",
];
/// Names of columns that hold the split.
const SPLITS: [&str; 6] = ["split", "set", "subset", "partition", "phase", "is_valid"];

/// What is wanted of a list's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// Classes: one per sample, several where a list joins them, or columns of 0 and 1.
    #[default]
    Classes,
    /// None: images alone, for pretraining and prediction.
    None,
    /// Numbers, from every numeric column of a list, for regression.
    Numbers,
}

/// The labels of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RowLabel {
    None,
    One(u32),
    Many(Vec<u32>),
    Numbers(Vec<f32>),
}

/// A line of a list.
#[derive(Debug)]
pub(crate) struct Row {
    pub line: u64,
    pub path: String,
    pub label: RowLabel,
    pub split: Option<String>,
}

/// A list that was read; paths are not looked for yet.
#[derive(Debug)]
pub(crate) struct List {
    pub path: PathBuf,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
    /// The classes, where each has a column of its own.
    pub classes: Vec<String>,
}

/// Whether a path is called like a list.
pub(crate) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["csv", "tsv", "txt", "lst", "jsonl"].iter().any(|x| e.eq_ignore_ascii_case(x)))
}

/// Reads a list of these bytes. The separator, a header and the columns are told by the content.
///
/// # Errors
/// When the file is no text, a line names no path, or it cannot be told which columns hold what; the error names the line.
pub(crate) fn read(path: &Path, bytes: &[u8], kind: LabelKind, texts: &mut Texts) -> Result<List> {
    let (content, guess) = text(path, bytes)?;
    let mut notes: Vec<String> = guess.into_iter().collect();
    let content = content.trim_start_matches(['\n', '\r']);
    // Excel's line that names the separator.
    let (forced, content) = match content.lines().next().and_then(|l| l.trim().strip_prefix("sep=")) {
        Some(s) if s.len() == 1 => (s.bytes().next(), content.split_once('\n').map_or("", |(_, rest)| rest)),
        _ => (None, content),
    };
    let skipped = u64::from(forced.is_some());
    let lines = match json_lines::lines(content).map_err(|m| file(path, m))? {
        Some(lines) => lines,
        None if counted(content) => with_count(content, path)?,
        None => split(content, forced.map_or_else(|| delimiter(content, path), Separator::Byte), path)?,
    };
    let Some((_, first)) = lines.first() else {
        return Err(file(path, "the list is empty: expected `path,label` on each line"));
    };
    whole(path, &lines, skipped)?;
    no_pixels(path, &lines)?;
    let columns = columns(path, first, &lines, kind, &mut notes)?;
    let mut rows = vec![];
    for (line, cells) in &lines[usize::from(columns.header)..] {
        let line = line + skipped;
        let cell = |c: usize| cells.get(c).map_or("", |s| s.trim());
        let name = cell(columns.path);
        if name.is_empty() {
            return Err(file(path, format!("line {line} names no path")));
        }
        if name.contains("://") {
            return Err(file(
                path,
                format!("line {line} names {name}: addresses are not fetched; download the images first"),
            ));
        }
        let label = label(&columns, cells, texts).map_err(|m| file(path, format!("line {line}: {m}")))?;
        let split = columns.split.map(|c| match cell(c).to_lowercase().as_str() {
            "true" | "1" | "1.0" => "val".to_string(),
            "false" | "0" | "0.0" => "train".to_string(),
            _ => canonical_split(cell(c)),
        });
        rows.push(Row { line, path: name.to_string(), label, split });
    }
    if rows.is_empty() {
        return Err(file(path, "no line names an image: expected `path,label` on each line"));
    }
    let classes = if columns.numbers { vec![] } else { columns.each.into_iter().map(|(_, name)| name).collect() };
    Ok(List { path: path.into(), rows, notes, classes })
}

/// Whether the first line counts the lines after those of a header, as CelebA's lists do.
fn counted(content: &str) -> bool {
    let mut lines = content.lines();
    let first = lines.next().and_then(|l| l.trim().parse::<usize>().ok());
    first.is_some_and(|n| n > 0 && lines.filter(|l| !l.trim().is_empty()).count() == n + 1)
}

/// The lines after the count, with spaces between the cells; the header names every column but that of the images.
fn with_count(content: &str, path: &Path) -> Result<Vec<(u64, Vec<String>)>> {
    let cells = |l: &str| l.split_whitespace().map(Into::into).collect::<Vec<String>>();
    let numbered = content.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty());
    let mut lines: Vec<(u64, Vec<String>)> = numbered.map(|(i, l)| (i as u64 + 1, cells(l))).collect();
    if let [(_, header), (_, first), ..] = &mut lines[..]
        && header.len() + 1 == first.len()
    {
        header.insert(0, "image".into());
    }
    match lines.iter().find(|(_, c)| c.len() != lines[0].1.len()) {
        Some((line, c)) => {
            Err(file(path, format!("line {line} has {} cells, the header {}", c.len(), lines[0].1.len())))
        }
        None => Ok(lines),
    }
}

/// Refuses tables that hold the pixels themselves.
fn no_pixels(path: &Path, lines: &[(u64, Vec<String>)]) -> Result<()> {
    const MANY: usize = 100;
    let number = |s: &&str| s.parse::<f32>().is_ok();
    let row = lines.iter().take(3).map(|(_, c)| c).next_back();
    let long = |c: &String| c.len() > 2 * MANY && c.split_whitespace().filter(number).count() > MANY;
    let wide = row.is_some_and(|c| c.len() > MANY && c.iter().all(|v| number(&v.as_str())));
    if wide || row.is_some_and(|c| c.iter().any(long)) {
        return Err(file(
            path,
            "a table of pixels, and not of the files of images: expected `path,label` on each line; write each row as a picture first",
        ));
    }
    Ok(())
}

/// Refuses lines that are not what they look like: with more cells than the first, or with the end of a line inside quotes.
fn whole(path: &Path, lines: &[(u64, Vec<String>)], skipped: u64) -> Result<()> {
    let width = lines.first().map_or(0, |(_, cells)| cells.len());
    for (line, cells) in lines {
        let line = line + skipped;
        if cells.iter().any(|c| c.contains('\n')) {
            return Err(file(path, format!("line {line}: a quote (\") begins there and does not end on the line")));
        }
        if cells.len() > width && cells[width..].iter().any(|c| !c.is_empty()) {
            return Err(file(
                path,
                format!(
                    "line {line} has {} cells, the first line {width}: names that hold the separator stand in quotes",
                    cells.len()
                ),
            ));
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Separator {
    Byte(u8),
    /// The last run of spaces of a line, as in ImageNet's lists: paths may hold spaces.
    LastSpace,
    None,
}

/// The cells of each line with its number; empty lines are left out.
fn split(content: &str, separator: Separator, path: &Path) -> Result<Vec<(u64, Vec<String>)>> {
    let unquoted = |s: &str| s.trim().trim_matches('"').to_string();
    let by_line = |cut: fn(&str) -> Vec<String>| -> Vec<(u64, Vec<String>)> {
        let numbered = content.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
        numbered.map(|(i, l)| (i as u64 + 1, cut(l))).collect()
    };
    Ok(match separator {
        Separator::None => by_line(|l| vec![l.trim().trim_matches('"').to_string()]),
        Separator::LastSpace => by_line(|l| match l.trim().rsplit_once(char::is_whitespace) {
            Some((a, b)) => vec![a.trim().to_string(), b.to_string()],
            None => vec![l.trim().to_string()],
        }),
        Separator::Byte(b) => {
            let mut reader = csv::ReaderBuilder::new()
                .delimiter(b)
                .has_headers(false)
                .flexible(true)
                .from_reader(content.as_bytes());
            let mut all = vec![];
            for (i, record) in reader.records().enumerate() {
                let record = record.map_err(|e| file(path, e))?;
                let cells: Vec<String> = record.iter().map(unquoted).collect();
                if cells.iter().any(|c| !c.is_empty()) {
                    all.push((record.position().map_or(i as u64 + 1, csv::Position::line), cells));
                }
            }
            all
        }
    })
}

/// The separator by which the first lines have the same number of cells, one of which looks like an image.
fn delimiter(content: &str, path: &Path) -> Separator {
    let head: String = content.lines().filter(|l| !l.trim().is_empty()).take(50).map(|l| format!("{l}\n")).collect();
    let image = |c: &String| EXTENSIONS.contains(&extension(&c.replace('\\', "/")).as_str());
    let score = |separator: Separator| -> Option<(usize, usize)> {
        let lines = split(&head, separator, path).ok()?;
        let count = |n: usize| lines.iter().filter(|(_, c)| c.len() == n).count();
        let (same, cells) = lines.iter().map(|(_, c)| (count(c.len()), c.len())).max()?;
        let images = lines.iter().filter(|(_, c)| c.iter().any(image)).count();
        // A separator inside names divides some lines and not others.
        (cells > 1 && same * 3 >= lines.len() * 2).then_some((images, same))
    };
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let order = if tabs { [b'\t', b',', b';', b'|'] } else { [b',', b'\t', b';', b'|'] };
    let mut best: Option<((usize, usize), Separator)> = None;
    for separator in order.map(Separator::Byte).into_iter().chain([Separator::LastSpace]) {
        if let Some(s) = score(separator)
            && best.as_ref().is_none_or(|(b, _)| s.0 > b.0)
        {
            best = Some((s, separator));
        }
    }
    best.map_or(Separator::None, |(_, s)| s)
}

/// Which column holds what.
#[derive(Debug, Default)]
struct Columns {
    header: bool,
    path: usize,
    label: Option<usize>,
    split: Option<usize>,
    /// Columns of 0 and 1, each with its class, or of numbers.
    each: Vec<(usize, String)>,
    numbers: bool,
    /// Whether spaces divide several labels, as under Kaggle's header `tags`.
    spaces: bool,
    /// Whether a cell may hold several labels.
    several: bool,
    /// Whether cells are lists as Python writes them: `['cat', 'dog']`.
    lists: bool,
}

fn columns(
    path: &Path,
    first: &[String],
    lines: &[(u64, Vec<String>)],
    kind: LabelKind,
    notes: &mut Vec<String>,
) -> Result<Columns> {
    let fold = |s: &String| s.trim().to_lowercase().replace([' ', '-'], "_");
    let names: Vec<String> = first.iter().map(fold).collect();
    let known = |of: &[&str]| of.iter().find_map(|w| names.iter().position(|n| n == w));
    let rest = &lines[1..];
    let image = |s: &str| EXTENSIONS.contains(&extension(&s.replace('\\', "/")).as_str());
    let share = |c: usize, is: &dyn Fn(&str) -> bool| {
        let n = rest.iter().take(200).filter(|(_, r)| r.get(c).is_some_and(|v| is(v.trim()))).count();
        !rest.is_empty() && n * 2 > rest.len().min(200)
    };
    let width = lines.iter().take(200).map(|(_, c)| c.len()).max().unwrap_or(1);
    let pictures = (0..width).find(|&c| share(c, &image));
    let first_is_image = first.iter().any(|c| image(c));
    // A first line that names no image where the others do is a header, whatever its words are; so is one with the usual words.
    let header =
        !first_is_image && (known(&PATHS).is_some() || known(&LABELS).is_some() || (pictures.is_some() && width > 1));
    let body = &lines[usize::from(header)..];
    let mut c = Columns { header, ..Columns::default() };
    let shown = || first.join("`, `");
    c.path = match (known(&PATHS).filter(|_| header), pictures) {
        (Some(named), Some(p)) if !share(named, &image) => p,
        (Some(named), _) => named,
        (None, Some(p)) => p,
        (None, None) => 0,
    };
    if header && let Some(s) = known(&SPLITS).filter(|&s| s != c.path) {
        let digits = |v: &str| v.parse::<f32>().is_ok();
        if names[s] == "is_valid" && share(s, &|v| known_split(v) || digits(v)) {
            c.split = Some(s);
        } else if share(s, &digits) {
            return Err(file(
                path,
                format!(
                    "the column `{}` holds numbers, and it is not known which split each is: write train, val or test there, or call \
                     the column is_valid if 1 means val and 0 train",
                    first[s]
                ),
            ));
        } else if share(s, &|v| canonical_split(v) != v || known_split(v)) {
            c.split = Some(s);
        }
        if c.split.is_some() {
            notes.push(format!("{}: the splits are the column `{}`", path.display(), first[s]));
        }
    }
    if kind == LabelKind::None {
        return Ok(c);
    }
    // pandas writes the row numbers under an empty header.
    let index = |i: usize| header && (names[i..].first().is_some_and(|n| n.is_empty() || n.starts_with("unnamed")));
    let filled = |i: usize| rest.is_empty() || rest.iter().any(|(_, r)| r.get(i).is_some_and(|v| !v.is_empty()));
    // Lists for MXNet begin with a number for each image, and end with its path.
    let mxnet = !header && c.path + 1 == width && width > 2 && path.extension().is_some_and(|e| e == "lst");
    let others: Vec<usize> = (usize::from(mxnet)..width)
        .filter(|&i| i != c.path && Some(i) != c.split && !(i < names.len() && index(i)) && filled(i))
        .collect();
    let number = |v: &str| v.parse::<f32>().is_ok();
    let title = |i: usize| if header { first.get(i).cloned().unwrap_or_default() } else { format!("column {}", i + 1) };
    if kind == LabelKind::Numbers {
        c.numbers = true;
        c.each = others.into_iter().filter(|&i| share(i, &number)).map(|i| (i, title(i))).collect();
        if c.each.is_empty() {
            return Err(file(path, format!("no column of numbers: the first line is `{}`", shown())));
        }
        notes.push(format!(
            "{}: the targets are the columns {}",
            path.display(),
            c.each.iter().map(|(_, n)| n.as_str()).collect::<Vec<_>>().join(", ")
        ));
        return Ok(c);
    }
    let named = if header {
        LABELS.iter().find_map(|w| others.iter().copied().find(|&i| i < names.len() && names[i] == **w))
    } else {
        None
    };
    let zero_one = |v: &str| matches!(v, "0" | "1" | "0.0" | "1.0" | "-1");
    match (named, &others[..]) {
        (Some(i), _) => c.label = Some(i),
        (None, []) => {}
        (None, [only]) if !header && *only < c.path && numbers_lines(lines, *only) => {
            notes.push(format!("{}: column {} numbers the lines and is no label", path.display(), only + 1));
        }
        (None, [only]) => {
            c.label = Some(*only);
            if header {
                notes.push(format!("{}: the labels are the column `{}`", path.display(), title(*only)));
            }
        }
        (None, many) if header && many.iter().all(|&i| share(i, &zero_one)) => {
            c.each = many.iter().map(|&i| (i, class_name(&title(i)))).collect();
            let minus = rest.iter().any(|(_, r)| many.iter().any(|&i| r.get(i).is_some_and(|v| v == "-1")));
            let off = if minus { "-1" } else { "0" };
            notes.push(format!("{}: the classes are the {} columns of {off} and 1", path.display(), c.each.len()));
        }
        (None, many) if !header && many.iter().filter(|&&i| !share(i, &number)).count() == 1 => {
            // Names among numbers, such as the boxes that Tiny ImageNet's list has behind the class.
            c.label = many.iter().copied().find(|&i| !share(i, &number));
            notes.push(format!(
                "{}: the labels are the only column of names, column {}",
                path.display(),
                c.label.unwrap_or(0) + 1
            ));
        }
        (None, many) => {
            let choices: Vec<String> = many.iter().map(|&i| format!("`{}`", title(i))).collect();
            return Err(file(
                path,
                format!(
                    "which column holds the labels? {} could; name it `label` in the first line",
                    choices.join(", ")
                ),
            ));
        }
    }
    let unread: Vec<String> = others.iter().filter(|&&i| header && Some(i) != c.label).map(|&i| title(i)).collect();
    if let (Some(i), false) = (c.label, unread.is_empty()) {
        let (shown, more) = (
            unread.iter().take(8).cloned().collect::<Vec<_>>().join("`, `"),
            if unread.len() > 8 { ", ..." } else { "" },
        );
        notes.push(format!("{}: the labels are the column `{}`; not read: `{shown}`{more}", path.display(), title(i)));
    }
    if let Some(i) = c.label {
        let cells = || body.iter().filter_map(|(_, r)| r.get(i)).map(|v| v.trim()).filter(|v| !v.is_empty());
        let whole = |v: &str| v.split_whitespace().all(|p| p.bytes().all(|b| b.is_ascii_digit()));
        let numbers = cells().all(whole) && cells().any(|v| v.contains(char::is_whitespace));
        c.lists = cells().next().is_some() && cells().all(|v| v.starts_with('[') && v.ends_with(']'));
        c.spaces = numbers || (header && names.get(i).is_some_and(|n| n == "tags"));
        c.several = c.lists || c.spaces || cells().any(|v| v.contains([';', '|']));
        if c.lists || numbers {
            let how = if c.lists { "lists in brackets" } else { "numbers divided by spaces" };
            notes.push(format!("{}: the labels are {how}: several per image", path.display()));
        }
    }
    Ok(c)
}

/// Whether a column counts the lines, as the first one of CUB's `images.txt` does, or has another number on each of many.
fn numbers_lines(lines: &[(u64, Vec<String>)], column: usize) -> bool {
    let numbers: Option<Vec<u64>> = lines.iter().map(|(_, r)| r.get(column)?.trim().parse().ok()).collect();
    numbers.is_some_and(|n| {
        let distinct = n.iter().collect::<std::collections::BTreeSet<_>>().len() == n.len();
        n.len() > 2 && (n.windows(2).all(|w| w[1] == w[0] + 1) || (n.len() >= 10 && distinct))
    })
}

fn known_split(v: &str) -> bool {
    matches!(v.to_lowercase().as_str(), "train" | "val" | "test" | "true" | "false")
}

fn label(c: &Columns, cells: &[String], texts: &mut Texts) -> Result<RowLabel, String> {
    let cell = |i: usize| cells.get(i).map_or("", |s| s.trim());
    if c.numbers {
        let number = |(i, name): &(usize, String)| match cell(*i).parse::<f32>() {
            Ok(v) if v.is_finite() => Ok(v),
            _ => Err(format!("`{}` in {name} is no finite number", cell(*i))),
        };
        return c.each.iter().map(number).collect::<Result<_, _>>().map(RowLabel::Numbers);
    }
    if !c.each.is_empty() {
        let mut on = vec![];
        for (i, name) in &c.each {
            match cell(*i) {
                "1" | "1.0" => on.push(texts.add(name)),
                "0" | "0.0" | "-1" | "" => {}
                other => return Err(format!("`{other}` in `{name}` is neither 1 nor 0 or -1")),
            }
        }
        return Ok(RowLabel::Many(on));
    }
    let Some(i) = c.label else { return Ok(RowLabel::None) };
    if !c.several {
        return Ok(if is_missing(cell(i)) { RowLabel::None } else { RowLabel::One(texts.add(cell(i))) });
    }
    if c.lists {
        let inner = cell(i).trim_start_matches('[').trim_end_matches(']');
        let parts = inner.split(',').map(|p| p.trim().trim_matches(['\'', '"']));
        return Ok(RowLabel::Many(parts.filter(|p| !p.is_empty()).map(|p| texts.add(p)).collect()));
    }
    let parts = cell(i).split(|x: char| x == ';' || x == '|' || (c.spaces && x.is_whitespace()));
    Ok(RowLabel::Many(parts.map(str::trim).filter(|p| !p.is_empty()).map(|p| texts.add(p)).collect()))
}

/// Columns of 0 and 1 of which every row has exactly one 1 are one class per sample.
pub(crate) fn single(rows: &mut [Row]) {
    let one = |r: &Row| matches!(&r.label, RowLabel::Many(all) if all.len() == 1);
    if rows.iter().all(one) {
        for r in rows {
            if let RowLabel::Many(all) = &r.label {
                r.label = RowLabel::One(all[0]);
            }
        }
    }
}

/// Says where one file has several labels.
pub(crate) fn contradictions(paths: &[PathBuf], rows: &[Row]) -> Vec<String> {
    let mut seen: HashMap<&Path, usize> = HashMap::new();
    let mut all = vec![];
    for (i, p) in paths.iter().enumerate() {
        match seen.entry(p.as_path()) {
            std::collections::hash_map::Entry::Vacant(e) => drop(e.insert(i)),
            std::collections::hash_map::Entry::Occupied(e) => {
                let first = *e.get();
                if rows[first].label != rows[i].label {
                    all.push(format!(
                        "lines {} and {} give {} several labels",
                        rows[first].line,
                        rows[i].line,
                        p.display()
                    ));
                }
            }
        }
    }
    all
}

/// The error for a list that a folder holds but that is no list of images.
pub(crate) fn not_there(list: &List, missing: &[usize]) -> Error {
    let named: Vec<String> =
        missing.iter().take(3).map(|&i| format!("line {}: {}", list.rows[i].line, list.rows[i].path)).collect();
    let more = if missing.len() > 3 { ", ..." } else { "" };
    file(
        &list.path,
        format!("{} of {} files are not there: {}{more}", missing.len(), list.rows.len(), named.join(", ")),
    )
}
