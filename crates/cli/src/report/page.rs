//! The page: one file of HTML with its pictures in it.

use super::figures;
use super::look::{FOLDER, Mistake};
use crate::Result;
use crate::finegrained::{Judged, Predictions};
use candlelight_engine::checkpoint;
use candlelight_store::atomic::write_atomic;
use serde_json::Value;
use std::path::{Path, PathBuf};

const STYLE: &str = include_str!("style.css");

/// Text that HTML takes as text.
pub(super) fn escaped(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A share as a percentage.
pub(super) fn percent(v: f64) -> String {
    format!("{:.2} %", 100.0 * v)
}

/// A picture in the page itself.
fn picture(path: &Path, about: &str) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let data = candlelight_watch::base64(&bytes);
    Some(format!("<img src=\"data:image/png;base64,{data}\" alt=\"{}\">", escaped(about)))
}

/// The page on runs. The figures of a run's predictions are also written as pictures into its folder.
pub(super) fn page(folders: &[PathBuf], runs: &[PathBuf]) -> Result<String> {
    let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    let title = escaped(&names.join(", "));
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    );
    for folder in folders {
        if let Ok(text) = std::fs::read_to_string(folder.join("results.json")) {
            let results: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", folder.display()))?;
            out += &comparison(&results);
        }
    }
    if runs.len() > 1 {
        let link =
            |(i, r): (usize, &PathBuf)| format!("<li><a href=\"#run{i}\">{}</a></li>", escaped(&name(r, folders)));
        out += &format!("<nav><h2>Runs</h2><ul>{}</ul></nav>", runs.iter().enumerate().map(link).collect::<String>());
    }
    for (i, folder) in runs.iter().enumerate() {
        out +=
            &format!("<section id=\"run{i}\"><h2>{}</h2>{}</section>", escaped(&name(folder, folders)), run(folder)?);
    }
    Ok(out + "</body></html>\n")
}

/// A run's name below the folders that were asked for.
fn name(run: &Path, folders: &[PathBuf]) -> String {
    let below = folders.iter().find_map(|f| run.strip_prefix(f).ok()).filter(|p| *p != Path::new(""));
    below.unwrap_or(run).display().to_string()
}

/// The table of a comparison: a row for each method, with intervals as bars, and the paired tests.
fn comparison(results: &Value) -> String {
    let methods = results["methods"].as_array().map_or(&[][..], Vec::as_slice);
    let stat = |m: &Value, key: &str| m["stats"]["top-1"][key].as_f64().map(|v| 100.0 * v);
    let number = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
    let mut rows = String::new();
    for m in methods {
        let interval = m["stats"]["top-1"]["interval"].as_array();
        let end = |i: usize| interval.and_then(|a| a.get(i)?.as_f64()).map(|v| 100.0 * v);
        let (low, high) = (end(0), end(1));
        let runs = m["runs"].as_array().map_or(0, Vec::len);
        let first = &m["runs"][0];
        let count = |key: &str| first[key].as_u64().map_or("–".into(), |n| n.to_string());
        rows += &format!(
            "<tr><th>{}</th><td>{runs}</td><td>{}</td><td>{}</td><td>{} – {}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(m["name"].as_str().unwrap_or_default()),
            number(stat(m, "mean")),
            number(stat(m, "sd")),
            number(low),
            number(high),
            bar(stat(m, "mean"), low.zip(high)),
            count("parameters"),
            count("trainable"),
        );
    }
    let mut out = format!(
        "<h2>Comparison</h2><table class=\"results\"><tr><th>method</th><th>runs</th><th>top-1 %</th><th>deviation</th><th>95 % interval</th><th></th><th>parameters</th><th>trained</th></tr>{rows}</table>"
    );
    let pairs = results["comparisons"].as_array().map_or(&[][..], Vec::as_slice);
    let p = |t: &Value| t["p"].as_f64().map_or("–".into(), |p| format!("{p:.4}"));
    let row = |c: &Value| {
        let (a, b) = (c["a"].as_str().unwrap_or_default(), c["b"].as_str().unwrap_or_default());
        let points = c["points"].as_f64().map_or("–".into(), |d| format!("{d:+.2}"));
        format!(
            "<tr><th>{} against {}</th><td>{points}</td><td>{}</td><td>{}</td></tr>",
            escaped(a),
            escaped(b),
            p(&c["paired_t"]),
            p(&c["wilcoxon"])
        )
    };
    if !pairs.is_empty() {
        out += &format!(
            "<table><tr><th>pairs of runs</th><th>points</th><th>p, paired t</th><th>p, Wilcoxon</th></tr>{}</table>",
            pairs.iter().map(row).collect::<String>()
        );
    }
    out
}

/// A mean and its interval on a scale from 0 to 100.
fn bar(mean: Option<f64>, interval: Option<(f64, f64)>) -> String {
    let Some(mean) = mean else { return String::new() };
    let x = |v: f64| 2.0 * v.clamp(0.0, 100.0);
    let range = interval.map_or(String::new(), |(l, h)| {
        format!("<line class=\"interval\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"8\" y2=\"8\"/>", x(l), x(h))
    });
    format!(
        "<svg class=\"bar\" width=\"200\" height=\"16\" viewBox=\"0 0 200 16\"><rect width=\"{:.1}\" height=\"16\"/>{range}</svg>",
        x(mean)
    )
}

/// What the folder of a run holds.
fn run(folder: &Path) -> Result<String> {
    let mut out = format!("<p class=\"note\">{}</p>", escaped(&folder.display().to_string()));
    let best = checkpoint::best(folder);
    let described = if best.is_file() { checkpoint::describe(&best)? } else { None };
    let classes = described.map_or(vec![], |d| d.classes);
    let predictions = folder.join("predictions.safetensors");
    let said = if predictions.is_file() { Some(Predictions::read(&predictions)?) } else { None };
    let judged = Judged::read(&folder.join("judged.json"));
    // A run that was judged later has no record of its training.
    let later = said.as_ref().filter(|_| judged.is_none()).map(|s| s.judge(&classes)).transpose()?;
    if let Some(j) = judged.or(later) {
        let opt = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.4}"));
        let (head, trained) = match j.epochs {
            0 => (String::new(), String::new()),
            n => ("<th>epochs</th><th>seconds</th>".into(), format!("<td>{n}</td><td>{:.0}</td>", j.seconds)),
        };
        out += &format!(
            "<table class=\"figures\"><tr><th>top-1</th><th>top-5</th><th>balanced</th><th>F1</th><th>kappa</th><th>AUROC</th><th>mAP</th><th>images</th>{head}</tr><tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{trained}</tr></table>",
            percent(j.top1),
            percent(j.top5),
            percent(j.balanced),
            percent(j.f1),
            opt(j.kappa),
            opt(j.auroc),
            opt(j.map),
            j.samples
        );
    }
    if let Ok(svg) = std::fs::read_to_string(folder.join("curves.svg")) {
        out += &format!("<h3>Curves</h3><div class=\"curves\">{svg}</div>");
    } else if let Some(table) = epochs(folder) {
        out += &table;
    }
    if let Some(said) = said {
        let wrong = |e| format!("{}: {e}", predictions.display());
        let (text, pictures) = figures::all(&said, &classes).map_err(wrong)?;
        out += &text;
        for (name, svg) in pictures {
            write_atomic(&folder.join(name), |f| f.write_all(svg.as_bytes()))?;
        }
    }
    out += &mistakes(folder);
    for (file, title) in pictures(folder) {
        if let Some(img) = picture(&file, &title) {
            out += &format!("<h3>{}</h3>{img}", escaped(&title));
        }
    }
    if let Ok(args) = std::fs::read_to_string(folder.join("args.yaml")) {
        out += &format!("<details><summary>Settings</summary><pre>{}</pre></details>", escaped(&args));
    }
    Ok(out)
}

/// The last lines of the log of a run without drawn curves.
fn epochs(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("log.txt")).ok()?;
    let lines: Vec<serde_json::Map<String, Value>> =
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let keys: Vec<&String> = lines.last()?.keys().collect();
    let head: String = keys.iter().map(|k| format!("<th>{}</th>", escaped(k))).collect();
    let cell = |l: &serde_json::Map<String, Value>, k: &str| match l.get(k) {
        Some(Value::Number(n)) if n.is_f64() => format!("<td>{:.5}</td>", n.as_f64().unwrap_or_default()),
        Some(v) => format!("<td>{}</td>", escaped(&v.to_string())),
        None => "<td></td>".into(),
    };
    let row = |l: &serde_json::Map<String, Value>| {
        format!("<tr>{}</tr>", keys.iter().map(|k| cell(l, k)).collect::<String>())
    };
    let from = lines.len().saturating_sub(30);
    Some(format!(
        "<h3>Epochs</h3><table class=\"epochs\"><tr>{head}</tr>{}</table>",
        lines[from..].iter().map(row).collect::<String>()
    ))
}

/// The worst mistakes as pictures, each beside what spoke for the wrong class.
fn mistakes(folder: &Path) -> String {
    let Ok(text) = std::fs::read_to_string(folder.join("mistakes.json")) else { return String::new() };
    let Ok(all) = serde_json::from_str::<Vec<Mistake>>(&text) else { return String::new() };
    if all.is_empty() {
        return "<h3>Worst mistakes</h3><p class=\"note\">None.</p>".into();
    }
    let one = |(i, m): (usize, &Mistake)| {
        let about = format!("{}, taken for {}", m.label, m.guess);
        let file = |end: &str| picture(&folder.join(FOLDER).join(format!("{i}{end}.png")), &about).unwrap_or_default();
        format!(
            "<figure title=\"{}\">{}{}<figcaption><b>{}</b> {:.2}<br>taken for <b>{}</b> {:.2}</figcaption></figure>",
            escaped(&m.image),
            file(""),
            file(".map"),
            escaped(&m.label),
            m.p_label,
            escaped(&m.guess),
            m.p_guess
        )
    };
    format!(
        "<h3>Worst mistakes</h3><p class=\"note\">Images that the model is surest to be another class, each with what spoke for that class.</p><div class=\"mistakes\">{}</div>",
        all.iter().enumerate().map(one).collect::<String>()
    )
}

/// Pictures that programs leave in the folder of a run, such as reconstructions.
fn pictures(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "png")).collect();
    all.sort();
    all.truncate(12);
    all.into_iter()
        .map(|p| (p.clone(), p.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned())))
        .collect()
}
