//! Names as people give them: of splits, of classes, of images, and of what operating systems leave behind.

use crate::error::Result;
use std::cmp::Ordering;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Extensions of images: torchvision's list, and those that Pillow opens besides. Content decides what a file is; the extension only
/// whether it is looked at.
pub(crate) const EXTENSIONS: [&str; 19] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "ppm", "pgm", "pbm", "pnm", "pam", "bmp", "dib", "tif", "tiff",
    "webp", "gif", "mpo", "npy",
];

/// Extensions of files that people keep beside images and that are never images.
const OTHER: [&str; 31] = [
    "txt", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "toml", "md", "html", "htm", "pdf", "py", "ipynb",
    "sh", "log", "mat", "h5", "hdf5", "npz", "pkl", "pickle", "pt", "pth", "tar", "tgz", "gz", "zip", "index", "cls",
];

/// Extensions of pictures that are not read.
pub(crate) const UNREAD: [&str; 18] = [
    "heic", "heif", "avif", "jxl", "jp2", "j2k", "psd", "svg", "ico", "exr", "hdr", "tga", "cr2", "nef", "arw", "dng",
    "dcm", "nii",
];

/// The extension of a file name in lower case; empty where there is none.
pub(crate) fn extension(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map_or(String::new(), |(_, e)| e.to_ascii_lowercase())
}

/// What a file's name says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// An image.
    Image,
    /// Something else.
    Other,
    /// Nothing: its content has to tell.
    Nothing,
}

/// Whether a file's name says that it is an image.
pub(crate) fn says(name: &str) -> Says {
    let e = extension(name);
    if EXTENSIONS.contains(&e.as_str()) {
        Says::Image
    } else if OTHER.contains(&e.as_str()) {
        Says::Other
    } else {
        Says::Nothing
    }
}

/// Whether the first bytes of a file are those of an image of a kind that is read.
pub(crate) fn begins_like_an_image(head: &[u8]) -> bool {
    let pnm = matches!(head, [b'P', b'1'..=b'7', w, ..] if w.is_ascii_whitespace());
    let webp = head.len() >= 12 && head.starts_with(b"RIFF") && &head[8..12] == b"WEBP";
    let bmp = head.len() >= 10 && head.starts_with(b"BM") && head[6..10] == [0; 4];
    pnm || webp
        || bmp
        || [&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"]
            .iter()
            .any(|m| head.starts_with(m))
}

/// Whether a part of a path is what operating systems and tools leave behind, and no data: hidden names, `__MACOSX`, `lost+found` and their
/// like. The same rule holds for folders and archives, for files and folders.
pub(crate) fn is_litter(part: &str) -> bool {
    const LITTER: [&str; 11] = [
        "__macosx",
        "lost+found",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "#recycle",
        "#snapshot",
        "__pycache__",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    ];
    // `.` is the folder itself, as in `./cat/1.jpg`.
    (part.starts_with('.') && part != ".") || part.starts_with("~$") || LITTER.contains(&part.to_lowercase().as_str())
}

/// The place of a split in listings: `train`, `val`, `test`, then the others.
pub(crate) fn split_place(name: &str) -> usize {
    ["train", "val", "test"].iter().position(|s| *s == name).unwrap_or(3)
}

/// The split that one word means.
fn split_word(word: &str) -> Option<&'static str> {
    Some(match word {
        "train" | "training" | "trainset" | "trainingset" | "trn" => "train",
        "val" | "valid" | "validation" | "validate" | "valset" | "validationset" | "dev" | "devset" | "eval"
        | "evaluation" => "val",
        "test" | "testing" | "testset" | "tst" => "test",
        _ => return None,
    })
}

/// The words of a name in lower case, split at everything that is no letter and where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let (mut all, mut word, mut small) = (vec![], String::new(), false);
    for c in name.chars() {
        if (!c.is_alphabetic() || (small && c.is_uppercase())) && !word.is_empty() {
            all.push(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
        small = c.is_lowercase();
    }
    if !word.is_empty() {
        all.push(word);
    }
    all
}

/// A name as a split: which one, and the words that are left besides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitName {
    /// `train`, `val` or `test`.
    pub split: &'static str,
    /// Words that say something else, such as `seg` in `seg_train`.
    pub rest: Vec<String>,
    /// Whether the name is one word, such as `Val`.
    pub plain: bool,
}

/// Reads a folder's, list's or archive's name as a split: `train`, `Training`, `val_set`, `test-000003`, `train2017`, `TrainImages`.
pub(crate) fn split_name(name: &str) -> Option<SplitName> {
    const NEUTRAL: [&str; 21] = [
        "set", "sets", "data", "dataset", "images", "image", "imgs", "img", "photos", "pictures", "folder", "split",
        "dir", "list", "labels", "label", "files", "shard", "shards", "part", "samples",
    ];
    let all = words(name);
    let mut found: Vec<&'static str> = all.iter().filter_map(|w| split_word(w)).collect();
    found.dedup();
    let [split] = found[..] else { return None };
    let rest = all.iter().filter(|w| split_word(w).is_none() && !NEUTRAL.contains(&w.as_str())).cloned().collect();
    Some(SplitName { split, rest, plain: all.len() == 1 && !name.contains(|c: char| c.is_ascii_digit()) })
}

/// `name` in the spelling that splits have here: `validation` is `val`; a name of one's own stays as it is.
pub(crate) fn canonical_split(name: &str) -> String {
    split_name(name).filter(|s| s.rest.is_empty()).map_or_else(|| name.to_string(), |s| s.split.to_string())
}

/// How class names are ordered, and so numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassOrder {
    /// By their characters, "10" before "2", as in torchvision and MAE.
    #[default]
    Lexicographic,
    /// By the value of the numbers in them, "2" before "10", and without case, as in timm.
    Natural,
}

/// Sorts class names.
pub(crate) fn sort_classes(names: &mut [String], order: ClassOrder) {
    match order {
        ClassOrder::Lexicographic => names.sort_unstable(),
        ClassOrder::Natural => names.sort_by(|a, b| natural(a, b)),
    }
}

fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.to_lowercase(), b.to_lowercase());
    while !a.is_empty() && !b.is_empty() {
        let run = |s: &str, digits: bool| s.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(s.len());
        let both = a.starts_with(|c: char| c.is_ascii_digit()) && b.starts_with(|c: char| c.is_ascii_digit());
        let (x, y) = if both { (run(&a, true), run(&b, true)) } else { (run(&a, false), run(&b, false)) };
        let (head_a, head_b) = (&a[..x], &b[..y]);
        let by_value = |s: &str| s.trim_start_matches('0').to_string();
        let ordering = if both {
            let (va, vb) = (by_value(head_a), by_value(head_b));
            va.len().cmp(&vb.len()).then_with(|| va.cmp(&vb))
        } else {
            head_a.cmp(head_b)
        };
        if ordering != Ordering::Equal || (x == 0 && y == 0) {
            return ordering.then_with(|| a.cmp(&b));
        }
        (a, b) = (a[x..].to_string(), b[y..].to_string());
    }
    a.len().cmp(&b.len())
}

/// A class name as it is compared and shown: without spaces around it, in Unicode's composed form (NFC). A folder that macOS wrote as
/// `cafe` and a combining accent is the class `café` of a list.
pub(crate) fn class_name(name: &str) -> String {
    let name = name.trim();
    if is_nfc(name) { name.to_string() } else { name.nfc().collect() }
}

/// The text of a file's bytes, and a line about a guess: UTF-8 with or without its mark, UTF-16, and otherwise the encoding that the bytes
/// look like.
///
/// # Errors
/// When the bytes are no text.
pub(crate) fn text(path: &std::path::Path, bytes: &[u8]) -> Result<(String, Option<String>)> {
    let clean = |s: String| {
        let s = s.trim_start_matches('\u{feff}');
        // Lines of the old Macintosh end with a carriage return alone.
        if s.contains('\n') { s.to_string() } else { s.replace('\r', "\n") }
    };
    if let Ok(s) = std::str::from_utf8(bytes)
        && !s.contains('\0')
    {
        return Ok((clean(s.to_string()), None));
    }
    let nul = bytes.iter().filter(|b| **b == 0).count();
    let marked = encoding_rs::Encoding::for_bom(bytes).map(|(e, _)| e);
    let encoding = match marked {
        Some(e) => e,
        // Text in Latin letters as UTF-16 without its mark: every other byte is zero.
        None if nul * 3 > bytes.len() && bytes.len() % 2 == 0 => {
            let low = bytes.chunks_exact(2).filter(|p| p[1] == 0).count();
            if low * 4 > bytes.len() { encoding_rs::UTF_16LE } else { encoding_rs::UTF_16BE }
        }
        None if nul > 0 => {
            return Err(crate::error::file(path, "holds zero bytes: this is no text; expected names, one per line"));
        }
        None => {
            let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
            detector.feed(bytes, true);
            detector.guess(None, chardetng::Utf8Detection::Deny)
        }
    };
    let (s, _, wrong) = encoding.decode(bytes);
    if wrong {
        return Err(crate::error::file(path, format!("is neither UTF-8 nor {}: save it as UTF-8", encoding.name())));
    }
    let guess = format!("{}: not UTF-8; read as {}", path.display(), encoding.name());
    Ok((clean(s.into_owned()), Some(guess)))
}

/// A name of bytes, as archives have it: UTF-8, else what the bytes look like.
pub(crate) fn decoded(bytes: &[u8]) -> String {
    if let Ok(s) = std::str::from_utf8(bytes) {
        return s.to_string();
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    detector.guess(None, chardetng::Utf8Detection::Deny).decode_without_bom_handling(bytes).0.into_owned()
}

/// The encoding of those names of an archive that are not UTF-8: one for all of them, so that a folder has one name in every path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameCoding(&'static encoding_rs::Encoding);

impl NameCoding {
    /// The encoding that all these names look like; `None` where there are none.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Self> {
        let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Deny);
        let mut any = false;
        for name in names.clone() {
            any = true;
            detector.feed(name, false);
            detector.feed(b"\n", false);
        }
        detector.feed(b"", true);
        let coding = detector.guess(None, chardetng::Utf8Detection::Deny);
        // Where some name is none of that encoding, each byte is a letter, so that no two names become one.
        let fits = names.clone().all(|n| !coding.decode_without_bom_handling(n).1);
        any.then_some(NameCoding(if fits { coding } else { encoding_rs::WINDOWS_1252 }))
    }

    /// Whether names in it can be UTF-8 by accident, as GBK's often are.
    pub(crate) fn takes_all(self) -> bool {
        !self.0.is_single_byte()
    }

    pub(crate) fn decode(self, name: &[u8]) -> String {
        self.0.decode_without_bom_handling(name).0.into_owned()
    }

    /// What is said about it.
    pub(crate) fn note(self, path: &std::path::Path, n: usize) -> String {
        format!("{}: {n} names are not UTF-8; read as {}, which is a guess", path.display(), self.0.name())
    }
}

/// The first of the 128 private characters that stand for the bytes of a name that is no UTF-8, until its encoding is known.
const KEPT: u32 = 0xf780;

/// A name of bytes as text that keeps its bytes; see [`bytes_of_kept`].
pub(crate) fn kept(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(s) => s.to_string(),
        Err(_) => {
            let one = |b: u8| if b < 0x80 { Some(char::from(b)) } else { char::from_u32(KEPT + u32::from(b) - 0x80) };
            name.iter().filter_map(|&b| one(b)).collect()
        }
    }
}

/// The bytes of a name that [`kept`] had to keep; `None` of one that was UTF-8.
pub(crate) fn bytes_of_kept(name: &str) -> Option<Vec<u8>> {
    let is = |c: char| (KEPT..KEPT + 128).contains(&(c as u32));
    if !name.contains(is) || name.chars().any(|c| !c.is_ascii() && !is(c)) {
        return None;
    }
    Some(name.chars().map(|c| if is(c) { (c as u32 - KEPT + 0x80) as u8 } else { c as u8 }).collect())
}

/// The names in a file of one name per line; lines of nothing are left out.
///
/// # Errors
/// When the file cannot be read or is no text.
pub(crate) fn read_names(path: &std::path::Path) -> Result<(Vec<String>, Option<String>)> {
    let bytes = super::retry::read(path)?;
    let (text, note) = text(path, &bytes)?;
    Ok((text.lines().map(class_name).filter(|l| !l.is_empty()).collect(), note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_known_by_any_spelling() {
        for (name, want) in [
            ("train", "train"),
            ("Train", "train"),
            ("TRAINING", "train"),
            ("train_set", "train"),
            ("train2017", "train"),
            ("TrainImages", "train"),
            ("train-000012", "train"),
            ("Valid", "val"),
            ("validation_data", "val"),
            ("dev", "val"),
            ("Testing", "test"),
            ("images_test", "test"),
        ] {
            let s = split_name(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((s.split, s.rest.len()), (want, 0), "{name}");
        }
        assert_eq!(split_name("seg_train").unwrap().rest, ["seg"]);
        assert_eq!(split_name("train_station").unwrap().rest, ["station"]);
        for name in ["vall", "trainer", "trainval", "train_val", "cat", "holdout", "unsup", ""] {
            assert_eq!(split_name(name), None, "{name}");
        }
        assert_eq!((canonical_split("Validation"), canonical_split("unsup")), ("val".into(), "unsup".into()));
    }

    #[test]
    fn what_systems_leave_behind_is_no_data() {
        for part in [".DS_Store", "._cat.jpg", "__MACOSX", "lost+found", "Thumbs.db", ".ipynb_checkpoints", "@eaDir"] {
            assert!(is_litter(part), "{part}");
        }
        for part in ["cat", ".", "_cat", "lost", "macosx"] {
            assert!(!is_litter(part), "{part}");
        }
    }

    #[test]
    fn classes_are_numbered_in_the_order_asked_for() {
        let mut names: Vec<String> = ["n10", "n2", "N1", "a", "n02b", "10", "9", "n2a"].map(String::from).to_vec();
        sort_classes(&mut names, ClassOrder::Natural);
        assert_eq!(names, ["9", "10", "a", "N1", "n2", "n2a", "n02b", "n10"]);
        sort_classes(&mut names, ClassOrder::Lexicographic);
        assert_eq!(names, ["10", "9", "N1", "a", "n02b", "n10", "n2", "n2a"]);
    }

    #[test]
    fn text_is_read_in_the_encodings_that_spreadsheets_write() {
        let path = std::path::Path::new("l.csv");
        let utf16: Vec<u8> = "\u{feff}café,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [b"caf\xc3\xa9,1\n".to_vec(), b"\xef\xbb\xbfcaf\xc3\xa9,1\n".to_vec(), utf16[2..].to_vec(), utf16]
        {
            assert_eq!(text(path, &bytes).unwrap().0, "café,1\n");
        }
        let (latin, note) = text(path, b"un caf\xe9 pr\xe8s de la for\xeat,1\n").unwrap();
        assert_eq!(latin, "un café près de la forêt,1\n");
        assert!(note.unwrap().contains("not UTF-8"));
        assert!(text(path, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").is_err());
        assert_eq!(class_name(" cafe\u{301} "), "café");
    }
}
