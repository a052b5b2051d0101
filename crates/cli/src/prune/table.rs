//! Networks side by side: what each costs, and how good it is.

use candlelight_engine::Verdict;
use candlelight_models::cost::{Convention, Cost};
use candlelight_models::summary::commas;
use std::fmt;

/// One network.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is, such as `whole`.
    pub name: String,
    /// Its parameters.
    pub parameters: usize,
    /// What its operations cost for one image.
    pub cost: Cost,
    /// What an evaluation found; `None` without images to evaluate on.
    pub verdict: Option<Verdict>,
    /// Per size of a batch the median milliseconds of a forward pass.
    pub latency: [(usize, Option<f64>); 2],
}

/// Networks side by side, the whole one first.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Which operations multiply-adds count.
    pub convention: Convention,
    /// The networks.
    pub lines: Vec<Line>,
}

impl Table {
    /// The table as Markdown, with what is left of the first line's figures in percent.
    fn rows(&self) -> Vec<[String; 6]> {
        let Some(first) = self.lines.first() else { return vec![] };
        let left = |now: f64, whole: f64| format!(" ({:.1} %)", 100.0 * now / whole);
        let mut rows = vec![["", "parameters", "MACs", "top-1", "ms, batch 1", "ms, batch 128"].map(String::from)];
        for (i, line) in self.lines.iter().enumerate() {
            let share = |now: f64, whole: f64| if i == 0 { String::new() } else { left(now, whole) };
            let (macs, whole) = (line.cost.macs(self.convention), first.cost.macs(self.convention));
            let time = |n: usize| match (line.latency[n].1, first.latency[n].1) {
                (Some(ms), Some(whole)) => format!("{ms:.2}{}", share(ms, whole)),
                _ => "-".into(),
            };
            let top1 = match &line.verdict {
                Some(Verdict::Classes(scores)) => format!("{:.2}", scores.top1),
                _ => "-".into(),
            };
            rows.push([
                line.name.clone(),
                commas(line.parameters as u64) + &share(line.parameters as f64, first.parameters as f64),
                commas(macs) + &share(macs as f64, whole as f64),
                top1,
                time(0),
                time(1),
            ]);
        }
        rows
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        for (n, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(i, cell)| if i == 0 { format!("{cell:<0$}", width(i)) } else { format!("{cell:>0$}", width(i)) })
                .collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if n == 0 {
                let rule = |i: usize| if i == 0 { "-".repeat(width(i)) } else { "-".repeat(width(i) - 1) + ":" };
                writeln!(f, "| {} |", (0..6).map(rule).collect::<Vec<_>>().join(" | "))?;
            }
        }
        write!(f, "MACs: {}", self.convention)
    }
}
