//! Other labels than those of the data: the reassessed ones of ImageNet, and a part of the model's classes.

use crate::Result;
use candlelight_store::nearest;
use std::path::Path;

/// The reassessed labels of ImageNet's validation images, any number per image (L. Beyer et al., arXiv 2006.07159).
#[derive(Debug, Clone, PartialEq)]
pub struct RealLabels {
    labels: Vec<Vec<u32>>,
    top1: u64,
    top5: u64,
    samples: u64,
}

impl RealLabels {
    /// Reads `real.json`: a list of labels for each image, in the order of the images' numbers.
    ///
    /// # Errors
    /// When it cannot be read, or is another file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let labels = serde_json::from_str(&text).map_err(|e| {
            format!("{}: {e}: expected a list of lists of class numbers, one for each image", path.display())
        })?;
        Ok(RealLabels { labels, top1: 0, top5: 0, samples: 0 })
    }

    /// Counts an image by its file name, which ends in its number, from 1: `ILSVRC2012_val_00000001.JPEG`. Images without labels do not
    /// count.
    ///
    /// # Errors
    /// When the name has no number, or the file no labels for it.
    pub fn add(&mut self, name: &str, logits: &[f32]) -> Result<()> {
        let stem = Path::new(name).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: Option<usize> = stem[stem.len() - digits..].parse().ok();
        let labels = number.and_then(|n| self.labels.get(n.checked_sub(1)?)).ok_or_else(|| {
            let all = self.labels.len();
            format!("--real_labels: {name}: expected a name that ends in a number from 1 to {all}, as ImageNet's validation images have")
        })?;
        if labels.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Equal logits rank by their index.
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let right = |k: usize| order.iter().take(k).any(|i| labels.contains(&(*i as u32)));
        self.top1 += u64::from(right(1));
        self.top5 += u64::from(right(5));
        self.samples += 1;
        Ok(())
    }

    /// The shares of images with a right class first, and among the first five, in percent, and the number of images.
    pub fn scores(&self) -> (f64, f64, u64) {
        let share = |n: u64| 100.0 * n as f64 / self.samples.max(1) as f64;
        (share(self.top1), share(self.top5), self.samples)
    }
}

/// The outputs of a model that a file lists, one per line or separated by commas: by name where every word is one, else by number.
///
/// # Errors
/// When it cannot be read, or lists what is no output of the model.
pub fn valid(path: &Path, outputs: usize, names: &[String]) -> Result<Vec<bool>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let named = |word: &str| names.iter().position(|n| n == word);
    // Names may hold commas, numbers do not.
    let words = |line: &str| -> Vec<String> {
        let whole = line.trim();
        let parts = if named(whole).is_some() { vec![whole] } else { line.split(',').map(str::trim).collect() };
        parts.into_iter().filter(|w| !w.is_empty()).map(Into::into).collect()
    };
    let lines: Vec<(usize, String)> =
        text.lines().enumerate().flat_map(|(i, l)| words(l).into_iter().map(move |w| (i + 1, w))).collect();
    let by_name = lines.iter().all(|(_, w)| named(w).is_some());
    let mut listed = vec![false; outputs];
    for (line, word) in &lines {
        let number = if by_name { named(word) } else { word.parse().ok().or_else(|| named(word)) };
        match number.and_then(|n: usize| listed.get_mut(n)) {
            Some(l) => *l = true,
            None => {
                let near = nearest(names.iter().map(String::as_str), word);
                let meant =
                    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
                return Err(format!(
                    "{}: line {line}: `{word}` is neither a class of the model nor a number below {outputs}{meant}",
                    path.display()
                )
                .into());
            }
        }
    }
    if listed.iter().filter(|l| **l).count() < 2 {
        return Err(format!("{}: expected at least 2 classes", path.display()).into());
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_labels_are_any_of_several() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("real.json");
        std::fs::write(&path, "[[3], [], [0, 2]]").unwrap();
        let mut real = RealLabels::read(&path).unwrap();
        let logits = [0.1, 0.9, 0.8, 0.2, 0.3, 0.4, 0.5];
        real.add("val/n01/ILSVRC2012_val_00000001.JPEG", &logits).unwrap(); // 3 is the sixth
        real.add("ILSVRC2012_val_00000002.JPEG", &logits).unwrap(); // without labels
        real.add("ILSVRC2012_val_00000003.JPEG", &logits).unwrap(); // 2 is the second
        assert_eq!(real.scores(), (0.0, 50.0, 2));
        for bad in ["ILSVRC2012_val_00000004.JPEG", "a.jpg", "0.jpg"] {
            let e = real.add(bad, &logits).unwrap_err().to_string();
            assert!(e.contains("a number from 1 to 3"), "{e}");
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(RealLabels::read(&path).unwrap_err().to_string().contains("list of lists"));
    }

    #[test]
    fn a_part_of_the_classes_is_listed_by_number_or_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("valid.txt");
        let names = ["cat", "dog, big", "cow"].map(String::from);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            valid(&path, 3, &names).map_err(|e| e.to_string())
        };
        assert_eq!(read("cat\ndog, big\n"), Ok(vec![true, true, false]));
        assert_eq!(read("0, 2\n\n"), Ok(vec![true, false, true]));
        // Names that are numbers are names.
        std::fs::write(&path, "1\n10\n").unwrap();
        assert_eq!(valid(&path, 3, &["1", "2", "10"].map(String::from)).unwrap(), [true, false, true]);
        assert!(
            read("cat\ncov\n")
                .unwrap_err()
                .contains("line 2: `cov` is neither a class of the model nor a number below 3; did you mean")
        );
        assert!(read("cat\n").unwrap_err().contains("at least 2"));
    }
}
