//! Splits and class folders in a tree of files: the same rules for folders on disk and inside archives.

use crate::sets::names::{Says, SplitName, UNREAD, class_name, extension, says, split_name, split_place};
use crate::sets::skipped::Skipped;
use crate::sets::tree::{FileId, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Folders whose name says nothing: what is in them belongs to the folder above.
const GENERIC: [&str; 13] = [
    "images",
    "image",
    "imgs",
    "img",
    "data",
    "dataset",
    "photos",
    "pictures",
    "pics",
    "jpegimages",
    "files",
    "raw",
    "samples",
];

/// One split of a tree.
#[derive(Debug)]
pub(crate) struct Found {
    /// `train`, `val`, `test`, a name of its own, or nothing where there are no splits.
    pub name: String,
    /// The folder it was found in, as messages show it.
    pub place: String,
    /// Its images, each with the number of its class in [`Layout::classes`].
    pub samples: Vec<(FileId, Option<u32>)>,
}

/// What a tree holds.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub parts: Vec<Found>,
    /// Names of class folders in the order they were met.
    pub classes: Vec<String>,
    /// Guesses and remarks, one line each.
    pub notes: Vec<String>,
    pub skipped: Skipped,
    /// Splits of which it is not known what belongs to them, and why.
    pub doubts: Vec<(String, String)>,
}

struct Reader<'a> {
    tree: &'a Tree,
    /// The images directly in each folder, and how many there are in it and below it.
    images: Vec<Vec<u32>>,
    total: Vec<usize>,
    labels: bool,
    out: Layout,
    numbers: BTreeMap<String, u32>,
    /// Class folders without images, by name.
    empty: Vec<(String, String)>,
}

/// Finds splits and classes. Without `labels` every image of a split is taken, wherever it lies.
pub(crate) fn layout(tree: &Tree, labels: bool) -> Layout {
    let mut out = Layout::default();
    let mut images: Vec<Vec<u32>> = Vec::with_capacity(tree.dirs.len());
    for d in 0..tree.dirs.len() {
        let mut here = vec![];
        // An array beside a picture of its name, such as a depth map, is no picture of its own.
        let array = |name: &str| extension(name) == "npy";
        let stem = |name: &'_ str| -> String { name.rsplit_once('.').map_or(name, |(s, _)| s).to_string() };
        let names = || tree.dirs[d].files.iter().map(|f| &*f.name);
        let both = names().any(array) && names().any(|n| !array(n) && says(n) == Says::Image);
        let pictures: BTreeSet<String> = if both {
            names().filter(|n| !array(n) && says(n) == Says::Image).map(stem).collect()
        } else {
            BTreeSet::new()
        };
        for f in 0..tree.dirs[d].files.len() {
            let id = (d as u32, f as u32);
            let name = &*tree.leaf(id).name;
            if both && array(name) && pictures.contains(&stem(name)) {
                out.skipped.add("arrays beside a picture of the same name", &tree.path(id).display());
            } else if tree.is_image(id) {
                here.push(f as u32);
            } else if UNREAD.contains(&extension(name).as_str()) {
                out.skipped.add("pictures of kinds that are not read", &tree.path(id).display());
            } else {
                out.skipped.add("files that are no images", &tree.path(id).display());
            }
        }
        images.push(here);
    }
    let mut total: Vec<usize> = images.iter().map(Vec::len).collect();
    let numbered: BTreeMap<&str, usize> = tree.dirs.iter().enumerate().map(|(i, d)| (d.name.as_str(), i)).collect();
    // Children follow their parents, so going backwards every folder is complete before its parent takes it.
    for d in (1..tree.dirs.len()).rev() {
        let name = &tree.dirs[d].name;
        let above = name.rfind('/').map_or("", |i| &name[..i]);
        if let Some(&parent) = numbered.get(above) {
            total[parent] += total[d];
        }
    }
    let mut reader = Reader { tree, images, total, labels, out, numbers: BTreeMap::new(), empty: vec![] };
    reader.read();
    reader.out
}

impl Reader<'_> {
    fn full(&self, d: usize) -> Vec<usize> {
        self.tree.children(d).into_iter().filter(|&c| self.total[c] > 0).collect()
    }

    fn read(&mut self) {
        let mut d = 0;
        // A root one level too high: everything lies in one folder, which has splits or a name that says nothing.
        while let (true, [c]) = (self.images[d].is_empty(), &self.full(d)[..]) {
            let c = *c;
            let wrapped = split_name(&self.tree.base(c)).is_none() && (self.leads_to_splits(c) || self.says_nothing(c));
            if self.splits(d).is_some() || !wrapped {
                break;
            }
            self.out.notes.push(format!(
                "everything lies in {}, which is read instead of {}",
                self.tree.shown(c),
                self.tree.shown(d)
            ));
            d = c;
        }
        if let Some(splits) = self.splits(d) {
            if !self.images[d].is_empty() {
                self.out.skipped.add_many("images beside the splits", self.images[d].len(), [self.tree.shown(d)]);
            }
            self.about_spellings(&splits);
            for (c, name) in splits {
                self.part(c, name);
            }
        } else if self.labels && self.class_first(d) {
            self.classes_with_splits(d);
        } else {
            self.part(d, String::new());
        }
        self.foreign_classes();
        self.about_parts(d);
        self.about_empty();
        self.about_one_class();
    }

    /// A split of its own name whose folders are no classes of the others, such as `unsup`, has no labels.
    fn foreign_classes(&mut self) {
        let usual = |p: &Found| matches!(p.name.as_str(), "train" | "val" | "test");
        let of = |p: &Found| p.samples.iter().filter_map(|(_, c)| *c).collect::<BTreeSet<u32>>();
        let known: BTreeSet<u32> = self.out.parts.iter().filter(|p| usual(p)).flat_map(of).collect();
        if known.is_empty() {
            return;
        }
        let mut notes = vec![];
        for p in self.out.parts.iter_mut().filter(|p| !usual(p)) {
            let other: Vec<u32> = of(p).difference(&known).copied().collect();
            let Some(first) = other.first() else { continue };
            notes.push(format!(
                "{}: its folders, such as `{}`, are no classes of the other splits: its images are read without labels",
                p.place, self.out.classes[*first as usize]
            ));
            p.samples.iter_mut().for_each(|(_, c)| *c = None);
        }
        self.out.notes.extend(notes);
        // Classes that nothing has any more are taken out of the list.
        let used: BTreeSet<u32> = self.out.parts.iter().flat_map(of).collect();
        let place: BTreeMap<u32, u32> = used.iter().enumerate().map(|(i, c)| (*c, i as u32)).collect();
        self.out.classes = used.iter().map(|c| self.out.classes[*c as usize].clone()).collect();
        self.numbers.retain(|_, n| place.contains_key(n));
        self.numbers.values_mut().for_each(|n| *n = place[n]);
        for p in &mut self.out.parts {
            p.samples.iter_mut().for_each(|(_, c)| *c = c.map(|c| place[&c]));
        }
    }

    /// Says where the folders that are read as classes all hold the same folders, as the parts of a cross-validation do.
    fn about_parts(&mut self, d: usize) {
        if !self.labels || self.out.parts.len() != 1 || !self.out.parts[0].name.is_empty() {
            return;
        }
        let classes = self.full(d);
        let below = |c: usize| self.full(c).iter().map(|&s| self.tree.base(s)).collect::<BTreeSet<String>>();
        let Some(first) = classes.first().map(|&c| below(c)) else { return };
        let same = classes.iter().all(|&c| self.images[c].is_empty() && below(c) == first);
        if classes.len() > 1 && first.len() > 1 && same {
            let listed = |names: &mut dyn Iterator<Item = String>| names.take(3).collect::<Vec<_>>().join("`, `");
            self.out.notes.push(format!(
                "the folders `{}` are read as classes, and all of them hold the same folders `{}`: if those are the \
                 classes, name one part, such as {}",
                listed(&mut classes.iter().map(|&c| self.tree.base(c))),
                listed(&mut first.iter().cloned()),
                self.tree.shown(classes[0])
            ));
        }
    }

    /// Says which folders are splits by a name that is not the split's own, and which look like a split that another folder is.
    fn about_spellings(&mut self, splits: &[(usize, String)]) {
        for (c, name) in splits {
            let base = self.tree.base(*c);
            let Some(s) = split_name(&base) else { continue };
            if s.split != name.as_str() {
                let other = splits.iter().find(|(_, n)| n == s.split);
                let Some((other, _)) = other.filter(|_| s.rest.is_empty()) else { continue };
                let (place, other) = (self.tree.shown(*c), self.tree.base(*other));
                // Of `train` and `train_extra` the first is meant; of `train_1` and `train_2` neither is more than the other.
                let doubt = !split_name(&other).is_some_and(|o| o.plain);
                let text = format!(
                    "{place}: looks like the split `{}`, too, for which `{other}` is read: put them into one folder, or name the one to read",
                    s.split
                );
                if doubt { self.out.doubts.push((s.split.into(), text)) } else { self.out.notes.push(text) }
            } else if !base.to_lowercase().contains(s.split) {
                self.out.notes.push(format!("{}: read as the split `{name}`", self.tree.shown(*c)));
            }
        }
    }

    fn says_nothing(&self, d: usize) -> bool {
        GENERIC.contains(&self.tree.base(d).to_lowercase().as_str())
    }

    /// Whether the folders of `c` are splits, or it holds one folder alone of which this is true.
    fn leads_to_splits(&self, mut c: usize) -> bool {
        loop {
            match (self.splits(c), &self.full(c)[..]) {
                (Some(_), _) => return true,
                (None, [only]) if self.images[c].is_empty() => c = *only,
                _ => return false,
            }
        }
    }

    /// Whether folders are parts of one whole, such as `images_001` and `images_002`, and no classes.
    fn are_parts(&self, folders: &[usize]) -> bool {
        const PARTS: [&str; 14] = [
            "part", "parts", "images", "image", "imgs", "batch", "chunk", "shard", "piece", "archive", "volume", "vol",
            "disc", "folder",
        ];
        let before = |&d: &usize| -> Option<String> {
            let name = self.tree.base(d).to_lowercase();
            let bare = name.trim_end_matches(|c: char| c.is_ascii_digit());
            (bare.len() < name.len()).then(|| bare.trim_end_matches(['-', '_', ' ', '.']).to_string())
        };
        let Some(first) = folders.first().and_then(before) else { return false };
        let word = first.rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
        folders.len() > 1 && PARTS.contains(&word) && folders.iter().all(|d| before(d).as_deref() == Some(&first))
    }

    /// The splits that the folders of `d` are, each with its name; `None` where they are no splits.
    fn splits(&self, d: usize) -> Option<Vec<(usize, String)>> {
        let children = self.tree.children(d);
        let full = children.iter().filter(|&&c| self.total[c] > 0).count();
        let parsed: Vec<Option<SplitName>> = children.iter().map(|&c| split_name(&self.tree.base(c))).collect();
        let others = |a: &SplitName| parsed.iter().flatten().any(|b| b.rest == a.rest && b.split != a.split);
        // Words besides the split's must be shared, as in seg_train and seg_test; train_station alone is no split.
        let known: Vec<(usize, &SplitName)> = children
            .iter()
            .zip(&parsed)
            .filter_map(|(&c, s)| Some((c, s.as_ref()?)))
            .filter(|(_, s)| s.rest.is_empty() || others(s))
            .collect();
        let mut kinds: Vec<&str> = known.iter().map(|(_, s)| s.split).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let split = match (&known[..], kinds.len()) {
            ([], _) => false,
            (_, 2..) => true,
            // One name of a split may be that of a class, such as `train` beside `bus`: then it holds images as they do.
            ([(c, _)], _) => full <= 1 || (self.images[*c].is_empty() && !self.full(*c).is_empty()),
            _ => true,
        };
        if !split {
            return None;
        }
        let mut all: Vec<(usize, String)> = vec![];
        for kind in &kinds {
            // Of several spellings the plainest is the split; the others keep their own names.
            let best = known
                .iter()
                .filter(|(_, s)| s.split == *kind)
                .min_by_key(|(c, s)| (self.tree.base(*c) != *kind, !s.plain, *c));
            all.extend(best.map(|(c, _)| (*c, kind.to_string())));
        }
        let taken: Vec<usize> = all.iter().map(|(c, _)| *c).collect();
        all.extend(
            children.into_iter().filter(|c| !taken.contains(c) && self.total[*c] > 0).map(|c| (c, self.tree.base(c))),
        );
        all.sort_by(|a, b| (split_place(&a.1), &a.1).cmp(&(split_place(&b.1), &b.1)));
        Some(all)
    }

    /// Whether every folder is a class whose folders are the splits: ROOT/CLASS/train/1.jpg.
    fn class_first(&self, d: usize) -> bool {
        let classes = self.full(d);
        let plain = |c: usize| split_name(&self.tree.base(c)).is_some_and(|s| s.rest.is_empty());
        classes.len() > 1
            && self.images[d].is_empty()
            && classes.iter().all(|&c| self.images[c].is_empty() && self.full(c).iter().all(|&s| plain(s)))
            && classes.iter().any(|&c| self.full(c).len() > 1)
    }

    fn classes_with_splits(&mut self, d: usize) {
        let mut parts: BTreeMap<&'static str, Found> = BTreeMap::new();
        for c in self.full(d) {
            let class = self.class(c);
            for s in self.full(c) {
                let Some(split) = split_name(&self.tree.base(s)).map(|s| s.split) else { continue };
                let new = || Found { name: split.into(), place: self.tree.shown(d), samples: vec![] };
                let found = parts.entry(split).or_insert_with(new);
                for i in self.tree.below(s) {
                    found.samples.extend(self.images[i].iter().map(|&f| ((i as u32, f), Some(class))));
                }
            }
        }
        self.out.notes.push(format!("{}: the splits lie inside the class folders", self.tree.shown(d)));
        for split in ["train", "val", "test"] {
            self.out.parts.extend(parts.remove(split));
        }
    }

    fn class(&mut self, d: usize) -> u32 {
        let name = class_name(&self.tree.base(d));
        let next = self.numbers.len() as u32;
        let out = &mut self.out;
        *self.numbers.entry(name.clone()).or_insert_with(|| {
            out.classes.push(name);
            next
        })
    }

    fn part(&mut self, mut d: usize, name: String) {
        // train/images/..., seg_train/seg_train/...
        while let (true, [c]) = (self.images[d].is_empty(), &self.full(d)[..]) {
            let same = split_name(&self.tree.base(*c)).is_some_and(|s| s.split == name);
            if !(same || self.says_nothing(*c)) {
                break;
            }
            self.out.notes.push(format!("{} is read instead of {}", self.tree.shown(*c), self.tree.shown(d)));
            d = *c;
        }
        let mut samples = vec![];
        let kids = self.full(d);
        let parts = self.labels && self.are_parts(&kids);
        if parts {
            let names: Vec<String> = kids.iter().take(3).map(|&k| format!("`{}`", self.tree.base(k))).collect();
            let text = format!("the folders {} are parts of one whole, and no classes", names.join(", "));
            self.out.notes.push(format!("{}: {text}", self.tree.shown(d)));
        }
        if !self.labels || parts || kids.is_empty() {
            for i in self.tree.below(d) {
                samples.extend(self.images[i].iter().map(|&f| ((i as u32, f), None)));
            }
        } else {
            if !self.images[d].is_empty() {
                self.out.skipped.add_many(
                    "images beside the class folders",
                    self.images[d].len(),
                    [self.tree.shown(d)],
                );
            }
            for c in kids {
                let class = self.class(c);
                for i in self.tree.below(c) {
                    samples.extend(self.images[i].iter().map(|&f| ((i as u32, f), Some(class))));
                }
            }
            let empty = self.tree.children(d).into_iter().filter(|&c| self.total[c] == 0);
            self.empty.extend(empty.map(|c| (class_name(&self.tree.base(c)), self.tree.shown(c))));
        }
        self.out.parts.push(Found { name, place: self.tree.shown(d), samples });
    }

    fn about_empty(&mut self) {
        for (name, place) in std::mem::take(&mut self.empty) {
            if self.numbers.contains_key(&name) {
                self.out.notes.push(format!("{place}: no image of this class"));
            } else {
                self.out.skipped.add("folders without images, which are no classes", &place);
            }
        }
    }

    fn about_one_class(&mut self) {
        let [only] = &self.out.classes[..] else { return };
        let Some(d) =
            (0..self.tree.dirs.len()).find(|&d| class_name(&self.tree.base(d)) == *only && self.full(d).len() > 1)
        else {
            return;
        };
        let inside: Vec<String> = self.full(d).into_iter().take(4).map(|c| self.tree.base(c)).collect();
        self.out.notes.push(format!(
            "all images are of one class, `{only}`; the folders in it ({}) look like the classes: name the folder above them, {}",
            inside.join(", "),
            self.tree.shown(d)
        ));
    }
}
