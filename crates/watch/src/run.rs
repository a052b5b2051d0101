//! What the folders of runs hold, as the page wants it.

use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Most points of a curve; longer ones are averaged.
const POINTS: usize = 1500;
/// Most runs on one page.
const RUNS: usize = 32;
/// Pictures that are larger are left out.
const LARGEST_PICTURE: u64 = 16 << 20;

/// The folders of the runs that a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs(pub(crate) Vec<(String, PathBuf)>);

/// Whether a folder is that of a run.
fn is_run(folder: &Path) -> bool {
    ["steps.jsonl", "log.txt"].iter().any(|f| folder.join(f).is_file())
}

impl Runs {
    /// The runs in these folders: the folders themselves, and those up to two levels below them.
    ///
    /// # Errors
    /// When a folder is not there, or none holds a run.
    pub fn find(folders: &[PathBuf]) -> io::Result<Self> {
        let mut found = vec![];
        for folder in folders {
            if !folder.is_dir() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: no such folder", folder.display())));
            }
            collect(folder, 2, &mut found)?;
        }
        found.truncate(RUNS);
        if found.is_empty() {
            let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            let message = format!("{}: no run in it (expected a folder with steps.jsonl or log.txt)", names.join(", "));
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let name = |p: &PathBuf| {
            let whole = p.canonicalize().unwrap_or_else(|_| p.clone());
            let parts: Vec<String> = whole.iter().map(|c| c.to_string_lossy().into_owned()).collect();
            parts[parts.len().saturating_sub(2)..].join("/")
        };
        Ok(Runs(found.into_iter().map(|p| (name(&p), p)).collect()))
    }

    /// The page with everything in it: one file that needs nothing else.
    pub fn report(&self) -> String {
        crate::page::page(&self.json(true))
    }

    /// What the page shows. Pictures are in it if `whole` is set, otherwise their names.
    pub(crate) fn json(&self, whole: bool) -> Value {
        let runs: Vec<Value> = self.0.iter().enumerate().map(|(i, (name, path))| run(i, name, path, whole)).collect();
        json!({ "time": now(), "live": !whole, "runs": runs })
    }

    /// A number that changes when a file of a run does.
    pub(crate) fn stamp(&self) -> u64 {
        let files = self.0.iter().flat_map(|(_, p)| [p.join("steps.jsonl"), p.join("log.txt")]);
        let of = |p: PathBuf| {
            let about = std::fs::metadata(p).ok()?;
            let at = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some(at.as_nanos() as u64 ^ about.len().rotate_left(32))
        };
        files.filter_map(of).fold(0, |sum, s| sum.wrapping_mul(31).wrapping_add(s))
    }

    /// A picture of a run, by the names that [`Runs::json`] gives.
    pub(crate) fn picture(&self, run: usize, name: &str) -> Option<Vec<u8>> {
        let (_, folder) = self.0.get(run)?;
        pictures(folder).contains(&name.to_string()).then(|| std::fs::read(folder.join(name)).ok()).flatten()
    }
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if is_run(folder) && !found.iter().any(|f| f == folder) {
        found.push(folder.into());
    }
    if depth > 0 {
        let mut below: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
        below.sort();
        for f in below.iter().filter(|f| f.is_dir() && !f.is_symlink()) {
            // A folder that cannot be read is none of ours.
            let _ = collect(f, depth - 1, found);
        }
    }
    Ok(())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    // A line that is being written is no JSON yet.
    String::from_utf8_lossy(&text).lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// The names of the pictures in a folder.
fn pictures(folder: &Path) -> Vec<String> {
    let png = |e: &std::fs::DirEntry| {
        e.path().extension().is_some_and(|x| x.eq_ignore_ascii_case("png"))
            && e.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST_PICTURE)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().filter(png);
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|n| !n.starts_with('.'));
    names.sort();
    names.truncate(12);
    names
}

fn run(number: usize, name: &str, folder: &Path, whole: bool) -> Value {
    let mut start = Value::Null;
    let mut steps: Vec<Map<String, Value>> = vec![];
    for line in lines(&folder.join("steps.jsonl")) {
        let Value::Object(line) = line else { continue };
        if let Some(s) = line.get("start") {
            start = s.clone();
            continue;
        }
        // Where a run went back to an older checkpoint, the steps after it count no more.
        let Some(done) = line.get("done").and_then(Value::as_u64) else { continue };
        let before = |l: &Map<String, Value>| l["done"].as_u64().is_some_and(|d| d < done);
        steps.truncate(steps.iter().rposition(before).map_or(0, |i| i + 1));
        steps.push(line);
    }
    let last = steps.last().map(|l| Value::Object(l.clone())).unwrap_or_default();
    let skipped = steps.iter().filter(|l| l.contains_key("skipped")).count();
    let pictures: Vec<Value> = pictures(folder)
        .into_iter()
        .filter_map(|n| {
            let stamp = std::fs::metadata(folder.join(&n)).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            let place = if whole {
                format!("data:image/png;base64,{}", base64(&std::fs::read(folder.join(&n)).ok()?))
            } else {
                format!("picture/{number}/{n}?{}", stamp.as_millis())
            };
            Some(json!({ "name": n, "place": place }))
        })
        .collect();
    let statistics = std::fs::read(folder.join("statistics.json")).unwrap_or_default();
    json!({
        "name": name,
        "path": folder.display().to_string(),
        "start": start,
        "last": last,
        "skipped": skipped,
        "curves": curves(&steps),
        "epochs": lines(&folder.join("log.txt")),
        "pictures": pictures,
        "statistics": serde_json::from_slice::<Value>(&statistics).unwrap_or_default(),
    })
}

/// The columns of the steps' lines, averaged over neighbours where there are too many.
fn curves(steps: &[Map<String, Value>]) -> Value {
    let size = steps.len().div_ceil(POINTS).max(1);
    let column = |name: &str| -> Vec<Value> {
        let mean = |part: &[Map<String, Value>]| {
            let values: Vec<f64> = part.iter().filter_map(|l| l.get(name)?.as_f64()).collect();
            if values.is_empty() { Value::Null } else { json!(values.iter().sum::<f64>() / values.len() as f64) }
        };
        steps.chunks(size).map(mean).collect()
    };
    let names = ["at", "loss", "lr", "norm", "rate", "wait"];
    Value::Object(names.iter().map(|n| ((*n).to_string(), Value::Array(column(n)))).collect())
}

/// Bytes as text, RFC 4648, for pictures in a page.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let n = part.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let letter = LETTERS[(n >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= part.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with a run that was continued from an older checkpoint.
    pub(crate) fn sample(folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let line = |done: u64, loss: &str| {
            format!(
                "{{\"time\":1.0,\"done\":{done},\"at\":{},\"loss\":{loss},\"lr\":0.1,\"rate\":9.0,\"left\":3}}\n",
                done as f64 / 4.0
            )
        };
        let start = |n: u64| {
            format!("\n{{\"time\":1.0,\"start\":{{\"kind\":\"classify\",\"done\":{n},\"total\":8,\"samples\":16}}}}\n")
        };
        let text =
            [start(0), line(1, "3.0"), line(4, "2.0"), line(6, "9.0"), start(4), line(5, "null"), line(8, "1.0")];
        std::fs::write(folder.join("steps.jsonl"), text.concat() + "{\"done\":9,").unwrap();
        std::fs::write(folder.join("log.txt"), "{\"epoch\":0,\"train_loss\":2.5,\"test_acc1\":50.0}\n").unwrap();
        std::fs::write(folder.join("picture.png"), b"\x89PNG").unwrap();
        std::fs::write(folder.join(".hidden.png"), b"x").unwrap();
    }

    #[test]
    fn runs_are_found_and_read() {
        let dir = tempfile::tempdir().unwrap();
        sample(&dir.path().join("a/seed0"));
        sample(&dir.path().join("a/seed1"));
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let runs = Runs::find(&[dir.path().join("a")]).unwrap();
        assert_eq!(runs.0.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["a/seed0", "a/seed1"]);
        let json = runs.json(false);
        let run = &json["runs"][0];
        assert_eq!(run["curves"]["loss"], json!([3.0, 2.0, null, 1.0]), "what came after the older checkpoint is gone");
        assert_eq!((&run["last"]["done"], &run["start"]["done"]), (&json!(8), &json!(4)));
        assert_eq!(run["epochs"][0]["test_acc1"], json!(50.0));
        assert_eq!(run["pictures"].as_array().unwrap().len(), 1);
        assert!(runs.picture(0, "picture.png").is_some());
        for name in ["../seed1/picture.png", ".hidden.png", "log.txt", ""] {
            assert!(runs.picture(0, name).is_none(), "{name}");
        }
        for missing in ["empty", "nowhere"] {
            assert!(Runs::find(&[dir.path().join(missing)]).unwrap_err().to_string().contains(missing));
        }
        let before = runs.stamp();
        std::fs::write(dir.path().join("a/seed1/log.txt"), "{\"epoch\":0}\n").unwrap();
        assert_ne!(runs.stamp(), before);
    }

    #[test]
    fn long_curves_are_averaged_and_pictures_encoded() {
        let point = |i: u64| json!({ "done": i, "at": i, "loss": i }).as_object().unwrap().clone();
        let steps: Vec<_> = (0..4500).map(point).collect();
        let c = curves(&steps);
        assert_eq!(c["loss"].as_array().unwrap().len(), 1500);
        assert_eq!(c["loss"][1], json!(4.0), "of 3, 4 and 5");
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
