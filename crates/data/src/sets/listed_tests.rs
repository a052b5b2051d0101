//! Lists as data sets are published with them: beside class folders, in archives, with columns of many kinds.

use crate::image::decode::tests::sample_png;
use crate::sets::dataset::Label;
use crate::sets::open::tests::{Root, labels, says, splits};
use crate::sets::open::{OpenConfig, open};
use crate::sets::tar_index::tests::tar_of;
use crate::sets::zip::tests::zip_of;

#[test]
fn lists_of_class_folders_divide_them_for_every_program() {
    // Food-101: lists without labels and extensions, in a folder of their own.
    let root = Root::new().tree(&[("f/images/pie", 4), ("f/images/soup", 3)]);
    root.put("f/meta/train.txt", "pie/0\npie/1\npie/2\nsoup/0\n").put("f/meta/test.txt", "pie/3\nsoup/1\nsoup/2\n");
    let c = root.read("f");
    assert_eq!(splits(&c), [("train", 4, vec![3, 1]), ("test", 3, vec![1, 2])]);
    assert_eq!(c.classes(), ["pie", "soup"]);
    says(&c, &["the classes are those of the folders"]);
    let images = open(&root.0.path().join("f"), &OpenConfig::unlabelled()).unwrap();
    assert_eq!(images.train().unwrap().data.len(), 4, "pretraining takes no image to test on");
    // A log is no list.
    root.put("f/meta/train.txt", "epoch 1 loss 0.5\n");
    let c = root.read("f");
    assert_eq!(splits(&c), [("", 7, vec![4, 3])]);
    says(&c, &["not read as a list"]);
}

#[test]
fn birds_are_read_by_their_tables() {
    let root = Root::new().tree(&[("CUB/images/001.Auk", 2), ("CUB/images/002.Wren", 2)]);
    root.put("CUB/images.txt", "1 001.Auk/0.png\n2 001.Auk/1.png\n3 002.Wren/0.png\n4 002.Wren/1.png\n")
        .put("CUB/classes.txt", "1 001.Auk\n2 002.Wren\n")
        .put("CUB/image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
        .put("CUB/train_test_split.txt", "1 1\n2 0\n3 1\n4 1\n")
        .put("attributes.txt", "1 has_bill_shape\n");
    for name in ["CUB", "."] {
        let c = root.read(name);
        assert_eq!(splits(&c), [("train", 3, vec![1, 2]), ("test", 1, vec![1, 0])]);
        assert_eq!(c.classes(), ["001.Auk", "002.Wren"]);
    }
    root.put("CUB/train_test_split.txt", "1 1\n2 0\n3 1\n");
    root.refused("CUB", &["train_test_split.txt", "no line of the image 4"]);
}

#[test]
fn lists_in_archives_are_those_of_folders() {
    let root = Root::new();
    let png = sample_png(2, 3);
    let entries: Vec<(&str, &[u8])> = vec![
        ("d/train/0.png", &png),
        ("d/train/1.png", &png),
        ("d/val/0.png", &png),
        ("d/train.csv", b"id,label\n0,red\n1,blue\n"),
        ("d/val.csv", b"id,label\n0,blue\n"),
    ];
    root.put("d.tar", tar_of(&entries)).put("d.zip", zip_of(&entries));
    for name in ["d.tar", "d.zip"] {
        let c = root.read(&format!("./{name}"));
        // Below one folder the lists are not at the root.
        assert_eq!(c.parts().len(), 2, "{c}");
    }
    let flat: Vec<(&str, &[u8])> = entries.iter().map(|(n, b)| (&n[2..], *b)).collect();
    root.put("f.tar", tar_of(&flat)).put("f.zip", zip_of(&flat));
    for (n, b) in &flat {
        root.put(&format!("f/{n}"), b);
    }
    for name in ["f", "f.tar", "f.zip"] {
        let c = root.read(name);
        assert_eq!(splits(&c), [("train", 2, vec![1, 1]), ("val", 1, vec![1, 0])], "{c}");
        assert!(c.parts()[1].data.get(0).is_ok());
    }
}

#[test]
fn each_split_may_have_a_list_of_its_own() {
    // HuggingFace's image folders, and Roboflow's columns of 0 and 1.
    let root = Root::new().tree(&[("h/train", 3), ("h/test", 2), ("r/train", 2), ("r/valid", 1)]);
    root.put("h/train/metadata.csv", "file_name,label\n0.png,b\n1.png,a\n2.png,b\n")
        .put("h/test/metadata.csv", "file_name,label\n0.png,a\n1.png,b\n");
    assert_eq!(splits(&root.read("h")), [("train", 3, vec![1, 2]), ("test", 2, vec![1, 1])]);
    root.put("r/train/_classes.csv", "filename, dog, cat\n0.png, 1, 0\n1.png, 0, 1\n")
        .put("r/valid/_classes.csv", "filename, dog, cat\n0.png, 0, 1\n");
    let c = root.read("r");
    assert_eq!(splits(&c), [("train", 2, vec![1, 1]), ("val", 1, vec![0, 1])]);
    assert_eq!(c.classes(), ["dog", "cat"], "in the order of the columns");
    // A list beside a text that says something else.
    let root = Root::new().tree(&[("t/train/x", 2), ("t/train/y", 2), ("t/val/images", 2)]);
    root.put("t/val/val_annotations.txt", "0.png\ty\n1.png\tx\n").put("t/val/README.txt", "Pictures of x and y.\n");
    assert_eq!(splits(&root.read("t"))[1], ("val", 2, vec![1, 1]));
    root.put("t/val/val_annotations.txt", "0.png 1\n1.png 0\n");
    says(&root.read("t"), &["its labels are numbers"]);
    root.put("t/val/val_annotations.txt", "").put("t/val.csv", "id,label\n0,x\n1,x\n");
    assert_eq!(splits(&root.read("t"))[1], ("val", 2, vec![2, 0]));
}

#[test]
fn columns_are_classes_in_their_order_and_all_of_them() {
    let root = Root::new().tree(&[("i", 3)]);
    root.put("i/l.csv", "image,MEL,NV,AK,VASC\n0,0.0,1.0,0.0,0.0\n1,1.0,0.0,0.0,0.0\n2,0.0,0.0,1.0,0.0\n");
    let c = root.read("i/l.csv");
    assert_eq!(c.classes(), ["MEL", "NV", "AK", "VASC"]);
    assert_eq!(labels(&c), [Some(1), Some(0), Some(2)]);
    says(&c, &["in the order of the columns"]);
    // CelebA: the number of lines, a header that does not name the images, -1 and 1.
    root.put("i/list_attr.txt", "3\nBald Smiling \n0.png -1  1\n1.png  1  1\n2.png -1 -1\n");
    let c = root.read("i/list_attr.txt");
    assert_eq!(c.classes(), ["Bald", "Smiling"]);
    let label = |i: usize| c.parts()[0].data.label(i).unwrap();
    assert_eq!([label(0), label(1), label(2)], [vec![1], vec![0, 1], vec![]].map(Label::Classes));
    // MXNet's lists, in any order.
    root.put("i/x.lst", "2\t1.0\t2.png\n0\t0.0\t0.png\n1\t1.0\t1.png\n");
    assert_eq!(labels(&root.read("i/x.lst")), [Some(1), Some(0), Some(1)]);
    // The ends of lines of old Macintoshes, and a list of classes with numbers.
    root.put("i/m.txt", "0.png cat\r1.png dog\r2.png cat\r").put("i/classes.txt", "0 dog\n1 cat\n");
    assert_eq!(labels(&root.read("i/m.txt")), [Some(1), Some(0), Some(1)]);
    // What is not read is said.
    root.put("i/n.csv", "path,label,fold,Usage\n0.png,cat,1,x\n1.png,dog,2,y\n2.png,dog,2,y\n");
    says(&root.read("i/n.csv"), &["the labels are the column `label`; not read: `fold`, `Usage`"]);
}

#[test]
fn tables_of_pixels_are_no_lists() {
    let root = Root::new();
    let pixels = |n: usize, by: &str| (0..n).map(|i| (i % 250).to_string()).collect::<Vec<_>>().join(by);
    root.put("mnist.csv", format!("5,{0}\n3,{0}\n", pixels(784, ",")));
    root.refused("mnist.csv", &["a table of pixels"]);
    let names = (0..784).map(|i| format!("pixel{i}")).collect::<Vec<_>>().join(",");
    root.put("train.csv", format!("label,{names}\n1,{0}\n0,{0}\n", pixels(784, ",")));
    root.refused("train.csv", &["a table of pixels"]);
    root.put("fer.csv", format!("emotion,pixels,Usage\n0,{0},Training\n", pixels(2304, " ")));
    root.refused("fer.csv", &["a table of pixels"]);
}

#[test]
fn what_belongs_to_a_split_is_known_or_asked() {
    let root = Root::new().tree(&[("a/train_1/x", 2), ("a/train_1/y", 2), ("a/train_2/x", 2), ("a/val/x", 1)]);
    let c = root.read("a");
    let e = c.labelled(c.train().unwrap()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("train_2") && e.contains("looks like the split `train`, too"), "{e}");
    let root = Root::new().tree(&[("b/train/x", 2), ("b/train_extra/x", 2), ("b/dev/x", 1)]);
    let c = root.read("b");
    assert!(c.labelled(c.train().unwrap()).is_ok());
    says(&c, &["dev: read as the split `val`"]);
    let root = Root::new();
    root.put("c/x/0.png", sample_png(2, 2)).put("c/x/0.npy", [1; 9]).put("c/y/1.png", sample_png(2, 2));
    root.put("c/y/2.heic", b"ftypheic");
    let c = root.read("c");
    assert_eq!(splits(&c), [("", 2, vec![1, 1])]);
    says(&c, &["1 arrays beside a picture of the same name", "1 pictures of kinds that are not read"]);
    // The same picture twice in a zip file, written by hand: the directory counts three, the reader finds two.
    let mut zip =
        zip_of(&[("x/0.png", &sample_png(2, 2)), ("x/1.png", &sample_png(2, 2)), ("y/2.png", &sample_png(2, 2))]);
    while let Some(at) = zip.windows(7).position(|w| w == b"x/1.png") {
        zip[at..at + 7].copy_from_slice(b"x/0.png");
    }
    root.put("d.zip", zip);
    let c = root.read("d.zip");
    says(&c, &["1 entries come again later"]);
    // Absolute names are below the archive, as tar unpacks them.
    root.put("e.tar", tar_of(&[("/data/x/0.png", &sample_png(2, 2)), ("/data/y/0.png", &sample_png(2, 2))]));
    assert_eq!(root.read("e.tar").classes(), ["x", "y"]);
}

#[cfg(unix)]
#[test]
fn a_linked_split_may_link_to_its_classes() {
    let root = Root::new().tree(&[("pool/cat", 2), ("pool/dog", 2)]);
    root.folder("ln/v2/train");
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.0.path().join(at)).unwrap();
    for c in ["cat", "dog"] {
        std::fs::rename(root.0.path().join("pool"), root.0.path().join("ln/pool")).ok();
        link(&format!("../../pool/{c}"), &format!("ln/v2/train/{c}"));
    }
    link("v2/train", "ln/train");
    let c = root.read("ln");
    assert_eq!(c.classes(), ["cat", "dog"]);
    assert_eq!(splits(&c)[0], ("train", 4, vec![2, 2]));
}

#[test]
fn folders_that_are_parts_or_places_are_no_classes() {
    // HAM10000: the images in two parts, the labels in a table beside them.
    let root = Root::new().tree(&[("h/HAM10000_images_part_1", 2)]);
    root.put("h/HAM10000_images_part_2/2.png", sample_png(2, 2))
        .put("h/HAM10000_images_part_2/3.png", sample_png(2, 2));
    root.put("h/meta.csv", "lesion_id,image_id,dx,age\nL0,0,nv,40\nL1,1,bkl,50\nL2,2,nv,60\nL3,3,nv,70\n");
    let c = root.read("h");
    assert_eq!(splits(&c), [("", 4, vec![1, 3])], "{c}");
    std::fs::remove_file(root.0.path().join("h/meta.csv")).unwrap();
    let c = root.read("h");
    assert!(c.classes().is_empty());
    says(&c, &["are parts of one whole, and no classes"]);
    // ISIC: one folder of images, and two tables.
    let root = Root::new().tree(&[("i/Training_Input", 2), ("k/class_1", 2), ("k/class_2", 2)]);
    root.put("i/truth.csv", "image,MEL,NV\n0,1,0\n1,0,1\n");
    assert_eq!(splits(&root.read("i")), [("", 2, vec![1, 1])]);
    root.put("i/metadata.csv", "image,age\n0,30\n1,40\n");
    says(&root.read("i"), &["which list has the labels?", "metadata.csv", "truth.csv"]);
    assert_eq!(root.read("k").classes(), ["class_1", "class_2"]);
    // ChestX-ray14: parts in parts, several findings, a list of the test images.
    let root = root.tree(&[("x/images_001/images", 2)]);
    root.put("x/images_002/images/2.png", sample_png(2, 2)).put("x/test_list.txt", "2.png\n");
    root.put("x/Data_Entry.csv", "Image Index,Finding Labels,Age,\n0.png,A|B,4,\n1.png,A,5,\n2.png,C,6,\n");
    let c = root.read("x");
    assert_eq!((splits(&c), c.classes().len()), (vec![("", 3, vec![2, 1, 1])], 3));
    says(&c, &["its files are found by their names"]);
    // A root that is several levels too high.
    let root = Root::new().tree(&[("c/cars/cars/train/a", 2), ("c/cars/cars/train/b", 2), ("c/cars/cars/test/a", 1)]);
    assert_eq!(splits(&root.read("c"))[0], ("train", 4, vec![2, 2]));
}

#[test]
fn parts_that_are_missing_are_named() {
    let root = Root::new();
    let record = [[1u8].as_slice(), &[7; 3072]].concat();
    for i in [2, 3, 4, 5] {
        root.put(&format!("c/data_batch_{i}.bin"), &record);
    }
    root.put("c/test_batch.bin", &record);
    root.refused("c", &["data_batch_1.bin", "not there", "data_batch_1.bin to data_batch_5.bin"]);
    root.put("s/a-000.tar", tar_of(&[("0.png", &sample_png(2, 2)), ("0.cls", b"1")]));
    root.refused("s/a-{000..004}.tar", &["4 of 5 archives are not there", "a-001.tar", ", ..."]);
}
