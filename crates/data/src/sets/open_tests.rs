//! Folders, lists and archives as people have them, made small: what is read, what is said, what is refused.

use super::*;
use crate::error::Error;
use crate::image::decode::tests::sample_png;
use crate::sets::dataset::Label;
use crate::sets::tar_index::tests::{entry, tar_of};
use crate::sets::zip::tests::zip_of;

pub(crate) struct Root(pub(crate) tempfile::TempDir);

impl Root {
    pub(crate) fn new() -> Self {
        Root(tempfile::tempdir().unwrap())
    }

    /// So many pictures in each folder.
    pub(crate) fn tree(self, spec: &[(&str, usize)]) -> Self {
        for (folder, n) in spec {
            for k in 0..*n {
                self.put(&format!("{folder}/{k}.png"), sample_png(2 + k as u32, 3));
            }
        }
        self
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    pub(crate) fn folder(&self, name: &str) -> &Self {
        std::fs::create_dir_all(self.0.path().join(name)).unwrap();
        self
    }

    pub(crate) fn open(&self, name: &str) -> Result<Collection> {
        open(&self.0.path().join(name), &OpenConfig::default())
    }

    pub(crate) fn read(&self, name: &str) -> Collection {
        self.open(name).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The text of the error.
    #[track_caller]
    pub(crate) fn refused(&self, name: &str, words: &[&str]) {
        let e = self.open(name).map(|c| c.to_string()).unwrap_err().to_string();
        words.iter().for_each(|w| assert!(e.contains(w), "no `{w}` in: {e}"));
    }
}

/// (split, samples, samples of each class)
pub(crate) fn splits(c: &Collection) -> Vec<(&str, usize, Vec<usize>)> {
    c.parts().iter().map(|p| (p.name.as_str(), p.data.len(), p.counts.clone())).collect()
}

#[track_caller]
pub(crate) fn says(c: &Collection, words: &[&str]) {
    let text = c.to_string();
    words.iter().for_each(|w| assert!(text.contains(w), "no `{w}` in: {text}"));
}

pub(crate) fn labels(c: &Collection) -> Vec<Option<u32>> {
    let data = &c.parts()[0].data;
    (0..data.len()).map(|i| data.label(i).unwrap().class()).collect()
}

fn problem(c: &Collection) -> String {
    c.labelled(&c.parts()[0]).map(|d| d.len()).unwrap_err().to_string()
}

#[test]
fn all_splits_have_one_list_of_classes() {
    let root = Root::new().tree(&[("train/a", 4), ("train/b", 4), ("train/c", 4), ("val/a", 2), ("val/c", 2)]);
    let c = root.read("");
    assert_eq!(c.classes(), ["a", "b", "c"]);
    assert_eq!(splits(&c), [("train", 12, vec![4, 4, 4]), ("val", 4, vec![2, 0, 2])]);
    says(&c, &["kind       class folders", "val has no sample of 1 class: `b`"]);
    root.folder("val/b").folder("train/lost+found");
    let c = root.read("");
    assert_eq!((c.classes().len(), c.parts()[1].counts[1]), (3, 0));
    says(&c, &["val/b: no image of this class", "hidden or system"]);
    // A class that only the images to judge by have cannot be learnt.
    let root = Root::new().tree(&[("train/a", 2), ("train/b", 1), ("val/a", 1), ("val/d", 1)]);
    says(&root.read(""), &["train has no sample of 1 class: `d`, which can therefore not be learnt"]);
    root.folder("train/e");
    says(&root.read(""), &["1 folders without images, which are no classes"]);
}

#[test]
fn splits_are_found_by_any_spelling_and_others_are_listed() {
    for (train, val) in [
        ("Train", "Val"),
        ("TRAINING", "validation"),
        ("train_images", "dev"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ] {
        let root = Root::new().tree(&[
            (&format!("{train}/cat"), 5),
            (&format!("{train}/dog"), 5),
            (&format!("{val}/cat"), 3),
            (&format!("{val}/dog"), 3),
        ]);
        let c = root.read("");
        assert_eq!(
            (c.classes().len(), c.train().unwrap().data.len(), c.held_out().unwrap().data.len()),
            (2, 10, 6),
            "{train}"
        );
    }
    let root =
        Root::new().tree(&[("train/a", 4), ("train/b", 4), ("val/a", 2), ("val/b", 2), ("unsup/x", 3), ("unsup/y", 3)]);
    let c = root.read("");
    assert_eq!(c.parts().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["train", "val", "unsup"]);
    assert_eq!((c.split("Validation").unwrap().data.len(), c.split("unsup").unwrap().data.len()), (4, 6));
    assert_eq!(c.classes(), ["a", "b"]);
    assert!(c.split("unsup").unwrap().is_unlabelled());
    says(&c, &["such as `x`, are no classes of the other splits"]);
    for name in ["vall", "holdout", "test"] {
        let e = c.split(name).unwrap_err().to_string();
        assert!(
            e.contains(&format!("no split `{name}`")) && e.contains("train (8 samples), val (4 samples), unsup"),
            "{e}"
        );
    }
    let plain = Root::new().tree(&[("a", 1), ("b", 2)]);
    let c = plain.read("");
    assert!(!c.has_splits() && c.evaluated().unwrap().data.len() == 3);
    assert!(c.split("val").unwrap_err().to_string().contains("it has no splits"));
    assert!(c.to_classify().map(|_| ()).unwrap_err().to_string().contains("would be the same"));
    // A class called `train` beside other vehicles, and stations and tubes.
    assert_eq!(Root::new().tree(&[("bus", 1), ("train", 1), ("tram", 1)]).read("").classes(), ["bus", "train", "tram"]);
    assert_eq!(Root::new().tree(&[("train_station", 1), ("airport", 1)]).read("").classes().len(), 2);
    // Two spellings of one split: the plainest is it, the other keeps its name.
    let c = Root::new().tree(&[("train/a", 1), ("val/a", 1), ("valid/a", 2)]).read("");
    assert_eq!((c.split("val").unwrap().data.len(), c.split("valid").unwrap().data.len()), (1, 2));
    // Splits inside class folders.
    let c = Root::new().tree(&[("cat/train", 3), ("cat/test", 1), ("dog/train", 2), ("dog/test", 1)]).read("");
    assert_eq!(splits(&c), [("train", 5, vec![3, 2]), ("test", 2, vec![1, 1])]);
    says(&c, &["the splits lie inside the class folders"]);
}

#[test]
fn a_root_too_high_or_too_deep_is_recognised() {
    let root = Root::new().tree(&[
        ("one/train/images/cat", 6),
        ("one/train/images/dog", 6),
        ("one/val/images/cat", 3),
        ("one/val/images/dog", 3),
    ]);
    let c = root.read("");
    assert_eq!((c.classes(), c.parts().len()), (&["cat".to_string(), "dog".into()][..], 2));
    says(&c, &["everything lies in", "train/images is read instead of"]);
    let root = Root::new().tree(&[
        ("train/animals/cat", 2),
        ("train/animals/dog", 2),
        ("val/animals/cat", 1),
        ("val/animals/dog", 1),
    ]);
    let e = root.read("").to_classify().map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("one class, `animals`") && e.contains("cat, dog") && e.contains("look like the classes"), "{e}");
    let c = Root::new().tree(&[("cat", 3)]).read("cat");
    assert!(c.parts()[0].is_unlabelled());
    says(&c, &["kind       images without labels"]);
    assert!(problem(&c).contains("no labels"));
}

#[test]
fn an_archive_says_what_its_folder_says() {
    let root = Root::new().tree(&[("set/train/cat", 2), ("set/train/dog", 2), ("set/val/cat", 1), ("set/val/dog", 1)]);
    let png = sample_png(2, 3);
    root.put("set/train/.ipynb_checkpoints/x.png", &png).put("set/train/cat/.ipynb_checkpoints/y.png", &png);
    root.put("set/train/__MACOSX/cat/._0.png", b"x")
        .put("set/train/cat/._0.png", b"x")
        .put("set/train/cat/note.xml", b"<a>");
    let mut all: Vec<(String, Vec<u8>)> = vec![];
    let mut open = vec![root.0.path().join("set")];
    while let Some(dir) = open.pop() {
        for e in std::fs::read_dir(dir).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root.0.path()).unwrap().to_str().unwrap().to_string();
                all.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    let all: Vec<(&str, &[u8])> = all.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    root.put("set.tar", tar_of(&all)).put("set.zip", zip_of(&all));
    let folder = root.read("set");
    assert_eq!(splits(&folder), [("train", 4, vec![2, 2]), ("val", 2, vec![1, 1])]);
    for name in ["set.tar", "set.zip"] {
        let c = root.read(name);
        assert_eq!(splits(&c), splits(&folder), "{name}");
        let count = |c: &Collection| {
            c.skipped()
                .reasons()
                .iter()
                .map(|r| (r.what.clone(), r.count))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(count(&c), count(&folder), "{name}");
        let data = &c.parts()[0].data;
        (0..4).for_each(|i| assert_eq!(data.get(i).unwrap(), folder.parts()[0].data.get(i).unwrap()));
    }
}

#[test]
fn archives_are_splits_classes_or_pieces_by_their_names() {
    let png = sample_png(2, 2);
    let root = Root::new();
    for (name, n) in [("train-000000", "0"), ("train-000001", "1"), ("validation_0", "2")] {
        root.put(&format!("both/{name}.tar"), tar_of(&[("1.png", &png), ("1.cls", n.as_bytes())]));
    }
    let c = root.read("both");
    assert_eq!(splits(&c), [("train", 2, vec![1, 1, 0]), ("val", 1, vec![0, 0, 1])]);
    assert!(c.split("test").unwrap_err().to_string().contains("train (2 samples), val (1 samples)"));
    // One list of classes for all, although the last class is only in one split; unknown parts have their own names.
    root.put("both/extra-00.tar", tar_of(&[("1.png", &png), ("1.cls", b"4")]));
    let c = root.read("both");
    assert_eq!((c.classes().len(), c.parts()[2].name.as_str()), (5, "extra"));
    for name in ["train.tar", "val.tar"] {
        root.put(&format!("folders/{name}"), tar_of(&[("cat/1.png", &png), ("dog/1.png", &png)]));
    }
    assert_eq!(splits(&root.read("folders")), [("train", 2, vec![1, 1]), ("val", 2, vec![1, 1])]);
    for class in ["n02102040", "n01440764"] {
        root.put(&format!("classes/{class}.tar"), tar_of(&[("x.png", &png)]));
    }
    let c = root.read("classes");
    assert_eq!(c.classes(), ["n01440764", "n02102040"]);
    says(&c, &["each archive is a class"]);
    for n in 0..3 {
        root.put(&format!("pieces/{n:05}.tar"), tar_of(&[("0.png", &png), ("1.png", &png)]));
        root.put(&format!("captions/{n:05}.tar"), tar_of(&[("0.png", &png), ("0.txt", b"a cat")]));
    }
    let c = root.read("pieces");
    assert_eq!((c.classes().len(), c.parts()[0].data.len()), (0, 6));
    assert!(problem(&c).contains("no labels"));
    assert!(root.read("captions").parts()[0].is_unlabelled());
    // Archives in folders of splits.
    for split in ["train", "val"] {
        root.put(&format!("deep/{split}/0.tar"), tar_of(&[("1.png", &png), ("1.cls", b"0")]));
    }
    assert_eq!(splits(&root.read("deep")), [("train", 1, vec![1]), ("val", 1, vec![1])]);
    // Class folders come before archives beside them, and that is said.
    root.put("mixed/cat/1.png", &png).put("mixed/dog/1.png", &png).put("mixed/old.tar", tar_of(&[("1.png", &png)]));
    let c = root.read("mixed");
    assert_eq!(c.parts()[0].data.len(), 2);
    says(&c, &["1 archives beside the folders are not read"]);
}

#[test]
fn joined_repeated_and_nested_archives_lose_nothing_unsaid() {
    let png = sample_png(2, 2);
    let root = Root::new();
    let one = |names: &[&str]| tar_of(&names.iter().map(|n| (*n, &png[..])).collect::<Vec<_>>());
    root.put("ab.tar", [one(&["cat/0.png", "cat/1.png"]), one(&["dog/0.png", "cat/1.png"])].concat());
    let c = root.read("ab.tar");
    assert_eq!(splits(&c), [("", 3, vec![2, 1])]);
    says(&c, &["1 entries come again later under the same name"]);
    root.put("junk.tar", [one(&["cat/0.png", "dog/1.png"]), b"some trailer".repeat(100)].concat());
    says(&root.read("junk.tar"), &["1200 bytes follow the end"]);
    let inner = tar_of(&[("1.jpg", &png), ("a/2.jpg", &png)]);
    root.put("nested.tar", tar_of(&[("cat.tar", &inner), ("dog.tar", &inner)]));
    assert_eq!(splits(&root.read("nested.tar")), [("", 4, vec![2, 2])]);
    root.put(
        "links.tar",
        [entry(b'0', b"cat/1.png", b"", &png), entry(b'2', b"dog", b"cat", b""), vec![0; 1024]].concat(),
    );
    assert_eq!(splits(&root.read("links.tar")), [("", 2, vec![1, 1])]);
}

#[test]
fn headers_of_lists_are_recognised_by_content() {
    let root = Root::new().tree(&[("l", 12)]);
    let rows: String = (0..12).map(|k| format!("{k}.png,{k}\n")).collect();
    let right: Vec<Option<u32>> = (0..12).map(Some).collect();
    for header in ["", "path,label\n", "image_id,label\n", "path,breed\n", "Datei,Klasse\n", "sep=,\nfile,class\n"] {
        root.put("l/x.csv", format!("{header}{rows}"));
        let c = root.read("l/x.csv");
        assert_eq!((labels(&c), c.classes().len()), (right.clone(), 12), "{header}");
    }
    let pandas: String = (0..12).map(|k| format!("{k},{k}.png,{k}\n")).collect();
    root.put("l/x.csv", format!(",img,label\n{pandas}"));
    assert_eq!(labels(&root.read("l/x.csv")), right);
    root.put("l/x.csv", "path,a,b\n0.png,x,y\n1.png,z,w\n");
    root.refused("l/x.csv", &["which column holds the labels", "`a`", "`b`", "name it `label`"]);
    root.put("l/x.csv", "id,cat,dog\n0,1,0\n1,1,1\n2,0,0\n");
    let c = root.read("l/x.csv");
    let all: Vec<Label> = (0..3).map(|i| c.parts()[0].data.label(i).unwrap()).collect();
    assert_eq!(all, [Label::Classes(vec![0]), Label::Classes(vec![0, 1]), Label::Classes(vec![])]);
    says(&c, &["columns of 0 and 1", "`.png` is added"]);
    root.put("l/x.csv", "path,cat,dog\n0.png,1,0\n1.png,0,1\n");
    assert_eq!(labels(&root.read("l/x.csv")), [Some(0), Some(1)], "one class per row");
    root.put("l/x.csv", "path,label,split\n0.png,0,train\n1.png,1,train\n2.png,0,validation\n");
    assert_eq!(splits(&root.read("l/x.csv")), [("train", 2, vec![1, 1]), ("val", 1, vec![1, 0])]);
    root.put("l/x.csv", "\"1.png\",0\n,1\n");
    root.refused("l/x.csv", &["line 2 names no path"]);
    root.put("l/x.csv", "path,label\n");
    root.refused("l/x.csv", &["no line"]);
}

#[test]
fn json_lines_are_lists_and_other_json_is_none() {
    let root = Root::new().tree(&[("h/img", 4), ("k/f0/a", 1), ("k/f0/b", 1), ("k/f1/a", 1), ("k/f1/b", 1)]);
    let line = |k: usize| format!("{{\"file_name\": \"img/{k}.png\", \"label\": {}}}\n", k % 2);
    root.put("h/metadata.jsonl", (0..4).map(line).collect::<String>());
    for name in ["h", "h/metadata.jsonl"] {
        assert_eq!(labels(&root.read(name)), [Some(0), Some(1), Some(0), Some(1)], "{name}");
    }
    root.put("h/metadata.jsonl", "[{\"file_name\": \"img/0.png\"}]").put("h/coco.json", "{\"images\": []}");
    root.refused("h/metadata.jsonl", &["one JSON document", "one JSON object on each line"]);
    root.refused("h/coco.json", &["file_name"]);
    root.put("h/metadata.jsonl", "").put("h/l.txt", "/0.png 0\n/1.png 1\n");
    let c = root.read("h/l.txt");
    assert_eq!(labels(&c), [Some(0), Some(1)]);
    says(&c, &["paths are below", "img"]);
    says(&root.read("k"), &["`f0`, `f1`", "the same folders `a`, `b`", "name one part"]);
}

#[test]
fn labels_are_numbers_or_names_and_odd_ones_are_named_with_their_line() {
    let root = Root::new().tree(&[("l", 36)]);
    let csv = |f: &dyn Fn(i32) -> String| {
        format!("path,label\n{}", (0..12).map(|k| format!("{k}.png,{}\n", f(k))).collect::<String>())
    };
    root.put("l/float.csv", csv(&|k| format!("{k}.0")));
    let c = root.read("l/float.csv");
    assert_eq!((labels(&c)[10], c.classes().len()), (Some(10), 12));
    for (name, odd, words) in [
        ("minus", "-1", ["line 7", "negative"]),
        ("empty", "", ["line 7", "no label"]),
        ("nan", "nan", ["line 7", "no label"]),
        ("word", "label", ["whole numbers", "`label`"]),
        ("half", "2.5", ["whole numbers", "`2.5`"]),
    ] {
        let rows: String =
            (0..36).map(|k| format!("{k}.png,{}\n", if k == 5 { odd.into() } else { (k % 4).to_string() })).collect();
        root.put(&format!("l/{name}.csv"), format!("path,label\n{rows}"));
        let e = problem(&root.read(&format!("l/{name}.csv")));
        words.iter().for_each(|w| assert!(e.contains(w), "{name}: no `{w}` in {e}"));
    }
    root.put("l/multi.csv", "0.png,a;c\n1.png,b\n2.png,\n");
    let c = root.read("l/multi.csv");
    let all: Vec<Label> = (0..3).map(|i| c.parts()[0].data.label(i).unwrap()).collect();
    assert_eq!(all, [Label::Classes(vec![0, 2]), Label::Classes(vec![1]), Label::Classes(vec![])]);
    root.put("l/twice.csv", "0.png,a\n1.png,b\n0.png,b\n");
    assert!(problem(&root.read("l/twice.csv")).contains("lines 1 and 3 give"));
    root.put("l/numbers.csv", "path,x,y\n0.png,0.5,-1\n1.png,2,3e2\n");
    let numbers =
        open(&root.0.path().join("l/numbers.csv"), &OpenConfig { labels: LabelKind::Numbers, ..Default::default() })
            .unwrap();
    assert_eq!(numbers.parts()[0].data.label(1).unwrap(), Label::Numbers(vec![2.0, 300.0]));
    // The validation list is checked with the other, before the first step.
    root.put("x/train.csv", "../l/0.png,0\n../l/1.png,1\n").put("x/val.csv", "path,label\n../l/2.png,0\n../l/3.png,\n");
    let e = root.read("x").to_classify().map(|_| ()).unwrap_err();
    assert!(matches!(e, Error::Labels(_)) && e.to_string().contains("val.csv: line 3"), "{e}");
}

#[test]
fn lists_by_spreadsheets_are_read() {
    let root = Root::new().tree(&[("d/img", 4)]);
    let rows = |s: &str, slash: &str| {
        let row = |k: i32| format!("img{slash}{k}.png{s}{}\r\n", if k % 2 == 1 { "cat" } else { "dog" });
        format!("path{s}label\r\n{}", (0..4).map(row).collect::<String>())
    };
    let utf16: Vec<u8> = rows(",", "/").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes) in [
        ("semicolon", rows(";", "/").into_bytes()),
        ("tab", rows("\t", "/").into_bytes()),
        ("space", rows(" ", "/").into_bytes()),
        ("backslash", rows(",", "\\").into_bytes()),
        ("bom", [b"\xef\xbb\xbf", rows(",", "/").as_bytes()].concat()),
        ("utf16", utf16),
        (
            "quoted",
            rows("\",\"", "/").replace("\r\n", "\"\r\n").replace("path", "\"path").replace("img", "\"img").into_bytes(),
        ),
    ] {
        root.put(&format!("d/{name}.csv"), bytes);
        let c = root.read(&format!("d/{name}.csv"));
        assert_eq!(
            (labels(&c), c.classes()),
            (vec![Some(1), Some(0), Some(1), Some(0)], &["cat".to_string(), "dog".into()][..]),
            "{name}"
        );
    }
    // Kaggle's: names without extension, in a folder beside the list; and paths of another machine.
    root.put("k/train.csv", "id_code,diagnosis\na1,0\nb2,4\n")
        .put("k/train_images/a1.png", sample_png(2, 2))
        .put("k/train_images/b2.png", sample_png(2, 2));
    let c = root.read("k");
    assert_eq!((labels(&c), c.classes().len()), (vec![Some(0), Some(4)], 5));
    says(&c, &["train_images", "`.png` is added", "have no sample: 1, 2, 3"]);
    root.put("m/list.csv", "/home/someone/set/img/0.png,0\n/home/someone/set/img/1.png,1\n")
        .put("m/img/0.png", sample_png(2, 2))
        .put("m/img/1.png", sample_png(2, 2));
    says(&root.read("m/list.csv"), &["`home/someone/set` at their beginning is left out"]);
    root.put("m/list.csv", "img/0.png,0\nimg/7.png,1\n");
    root.refused("m/list.csv", &["1 of 2 files are not there", "line 2: img/7.png"]);
    root.put("m/list.csv", "https://example.org/0.png,0\n");
    root.refused("m/list.csv", &["line 1", "download"]);
    root.put("m/train.txt", "img/0.png 3\nimg/1.png 0\n");
    assert_eq!(labels(&root.read("m/train.txt")), [Some(3), Some(0)]);
    assert_eq!(splits(&root.read("m"))[0].1, 2);
    root.put("n/train.csv", "1.png,caf\u{e9}\n2.png,b\n")
        .put("n/1.png", sample_png(2, 2))
        .put("n/2.png", sample_png(2, 2));
    root.put("n/val.csv", "1.png,cafe\u{301}\n");
    assert_eq!(root.read("n").classes(), ["b", "café"]);
}

#[test]
fn lists_inside_splits_and_of_one_split_are_used() {
    // Tiny ImageNet: class folders to train on, a list with boxes to judge by.
    let root = Root::new().tree(&[
        ("t/train/n01/images", 2),
        ("t/train/n02/images", 2),
        ("t/val/images", 3),
        ("t/test/images", 1),
    ]);
    root.put("t/val/val_annotations.txt", "0.png\tn02\t0\t0\t62\t62\n1.png\tn01\t1\t1\t9\t9\n2.png\tn02\t0\t0\t6\t6\n");
    let c = root.read("t");
    assert_eq!(splits(&c), [("train", 4, vec![2, 2]), ("val", 3, vec![1, 2]), ("test", 1, vec![0, 0])]);
    says(&c, &["val_annotations.txt: labels of 3 images"]);
    assert!(c.to_classify().is_ok());
    // Kaggle: one list of the images to train on, and others without labels.
    let root = Root::new().tree(&[("k/train", 3), ("k/test", 2)]);
    root.put("k/labels.csv", "id,breed\n0,pug\n1,husky\n2,pug\n");
    let c = root.read("k");
    assert_eq!(splits(&c), [("train", 3, vec![1, 2])]);
    says(
        &c,
        &["all its images lie in the folder of the split `train`", "2 images of a split that the list does not name"],
    );
}

#[test]
fn pretraining_takes_every_image_to_train_on_and_no_other() {
    let root = Root::new().tree(&[("d/train/a", 3), ("d/train", 2), ("d/val/a", 4)]);
    let images = |name: &str| {
        open(&root.0.path().join(name), &OpenConfig::unlabelled())
            .map(|c| c.train().map(|p| p.data.len()).map_err(|e| e.to_string()))
    };
    assert_eq!(images("d").unwrap().unwrap(), 5);
    root.put("l/train.csv", "../d/train/0.png,0\n").put("l/val.csv", "../d/train/1.png,0\n");
    assert_eq!(images("l").unwrap().unwrap(), 1, "the list of the split");
    let png = sample_png(2, 2);
    root.put("t.tar", tar_of(&[("s/train/a/1.png", &png), ("s/train/b/1.png", &png), ("s/val/a/1.png", &png)]));
    assert_eq!(images("t.tar").unwrap().unwrap(), 2);
    let root = Root::new().tree(&[("val/a", 1), ("test/a", 1)]);
    let e = open(root.0.path(), &OpenConfig::unlabelled()).unwrap().train().map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("no split `train`") && e.contains("val (1 samples)"), "{e}");
}

#[test]
fn extensions_are_no_matter_where_content_tells() {
    let root = Root::new().tree(&[("a", 1), ("b", 1)]);
    root.put("a/plain", sample_png(2, 2))
        .put("b/odd.dat", sample_png(2, 2))
        .put("b/notes", b"text")
        .put("b/x.ppm", b"P6 1 1 255\nabc");
    let c = root.read("");
    assert_eq!(c.parts()[0].counts, [2, 3]);
    says(&c, &["1 files that are no images"]);
    root.put("one.png", sample_png(2, 2)).put("page.csv", b"<!DOCTYPE html><html>").put("x.parquet", b"PAR1....");
    root.refused("one.png", &["one picture"]);
    root.refused("page.csv", &["HTML page"]);
    root.refused("x.parquet", &["Parquet"]);
    root.refused("nowhere/x", &["no such file", "one.png"]);
    root.put("py/data_batch_1", b"").put("py/batches.meta", b"");
    root.refused("py", &["Python version", "cifar-10-binary"]);
}

#[cfg(unix)]
#[test]
fn links_to_files_of_another_class_are_said() {
    let root = Root::new().tree(&[("train/cat", 2), ("train/dog", 1)]);
    std::os::unix::fs::symlink("../cat/0.png", root.0.path().join("train/dog/x.png")).unwrap();
    std::fs::hard_link(root.0.path().join("train/cat/1.png"), root.0.path().join("train/dog/y.png")).unwrap();
    let c = root.read("");
    assert_eq!(c.parts()[0].counts, [2, 3]);
    says(&c, &["2 files have several labels"]);
}

#[test]
fn files_of_a_list_are_those_of_its_own_folder_or_of_none() {
    // The same names in every split, as with numbered files.
    let root = Root::new().tree(&[("tv/train", 4), ("tv/val", 2), ("tie/a", 3), ("tie/b", 3)]);
    let csv = |n: usize| format!("id,label\n{}", (0..n).map(|k| format!("{k},{}\n", k % 2)).collect::<String>());
    root.put("tv/train.csv", csv(4)).put("tv/val.csv", csv(2)).put("tie/list.csv", csv(3));
    let c = root.read("tv");
    let place = |part: usize| c.parts()[part].data.name(0);
    assert!(place(0).contains("train/0.png") && place(1).contains("val/0.png"), "{} {}", place(0), place(1));
    root.refused("tie/list.csv", &["tie/a and", "tie/b both hold files of its names", "a/0"]);
    // A picture that is missing is not replaced by one of its name that is something else.
    let root = Root::new().tree(&[("g/images", 9), ("h/one", 3)]);
    root.put("g/zz/9.png", sample_png(2, 3)).put("g/zz/8.png", sample_png(2, 3)).put("g/l.csv", csv(10));
    root.refused("g/l.csv", &["1 of 10 files are not there", "line 11: 9"]);
    // Images of one list in two folders without a name in common.
    root.put("h/two/3.png", sample_png(2, 3)).put("h/l.csv", csv(4));
    let c = root.read("h/l.csv");
    assert_eq!(c.parts()[0].data.len(), 4);
    says(&c, &["paths are below", "1 of its files are below", "two"]);
}

#[test]
fn lines_are_whole_and_columns_are_what_they_say() {
    let root = Root::new().tree(&[("l", 8)]);
    let refused = |text: &str, words: &[&str]| {
        root.put("l/x.csv", text).refused("l/x.csv", words);
    };
    let rows = |f: &dyn Fn(usize) -> String| (0..8).map(|k| format!("{k}.png,{}\n", f(k))).collect::<String>();
    refused(
        &format!("path,label\n{}0.png,crane, machine\n", rows(&|_| "cat".into())),
        &["line 10 has 3 cells", "quotes"],
    );
    refused("path,label\n0.png,a\n1.png,\"cat\n2.png,b\n", &["line 3: a quote"]);
    let split = |name: &str| format!("path,label,{name}\n{}", rows(&|k| format!("{},{}", k % 2, usize::from(k < 6))));
    refused(&split("split"), &["column `split` holds numbers", "is_valid"]);
    root.put("l/x.csv", split("is_valid"));
    assert_eq!(splits(&root.read("l/x.csv")), [("train", 2, vec![1, 1]), ("val", 6, vec![3, 3])]);
    says(&root.read("l/x.csv"), &["the splits are the column `is_valid`"]);
    // Several labels in a cell.
    let many = |data: &Collection| data.parts()[0].data.label(1).unwrap();
    root.put("l/x.csv", format!("Id,Target\n{}", rows(&|k| if k == 1 { "0 2".into() } else { format!("{}", k % 3) })));
    assert_eq!(many(&root.read("l/x.csv")), Label::Classes(vec![0, 2]));
    says(&root.read("l/x.csv"), &["numbers divided by spaces"]);
    root.put("l/x.csv", "path,labels\n0.png,\"['cat', 'dog']\"\n1.png,\"['dog']\"\n");
    assert_eq!(many(&root.read("l/x.csv")), Label::Classes(vec![1]));
    // A column without anything in it, and one that counts.
    root.put("l/x.csv", "0.png,0,\n1.png,1,\n");
    assert_eq!(labels(&root.read("l/x.csv")), [Some(0), Some(1)]);
    root.put("l/x.txt", "1 0.png\n2 1.png\n3 2.png\n");
    let c = root.read("l/x.txt");
    assert_eq!((labels(&c), c.classes().len()), (vec![None; 3], 0));
    says(&c, &["numbers the lines"]);
}

#[test]
fn several_lists_and_several_data_sets_are_told_apart() {
    let list = |n: usize| format!("id,label\n{}", (0..n).map(|k| format!("t/{k}.png,{}\n", k % 2)).collect::<String>());
    let root = Root::new().tree(&[("a/t", 4)]);
    root.put("a/train_1.csv", list(2)).put("a/train_2.csv", list(4));
    root.refused("a", &["train_1.csv", "train_2.csv", "both lists of the split `train`"]);
    // A list of the test images alone leaves the class folders what they are.
    let root = Root::new().tree(&[("b/train/x", 2), ("b/train/y", 2), ("b/test", 3)]);
    root.put("b/test.csv", "filename\ntest/0.png\n");
    let c = root.read("b");
    assert_eq!(splits(&c)[0], ("train", 4, vec![2, 2]));
    says(&c, &["test.csv", "is not read"]);
    let root = Root::new().tree(&[("c/x", 2), ("c/y", 2)]);
    root.put("c/cache/train.bin", vec![1; 3074]);
    root.refused("c", &["holds several data sets", "cache", "with pictures"]);
    // One file with two labels has none.
    let root = Root::new().tree(&[("d/train/x", 2), ("d/train/y", 2), ("d/val/images", 2)]);
    root.put("d/val/val.txt", "0.png\tx\n1.png\tx\n0.png\ty\n");
    let c = root.read("d");
    assert_eq!(splits(&c)[1], ("val", 2, vec![1, 0]));
    says(&c, &["line 3 gives 0.png another label"]);
    // Several labels in one split are several in all.
    let root = Root::new().tree(&[("e/t", 4)]);
    root.put("e/train.csv", list(4).replace(",1", ",0|1")).put("e/val.csv", list(2));
    let c = root.read("e");
    assert!(c.parts().iter().all(|p| matches!(p.data.label(0).unwrap(), Label::Classes(_))));
    says(&c, &["one label each"]);
}

#[test]
fn the_photo_of_a_key_is_taken_and_not_its_arrays() {
    let root = Root::new();
    let png = sample_png(2, 3);
    let all: Vec<(String, Vec<u8>)> = (0..2)
        .flat_map(|k| {
            [(format!("{k}.cls"), b"1".to_vec()), (format!("{k}.npy"), vec![0; 9]), (format!("{k}.png"), png.clone())]
        })
        .collect();
    let entries: Vec<(&str, &[u8])> = all.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    root.put("w.tar", tar_of(&entries));
    let c = root.read("w.tar");
    assert!(c.parts()[0].data.name(0).ends_with("0.png"), "{}", c.parts()[0].data.name(0));
    says(&c, &["2 keys have several pictures: the .png is taken, and not the .npy"]);
    // Keys that come twice.
    let twice: Vec<(&str, &[u8])> = [("0.png", &png[..]), ("0.cls", b"1"), ("0.png", &png), ("0.cls", b"2")].to_vec();
    root.put("t.tar", tar_of(&twice));
    says(&root.read("t.tar"), &["2 entries come again later"]);
}

#[test]
fn names_of_an_archive_have_one_encoding() {
    let root = Root::new();
    let png = sample_png(2, 3);
    // Names in GBK, some of files in ASCII.
    let gbk = |s: &str| encoding_rs::GBK.encode(s).0.into_owned();
    let names: Vec<Vec<u8>> =
        ["猫", "大象"].iter().flat_map(|c| ["照片", "a", "图", "b"].map(|f| gbk(&format!("{c}/{f}.png")))).collect();
    let tar: Vec<u8> = names
        .iter()
        .flat_map(|name| {
            let mut e = entry(b'0', b"placeholder", b"", &png);
            e[..100].fill(0);
            e[..name.len()].copy_from_slice(name);
            e[148..156].fill(b' ');
            let sum: u64 = e[..512].iter().map(|b| u64::from(*b)).sum();
            e[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            e
        })
        .chain(vec![0; 1024])
        .collect();
    root.put("d.tar", tar);
    let c = root.read("d.tar");
    assert_eq!(splits(&c), [("", 8, vec![4, 4])]);
    let mut classes = c.classes().to_vec();
    classes.sort();
    assert_eq!(classes, ["大象", "猫"]);
    says(&c, &["names are not UTF-8; read as GBK, which is a guess"]);
}
