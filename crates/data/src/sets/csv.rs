//! Lists of images in CSV or TSV files.

use crate::error::{Result, file};
use crate::image::Limits;
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::folder::{ClassOrder, sort_classes};
use std::path::{Path, PathBuf};

/// A list with `path,label` on each line; several labels are joined by `;` or `|`.
#[derive(Debug, Clone)]
pub struct Table {
    samples: Vec<(PathBuf, Label)>,
    classes: Vec<String>,
}

impl Table {
    /// Reads a CSV (or, by its extension, TSV) file. Columns are `path` and `label` where the first line names them so, else
    /// the first two. Paths are relative to the file's folder. If all labels are numbers, they are class indices;
    /// otherwise they are names, and the classes are their list in `order`.
    ///
    /// # Errors
    /// When the file cannot be read, or a line names no path; the error names the line.
    pub fn open(path: &Path, order: ClassOrder) -> Result<Self> {
        let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
        let root = path.parent().unwrap_or(Path::new("."));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(if tabs { b'\t' } else { b',' })
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(|e| file(path, e))?;
        let (mut at, mut rows) = ((0, 1), vec![]);
        for (i, record) in reader.records().enumerate() {
            let record = record.map_err(|e| file(path, e))?;
            let line = record.position().map_or(i as u64 + 1, csv::Position::line);
            let column = |names: &[&str]| record.iter().position(|f| names.contains(&f.to_lowercase().as_str()));
            if i == 0
                && let Some(p) = column(&["path", "file", "filename", "image"])
            {
                at = (p, column(&["label", "labels", "class", "target"]).unwrap_or(usize::MAX));
                continue;
            }
            let Some(name) = record.get(at.0).filter(|n| !n.is_empty()) else {
                return Err(file(path, format!("line {line} names no path")));
            };
            let labels = record.get(at.1).unwrap_or_default();
            let labels: Vec<String> =
                labels.split([';', '|']).map(|l| l.trim().to_string()).filter(|l| !l.is_empty()).collect();
            rows.push((root.join(name), labels));
        }
        if rows.is_empty() {
            return Err(file(path, "no line names an image: expected `path,label` on each line"));
        }
        let mut names: Vec<String> = rows.iter().flat_map(|(_, l)| l.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let numbers: Option<Vec<u32>> =
            names.iter().map(|n| n.parse::<u32>().ok().filter(|n| *n < 10_000_000)).collect();
        let classes = match &numbers {
            Some(n) => n.iter().max().map_or(vec![], |m| (0..=*m).map(|c| c.to_string()).collect()),
            None => {
                sort_classes(&mut names, order);
                names
            }
        };
        let several = rows.iter().any(|(_, l)| l.len() > 1);
        let index = |name: &String| match numbers {
            Some(_) => name.parse().ok(),
            None => classes.iter().position(|c| c == name).map(|c| c as u32),
        };
        let label = |names: &[String]| {
            let mut all: Vec<u32> = names.iter().filter_map(index).collect();
            if several {
                return Label::Classes(all);
            }
            all.pop().map_or(Label::None, Label::Class)
        };
        let samples = rows.iter().map(|(p, l)| (p.clone(), label(l))).collect();
        Ok(Table { samples, classes })
    }
}

impl Dataset for Table {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let (path, label) = &self.samples[i];
        let size = std::fs::metadata(path).map_err(|e| file(path, e))?.len();
        let most = Limits::default().bytes;
        if size > most {
            return Err(file(path, format!("the file has {size} bytes, which exceed the limit of {most}")));
        }
        let bytes = std::fs::read(path).map_err(|e| file(path, e))?;
        Ok(Sample { picture: Picture::Encoded(bytes), label: label.clone() })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(self.samples[i].1.clone())
    }

    fn name(&self, i: usize) -> String {
        self.samples[i].0.display().to_string()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, text: &str) -> Result<Table> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        Table::open(&dir.path().join(name), ClassOrder::Natural)
    }

    #[test]
    fn names_numbers_headers_and_several_labels_are_understood() {
        let t = table("a.csv", "label,path\ncat,x/1.jpg\ndog ,\"2,3.jpg\"\n").unwrap();
        assert_eq!((t.classes(), t.label(1).unwrap()), (&["cat".to_string(), "dog".into()][..], Label::Class(1)));
        assert!(t.name(1).ends_with("2,3.jpg"));
        let t = table("a.tsv", "1.jpg\t10\n2.jpg\t2\n").unwrap();
        assert_eq!((t.classes().len(), t.label(0).unwrap()), (11, Label::Class(10)));
        let t = table("m.csv", "1.jpg,a;c\n2.jpg,b\n3.jpg,\n").unwrap();
        assert_eq!(t.label(0).unwrap(), Label::Classes(vec![0, 2]));
        assert_eq!((t.label(1).unwrap(), t.label(2).unwrap()), (Label::Classes(vec![1]), Label::Classes(vec![])));
        assert_eq!(table("u.csv", "file\n1.jpg\n").unwrap().label(0).unwrap(), Label::None);
        assert!(t.get(0).unwrap_err().to_string().contains("1.jpg"));
    }

    #[test]
    fn lines_without_a_path_are_named() {
        assert!(table("a.csv", "\"1\n.jpg\",0\n,1\n").unwrap_err().to_string().contains("line 3"));
        assert!(table("a.csv", "path,label\n").unwrap_err().to_string().contains("no line"));
    }
}
