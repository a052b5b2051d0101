//! Figures of a run as parts of a page.

use super::page::{escaped, percent};
use crate::finegrained::Predictions;
use candlelight_metrics::{Calibration, Confusion, Ranking};

/// Classes up to which the whole matrix is drawn; of more the pairs that are confused most.
const DRAWN: usize = 40;

fn name(classes: &[String], i: usize) -> String {
    classes.get(i).map_or_else(|| format!("class {i}"), |c| escaped(c))
}

/// What pictures need that stand alone.
const ALONE: &str = "<style>text{font:11px sans-serif;fill:#222}.light{fill:#fff}.axis{stroke:#999}circle{fill:#0072b2}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";

/// The picture in a part of a page, as a file.
fn alone(text: &str) -> Option<String> {
    let from = text.find("<svg")?;
    let inside = from + text[from..].find('>')? + 1;
    let end = text.find("</svg>")? + "</svg>".len();
    let tag = text[from..inside].replacen("<svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"", 1);
    Some(format!("{tag}{ALONE}{}\n", &text[inside..end]))
}

/// Pictures of a run: the name of each and its content.
pub(super) type Pictures = Vec<(&'static str, String)>;

/// The figures, the confusion of the classes, their table, and how sure the model is; and the pictures among them as files of their own.
pub(super) fn all(said: &Predictions, classes: &[String]) -> Result<(String, Pictures), candlelight_metrics::Error> {
    let k = said.classes();
    let p = said.scores();
    let (mut counts, mut ranks, mut sure) = (Confusion::new(k), Ranking::new(k), Calibration::new(k, 15));
    counts.add_scores(&p, said.labels())?;
    ranks.add_labels(&p, said.labels())?;
    sure.add(said.probabilities(), said.labels())?;
    let precisions = ranks.average_precisions();
    let mut out = String::new();
    let mut rows = String::new();
    for (i, c) in counts.of_classes().iter().enumerate() {
        let ap = precisions.get(i).copied().flatten().map_or("–".into(), percent);
        let share = |v: f64, n: u64| if n > 0 { percent(v) } else { "–".into() };
        rows += &format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{ap}</td></tr>",
            name(classes, i),
            c.samples,
            share(c.precision, c.predictions),
            share(c.recall, c.samples),
            share(c.f1, c.samples + c.predictions),
        );
    }
    out += "<h3>Confusion of classes</h3>";
    let confusion = if k <= DRAWN { matrix(&counts, classes) } else { pairs(&counts, classes) };
    out += &confusion;
    out += &format!(
        "<details{}><summary>Each class</summary><table class=\"classes\"><tr><th></th><th>images</th><th>precision</th><th>recall</th><th>F1</th><th>average precision</th></tr>{rows}</table></details>",
        if k <= DRAWN { " open" } else { "" }
    );
    let sure = reliability(&sure);
    out += &sure;
    let drawn = [("confusion.svg", alone(&confusion)), ("reliability.svg", alone(&sure))];
    Ok((out, drawn.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()))
}

/// A row for each true class; the darker a cell, the larger its share of the row.
fn matrix(counts: &Confusion, classes: &[String]) -> String {
    let k = counts.classes();
    let (cell, left, top) = (if k <= 12 { 34 } else { 20 }, 130, 100);
    let (w, h) = (left + k * cell + 10, top + k * cell + 10);
    let mut out = format!("<svg class=\"matrix\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">");
    for t in 0..k {
        let (y, total) = (top + t * cell, (0..k).map(|p| counts.count(t, p)).sum::<u64>());
        let short: String = classes.get(t).map_or(format!("{t}"), |c| c.chars().take(16).collect());
        let middle = y + cell / 2 + 4;
        out += &format!("<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", left - 6, escaped(&short));
        let x = left + t * cell + cell / 2 + 4;
        out += &format!(
            "<text x=\"{x}\" y=\"{}\" transform=\"rotate(-60 {x} {})\">{}</text>",
            top - 6,
            top - 6,
            escaped(&short)
        );
        for p in 0..k {
            let n = counts.count(t, p);
            let share = n as f64 / total.max(1) as f64;
            let color = if t == p { "0,114,178" } else { "213,94,0" };
            let x = left + p * cell;
            out += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"rgba({color},{share:.3})\"><title>{} taken for {}: {n}</title></rect>",
                cell - 1,
                cell - 1,
                name(classes, t),
                name(classes, p)
            );
            if n > 0 && k <= 12 {
                let ink = if share > 0.5 { " class=\"light\"" } else { "" };
                out += &format!("<text{ink} x=\"{}\" y=\"{middle}\" text-anchor=\"middle\">{n}</text>", x + cell / 2);
            }
        }
    }
    out + "</svg><p class=\"note\">Rows are the true classes, columns what the model named.</p>"
}

/// The pairs of classes that are confused most.
fn pairs(counts: &Confusion, classes: &[String]) -> String {
    let k = counts.classes();
    let mut all: Vec<(u64, usize, usize)> =
        (0..k * k).filter(|i| i / k != i % k).map(|i| (counts.count(i / k, i % k), i / k, i % k)).collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let row = |(n, t, p): &(u64, usize, usize)| {
        format!("<tr><th>{}</th><td>{}</td><td>{n}</td></tr>", name(classes, *t), name(classes, *p))
    };
    let rows: String = all.iter().take(20).filter(|(n, ..)| *n > 0).map(row).collect();
    format!("<table><tr><th>class</th><th>taken for</th><th>images</th></tr>{rows}</table>")
}

/// The share that is right beside the probability that the model gives, in bins.
fn reliability(sure: &Calibration) -> String {
    let (w, h, m) = (260.0, 260.0, 30.0);
    let at = |x: f64, y: f64| (m + x * (w - 2.0 * m), h - m - y * (h - 2.0 * m));
    let ((x0, y0), (x1, y1)) = (at(0.0, 0.0), at(1.0, 1.0));
    let mut out = format!(
        "<h3>How sure it is</h3><svg class=\"reliability\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\"><line class=\"axis\" x1=\"{x0}\" y1=\"{y0}\" x2=\"{x1}\" y2=\"{y1}\"/>"
    );
    for bin in sure.bins() {
        let (Some(p), Some(right)) = (bin.confidence(), bin.accuracy()) else { continue };
        let (x, y) = at(p, right);
        out += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{} images: probability {:.2}, right {:.2}</title></circle>",
            bin.samples, p, right
        );
    }
    out += &format!(
        "<text x=\"{x0}\" y=\"{}\">probability</text><text x=\"4\" y=\"{}\">right</text></svg>",
        h - 8.0,
        m - 12.0
    );
    let figure = |name: &str, v: Option<f64>| v.map_or(String::new(), |v| format!("{name} {v:.4} "));
    out + &format!(
        "<p class=\"note\">{}{}{}</p>",
        figure("ECE", sure.ece()),
        figure("Brier", sure.brier()),
        figure("log-loss", sure.log_loss())
    )
}
