//! What a path holds: its splits, one list of classes for all of them, and what was guessed and passed over.

use crate::error::{Error, Result, file};
use crate::sets::classes::{Numbering, Texts, by_column, by_folder, by_text};
use crate::sets::dataset::{Dataset, Label};
use crate::sets::files::{Files, Labels, Renumbered, Source};
use crate::sets::names::{ClassOrder, canonical_split};
use crate::sets::skipped::Skipped;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The data sets that a path holds, as [`open`](crate::open) finds them: every split, one list of classes for all of them, and a description.
#[derive(Clone)]
pub struct Collection {
    path: PathBuf,
    kind: String,
    parts: Vec<Part>,
    classes: Arc<Vec<String>>,
    notes: Vec<String>,
    skipped: Skipped,
    numbers: bool,
    from_one: bool,
}

/// One split of a [`Collection`].
#[derive(Clone)]
pub struct Part {
    /// `train`, `val`, `test` or a name of its own; empty where there are no splits.
    pub name: String,
    /// Where it was found.
    pub place: String,
    /// Its samples.
    pub data: Arc<dyn Dataset>,
    /// The number of samples of each class.
    pub counts: Vec<usize>,
    /// The number of samples without a label.
    pub unlabelled: usize,
    /// What keeps its labels from being used, one line each, with file and line.
    pub problems: Vec<String>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({:?}, {} samples of {})", self.name, self.data.len(), self.place)
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({}, {:?})", self.kind, self.parts)
    }
}

impl Part {
    /// Whether no sample has a label.
    pub fn is_unlabelled(&self) -> bool {
        self.unlabelled == self.data.len()
    }

    /// How messages call it.
    fn shown(&self) -> String {
        if self.name.is_empty() { "all".into() } else { self.name.clone() }
    }
}

impl Collection {
    /// The kind of the data, such as `class folders`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The splits; one without a name where there are none.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The classes of all splits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Guesses and remarks, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What was passed over.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Whether labels are numbers that say themselves which output of a model they mean.
    pub fn has_numbers(&self) -> bool {
        self.numbers && !self.from_one
    }

    /// Whether all images come from one well-known set of small pictures (IDX or CIFAR files), whose statistics are its own.
    pub fn has_fixed_pixels(&self) -> bool {
        self.kind.starts_with("IDX") || self.kind.starts_with("CIFAR")
    }

    /// Whether the data has splits.
    pub fn has_splits(&self) -> bool {
        self.parts.iter().any(|p| !p.name.is_empty())
    }

    fn names(&self) -> String {
        let names: Vec<String> =
            self.parts.iter().map(|p| format!("{} ({} samples)", p.shown(), p.data.len())).collect();
        names.join(", ")
    }

    /// The split of this name, in any spelling and case: `Validation` is `val`.
    ///
    /// # Errors
    /// When there is none; the error lists those that are there.
    pub fn split(&self, name: &str) -> Result<&Part> {
        let wanted = canonical_split(name);
        let exact = |name: &str| self.parts.iter().find(|p| !p.name.is_empty() && p.name == name);
        let found = exact(name)
            .or_else(|| exact(&wanted))
            .or_else(|| self.parts.iter().find(|p| !p.name.is_empty() && p.name.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| {
            let there = if self.has_splits() {
                format!("it has {}", self.names())
            } else {
                "it has no splits: name none".into()
            };
            file(&self.path, format!("there is no split `{name}`; {there}"))
        })
    }

    /// The split to train on: `train`, or everything where there are no splits.
    ///
    /// # Errors
    /// When there are splits but none to train on.
    pub fn train(&self) -> Result<&Part> {
        match &self.parts[..] {
            [only] if only.name.is_empty() => Ok(only),
            _ => self.parts.iter().find(|p| p.name == "train").ok_or_else(|| {
                file(&self.path, format!("has no split `train` to train on; it has {}: name one of them", self.names()))
            }),
        }
    }

    /// The split to judge by: `val`, else `test`; `None` where there is neither.
    pub fn held_out(&self) -> Option<&Part> {
        ["val", "test"].iter().find_map(|s| self.parts.iter().find(|p| p.name == *s))
    }

    /// The split that an evaluation takes if none is named: `val`, else `test`, else everything where there are no splits.
    ///
    /// # Errors
    /// When there are only others; the error lists them.
    pub fn evaluated(&self) -> Result<&Part> {
        match (self.held_out(), &self.parts[..]) {
            (Some(p), _) => Ok(p),
            (None, [only]) if only.name.is_empty() => Ok(only),
            _ => Err(file(
                &self.path,
                format!("has neither a split `val` nor `test`; it has {}: name one of them", self.names()),
            )),
        }
    }

    /// The data of a part whose every sample has a class.
    ///
    /// # Errors
    /// When labels are missing or doubtful; the error names files and lines.
    pub fn labelled(&self, part: &Part) -> Result<Arc<dyn Dataset>> {
        if let Some(first) = part.problems.first() {
            let more = part.problems.len() - 1;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            return Err(Error::Labels(format!("{}: {first}{more}", part.place)));
        }
        if part.is_unlabelled() {
            return Err(Error::Labels(format!(
                "{}: the split `{}` has no labels: expected class folders, a list with labels, or shards with .cls files",
                part.place,
                part.shown()
            )));
        }
        Ok(part.data.clone())
    }

    /// The split to train a classifier on and the one to judge it by, whose every sample has a class.
    ///
    /// # Errors
    /// When a split or labels are missing, or there is only one class.
    pub fn to_classify(&self) -> Result<(&Part, &Part)> {
        if !self.has_splits() {
            return Err(file(
                &self.path,
                "has no splits: the images to train on and those to evaluate on would be the same; expected folders, lists or archives \
                 named `train` and `val` (or `test`)",
            ));
        }
        let train = self.train()?;
        let held_out = self.held_out().ok_or_else(|| {
            file(&self.path, format!("has neither a split `val` nor `test` to evaluate on; it has {}", self.names()))
        })?;
        self.labelled(train)?;
        self.labelled(held_out)?;
        let used: Vec<&String> =
            self.classes.iter().zip(&train.counts).filter(|(_, n)| **n > 0).map(|(c, _)| c).collect();
        if let [only] = used[..] {
            let hint = self
                .notes
                .iter()
                .find(|n| n.contains("look like the classes"))
                .map_or(String::new(), |n| format!("; {n}"));
            return Err(file(
                &self.path,
                format!("all images to train on are of one class, `{only}`: expected at least 2{hint}"),
            ));
        }
        Ok((train, held_out))
    }

    /// The same data with the classes of a model: `map` gives for each class here its number there.
    ///
    /// # Errors
    /// When a class has no number, or one past the last.
    pub fn renumbered(&self, map: &[u32], classes: &[String]) -> Result<Collection> {
        let mut other = self.clone();
        for (part, old) in other.parts.iter_mut().zip(&self.parts) {
            part.data = Arc::new(Renumbered::new(old.data.clone(), map.to_vec(), classes.to_vec())?);
            part.counts = vec![0; classes.len()];
            old.counts.iter().zip(map).for_each(|(n, c)| part.counts[*c as usize] += n);
        }
        other.classes = Arc::new(classes.to_vec());
        Ok(other)
    }

    /// The description as programs log it, one line each: the splits, the guesses, what was passed over.
    pub fn lines(&self) -> Vec<String> {
        let classes = match self.classes.len() {
            0 => "no labels".to_string(),
            1 => format!("1 class, `{}`", self.classes[0]),
            n => format!("{n} classes"),
        };
        let mut all = vec![format!("{}: {}; {}; {classes}", self.path.display(), self.kind, self.names())];
        all.extend(self.notes.iter().cloned());
        all.extend(self.skipped.reasons().iter().map(|r| format!("not read: {r}")));
        for p in &self.parts {
            all.extend(p.problems.iter().take(3).map(|m| format!("{}: {m}", p.place)));
        }
        all
    }
}

impl fmt::Display for Collection {
    /// The whole description with the number of samples of each class in each split.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        writeln!(f, "kind       {}", self.kind)?;
        for p in &self.parts {
            let without = if p.unlabelled > 0 && !self.classes.is_empty() {
                format!(", {} without a label", p.unlabelled)
            } else {
                String::new()
            };
            writeln!(f, "{:<10} {} samples{without}  ({})", p.shown(), p.data.len(), p.place)?;
        }
        writeln!(f, "classes    {}", self.classes.len())?;
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        order.sort_by_key(|&c| {
            std::cmp::Reverse(self.parts.iter().map(|p| p.counts.get(c).copied().unwrap_or(0)).sum::<usize>())
        });
        if !order.is_empty() {
            let heads: String = self.parts.iter().map(|p| format!("{:>9}", p.shown())).collect();
            writeln!(f, "           {heads}")?;
        }
        let ends = if order.len() > 24 { 10 } else { order.len() };
        let line = |f: &mut fmt::Formatter<'_>, c: usize| {
            let counts: String =
                self.parts.iter().map(|p| format!("{:>9}", p.counts.get(c).copied().unwrap_or(0))).collect();
            writeln!(f, "           {counts}  {c:>4} {}", self.classes[c])
        };
        order[..ends].iter().try_for_each(|&c| line(f, c))?;
        if ends < order.len() {
            writeln!(f, "           ... {} more", order.len() - 2 * ends)?;
            order[order.len() - ends..].iter().try_for_each(|&c| line(f, c))?;
        }
        self.notes.iter().try_for_each(|n| writeln!(f, "note       {n}"))?;
        self.skipped.reasons().iter().try_for_each(|r| writeln!(f, "not read   {r}"))?;
        for p in &self.parts {
            p.problems.iter().take(10).try_for_each(|m| writeln!(f, "problem    {}: {m}", p.place))?;
        }
        Ok(())
    }
}

/// The labels of a split as they were found.
#[derive(Debug)]
pub(crate) enum Raw {
    None,
    /// The text of each sample's label.
    One(Vec<Option<u32>>),
    Many(Vec<Vec<u32>>),
    Numbers(Vec<Vec<f32>>),
}

/// A split as it was found.
pub(crate) struct DraftPart {
    pub name: String,
    pub place: String,
    pub samples: DraftSamples,
    pub problems: Vec<String>,
}

pub(crate) enum DraftSamples {
    /// Files, their labels, and what to call a sample in messages (the line of a list).
    Files { source: Source, labels: Raw, lines: Vec<u64> },
    /// Data that numbers its own classes.
    Ready(Arc<dyn Dataset>),
}

/// How the texts of labels become numbers.
pub(crate) enum Naming {
    Folders,
    /// Labels written by people, with the names of a list of classes.
    Written(Vec<String>),
    /// Labels that are these names, as columns have them.
    Columns(Vec<String>),
}

/// Everything that was found, before classes are numbered.
pub(crate) struct Draft {
    pub path: PathBuf,
    pub kind: String,
    pub parts: Vec<DraftPart>,
    pub texts: Texts,
    /// Names of class folders, where labels are their numbers.
    pub folders: Vec<String>,
    pub naming: Naming,
    pub notes: Vec<String>,
    pub skipped: Skipped,
}

impl Draft {
    pub(crate) fn new(path: &Path, kind: impl Into<String>) -> Self {
        Draft {
            path: path.into(),
            kind: kind.into(),
            parts: vec![],
            texts: Texts::default(),
            folders: vec![],
            naming: Naming::Folders,
            notes: vec![],
            skipped: Skipped::default(),
        }
    }

    /// Numbers the classes and makes the data sets.
    ///
    /// # Errors
    /// When nothing was found.
    pub(crate) fn finish(mut self, order: ClassOrder, most: u64) -> Result<Collection> {
        let empty = |p: &DraftPart| match &p.samples {
            DraftSamples::Files { source, .. } => source.len() == 0,
            DraftSamples::Ready(d) => d.is_empty(),
        };
        for p in self.parts.extract_if(.., |p| empty(p)) {
            self.notes.push(format!("{}: no image in it", p.place));
        }
        if self.parts.is_empty() {
            let notes = if self.notes.is_empty() { String::new() } else { format!("; {}", self.notes.join("; ")) };
            let skipped = self.skipped.reasons().iter().map(|r| format!("; not read: {r}")).collect::<String>();
            return Err(file(&self.path, format!("no image found{notes}{skipped}")));
        }
        let numbering = match &self.naming {
            Naming::Folders => by_folder(&self.folders, order),
            Naming::Written(given) => by_text(&self.texts, given, order),
            Naming::Columns(names) => by_column(&self.texts, names),
        };
        let ready = self.parts.iter().find_map(|p| match &p.samples {
            DraftSamples::Ready(d) => Some(d.classes().to_vec()),
            DraftSamples::Files { .. } => None,
        });
        let classes = Arc::new(ready.unwrap_or_else(|| numbering.classes.clone()));
        self.notes.extend(numbering.notes.iter().cloned());
        let parts: Result<Vec<Part>> = self.parts.into_iter().map(|p| part(p, &numbering, &classes, most)).collect();
        let mut c = Collection {
            path: self.path,
            kind: self.kind,
            parts: parts?,
            classes,
            notes: self.notes,
            skipped: self.skipped,
            numbers: numbering.numbers,
            from_one: numbering.from_one,
        };
        c.compare_splits();
        Ok(c)
    }
}

/// Most problems that are kept per split.
const PROBLEMS: usize = 50;

fn part(draft: DraftPart, numbering: &Numbering, classes: &Arc<Vec<String>>, most: u64) -> Result<Part> {
    let DraftPart { name, place, samples, mut problems } = draft;
    problems.extend(numbering.problem.clone());
    let (data, unlabelled): (Arc<dyn Dataset>, usize) = match samples {
        DraftSamples::Ready(data) => (data, 0),
        DraftSamples::Files { source, labels, lines } => {
            let at = |i: usize| match lines.get(i) {
                Some(line) => format!("line {line} ({})", source.path(i).display()),
                None => source.path(i).display().to_string(),
            };
            let n = source.len();
            let mut missing: Vec<(usize, String)> = vec![];
            let mut class = |i: usize, text: Option<u32>| -> u32 {
                let found = match text {
                    None => Err("no label".to_string()),
                    Some(t) => numbering.of[t as usize].clone(),
                };
                found.unwrap_or_else(|why| {
                    missing.push((i, why));
                    u32::MAX
                })
            };
            let labels = match labels {
                Raw::None => Labels::None,
                Raw::Numbers(all) => Labels::Numbers(all),
                Raw::One(all) => Labels::One(all.into_iter().enumerate().map(|(i, t)| class(i, t)).collect()),
                Raw::Many(all) => {
                    let each = |(i, texts): (usize, Vec<u32>)| {
                        texts.into_iter().map(|t| class(i, Some(t))).filter(|c| *c != u32::MAX).collect()
                    };
                    Labels::Many(all.into_iter().enumerate().map(each).collect())
                }
            };
            let unlabelled = match &labels {
                Labels::None => n,
                Labels::One(of) => of.iter().filter(|c| **c == u32::MAX).count(),
                Labels::Many(_) | Labels::Numbers(_) => 0,
            };
            // Where no sample has a label there is nothing wrong with any of them.
            if unlabelled < n {
                problems.extend(missing.iter().take(PROBLEMS).map(|(i, why)| format!("{}: {why}", at(*i))));
                if missing.len() > PROBLEMS {
                    problems.push(format!("{} more samples without a class", missing.len() - PROBLEMS));
                }
            }
            let labels = if unlabelled == n { Labels::None } else { labels };
            (Arc::new(Files { source, labels, classes: classes.clone(), most }), unlabelled)
        }
    };
    let mut counts = vec![0; classes.len()];
    for i in 0..data.len() {
        match data.label(i)? {
            Label::Class(c) => counts[c as usize] += 1,
            Label::Classes(all) => all.iter().for_each(|c| counts[*c as usize] += 1),
            Label::None | Label::Numbers(_) => {}
        }
    }
    Ok(Part { name, place, data, counts, unlabelled, problems })
}

impl Collection {
    /// Says which classes are only in some of the splits that are trained on and judged by.
    fn compare_splits(&mut self) {
        let labelled: Vec<&Part> = self.parts.iter().filter(|p| !p.is_unlabelled() && !p.name.is_empty()).collect();
        let mut notes = vec![];
        for p in &labelled {
            let lacks: Vec<&str> = (0..self.classes.len())
                .filter(|&c| p.counts[c] == 0 && labelled.iter().any(|q| q.counts[c] > 0))
                .map(|c| self.classes[c].as_str())
                .collect();
            if lacks.is_empty() || labelled.len() < 2 {
                continue;
            }
            let shown = lacks.iter().take(6).map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
            let more = if lacks.len() > 6 { ", ..." } else { "" };
            let what = if p.name == "train" { ", which can therefore not be learnt" } else { "" };
            let n = lacks.len();
            notes.push(format!(
                "{} has no sample of {n} class{}: {shown}{more}{what}",
                p.shown(),
                if n == 1 { "" } else { "es" }
            ));
        }
        self.notes.extend(notes);
    }
}
