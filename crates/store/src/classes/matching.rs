//! Which output of a model each class of a data set is.

use super::fold::{folded, plain, repaired};
use super::mismatch::Mismatch;
use super::{Names, imagenet};
use crate::nearest;
use std::collections::BTreeMap;

/// Which output each class of the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    /// The number of the model's output, for each class of the data.
    pub outputs: Vec<u32>,
    /// Whether anything but equal names decided: then a note says what.
    pub guessed: bool,
    /// What was guessed or is worth knowing, one sentence each, for the log.
    pub notes: Vec<String>,
}

impl Matching {
    /// Whether every class has the number of its output, so that labels can be used as they are.
    pub fn is_identity(&self) -> bool {
        self.outputs.iter().enumerate().all(|(i, o)| i == *o as usize)
    }
}

/// A way of reading names, from the most certain to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    Equal,
    Repaired,
    Folded,
    WordNet,
    Part,
}

impl Reading {
    const ALL: [Reading; 5] = [Reading::Equal, Reading::Repaired, Reading::Folded, Reading::WordNet, Reading::Part];

    /// What is said of names that are read so.
    fn told(self) -> &'static str {
        match self {
            Reading::Equal => "are equal",
            Reading::Repaired => "are UTF-8 that was read in another encoding",
            Reading::Folded => "are compared without regard to case, underscores and hyphens",
            Reading::WordNet => "are matched by WordNet's ids and words for ImageNet's classes",
            Reading::Part => "are one of several words of the model's name",
        }
    }
}

/// The model's names, found by each reading.
struct Index<'a> {
    names: &'a [String],
    equal: BTreeMap<String, Vec<u32>>,
    repaired: BTreeMap<String, Vec<u32>>,
    folded: BTreeMap<String, Vec<u32>>,
    wordnet: BTreeMap<usize, Vec<u32>>,
    parts: BTreeMap<String, Vec<u32>>,
}

impl<'a> Index<'a> {
    fn new(names: &'a [String]) -> Self {
        fn add<K: Ord>(map: &mut BTreeMap<K, Vec<u32>>, key: K, output: u32) {
            let outputs = map.entry(key).or_default();
            if outputs.last() != Some(&output) {
                outputs.push(output);
            }
        }
        let (mut equal, mut repairs, mut folds) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut wordnet, mut parts) = (BTreeMap::new(), BTreeMap::new());
        let ordered = imagenet::is_imagenet(names);
        for (output, name) in (0u32..).zip(names) {
            add(&mut equal, plain(name), output);
            add(&mut folds, folded(name), output);
            repaired(name).into_iter().for_each(|r| add(&mut repairs, r, output));
            match imagenet::classes_of(name) {
                _ if ordered => add(&mut wordnet, output as usize, output),
                classes => classes.iter().for_each(|c| add(&mut wordnet, *c, output)),
            }
            if name.contains([',', ';', '/']) {
                name.split([',', ';', '/']).for_each(|part| add(&mut parts, folded(part), output));
            }
        }
        Index { names, equal, repaired: repairs, folded: folds, wordnet, parts }
    }

    /// The outputs that a name can be in this reading.
    fn outputs(&self, name: &str, reading: Reading) -> Vec<u32> {
        let of = |map: &BTreeMap<String, Vec<u32>>, key: &str| map.get(key).cloned().unwrap_or_default();
        let mut found: Vec<u32> = match reading {
            Reading::Equal => of(&self.equal, &plain(name)),
            Reading::Repaired => {
                let mine = repaired(name).into_iter().flat_map(|r| of(&self.equal, &r));
                mine.chain(of(&self.repaired, &plain(name))).collect()
            }
            Reading::Folded => of(&self.folded, &folded(name)),
            Reading::WordNet => {
                let classes = imagenet::classes_of(name);
                classes.iter().filter_map(|c| self.wordnet.get(c)).flatten().copied().collect()
            }
            Reading::Part => of(&self.parts, &folded(name)),
        };
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The output of a name by the most certain reading that finds any, and that reading; `None` where none does.
    fn find(&self, name: &str) -> Result<Option<(u32, Reading)>, Mismatch> {
        for reading in Reading::ALL {
            match self.outputs(name, reading)[..] {
                [] => {}
                [output] => return Ok(Some((output, reading))),
                ref outputs => {
                    let outputs = outputs.iter().map(|o| (*o, self.names[*o as usize].clone())).collect();
                    return Err(Mismatch::Several { name: name.into(), outputs });
                }
            }
        }
        Ok(None)
    }
}

/// [`Names::matching`].
pub(super) fn matching(model: &Names, data: &[String]) -> Result<Matching, Mismatch> {
    if data.is_empty() {
        return Err(Mismatch::Empty);
    }
    let mut found = match model.names() {
        Some(names) => by_name(&names.value, &names.origin.to_string(), data)?,
        None if seems_imagenet(model.outputs(), data) => {
            let names: Vec<String> = imagenet::synsets().into_iter().map(Into::into).collect();
            let mut found = by_name(&names, "taken for ImageNet's, as the data's names are", data)?;
            let note = "no class names of the model are known: its 1000 outputs are taken for ImageNet's classes in their usual order";
            found.notes.insert(0, note.into());
            found.guessed = true;
            found
        }
        None => without_names(model.outputs(), data)?,
    };
    distinct(&found.outputs, data, |o| model.label(o))?;
    if data.len() < model.outputs() {
        found.notes.push(format!("the data has {} of the model's {} classes", data.len(), model.outputs()));
    }
    if !found.is_identity()
        && let Some((i, o)) = found.outputs.iter().enumerate().find(|(i, o)| *i != **o as usize)
    {
        found.notes.push(format!(
            "labels are renumbered as the model numbers its classes: class {i} of the data, `{}`, is output {o}",
            data[i]
        ));
    }
    Ok(found)
}

/// Whether a model without names seems to be one of ImageNet's: it has 1,000 outputs, and the data has WordNet's ids or nothing but names of
/// ImageNet's classes.
fn seems_imagenet(outputs: usize, data: &[String]) -> bool {
    outputs == imagenet::CLASSES
        && (data.iter().any(|n| imagenet::synset(&plain(n)).is_some())
            || data.iter().all(|n| !imagenet::classes_of(n).is_empty()))
}

fn by_name(names: &[String], origin: &str, data: &[String]) -> Result<Matching, Mismatch> {
    let index = Index::new(names);
    let found = data.iter().map(|n| index.find(n)).collect::<Result<Vec<_>, _>>()?;
    if found.iter().all(Option::is_none)
        && let Some(numbers) = numbers(data)
    {
        let outputs = in_range(&numbers, names.len())?;
        let example = &names[outputs[0] as usize];
        let note = format!(
            "the data's classes are numbers and are taken for those of the model's outputs: `{}` for `{example}`",
            data[0]
        );
        return Ok(Matching { outputs, guessed: true, notes: vec![note] });
    }
    let unknown: Vec<_> = data.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(n, _)| n).collect();
    if !unknown.is_empty() {
        let near = |n: &String| nearest(names.iter().map(String::as_str), n).into_iter().map(Into::into).collect();
        let unknown = unknown.into_iter().map(|n| (n.clone(), near(n))).collect();
        return Err(Mismatch::Unknown { unknown, data: data.len(), outputs: names.len(), origin: origin.into() });
    }
    let found: Vec<(u32, Reading)> = found.into_iter().flatten().collect();
    let mut notes = vec![];
    for reading in Reading::ALL.into_iter().skip(1) {
        let pairs: Vec<_> = data.iter().zip(&found).filter(|(_, (_, r))| *r == reading).collect();
        if !pairs.is_empty() {
            let some = pairs.iter().take(3).map(|(n, (o, _))| format!("`{n}` is `{}`", names[*o as usize]));
            let (some, more) = (some.collect::<Vec<_>>().join(", "), if pairs.len() > 3 { ", ..." } else { "" });
            notes.push(format!(
                "{} of the data's {} class names {}: {some}{more}",
                pairs.len(),
                data.len(),
                reading.told()
            ));
        }
    }
    Ok(Matching { outputs: found.iter().map(|(o, _)| *o).collect(), guessed: !notes.is_empty(), notes })
}

/// Where the model's names are not known: by number, or in order.
fn without_names(outputs: usize, data: &[String]) -> Result<Matching, Mismatch> {
    let all = data.len() == outputs;
    if let Some(numbers) = numbers(data) {
        let in_order = numbers.windows(2).all(|w| w[0] < w[1]);
        let fits = in_range(&numbers, outputs);
        // As many classes as outputs could also have been numbered by their place, which is the same where they lie in the order of 0, 1, 2.
        if all && !in_order {
            let mut sorted: Vec<usize> = (0..data.len()).collect();
            sorted.sort_by_key(|i| numbers[*i]);
            let place = (0..data.len()).find(|i| sorted[*i] != *i).unwrap_or(0);
            return Err(Mismatch::Order {
                order: data.iter().take(5).cloned().collect::<Vec<_>>().join(", "),
                place,
                number: data[sorted[place]].clone(),
                at_place: data[place].clone(),
            });
        }
        if !all || fits.is_ok() {
            let outputs = fits?;
            let note = format!(
                "no class names of the model are known: the data's classes are numbers and are taken for those of the outputs, `{}` for output {}",
                data[0], outputs[0]
            );
            return Ok(Matching { outputs, guessed: true, notes: vec![note] });
        }
    }
    if !all {
        return Err(Mismatch::Count { data: data.len(), outputs });
    }
    let note = format!(
        "no class names of the model are known: class i of the data is taken for output i, as `{}` for output 0",
        data[0]
    );
    Ok(Matching { outputs: (0..outputs as u32).collect(), guessed: true, notes: vec![note] })
}

/// The names as numbers, if all of them are nothing else.
fn numbers(data: &[String]) -> Option<Vec<u64>> {
    let number =
        |n: &String| Some(plain(n)).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse().ok());
    data.iter().map(number).collect()
}

fn in_range(numbers: &[u64], outputs: usize) -> Result<Vec<u32>, Mismatch> {
    let (least, most) = (numbers.iter().min().copied().unwrap_or(0), numbers.iter().max().copied().unwrap_or(0));
    if most >= outputs as u64 {
        return Err(Mismatch::Numbers { least, most, outputs });
    }
    Ok(numbers.iter().map(|n| *n as u32).collect())
}

/// Refuses two classes of one output, whose samples nobody could tell apart.
fn distinct(outputs: &[u32], data: &[String], label: impl Fn(usize) -> String) -> Result<(), Mismatch> {
    let mut of: BTreeMap<u32, Vec<&String>> = BTreeMap::new();
    outputs.iter().zip(data).for_each(|(o, n)| of.entry(*o).or_default().push(n));
    match of.into_iter().find(|(_, names)| names.len() > 1) {
        Some((output, names)) => {
            let label = label(output as usize);
            Err(Mismatch::Same { names: names.into_iter().cloned().collect(), output, label })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preparation::{Origin, Setting};

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn model(names: &[&str]) -> Names {
        Names::new(names.len(), Some(Setting::new(texts(names), Origin::File("config.json".into())))).unwrap()
    }

    fn nameless(outputs: usize) -> Names {
        Names::new(outputs, None).unwrap()
    }

    fn outputs(model: &Names, data: &[&str]) -> Vec<u32> {
        model.matching(&texts(data)).unwrap_or_else(|e| panic!("{data:?}: {e}")).outputs
    }

    fn why(model: &Names, data: &[&str]) -> String {
        model.matching(&texts(data)).unwrap_err().to_string()
    }

    #[test]
    fn equal_names_are_no_guess_in_any_order_and_form() {
        let m = model(&["ant", "café", "dog"]);
        let same = m.matching(&texts(&["ant", "café", "dog"])).unwrap();
        assert!(same.is_identity() && !same.guessed && same.notes.is_empty());
        let found = m.matching(&texts(&["dog", " cafe\u{301}"])).unwrap();
        assert_eq!((found.outputs, found.guessed), (vec![2, 1], false));
        assert!(
            found.notes[0].contains("2 of the model's 3")
                && found.notes[1].contains("class 0 of the data, `dog`, is output 2")
        );
        // Names that are numbers are names like others.
        assert_eq!(outputs(&model(&["0", "1", "10", "2"]), &["10", "2"]), [2, 3]);
    }

    #[test]
    fn names_that_people_read_as_the_same_are_told() {
        for (names, data) in [
            (&["Great White Shark", "ant"][..], "great_white-shark"),
            (&["café", "ant"], "caf\u{c3}\u{a9}"),
            (&["caf├⌐", "ant"], "café"),
            (&["tench, Tinca tinca", "ant"], "n01440764"),
            (&["n01440764", "ant"], "tench"),
            (&["lorry; truck", "ant"], "Truck"),
        ] {
            let found = model(names).matching(&texts(&[data])).unwrap_or_else(|e| panic!("{data}: {e}"));
            assert_eq!((found.outputs, found.guessed), (vec![0], true), "{data}");
            assert!(found.notes[0].contains(&format!("`{data}` is `{}`", names[0])), "{:?}", found.notes);
        }
        // Where the exact name is there, no other is meant.
        assert_eq!(outputs(&model(&["cat", "Cat"]), &["Cat", "cat"]), [1, 0]);
    }

    #[test]
    fn imagenets_classes_are_found_by_id_and_word() {
        let data = ["n01440764", "n02102040", "n02979186"];
        let found = nameless(1000).matching(&texts(&data)).unwrap();
        assert_eq!((found.outputs, found.guessed), (vec![0, 217, 482], true));
        assert!(found.notes[0].contains("ImageNet") && found.notes.iter().any(|n| n.contains("3 of the model's 1000")));
        assert_eq!(outputs(&nameless(1000), &["tench", "English_springer"]), [0, 217]);
        for names in [imagenet::synsets(), imagenet::lemmas(), imagenet::names()] {
            assert_eq!(outputs(&model(&names), &data), [0, 217, 482]);
            // The two cranes and the two maillots have one id each.
            assert_eq!(
                outputs(&model(&names), &["n02012849", "n03126707", "n03710637", "n03710721"]),
                [134, 517, 638, 639]
            );
        }
        assert!(why(&nameless(1000), &["n01440764", "n99999999"]).contains("`n99999999`"));
        assert!(why(&nameless(1000), &["crane", "tench"]).contains("output 134 `n02012849` or output 517"));
        // A model of ten of them, by their words.
        assert_eq!(outputs(&model(&["English springer", "tench"]), &["n01440764", "n02102040"]), [1, 0]);
    }

    #[test]
    fn classes_that_are_not_the_models_are_refused_by_name() {
        let m = model(&["ant", "cat", "dog"]);
        let e = why(&m, &["antt", "cat"]);
        assert!(
            e.starts_with(
                "1 of the data's 2 classes are not among the model's 3 (config.json): `antt` (did you mean `ant`"
            ),
            "{e}"
        );
        assert!(why(&m, &["cat", "CAT"]).contains("`cat` and `CAT` of the data are the same class"));
        assert!(why(&m, &["caf\u{e9}", "cafe\u{301}"]).contains("not among"));
        assert!(why(&model(&["crane", "crane"]), &["crane"]).contains("output 0 `crane` or output 1 `crane`"));
        assert!(why(&m, &[]).contains("no named classes"));
        let e = Names::new(1000, Some(Setting::new(texts(&["a"]), Origin::Record))).unwrap_err().to_string();
        assert!(e.contains("1000 outputs, but 1 names"), "{e}");
    }

    #[test]
    fn numbers_are_the_outputs_numbers_unless_that_is_doubtful() {
        let m = model(&["ant", "cat", "dog"]);
        assert_eq!(outputs(&m, &["2", "0"]), [2, 0]);
        assert_eq!(outputs(&m, &["00", "01", "02"]), [0, 1, 2]);
        assert!(why(&m, &["1", "2", "3"]).contains("do the data's numbers start at 1?"));
        assert!(why(&m, &["0", "7"]).contains("0 to 7"));
        assert!(why(&m, &["0", "cat"]).contains("`0`"));
        assert_eq!(outputs(&nameless(5), &["3", "1"]), [3, 1]);
        let twelve: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert!(nameless(12).matching(&twelve).unwrap().is_identity());
        let mut folders = twelve;
        folders.sort();
        let e = nameless(12).matching(&folders).unwrap_err().to_string();
        assert!(
            e.contains("order 0, 1, 10, 11, 2: output 2 can be class `2` by its number, or class `10` by its place"),
            "{e}"
        );
        // From 1 on and in order, the place is the only reading.
        assert_eq!(outputs(&nameless(3), &["1", "2", "3"]), [0, 1, 2]);
        assert!(why(&nameless(4), &["1", "4"]).contains("1 to 4"));
    }

    #[test]
    fn without_names_the_order_is_assumed_or_refused() {
        let found = nameless(2).matching(&texts(&["cat", "dog"])).unwrap();
        assert!(found.is_identity() && found.guessed && found.notes[0].contains("`cat` for output 0"));
        for (outputs, data) in [(3, &["cat", "dog"][..]), (1000, &["cat", "dog", "zebra fish"]), (1, &["cat", "dog"])] {
            let e = why(&nameless(outputs), data);
            assert!(e.contains("give a file with the names") && e.contains(&format!("{outputs} outputs")), "{e}");
        }
    }
}
