//! A preparation as a line for people.

use super::{CropMode, Interpolation, Origin, Preparation};
use std::fmt;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "{flag}"),
            Origin::Record => write!(f, "the checkpoint's record"),
            Origin::File(name) => write!(f, "{name}"),
            Origin::Table { library, name } => {
                let s = if library.ends_with('s') { "'" } else { "'s" };
                write!(f, "{library}{s} table for {name}")
            }
            Origin::Split(name) => write!(f, "the data's split {name}"),
            Origin::Assumed => write!(f, "assumed"),
        }
    }
}

impl fmt::Display for CropMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CropMode::Center => "center",
            CropMode::Squash => "squash",
            CropMode::Border => "border",
        })
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interpolation::Nearest => "nearest",
            Interpolation::Box => "box",
            Interpolation::Bilinear => "bilinear",
            Interpolation::Hamming => "hamming",
            Interpolation::Bicubic => "bicubic",
            Interpolation::Lanczos => "lanczos",
            Interpolation::OpencvBilinear => "opencv_bilinear",
        })
    }
}

impl fmt::Display for Preparation {
    /// The settings in the order in which they are applied, each run of them followed by where it comes from:
    /// `prepared for 224x224, crop 0.9 center, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (config.json); 2 classes cat, dog (config.json)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<(String, &Origin)> = vec![];
        let numbers = |v: &[f32]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut unknown = vec![];
        match &self.size {
            Some(s) => parts.push((format!("{}x{}", s.value.0, s.value.1), &s.origin)),
            None => unknown.push("size"),
        }
        // Three channels are what everybody expects.
        if let Some(c) = self.channels.as_ref().filter(|c| c.value != 3) {
            parts.push((format!("{} channels", c.value), &c.origin));
        }
        match &self.crop_pct {
            Some(c) => parts.push((format!("crop {}", rounded(c.value)), &c.origin)),
            None => unknown.push("crop"),
        }
        if let Some(m) = &self.crop_mode {
            parts.push((m.value.to_string(), &m.origin));
        }
        match &self.interpolation {
            Some(i) => parts.push((i.value.to_string(), &i.origin)),
            None => unknown.push("interpolation"),
        }
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            match list {
                Some(l) => parts.push((format!("{name} {}", numbers(&l.value)), &l.origin)),
                None => unknown.push(name),
            }
        }
        write!(f, "prepared for ")?;
        for (i, (text, origin)) in parts.iter().enumerate() {
            write!(f, "{}{text}", if i > 0 { ", " } else { "" })?;
            if parts.get(i + 1).is_none_or(|(_, next)| next != origin) {
                write!(f, " ({origin})")?;
            }
        }
        if !unknown.is_empty() {
            let comma = if parts.is_empty() { "" } else { ", " };
            write!(f, "{comma}unknown {}", unknown.join(", "))?;
        }
        if let Some(c) = &self.classes {
            let names: Vec<_> = c.value.iter().take(4).map(String::as_str).collect();
            let more = if c.value.len() > names.len() { ", ..." } else { "" };
            write!(f, "; {} classes {}{more} ({})", c.value.len(), names.join(", "), c.origin)?;
        }
        if let Some(t) = &self.test_size {
            let crop = self.test_crop_pct.as_ref().map_or(String::new(), |c| format!(", crop {}", rounded(c.value)));
            write!(f, "; its makers evaluate at {}x{}{crop} ({})", t.value.0, t.value.1, t.origin)?;
        }
        Ok(())
    }
}

/// At most four digits after the point.
fn rounded(v: f64) -> f64 {
    (v * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::super::Setting;
    use super::*;

    #[test]
    fn a_line_says_what_comes_from_where() {
        let file = || Origin::File("config.json".into());
        let p = Preparation {
            mean: Some(Setting::new(vec![0.5; 3], file())),
            std: Some(Setting::new(vec![0.5; 3], file())),
            classes: Some(Setting::new(vec!["cat".into(), "dog".into()], file())),
            ..Preparation::default()
        };
        assert_eq!(
            p.to_string(),
            "prepared for mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (config.json), unknown size, crop, interpolation; \
             2 classes cat, dog (config.json)"
        );
        assert_eq!(
            p.or(Preparation::assumed((32, 32), 3)).to_string(),
            "prepared for 32x32, crop 0.875, center, bicubic (assumed), mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (config.json); \
             2 classes cat, dog (config.json)"
        );
        let gray = Preparation::assumed((28, 28), 1).to_string();
        assert!(gray.contains("28x28, 1 channels, crop") && gray.ends_with("std 0.226 (assumed)"), "{gray}");
    }
}
