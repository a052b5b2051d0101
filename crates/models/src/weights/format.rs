//! What a file is, by its first bytes, and what to do about one that holds no weights this library reads.

use std::io::Read;
use std::path::Path;

/// The formats of weights that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// safetensors.
    Safetensors,
    /// torch's zip format, since version 1.6.
    Zip,
    /// torch's format before that, a row of pickles.
    Legacy,
}

/// The number with which torch's old files begin, 0x1950a86a20f9469cfc6c, as pickles write it.
const LEGACY_MAGIC: [u8; 11] = [10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// First bytes of other files, and what these are.
const OTHERS: [(&[u8], &str); 20] = [
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF\r\n", "an HDF5 file, such as Keras writes (.h5)"),
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first (`gunzip`)"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first (`unxz`)"),
    (b"BZh", "compressed with bzip2: unpack it first (`bunzip2`)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (`unzstd`)"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"RIFF", "a RIFF file, such as a WebP picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x05\x06", "a zip archive with nothing in it"),
    (b"\x08\x01\x12", "a TensorFlow model or an ONNX model"),
    (b"SQLite", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"\xef\xbb\xbf", "a text file"),
];

/// How to get a file of weights out of another framework.
const SAVE: &str = "save `model.state_dict()` with torch.save, or with safetensors.torch.save_file";

/// The format of the file at `path`, which has `size` bytes.
///
/// # Errors
/// When it is none of those that are read; the sentence says what it is and what to do.
pub(crate) fn of(path: &Path) -> Result<(Format, u64), String> {
    let file = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_string(),
        _ => format!("cannot be opened: {e}"),
    })?;
    let about = file.metadata().map_err(|e| e.to_string())?;
    if !about.is_file() {
        return Err(
            "not a regular file, such as a pipe: weights are read at any place of a file; save them to one first"
                .into(),
        );
    }
    let size = about.len();
    let mut head = Vec::new();
    file.take(1024).read_to_end(&mut head).map_err(|e| format!("cannot be read: {e}"))?;
    Ok((sniff(&head, size)?, size))
}

/// The format by the first 1024 bytes.
///
/// # Errors
/// When it is none of those that are read.
pub(crate) fn sniff(head: &[u8], size: u64) -> Result<Format, String> {
    let has = |word: &[u8]| head.windows(word.len()).any(|w| w == word);
    if head.is_empty() {
        return Err("an empty file of 0 bytes, expected weights: an interrupted download or copy? Get it again".into());
    }
    if head.starts_with(b"version https://git-lfs") {
        return Err("a pointer of Git LFS, which stands for the weights: run `git lfs pull` where it was cloned, or \
                    download the file itself"
            .into());
    }
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if ["<!doctype html", "<html", "<head", "<?xml", "<!--"].iter().any(|p| text.starts_with(p)) {
        return Err(
            "an HTML page, not weights: the download answered with a page (of a login, or of an error); get the \
                    file by its direct link"
                .into(),
        );
    }
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Format::Zip);
    }
    if head.len() > 8 && head[8] == b'{' {
        let mut word = [0; 8];
        word.copy_from_slice(&head[..8]);
        let header = u64::from_le_bytes(word);
        if header > size.saturating_sub(8) {
            return Err(format!(
                "a truncated safetensors file: its header alone has {header} bytes, the file {size}; copy or download it again"
            ));
        }
        return Ok(Format::Safetensors);
    }
    if head.first() == Some(&0x80) && head[..head.len().min(32)].windows(11).any(|w| w == LEGACY_MAGIC) {
        return Ok(Format::Legacy);
    }
    if head.len() > 262 && &head[257..262] == b"ustar" {
        return Err("a tar archive, expected weights: unpack it and give the file in it (before version 0.1.12 torch \
                    itself wrote tar: load it there and save it again)"
            .into());
    }
    if head.len() > 8 && &head[4..8] == b"TFL3" {
        return Err(format!("a TensorFlow Lite model: {SAVE}"));
    }
    if head.first() == Some(&8) && (has(b"onnx") || has(b"pytorch")) {
        return Err(format!("an ONNX model, whose tensors have no state dict's names: {SAVE}"));
    }
    if head.first() == Some(&0x80) && head.get(1).is_some_and(|v| (2..=5).contains(v)) {
        return Err("a Python pickle that torch.save did not write: load it in Python and save its tensors as a \
                    dictionary with torch.save"
            .into());
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(format!("{what}, neither a PyTorch file nor safetensors: {SAVE}"));
    }
    if text.starts_with('{') || text.starts_with('[') {
        return Err(
            "JSON text, neither a PyTorch file nor safetensors: of weights in parts give the `*.index.json`, of \
                    a model its weights, not its configuration"
                .into(),
        );
    }
    let shown: String = match head.iter().take(16).all(|b| (b' '..0x7f).contains(b) || b"\r\n\t".contains(b)) {
        true => format!("it begins with the text `{}`", text.chars().take(24).collect::<String>().trim_end()),
        false => format!("it begins with the bytes {:02x?}", &head[..head.len().min(8)]),
    };
    Err(format!("neither a PyTorch file nor safetensors: {shown}. Either it is damaged or something else; {SAVE}"))
}

/// What a zip archive without torch's `data.pkl`, or with a program in it, is.
pub(crate) fn of_zip(names: &[String]) -> Option<String> {
    let any = |f: &dyn Fn(&str) -> bool| names.iter().any(|n| f(n));
    if any(&|n| n.ends_with("constants.pkl") || n.contains("/code/") || n.starts_with("code/")) {
        return Some(format!("a TorchScript program (torch.jit.save), not a state dict: load it in Python and {SAVE}"));
    }
    if any(&|n| n.contains("archive_format") || n.ends_with("models/model.json")) {
        return Some(format!("a program of torch.export (.pt2), not a state dict: {SAVE}"));
    }
    if any(&|n| n.ends_with("data.pkl")) {
        return None;
    }
    Some(if any(&|n| n.ends_with(".npy")) {
        "a NumPy archive (.npz): save its arrays under the names of a state dict, with \
         safetensors.numpy.save_file"
            .into()
    } else if any(&|n| n.ends_with("model.weights.h5") || n.ends_with("saved_model.pb") || n.contains("keras")) {
        format!("a model of Keras or TensorFlow: {SAVE}")
    } else if any(&|n| [".pth", ".pt", ".bin", ".safetensors", ".ckpt"].iter().any(|e| n.ends_with(e))) {
        "a zip archive with a file of weights in it: unpack it and give that file".into()
    } else {
        let first = names.first().map_or("nothing", |n| n.as_str());
        format!("a zip archive without torch's `data.pkl` (it holds {first}, ..): {SAVE}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_weights_is_named() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], &str); 17] = [
            (b"", "empty file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
            (b"\n <!DOCTYPE html><html>", "HTML page"),
            (b"<html><head>", "HTML page"),
            (b"\x93NUMPY\x01\x00", "NumPy array"),
            (b"\x89HDF\r\n\x1a\n", "Keras"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x1f\x8b\x08\0", "gunzip"),
            (b"\x08\x07\x12\x07pytorch\x1a\x05", "ONNX"),
            (b"\x1c\0\0\0TFL3\0\0\0\0", "TensorFlow Lite"),
            (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}", "a Python pickle"),
            (b"\x89PNG\r\n\x1a\n", "picture"),
            (b"hello", "neither a PyTorch file nor safetensors: it begins with the text `hello`"),
            (b"{\"architecture\": 1}", "JSON"),
            (b"\x00\x01\x02\x03", "[00, 01, 02, 03]"),
            (b"\xff\x00\0\0\0\0\0\0{\"a\"", "255 bytes"),
            (&tar, "a tar archive"),
        ];
        for (head, word) in cases {
            let e = sniff(head, head.len() as u64).unwrap_err();
            assert!(e.contains(word), "{word}: {e}");
        }
        assert_eq!(sniff(b"\x02\0\0\0\0\0\0\0{}", 10), Ok(Format::Safetensors));
        let zip = |names: &[&str]| of_zip(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(zip(&["archive/data.pkl", "archive/data/0"]), None);
        for (names, word) in [
            (&["m/code/__torch__.py", "m/data.pkl"][..], "TorchScript"),
            (&["m/constants.pkl", "m/data.pkl"], "TorchScript"),
            (&["a.npy", "b.npy"], ".npz"),
            (&["model.weights.h5", "config.json"], "Keras"),
            (&["run/best.pth"], "unpack"),
            (&["x.txt"], "x.txt"),
        ] {
            assert!(zip(names).unwrap().contains(word), "{word}");
        }
    }
}
