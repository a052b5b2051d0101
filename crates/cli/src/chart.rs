//! Curves as SVG.

use crate::Result;
use candlelight_store::atomic::write_atomic;
use plotters::prelude::*;
use std::path::Path;

/// A line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Colors that are told apart also by the colour-blind (B. Wong, Nature Methods 8, 2011).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(80, 80, 80),
];

/// The pixels of one chart.
const SIZE: (u32, u32) = (640, 400);

/// Draws charts below each other, each with its title, the name of its horizontal axis, and its lines.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(path: &Path, charts: &[(&str, &str, Vec<Line>)]) -> Result<()> {
    let mut text = String::new();
    {
        let root =
            SVGBackend::with_string(&mut text, (SIZE.0, SIZE.1 * charts.len().max(1) as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let areas = root.split_evenly((charts.len().max(1), 1));
        for (area, (title, across, lines)) in areas.iter().zip(charts) {
            one(area, title, across, lines)?;
        }
        root.present()?;
    }
    Ok(write_atomic(path, |out| out.write_all(text.as_bytes()))?)
}

fn one(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    across: &str,
    lines: &[Line],
) -> Result<()> {
    let finite = |l: &Line| -> Vec<(f64, f64)> {
        l.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let all: Vec<(f64, f64)> = lines.iter().flat_map(finite).collect();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all.iter().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if all.is_empty() {
            (0.0, 1.0)
        } else if high > low {
            (low, high)
        } else {
            (low - 0.5, low + 0.5)
        }
    };
    let ((left, right), (low, high)) = (range(|p| p.0), range(|p| p.1));
    let margin = (high - low) * 0.05;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(left..right, low - margin..high + margin)?;
    let number = |v: &f64| {
        if *v != 0.0 && v.abs() < 0.01 {
            format!("{v:.1e}")
        } else {
            format!("{v:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
        }
    };
    chart
        .configure_mesh()
        .x_desc(across)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let drawn = chart.draw_series(LineSeries::new(finite(line), color.stroke_width(2)))?;
        drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 13))
            .draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_drawn_whatever_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.svg");
        let line = |points: &[(f64, f64)]| Line { name: "loss <a>".into(), points: points.to_vec() };
        for points in [&[][..], &[(0.0, 1.0)], &[(0.0, f64::NAN), (1.0, 2.0)], &[(0.0, 1e-9), (9.0, 1e9)]] {
            draw(&path, &[("one", "epoch", vec![line(points), line(&[(0.0, 0.5), (2.0, 1.5)])]), ("two", "", vec![])])
                .unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("<svg") && text.contains("polyline") && text.contains("loss &lt;a&gt;"), "{text}");
        }
        assert!(draw(&dir.path().join("none/c.svg"), &[]).unwrap_err().to_string().contains("none/c.svg"));
    }
}
