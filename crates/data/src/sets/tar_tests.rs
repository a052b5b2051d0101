//! Tests of archives, and archives for other tests.

use super::*;
use crate::sets::tar_headers::number;

pub(crate) fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut h = tar::Header::new_gnu();
        h.set_size(bytes.len() as u64);
        h.set_mode(0o644);
        // `set_path` would refuse what some of these tests need.
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.set_cksum();
        tar.append(&h, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn entries_are_found_again_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, tar_of(&[("cat/1.txt", b"one"), ("./dog/2.txt", b""), ("x", &[7; 2000])])).unwrap();
    for _ in 0..2 {
        let a = Archive::open(&path).unwrap();
        assert_eq!((0..3).map(|i| a.name(i)).collect::<Vec<_>>(), ["cat/1.txt", "dog/2.txt", "x"]);
        assert_eq!(a.read(0, 100).unwrap(), b"one");
        assert_eq!(a.read(2, 5000).unwrap(), [7; 2000]);
        assert!(a.read(2, 100).unwrap_err().to_string().contains("2000 bytes"));
        assert!(index_path(&path).exists());
    }
    // Another file under the same name, then a damaged index: both are noticed.
    std::fs::write(&path, tar_of(&[("new", b"n")])).unwrap();
    assert_eq!(Archive::open(&path).unwrap().name(0), "new");
    let mut bytes = std::fs::read(index_path(&path)).unwrap();
    for i in 0..bytes.len() {
        bytes[i] ^= 0x55;
        std::fs::write(index_path(&path), &bytes).unwrap();
        assert_eq!(Archive::open(&path).unwrap().read(0, 10).unwrap(), b"n", "byte {i}");
        bytes[i] ^= 0x55;
    }
}

#[test]
fn archives_in_an_archive_are_its_class_folders() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.tar");
    let (cats, dogs) = (tar_of(&[("1.jpg", b"meow")]), tar_of(&[("a/2.jpg", b"woof")]));
    std::fs::write(&path, tar_of(&[("cat.tar", &cats), ("dog.tar", &dogs)])).unwrap();
    let a = Archive::open(&path).unwrap();
    assert_eq!((a.name(0), a.name(1)), ("cat/1.jpg", "dog/a/2.jpg"));
    assert_eq!((a.read(0, 9).unwrap(), a.read(1, 9).unwrap()), (b"meow".to_vec(), b"woof".to_vec()));
}

#[test]
fn broken_archives_and_names_that_lead_outside_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.tar");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&path).unwrap_err().to_string()
    };
    let good = tar_of(&[("a", &[1; 600]), ("b", &[2; 600])]);
    assert!(error(&good[..900]).contains("truncated inside \"a\""));
    assert!(error(&good[..1800]).contains("broken archive"));
    let mut garbled = good.clone();
    garbled[0] ^= 0xff;
    assert!(error(&garbled).contains("broken archive"));
    for name in ["../up.jpg", "a/../../up.jpg"] {
        let e = error(&tar_of(&[(name, b"x")]));
        assert!(e.contains(name) && e.contains("outside"), "{e}");
    }
    assert!(Archive::open(&dir.path().join("none.tar")).unwrap_err().to_string().contains("none.tar"));
}

/// A header in the POSIX format with any kind, name and link, and its data.
pub(crate) fn entry(kind: u8, name: &[u8], target: &[u8], data: &[u8]) -> Vec<u8> {
    let mut h = [0u8; 512];
    h[..name.len()].copy_from_slice(name);
    h[100..108].copy_from_slice(b"0000644\0");
    h[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    h[156] = kind;
    h[157..157 + target.len()].copy_from_slice(target);
    h[257..265].copy_from_slice(b"ustar\x0000");
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = [&h[..], data].concat();
    all.resize(all.len().div_ceil(512) * 512, 0);
    all
}

fn opened(bytes: &[u8]) -> Archive {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let a = Archive::open(&path).unwrap();
    // Entries must be readable from the index as well, while the file is there.
    let again = Archive::open(&path).unwrap();
    let all = |a: &Archive| (0..a.len()).map(|i| (a.name(i).to_string(), a.read(i, 9999).unwrap())).collect::<Vec<_>>();
    assert_eq!(all(&a), all(&again));
    assert_eq!((a.notes(), a.skipped()), (again.notes(), again.skipped()));
    again
}

fn names(a: &Archive) -> Vec<&str> {
    (0..a.len()).map(|i| a.name(i)).collect()
}

const END: [u8; 1024] = [0; 1024];

#[test]
fn links_have_the_bytes_of_what_they_point_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let parts = [
        entry(b'0', b"cat/1.png", b"", b"meow"),
        entry(b'1', b"dog/hard.png", b"cat/1.png", b""),
        entry(b'2', b"dog/soft.png", b"../cat/1.png", b""),
        entry(b'2', b"dog/twice.png", b"soft.png", b""),
        entry(b'2', b"kitten", b"cat", b""),
        entry(b'2', b"dog/gone.png", b"nowhere.png", b""),
        entry(b'2', b"dog/out.png", b"../../etc/passwd", b""),
        entry(b'2', b"cat/up", b"..", b""),
        entry(b'2', b"a", b"b", b""),
        entry(b'2', b"b", b"a", b""),
        entry(b'3', b"dev", b"", b""),
        END.to_vec(),
    ];
    std::fs::write(&path, parts.concat()).unwrap();
    let a = Archive::open(&path).unwrap();
    assert_eq!(names(&a), ["cat/1.png", "dog/hard.png", "dog/soft.png", "dog/twice.png", "kitten/1.png"]);
    (0..a.len()).for_each(|i| assert_eq!(a.read(i, 9).unwrap(), b"meow", "{}", a.name(i)));
    let text = a.skipped().to_string();
    for what in ["links to nowhere", "links out of an archive", "links to a folder above", "neither files nor folders"]
    {
        assert!(text.contains(what), "{what}: {text}");
    }
}

#[test]
fn long_and_foreign_names_and_large_numbers_are_read() {
    let long = format!("cat/{}/1.png", "x".repeat(200));
    let pax = |records: &str| entry(b'x', b"pax", b"", records.as_bytes());
    let record = format!("path={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let mut prefixed = entry(b'0', b"1.png", b"", b"p");
    prefixed[345..353].copy_from_slice(b"deep/dir");
    let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(prefixed[i]) }).sum();
    prefixed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let bytes = [
        entry(b'L', b"././@LongLink", b"", format!("{long}.gnu\0").as_bytes()),
        entry(b'0', b"cut", b"", b"g"),
        pax(&record),
        entry(b'0', b"cut", b"", b"x"),
        prefixed,
        entry(b'0', b"caf\xe9/1.png", b"", b"l"),
        entry(b'5', b"folder/", b"", b""),
        END.to_vec(),
    ];
    let a = opened(&bytes.concat());
    assert_eq!(names(&a), [&format!("{long}.gnu"), &long, "deep/dir/1.png", "caf\u{e9}/1.png"]);
    assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x02\0"), Some(512));
    assert_eq!((number(b"00000000017\0"), number(b"9\0\0\0\0\0\0\0\0\0\0\0")), (Some(15), None));
}

#[test]
fn archives_that_were_joined_are_read_to_their_end() {
    let one = |name: &str| [entry(b'0', name.as_bytes(), b"", b"1"), END.to_vec()].concat();
    let padded = [one("cat/1.png"), vec![0; 9000 / 512 * 512], one("dog/1.png")].concat();
    let a = opened(&padded);
    assert_eq!((names(&a), a.segment(0), a.segment(1)), (vec!["cat/1.png", "dog/1.png"], 0, 1));
    let junk = [one("cat/1.png"), b"some trailer".repeat(100)].concat();
    let a = opened(&junk);
    assert!(a.len() == 1 && a.notes()[0].contains("1200 bytes follow the end"), "{:?}", a.notes());
    let cut = opened(&entry(b'0', b"cat/1.png", b"", b"1"));
    assert!(cut.notes()[0].contains("no end marker after 1 entries"), "{:?}", cut.notes());
}

#[test]
fn gzipped_archives_are_unpacked_and_other_files_are_named() {
    let tar = [entry(b'0', b"cat/1.png", b"", b"meow"), END.to_vec()].concat();
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tgz");
    std::fs::write(&path, gz.finish().unwrap()).unwrap();
    let a = Archive::open(&path).unwrap();
    assert_eq!((names(&a), a.read(0, 9).unwrap()), (vec!["cat/1.png"], b"meow".to_vec()));
    assert!(!index_path(&path).exists());
    for (bytes, word) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..], "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\xfd7zXZ\0abc", "xz -d"),
        (b"", "empty"),
        (b"\x1f\x8bnot gzip at all", "gzip"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let e = Archive::open(&path).unwrap_err().to_string();
        assert!(e.contains(word) && e.contains("a.tgz"), "{e}");
    }
}

#[test]
fn small_labels_come_from_the_index() {
    let a =
        opened(&[entry(b'0', b"1.cls", b"", b"17\n"), entry(b'0', b"2.cls", b"", &[b'1'; 100]), END.to_vec()].concat());
    assert_eq!((a.about.small.len(), a.read(0, 64).unwrap()), (1, b"17\n".to_vec()));
}
