//! The 1,000 classes of ImageNet's challenge: WordNet's ids and words in the order that every library gives them.

use super::fold::folded;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The number of classes.
pub const CLASSES: usize = 1000;

/// One line per class: id, WordNet's words, torchvision's name. Written by `tests/golden/preparations.py`.
fn table() -> &'static [[&'static str; 3]] {
    static ALL: OnceLock<Vec<[&'static str; 3]>> = OnceLock::new();
    ALL.get_or_init(|| {
        let line = |l: &'static str| {
            let mut parts = l.split('\t');
            [(); 3].map(|()| parts.next().unwrap_or_default())
        };
        include_str!("imagenet.tsv").lines().map(line).collect()
    })
}

/// WordNet's ids of the classes, `n01440764` to `n15075141`, in the order of a model's 1,000 outputs. They are in alphabetical order.
///
/// ```
/// assert_eq!(candlelight_store::classes::synsets()[217], "n02102040");
/// ```
pub fn synsets() -> Vec<&'static str> {
    table().iter().map(|row| row[0]).collect()
}

/// WordNet's words for each class, such as `tench, Tinca tinca`. Two classes are called `crane`.
pub fn lemmas() -> Vec<&'static str> {
    table().iter().map(|row| row[1]).collect()
}

/// torchvision's name of each class, such as `tench`. No two are the same.
pub fn names() -> Vec<&'static str> {
    table().iter().map(|row| row[2]).collect()
}

/// The classes that a name can stand for: an id, all words, torchvision's name or, if it is none of these, one of the words.
pub(super) fn classes_of(name: &str) -> &'static [usize] {
    static WHOLE: OnceLock<BTreeMap<String, Vec<usize>>> = OnceLock::new();
    static PARTS: OnceLock<BTreeMap<String, Vec<usize>>> = OnceLock::new();
    fn index(spellings: fn(&[&'static str; 3]) -> Vec<&'static str>) -> BTreeMap<String, Vec<usize>> {
        let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (class, row) in table().iter().enumerate() {
            for spelling in spellings(row) {
                let classes = all.entry(folded(spelling)).or_default();
                if classes.last() != Some(&class) {
                    classes.push(class);
                }
            }
        }
        all
    }
    // Stanford Dogs and others put words behind the id: `n02085620-Chihuahua`.
    let key = folded(synset(name).unwrap_or(name));
    let whole = WHOLE.get_or_init(|| index(|row| row.to_vec()));
    let parts = PARTS.get_or_init(|| index(|row| row[1].split(", ").collect()));
    whole.get(&key).or_else(|| parts.get(&key)).map_or(&[], Vec::as_slice)
}

/// WordNet's id (`n` and eight digits) at the start of a name, if nothing or words follow it.
pub(super) fn synset(name: &str) -> Option<&str> {
    let name = name.trim();
    let (id, rest) = name.split_at_checked(9)?;
    let form = id.starts_with('n') && id[1..].bytes().all(|b| b.is_ascii_digit());
    (form && !rest.starts_with(char::is_alphanumeric)).then_some(id)
}

/// Whether these are the names of the 1,000 classes in their order, however they are spelled; a few may be spelled in a way of their own.
pub(super) fn is_imagenet(names: &[String]) -> bool {
    let agree = names.iter().enumerate().filter(|(i, n)| {
        let first = n.split(',').next().unwrap_or_default();
        classes_of(n).contains(i) || classes_of(first).contains(i)
    });
    names.len() == CLASSES && agree.count() >= CLASSES * 95 / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_thousand_classes_in_order() {
        let ids = synsets();
        assert_eq!((ids.len(), ids[0], ids[999]), (CLASSES, "n01440764", "n15075141"));
        assert!(ids.windows(2).all(|w| w[0] < w[1]) && ids.iter().all(|n| synset(n) == Some(*n)));
        assert!(lemmas().iter().chain(&names()).all(|n| !n.is_empty()));
        assert_eq!((lemmas()[0], names()[0]), ("tench, Tinca tinca", "tench"));
    }

    #[test]
    fn names_stand_for_classes() {
        assert_eq!(classes_of("n02102040"), [217]);
        assert_eq!(classes_of("English_Springer"), [217]);
        assert_eq!(classes_of("Tinca tinca"), [0]);
        assert_eq!(classes_of("n02085620-Chihuahua"), [151]);
        assert_eq!((synset("n020856201"), synset("nn0208562"), synset("né208562")), (None, None, None));
        assert_eq!(classes_of("crane"), [134, 517]);
        assert!(classes_of("n99999999").is_empty() && classes_of("").is_empty());
        let of = |v: Vec<&str>| v.into_iter().map(String::from).collect::<Vec<_>>();
        assert!([synsets(), lemmas(), names()].into_iter().all(|v| is_imagenet(&of(v))));
        let mut turned = of(names());
        turned.reverse();
        assert!(!is_imagenet(&turned) && !is_imagenet(&of(names()[..10].to_vec())));
    }
}
