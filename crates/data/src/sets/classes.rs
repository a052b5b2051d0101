//! One list of classes for all splits: from folders' names, from labels that are numbers, or from labels that are names.

use crate::sets::names::{ClassOrder, class_name, sort_classes};
use std::collections::{BTreeSet, HashMap};

/// Class numbers above this are no class numbers but identifiers.
const MOST: u64 = 1_000_000;

/// The texts of labels, each once.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    all: Vec<String>,
    index: HashMap<String, u32>,
    counts: Vec<usize>,
}

impl Texts {
    /// The number of a label's text, which counts it once more.
    pub(crate) fn add(&mut self, text: &str) -> u32 {
        let i = match self.index.get(text) {
            Some(&i) => i,
            None => {
                let i = self.all.len() as u32;
                self.all.push(text.into());
                self.index.insert(text.into(), i);
                self.counts.push(0);
                i
            }
        };
        self.counts[i as usize] += 1;
        i
    }

    pub(crate) fn get(&self, i: u32) -> &str {
        &self.all[i as usize]
    }
}

/// Whether a label says that there is none: nothing, `NaN`, `null` and what else tables write for it.
pub(crate) fn is_missing(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "" | "nan" | "na" | "n/a" | "null" | "none" | "<na>")
}

/// A label as a whole number: `3`, `+3`, `3.0`, `3e0`.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let t = text.trim();
    if let Ok(n) = t.parse::<i64>() {
        return Some(n);
    }
    // Words such as `inf` and `infinity` are numbers for the parser, too.
    let numeric = t.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    t.parse::<f64>().ok().filter(|v| numeric && v.fract() == 0.0 && v.abs() < 1e15).map(|v| v as i64)
}

/// The classes, and which of them each text means.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    pub classes: Vec<String>,
    /// For each text its class, or why it is none.
    pub of: Vec<Result<u32, String>>,
    pub notes: Vec<String>,
    /// What makes the whole list doubtful.
    pub problem: Option<String>,
    /// Whether labels are numbers and class `i` is output `i` by their own word.
    pub numbers: bool,
    /// Whether numbers began at 1 and were moved down by one.
    pub from_one: bool,
}

/// Numbers folders' names.
pub(crate) fn by_folder(names: &[String], order: ClassOrder) -> Numbering {
    let mut classes: Vec<String> = names.to_vec();
    sort_classes(&mut classes, order);
    let place: HashMap<&str, u32> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i as u32)).collect();
    let of = names.iter().map(|n| Ok(place[n.as_str()])).collect();
    Numbering { classes: classes.clone(), of, ..Numbering::default() }
}

/// Numbers labels that are names of `classes`, in the order of these.
pub(crate) fn by_column(texts: &Texts, classes: &[String]) -> Numbering {
    let place: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let one = |t: &String| place.get(t.as_str()).copied().ok_or_else(|| format!("`{t}` is no column"));
    Numbering { classes: classes.to_vec(), of: texts.all.iter().map(one).collect(), ..Numbering::default() }
}

/// Numbers the labels that lists and shards write. `given` are the names of a list of classes beside them.
pub(crate) fn by_text(texts: &Texts, given: &[String], order: ClassOrder) -> Numbering {
    let present: Vec<usize> = (0..texts.all.len()).filter(|&i| !is_missing(&texts.all[i])).collect();
    let none = || Err("no label".to_string());
    let numbers: Vec<Option<i64>> = texts.all.iter().map(|t| whole(t)).collect();
    let (numeric, named): (Vec<usize>, Vec<usize>) = present.iter().partition(|&&i| numbers[i].is_some());
    let rows = |of: &[usize]| of.iter().map(|&i| texts.counts[i]).sum::<usize>();
    if present.is_empty() {
        return Numbering {
            of: texts.all.iter().map(|_| none()).collect(),
            classes: given.to_vec(),
            ..Numbering::default()
        };
    }
    // Names that are numbers, such as `7` and `3`, are names where they cannot be places in the list. Where they can, they are: that is
    // what shards write.
    let places = present.iter().all(|&i| numbers[i].is_some_and(|n| n >= 0 && n < given.len() as i64));
    let by_name = given.len() > 1 && !places && present.iter().all(|&i| given.contains(&class_name(&texts.all[i])));
    if named.is_empty() && !by_name {
        return by_number(texts, &numbers, given);
    }
    let (odd, all) = (rows(&named), rows(&present));
    if !by_name && !numeric.is_empty() && odd * 20 <= all {
        // A few words among numbers: an odd cell, or a header that was not known.
        let few: Vec<&str> = named.iter().take(3).map(|&i| texts.get(i as u32)).collect();
        let mut n = by_number(texts, &numbers, given);
        n.problem = Some(format!("labels are whole numbers, but for {odd} of {all}: `{}`", few.join("`, `")));
        return n;
    }
    let mut n = Numbering::default();
    if !numeric.is_empty() && !by_name {
        n.notes.push(format!(
            "labels are names and numbers ({} and {} of them): all are taken as names",
            named.len(),
            numeric.len()
        ));
    }
    if let Some(float) = present
        .iter()
        .map(|&i| texts.all[i].as_str())
        .find(|t| !by_name && t.parse::<f64>().is_ok() && whole(t).is_none())
    {
        n.problem = Some(format!(
            "the label `{float}` is a number but no class: columns of numbers are read where the task asks for numbers"
        ));
    }
    n.classes = if given.is_empty() {
        let names: BTreeSet<String> = present.iter().map(|&i| class_name(&texts.all[i])).collect();
        let mut names: Vec<String> = names.into_iter().collect();
        sort_classes(&mut names, order);
        names
    } else {
        given.to_vec()
    };
    let place: HashMap<&str, u32> = n.classes.iter().enumerate().map(|(i, c)| (c.as_str(), i as u32)).collect();
    n.of = (0..texts.all.len())
        .map(|i| match (is_missing(&texts.all[i]), place.get(class_name(&texts.all[i]).as_str())) {
            (true, None) => none(),
            (_, Some(&c)) => Ok(c),
            (false, None) => Err(format!("the label `{}` is not in the list of classes", texts.all[i])),
        })
        .collect();
    n
}

fn by_number(texts: &Texts, numbers: &[Option<i64>], given: &[String]) -> Numbering {
    let mut n = Numbering { numbers: true, ..Numbering::default() };
    let used: BTreeSet<i64> = numbers.iter().flatten().copied().filter(|v| *v >= 0).collect();
    let (least, most) = (used.first().copied().unwrap_or(0), used.last().copied().unwrap_or(-1));
    let named = given.len() as i64;
    // 1, 2, ... N without a gap, and no room for a class 0 in a list of names: people count from 1.
    n.from_one = least == 1 && used.len() as i64 == most && most > 1 && (named == 0 || named == most);
    let first = i64::from(n.from_one);
    if n.from_one {
        n.notes
            .push(format!("labels run from 1 to {most}: label 1 is class 0, which is said here because it is a guess"));
    }
    let count = if named > 0 { named } else { most + 1 - first };
    if count > MOST as i64 {
        n.problem = Some(format!("the label {most} is too large for a class number: it looks like an identifier"));
    } else if named == 0 {
        let gaps: Vec<String> = (first..=most).filter(|c| !used.contains(c)).map(|c| c.to_string()).collect();
        if !gaps.is_empty() {
            let shown = gaps.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let more = if gaps.len() > 8 { ", ..." } else { "" };
            n.notes.push(format!(
                "labels are class numbers from 0 to {most}, of which {} have no sample: {shown}{more}",
                gaps.len()
            ));
        }
        n.classes = (first..=most).map(|c| c.to_string()).collect();
    } else {
        n.classes = given.to_vec();
    }
    n.of = numbers
        .iter()
        .zip(&texts.all)
        .map(|(v, text)| match v {
            None if is_missing(text) => Err("no label".into()),
            None => Err(format!("the label `{text}` is no whole number")),
            Some(v) if *v < 0 => Err(format!("the label {v} is negative: no label")),
            Some(v) if v - first >= count => Err(format!("the label {v} is past the last of {count} classes")),
            Some(v) => Ok((v - first) as u32),
        })
        .collect();
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(labels: &[&str], given: &[&str]) -> (Numbering, Vec<Option<u32>>) {
        let mut texts = Texts::default();
        let ids: Vec<u32> = labels.iter().map(|l| texts.add(l)).collect();
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        let n = by_text(&texts, &given, ClassOrder::Lexicographic);
        let of = ids.iter().map(|i| n.of[*i as usize].clone().ok()).collect();
        (n, of)
    }

    #[test]
    fn whole_numbers_are_class_numbers_however_they_are_written() {
        let (n, of) = numbered(&["0", "1.0", "2", "10", "11.0"], &[]);
        assert_eq!((n.classes.len(), of), (12, vec![Some(0), Some(1), Some(2), Some(10), Some(11)]));
        assert!(n.problem.is_none() && n.notes[0].contains("7 have no sample: 3, 4"), "{n:?}");
        let (n, of) = numbered(&["-1", "0", "1", "nan", ""], &[]);
        assert_eq!((n.classes.len(), of), (2, vec![None, Some(0), Some(1), None, None]));
        assert!(n.of[0].as_ref().unwrap_err().contains("negative"));
        let (n, of) = numbered(&["1", "2", "3"], &[]);
        assert_eq!((n.classes, of), (vec!["1".into(), "2".into(), "3".into()], vec![Some(0), Some(1), Some(2)]));
        assert!(n.from_one && n.notes[0].contains("label 1 is class 0"));
        let (n, of) = numbered(&["1", "217", "482"], &[]);
        assert_eq!((n.classes.len(), of[1]), (483, Some(217)), "a subset of a model's outputs keeps its numbers");
        let (n, _) = numbered(&["20190501123"], &[]);
        assert!(n.problem.unwrap().contains("identifier"));
    }

    #[test]
    fn a_word_among_numbers_is_a_problem_and_many_words_are_names() {
        let mut labels: Vec<String> = (0..40).map(|i| (i % 4).to_string()).collect();
        labels.push("label".into());
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let (n, of) = numbered(&labels, &[]);
        assert!(n.problem.unwrap().contains("`label`"));
        assert_eq!((of[39], of[40]), (Some(3), None));
        let (n, of) = numbered(&["A", "B", "7"], &[]);
        assert_eq!((n.classes.len(), of[2]), (3, Some(0)));
        assert!(n.problem.is_none() && n.notes[0].contains("taken as names"));
        let (n, _) = numbered(&["0.25", "cat"], &[]);
        assert!(n.problem.unwrap().contains("no class"));
    }

    #[test]
    fn a_list_of_classes_decides() {
        let (n, of) = numbered(&["dog", "cafe\u{301}", "emu"], &["dog", "café"]);
        assert_eq!((n.classes.len(), of), (2, vec![Some(0), Some(1), None]));
        let (n, of) = numbered(&["1", "0", "2"], &["a", "b"]);
        assert!(!n.from_one);
        assert_eq!(of, [Some(1), Some(0), None]);
        let (n, of) = numbered(&["1", "2"], &["a", "b"]);
        assert_eq!((n.from_one, of), (true, vec![Some(0), Some(1)]));
        let (_, of) = numbered(&["7", "3"], &["3", "7"]);
        assert_eq!(of, [Some(1), Some(0)], "names that are numbers");
        let (_, of) = numbered(&["0", "2", "1"], &["0", "1", "10", "2"]);
        assert_eq!(of, [Some(0), Some(2), Some(1)], "places in the list, as shards have them");
    }
}
