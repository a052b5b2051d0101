//! Image data sets of the HuggingFace hub in Parquet files: a column of encoded pictures and a column of labels.
//!
//! Rows of Parquet files cannot be reached one by one without unpacking the rows around them. The pictures are therefore copied once, when
//! the data is opened, into a temporary file without a name, from which they are read in any order.

use crate::error::{Result, file};
use crate::sets::collection::{Draft, DraftPart, DraftSamples, Naming, Raw};
use crate::sets::files;
use crate::sets::handles::Source;
use crate::sets::list::LabelKind;
use crate::sets::names::{class_name, split_name, split_place};
use crate::sets::open::OpenConfig;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of label columns, the most explicit first.
const LABELS: [&str; 9] = ["label", "labels", "fine_label", "class", "target", "category", "cls", "class_label", "y"];

/// Pictures that lie one after the other in a temporary file.
#[derive(Debug)]
pub(crate) struct Blobs {
    source: Source,
    /// Where each picture begins; one more for the end of the last.
    starts: Vec<u64>,
    names: Vec<String>,
}

impl Blobs {
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    pub(crate) fn read(&self, i: usize, most: u64) -> Result<Vec<u8>> {
        let size = self.starts[i + 1] - self.starts[i];
        if size > most {
            return Err(file(
                &self.names[i],
                format!("the picture has {size} bytes, which exceed the limit of {most} (max_bytes)"),
            ));
        }
        let mut bytes = vec![0; size as usize];
        self.source.read_at(&mut bytes, self.starts[i]).map_err(|e| file(&self.names[i], e))?;
        Ok(bytes)
    }
}

/// Opens Parquet files, whose names tell their splits (`train-00000-of-00002.parquet`).
///
/// # Errors
/// When a file is damaged, or has no column of pictures.
pub(crate) fn open(root: &Path, paths: &[PathBuf], config: &OpenConfig) -> Result<Draft> {
    let mut draft = Draft::new(root, "Parquet files");
    let stem = |p: &PathBuf| {
        let s = p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        // `train-00000-of-00002`
        s.split("-0").next().unwrap_or_default().to_string()
    };
    let split = |p: &PathBuf| {
        let above = p.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        split_name(&stem(p)).filter(|s| s.rest.is_empty()).or_else(|| split_name(&above)).map(|s| s.split.to_string())
    };
    let any = paths.iter().any(|p| split(p).is_some());
    let name = |p: &PathBuf| split(p).unwrap_or_else(|| if any { stem(p) } else { String::new() });
    let mut names: Vec<String> = paths.iter().map(name).collect();
    names.sort_by(|a, b| (split_place(a), a).cmp(&(split_place(b), b)));
    names.dedup();
    let mut given = vec![];
    for n in names {
        let mine: Vec<&PathBuf> = paths.iter().filter(|p| name(p) == n).collect();
        let mut reader = Reader::default();
        let mut out = tempfile::tempfile().map_err(|e| file(root, e))?;
        for path in &mine {
            reader.file(path, &mut out, config, &mut draft)?;
        }
        out.flush().map_err(|e| file(root, e))?;
        if given.is_empty() {
            given = reader.classes;
        }
        let length = reader.starts.last().copied().unwrap_or(0);
        draft.notes.push(format!(
            "{} pictures are copied into a temporary file of {} MB",
            reader.names.len(),
            length >> 20
        ));
        let blobs = Blobs { source: Source::Unpacked(out, length), starts: reader.starts, names: reader.names };
        let labels = if reader.labels.iter().any(Option::is_some) { Raw::One(reader.labels) } else { Raw::None };
        let samples = DraftSamples::Files { source: files::Source::Blobs(Arc::new(blobs)), labels, lines: vec![] };
        let place = mine.first().map_or(String::new(), |p| p.display().to_string());
        draft.parts.push(DraftPart { name: n, place, samples, problems: vec![] });
    }
    if !given.is_empty() {
        draft.notes.push(format!("{} class names from the files' own description", given.len()));
    }
    draft.naming = Naming::Written(given);
    Ok(draft)
}

struct Reader {
    starts: Vec<u64>,
    names: Vec<String>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader { starts: vec![0], names: vec![], labels: vec![], classes: vec![] }
    }
}

impl Reader {
    fn file(&mut self, path: &Path, out: &mut std::fs::File, config: &OpenConfig, draft: &mut Draft) -> Result<()> {
        let fail = |e: &dyn std::fmt::Display| file(path, format!("a damaged Parquet file: {e}"));
        let f = std::fs::File::open(path).map_err(|e| file(path, e))?;
        let reader = SerializedFileReader::new(f).map_err(|e| fail(&e))?;
        let about = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let columns: Vec<String> =
            reader.metadata().file_metadata().schema().get_fields().iter().map(|f| f.name().to_string()).collect();
        let label = LABELS.iter().find(|l| columns.iter().any(|c| c == *l)).copied();
        for (i, row) in reader.get_row_iter(None).map_err(|e| fail(&e))?.enumerate() {
            let row = row.map_err(|e| fail(&e))?;
            let name = format!("{}, row {i}", path.display());
            let Some(bytes) = picture(&row) else {
                return Err(file(
                    path,
                    format!(
                        "row {i} has no picture: expected a column of encoded bytes; the columns are {}",
                        columns.join(", ")
                    ),
                ));
            };
            if bytes.len() as u64 > config.limits.bytes {
                draft.skipped.add("pictures above max_bytes", &name);
                continue;
            }
            out.write_all(bytes).map_err(|e| file(path, format!("cannot be unpacked: {e}")))?;
            self.starts.push(self.starts.last().copied().unwrap_or(0) + bytes.len() as u64);
            self.names.push(name);
            let text = label.filter(|_| config.labels != LabelKind::None).and_then(|l| value(&row, l));
            self.labels.push(text.filter(|t| !crate::sets::classes::is_missing(t)).map(|t| draft.texts.add(&t)));
        }
        if let (Some(label), true) = (label, self.classes.is_empty()) {
            let said = about.iter().find(|kv| kv.key == "huggingface").and_then(|kv| kv.value.as_ref());
            let json = said.and_then(|s| serde_json::from_str::<serde_json::Value>(s).ok());
            let names = json.as_ref().and_then(|j| j.pointer(&format!("/info/features/{label}/names"))?.as_array());
            self.classes = names.into_iter().flatten().filter_map(|n| n.as_str().map(class_name)).collect();
        }
        Ok(())
    }
}

/// The encoded picture of a row: a column of bytes, or the field `bytes` of a group, as the hub has it.
fn picture(row: &Row) -> Option<&[u8]> {
    row.get_column_iter().find_map(|(_, field)| match field {
        Field::Bytes(b) => Some(b.data()),
        Field::Group(g) => g.get_column_iter().find_map(|(name, f)| match f {
            Field::Bytes(b) if name == "bytes" => Some(b.data()),
            _ => None,
        }),
        _ => None,
    })
}

fn value(row: &Row, column: &str) -> Option<String> {
    let (_, field) = row.get_column_iter().find(|(n, _)| *n == column)?;
    match field {
        Field::Null => None,
        Field::Str(s) => Some(s.clone()),
        Field::Bool(b) => Some(u8::from(*b).to_string()),
        number => Some(number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;
    use crate::{Label, OpenConfig};
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::metadata::KeyValue;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    fn write(path: &Path, labels: &[i64]) {
        let schema = "message m { OPTIONAL GROUP image { OPTIONAL BINARY bytes; OPTIONAL BINARY path (UTF8); } OPTIONAL INT64 label; }";
        let names = r#"{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}"#;
        let about = vec![KeyValue::new("huggingface".into(), names.to_string())];
        let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(Some(about)).build());
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut w = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = w.next_row_group().unwrap();
        let n = labels.len();
        let pictures: Vec<ByteArray> = (0..n).map(|i| sample_png(2 + i as u32, 3).into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&pictures, Some(&vec![2; n]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&vec![ByteArray::from("x.png"); n], Some(&vec![2; n]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(labels, Some(&vec![1; n]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        w.close().unwrap();
    }

    #[test]
    fn pictures_and_labels_of_the_hub_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        write(&dir.path().join("data/train-00000-of-00002.parquet"), &[0, 1, 1]);
        write(&dir.path().join("data/train-00001-of-00002.parquet"), &[1]);
        write(&dir.path().join("data/validation-00000-of-00001.parquet"), &[1, 0]);
        let c = crate::open(dir.path(), &OpenConfig::default()).unwrap();
        assert_eq!(c.classes(), ["cat", "dog"]);
        let (train, val) = (c.split("train").unwrap(), c.split("val").unwrap());
        assert_eq!((train.counts.clone(), val.counts.clone()), (vec![1, 3], vec![1, 1]));
        let s = train.data.get(2).unwrap();
        assert_eq!((s.label.clone(), s.image(&Default::default()).unwrap().width), (Label::Class(1), 4));
        assert!(train.data.name(3).contains("row 0"));
        let bytes = std::fs::read(dir.path().join("data/validation-00000-of-00001.parquet")).unwrap();
        for cut in [4, 100, bytes.len() - 5] {
            let path = dir.path().join("cut.parquet");
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(crate::open(&path, &OpenConfig::default()).unwrap_err().to_string().contains("cut.parquet"));
        }
    }
}
