//! What YOLOv5's classify/val.py prints and writes.

use crate::Result;
use candlelight_engine::metrics::Metrics;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// Per class the images, those whose best guess is right, and those with the class among the best five; and where the time went.
pub(super) struct Table {
    rows: Vec<[u64; 3]>,
    /// Waiting for images to be read and prepared.
    pub(super) waited: Duration,
    /// The network.
    pub(super) computed: Duration,
    /// Everything behind it.
    pub(super) judged: Duration,
}

impl Table {
    /// Nothing yet.
    pub(super) fn new(classes: usize) -> Self {
        let none = Duration::ZERO;
        Table { rows: vec![[0; 3]; classes], waited: none, computed: none, judged: none }
    }

    /// Adds logits (B, classes) of images of these classes. Of equal logits the earlier class comes first.
    pub(super) fn add(&mut self, logits: &[f32], labels: &[u32]) {
        for (row, label) in logits.chunks_exact(self.rows.len().max(1)).zip(labels) {
            let own = *label as usize;
            let Some(counts) = self.rows.get_mut(own) else { continue };
            let before = |(i, v): (usize, &f32)| *v > row[own] || (*v == row[own] && i < own);
            let place = row.iter().enumerate().filter(|x| before(*x)).count();
            counts[0] += 1;
            counts[1] += u64::from(place == 0);
            counts[2] += u64::from(place < 5);
        }
    }

    fn text(&self, names: &[String]) -> String {
        let mut text = format!("{:>24}{:>12}{:>12}{:>12}\n", "Class", "Images", "top1_acc", "top5_acc");
        let all = self.rows.iter().fold([0; 3], |a, r| [a[0] + r[0], a[1] + r[1], a[2] + r[2]]);
        let named = self.rows.iter().enumerate().map(|(i, r)| (names.get(i).map_or("", String::as_str), *r));
        for (name, [n, one, five]) in std::iter::once(("all", all)).chain(named) {
            let share = |k: u64| if n > 0 { three(k as f64 / n as f64) } else { "nan".into() };
            _ = writeln!(text, "{name:>24}{n:>12}{:>12}{:>12}", share(one), share(five));
        }
        text
    }

    /// Prints the table and the times, and writes the table and the confusion matrix as val.csv and confusion_matrix.csv to the next runs/val-cls/exp.
    pub(super) fn print(&self, names: &[String], image: [usize; 4], metrics: &Metrics) -> Result<()> {
        let images = self.rows.iter().map(|r| r[0]).sum::<u64>().max(1) as f64;
        let each = |d: Duration| 1e3 * d.as_secs_f64() / images;
        print!("{}", self.text(names));
        println!(
            "Speed: {:.1}ms pre-process, {:.1}ms inference, {:.1}ms post-process per image at shape {image:?}",
            each(self.waited),
            each(self.computed),
            each(self.judged)
        );
        let folder = crate::numbered(Path::new("runs/val-cls/exp"));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut csv = String::from("class,images,top1,top5\n");
        for (i, [n, one, five]) in self.rows.iter().enumerate() {
            let name = names.get(i).map_or("", String::as_str).replace('"', "\"\"");
            csv += &format!("\"{name}\",{n},{one},{five}\n");
        }
        for (name, text) in [("val.csv", csv), ("confusion_matrix.csv", metrics.confusion().csv(names))] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        println!("Results saved to {}", folder.display());
        Ok(())
    }
}

/// A share from 0 to 1 as Python writes it with the format `.3g`.
fn three(v: f64) -> String {
    let places = if v >= 1.0 { 2 } else { (2.0 - v.max(1e-9).log10().floor()) as usize };
    let text = format!("{v:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_as_in_yolov5() {
        let mut table = Table::new(7);
        // The third of seven, best; equal to the first, so second; sixth.
        let row = |own: f32, others: [f32; 6]| {
            let mut r = others.to_vec();
            r.insert(2, own);
            r
        };
        let logits =
            [row(3.0, [0.0; 6]), row(1.0, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), row(0.0, [1.0, 1.0, 1.0, 1.0, 1.0, -1.0])];
        table.add(&logits.concat(), &[2, 2, 2]);
        assert_eq!(table.rows[2], [3, 1, 2]);
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(String::from).to_vec();
        let text = table.text(&names);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["all", "3", "0.333", "0.667"]);
        assert_eq!(
            (lines[4].clone(), lines[2].clone()),
            (vec!["c", "3", "0.333", "0.667"], vec!["a", "0", "nan", "nan"])
        );
        assert!(text.lines().all(|l| l.len() == 60));
    }

    #[test]
    fn shares_are_written_as_in_python() {
        for (v, text) in [(0.0, "0"), (1.0, "1"), (0.5, "0.5"), (0.12345, "0.123"), (0.012345, "0.0123")] {
            assert_eq!(three(v), text);
        }
    }
}
