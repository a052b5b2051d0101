//! Methods side by side, and whether their differences mean anything.

use super::judge::Judged;
use candlelight_metrics::stats::{RunStats, Test, corrected_t, paired_t, wilcoxon};
use candlelight_models::summary::commas;
use serde_json::{Value, json};

/// The runs of a method, in the order of seeds and folds.
pub(super) struct Row {
    pub(super) name: String,
    /// The method that this is a point of the grid of.
    pub(super) of: Option<String>,
    pub(super) runs: Vec<Judged>,
}

/// The table of a comparison. Runs at the same place of two rows have the same seed and fold.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// Whether runs are folds, whose training sets overlap.
    pub(super) folds: bool,
}

/// A figure: its name, its factor in the table, and where it is.
type Figure = (&'static str, f64, fn(&Judged) -> Option<f64>);

const FIGURES: [Figure; 6] = [
    ("top-1 %", 100.0, |j| Some(j.top1)),
    ("balanced %", 100.0, |j| Some(j.balanced)),
    ("F1 %", 100.0, |j| Some(j.f1)),
    ("AUROC", 1.0, |j| j.auroc),
    ("ECE", 1.0, |j| Some(j.ece)),
    ("log-loss", 1.0, |j| Some(j.log_loss)),
];

/// The difference of two methods in the share of images that are right, in points.
struct Pair<'a> {
    a: &'a Row,
    b: &'a Row,
    difference: f64,
    t: Option<Test>,
    w: Option<Test>,
}

impl Table {
    fn stats(row: &Row, of: fn(&Judged) -> Option<f64>) -> Option<RunStats> {
        let values: Vec<f64> = row.runs.iter().filter_map(of).collect();
        RunStats::of(&values).ok().filter(|s| s.n == row.runs.len())
    }

    fn pairs(&self) -> Vec<Pair<'_>> {
        let mut all = vec![];
        for (i, a) in self.rows.iter().enumerate() {
            for b in &self.rows[i + 1..] {
                let top1 = |r: &Row| r.runs.iter().map(|j| j.top1).collect::<Vec<_>>();
                let (x, y) = (top1(a), top1(b));
                let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
                let t = match (self.folds, a.runs.first()) {
                    (true, Some(j)) => corrected_t(&x, &y, j.samples as usize, j.trained_on),
                    _ => paired_t(&x, &y),
                };
                let difference = 100.0 * (mean(&x) - mean(&y));
                all.push(Pair { a, b, difference, t: t.ok().flatten(), w: wilcoxon(&x, &y).ok().flatten() });
            }
        }
        all
    }

    /// Of each grid the point with the best mean figure on the images that choose epochs.
    fn chosen(&self) -> Vec<&Row> {
        let figure = |r: &Row| {
            let all: Option<Vec<f64>> = r.runs.iter().map(|j| j.held_out).collect();
            all.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
        };
        let mut grids: Vec<&str> = self.rows.iter().filter_map(|r| r.of.as_deref()).collect();
        grids.dedup();
        let best = |grid: &str| {
            let points = self.rows.iter().filter(|r| r.of.as_deref() == Some(grid));
            let known: Option<Vec<(f64, &Row)>> = points.map(|r| Some((figure(r)?, r))).collect();
            // Of equal ones the first.
            known?.into_iter().rev().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, r)| r)
        };
        grids.into_iter().filter_map(best).collect()
    }

    /// The table as Markdown.
    pub(super) fn markdown(&self) -> String {
        let head = ["method", "runs"].into_iter().chain(FIGURES.iter().map(|f| f.0));
        let head: Vec<&str> = head.chain(["95 % interval of top-1", "parameters", "trained", "s per run"]).collect();
        let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
        for row in &self.rows {
            let mut cells = vec![row.name.clone(), row.runs.len().to_string()];
            for (_, factor, of) in FIGURES {
                let places = if factor == 1.0 { 3 } else { 2 };
                cells.push(Self::stats(row, of).map_or("-".into(), |s| match s.n {
                    1 => format!("{:.places$}", factor * s.mean),
                    _ => format!("{:.places$} +- {:.places$}", factor * s.mean, factor * s.sd),
                }));
            }
            let interval = Self::stats(row, |j| Some(j.top1)).and_then(|s| s.interval);
            cells.push(interval.map_or("-".into(), |(a, b)| format!("{:.2} to {:.2}", 100.0 * a, 100.0 * b)));
            let last = row.runs.last();
            let count = |of: fn(&Judged) -> usize| last.map_or("-".into(), |j| commas(of(j) as u64));
            cells.extend([count(|j| j.parameters), count(|j| j.trainable)]);
            let seconds = row.runs.iter().map(|j| j.seconds).sum::<f64>() / row.runs.len().max(1) as f64;
            cells.push(format!("{seconds:.0}"));
            text += &format!("| {} |\n", cells.join(" | "));
        }
        for best in self.chosen() {
            let of = best.of.as_deref().unwrap_or_default();
            text += &format!(
                "\nOf the grid of `{of}` the images that choose epochs choose `{}`; only its figures were not chosen by the test images.\n",
                best.name
            );
        }
        let runs = self.rows.first().map_or(0, |r| r.runs.len());
        if self.rows.len() > 1 && runs > 1 {
            text += "\n| top-1 of | less that of | points | p, paired t | p, Wilcoxon |\n|---|---|---|---|---|\n";
            for pair in self.pairs() {
                let p = |t: Option<Test>| t.map_or("-".into(), |t| format!("{:.4}", t.p));
                let (a, b) = (&pair.a.name, &pair.b.name);
                text += &format!("| {a} | {b} | {:+.2} | {} | {} |\n", pair.difference, p(pair.t), p(pair.w));
            }
            text += "\n";
            text += &self.notes(runs).join("\n");
            text += "\n";
        }
        text
    }

    /// What a reader must know to read the table.
    fn notes(&self, runs: usize) -> Vec<String> {
        let mut notes = vec!["`+-` is the standard deviation over runs, the interval Student's; a p above 0.05 means that the runs do not tell the methods apart.".to_string()];
        if self.folds {
            notes.push("Folds share training images: the t-test is corrected for that (Nadeau and Bengio), the intervals and Wilcoxon's test are not.".into());
        }
        // With n pairs Wilcoxon's p is at least 2 / 2^n.
        if runs < 6 {
            let least = 2.0 / 2f64.powi(runs as i32);
            notes.push(format!("With {runs} runs Wilcoxon's p cannot be below {least}; it takes 6 to be below 0.05."));
        }
        if self.rows.len() > 2 {
            let n = self.pairs().len();
            notes.push(format!(
                "{n} comparisons: for one of them to be believed at 0.05, its p should be below {:.4}.",
                0.05 / n as f64
            ));
        }
        notes
    }

    /// The same as numbers.
    pub(super) fn json(&self) -> Value {
        let test = |t: Option<Test>| t.map(|t| json!({ "statistic": t.statistic, "p": t.p }));
        let stats = |row: &Row| {
            let of = |(name, _, of): Figure| {
                let s = Self::stats(row, of)?;
                Some((
                    name.trim_end_matches(" %"),
                    json!({ "mean": s.mean, "sd": s.sd, "interval": s.interval, "min": s.min, "max": s.max }),
                ))
            };
            FIGURES.into_iter().filter_map(of).collect::<std::collections::BTreeMap<_, _>>()
        };
        let methods = self.rows.iter().map(|r| json!({ "name": r.name, "stats": stats(r), "runs": r.runs }));
        let pairs = self.pairs().into_iter().map(|p| {
            json!({ "a": p.a.name, "b": p.b.name, "points": p.difference, "paired_t": test(p.t), "wilcoxon": test(p.w) })
        });
        let chosen: Vec<&str> = self.chosen().into_iter().map(|r| r.name.as_str()).collect();
        json!({ "methods": methods.collect::<Vec<_>>(), "comparisons": pairs.collect::<Vec<_>>(), "chosen": chosen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(top1: f64) -> Judged {
        Judged {
            top1,
            top5: 1.0,
            balanced: top1,
            f1: top1,
            kappa: None,
            auroc: None,
            map: None,
            ece: 0.1,
            brier: 0.2,
            log_loss: 0.3,
            samples: 20,
            trained_on: 80,
            absent: vec![],
            held_out: None,
            epochs: 3,
            parameters: 1234,
            trainable: 10,
            seconds: 5.0,
        }
    }

    #[test]
    fn a_table_has_means_intervals_and_tests() {
        let row =
            |name: &str, v: &[f64]| Row { name: name.into(), of: None, runs: v.iter().map(|t| run(*t)).collect() };
        let a = row("a", &[0.812, 0.805, 0.821, 0.798, 0.816]);
        let b = row("b", &[0.801, 0.799, 0.810, 0.790, 0.803]);
        let mut table = Table { rows: vec![a, b], folds: false };
        let text = table.markdown();
        for words in [
            "| a | 5 | 81.04 +- 0.91 |",
            "| - | 0.100 +- 0.000 |",
            "79.91 to 82.17 | 1,234 | 10 | 5 |",
            "| a | b | +0.98 | 0.0014 | 0.0625 |",
            "cannot be below 0.0625",
        ] {
            assert!(text.contains(words), "no `{words}` in:\n{text}");
        }
        assert!(!text.contains("Nadeau") && !text.contains("comparisons"));
        assert_eq!(table.json()["comparisons"][0]["wilcoxon"]["p"], 0.0625);
        table.folds = true;
        let text = table.markdown();
        assert!(text.contains("Nadeau") && text.contains("| +0.98 | 0.0062 |"), "{text}");
        let single = Table { rows: vec![row("a", &[0.5]), row("b", &[0.4])], folds: false }.markdown();
        assert!(single.contains("| a | 1 | 50.00 |") && !single.contains("Wilcoxon"), "{single}");
    }
}
