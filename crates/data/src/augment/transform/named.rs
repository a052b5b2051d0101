//! Transforms as text, with torchvision's names and arguments: `RandomCrop(224, padding=4)`.

use super::{Interpolation, Transform};
use crate::augment::leveled::PolicyHints;
use crate::error::{Error, Result};
use crate::image::{Filter, PadMode};
use std::str::FromStr;

/// The calls that are understood, for errors. As in Python, what stands behind `*` is given by its name.
const CALLS: [&str; 19] = [
    "Resize(size, interpolation=bilinear)",
    "ResizeKeepRatio(size, longest=0, interpolation=bilinear)",
    "ResizeOpencv(size)",
    "CenterCrop(size)",
    "CenterCropOrPad(size, fill=0)",
    "CenterSquare()",
    "RandomCrop(size, padding=0, *, fill=0, padding_mode=constant)",
    "RandomResizedCrop(size, scale=(0.08, 1), ratio=(0.75, 1.3333), interpolation=bilinear)",
    "RandomHorizontalFlip(p=0.5)",
    "RandomVerticalFlip(p=0.5)",
    "RandomRotation(degrees, interpolation=nearest, *, fill=0)",
    "RandomAffine(degrees, translate=None, scale=None, shear=None, interpolation=nearest, fill=0)",
    "RandomPerspective(distortion_scale=0.5, p=0.5, interpolation=bilinear, fill=0)",
    "ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, *, p=1)",
    "Grayscale()",
    "RandomGrayscale(p=0.1)",
    "GaussianBlur(*, sigma=(0.1, 2), p=1)",
    "GaussianNoise(*, sigma=0.1, p=1)",
    "AutoAugment(policy), with timm's names of policies, such as rand-m9-mstd0.5-inc1",
];

/// The calls of torchvision that have another place here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("ToTensor", "images become numbers behind all transforms: leave it out"),
    ("ToImage", "images become numbers behind all transforms: leave it out"),
    ("PILToTensor", "images become numbers behind all transforms: leave it out"),
    ("ToDtype", "images become numbers behind all transforms: leave it out"),
    ("ConvertImageDtype", "images become numbers behind all transforms: leave it out"),
    ("Normalize", "images are normalised behind all transforms, by the settings of mean and std: leave it out"),
    ("RandomErasing", "erasing has settings of its own (reprob, remode, recount): leave it out"),
];

/// The place of an argument that is given by its name alone: torchvision has another one, or none, in its place.
const NAMED: usize = usize::MAX;

/// An argument.
#[derive(Debug, Clone, PartialEq)]
enum Given {
    Numbers(Vec<f64>),
    Word(String),
    None,
}

/// The arguments of a call. What is not taken is refused at the end.
struct Call<'a> {
    text: &'a str,
    name: &'a str,
    by_place: Vec<Option<Given>>,
    by_name: Vec<(&'a str, Option<Given>)>,
}

impl<'a> Call<'a> {
    fn read(text: &'a str) -> Result<Self> {
        let (name, rest) = text.split_once('(').unwrap_or((text, ")"));
        let Some(inside) = rest.trim_end().strip_suffix(')') else {
            return Err(Error::Config(format!("`{text}`: expected `)` at the end, as in CenterCrop(224)")));
        };
        // Modules in front of the name say nothing.
        let name = name.trim().rsplit('.').next().unwrap_or_default();
        let mut call = Call { text, name, by_place: vec![], by_name: vec![] };
        for part in parts(inside) {
            match part.split_once('=') {
                Some((key, value)) => call.by_name.push((key.trim(), Some(call.value(value)?))),
                None if call.by_name.is_empty() => call.by_place.push(Some(call.value(part)?)),
                None => return Err(call.wrong(&format!("`{}` stands behind an argument with a name", part.trim()))),
            }
        }
        Ok(call)
    }

    fn wrong(&self, why: &str) -> Error {
        let known = CALLS.iter().find(|c| c.split('(').next() == Some(self.name));
        let expected = known.map_or(String::new(), |c| format!("; expected {c}"));
        Error::Config(format!("`{}`: {why}{expected}", self.text))
    }

    fn value(&self, text: &str) -> Result<Given> {
        let text = text.trim();
        let inside = [('(', ')'), ('[', ']')].iter().find_map(|(a, b)| text.strip_prefix(*a)?.strip_suffix(*b));
        if let Some(inside) = inside {
            let number = |s: &str| s.trim().parse::<f64>().ok().filter(|v| v.is_finite());
            let all: Option<Vec<f64>> = parts(inside).map(number).collect();
            return all.map(Given::Numbers).ok_or_else(|| self.wrong(&format!("`{text}` is no list of numbers")));
        }
        Ok(match text.parse::<f64>() {
            Ok(v) if v.is_finite() => Given::Numbers(vec![v]),
            _ if text == "None" => Given::None,
            _ => {
                // A module in front, as in InterpolationMode.BICUBIC, says nothing; rand-m9-mstd0.5 has none.
                let module = |m: &str| m.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
                let word = text.rsplit_once('.').filter(|(m, _)| module(m)).map_or(text, |(_, word)| word);
                Given::Word(word.trim_matches(['"', '\'']).to_lowercase())
            }
        })
    }

    /// The argument of this name, or at this place; nothing where it is not given.
    fn take(&mut self, place: usize, name: &str) -> Option<Given> {
        let named = self.by_name.iter_mut().find(|(n, v)| *n == name && v.is_some());
        let given = named.and_then(|(_, v)| v.take());
        given.or_else(|| self.by_place.get_mut(place)?.take()).filter(|g| *g != Given::None)
    }

    fn number(&mut self, place: usize, name: &str, default: f64) -> Result<f64> {
        match self.take(place, name) {
            None => Ok(default),
            Some(Given::Numbers(v)) if v.len() == 1 => Ok(v[0]),
            Some(other) => Err(self.wrong(&format!("{name} is {other:?}, expected a number"))),
        }
    }

    /// Two numbers; a single one gives both by `alone`.
    fn pair(
        &mut self,
        place: usize,
        name: &str,
        default: (f64, f64),
        alone: fn(f64) -> (f64, f64),
    ) -> Result<(f64, f64)> {
        match self.take(place, name) {
            None => Ok(default),
            Some(Given::Numbers(v)) if v.len() == 1 => Ok(alone(v[0])),
            Some(Given::Numbers(v)) if v.len() == 2 => Ok((v[0], v[1])),
            Some(other) => Err(self.wrong(&format!("{name} is {other:?}, expected one number or two"))),
        }
    }

    /// Height and width in pixels, and whether both were given.
    fn size(&mut self) -> Result<((usize, usize), bool)> {
        let (found, both) = match self.take(0, "size") {
            Some(Given::Numbers(v)) if v.len() == 1 => (vec![v[0], v[0]], false),
            Some(Given::Numbers(v)) if v.len() == 2 => (v, true),
            _ => (vec![], false),
        };
        let whole = |v: &f64| (v.fract() == 0.0 && *v >= 1.0 && *v <= 65536.0).then_some(*v as usize);
        match found.iter().map(whole).collect::<Option<Vec<_>>>().as_deref() {
            Some([h, w]) => Ok(((*h, *w), both)),
            _ => Err(self.wrong("size must be one or two numbers of pixels, from 1 to 65536")),
        }
    }

    fn word<T: serde::de::DeserializeOwned>(&mut self, place: usize, name: &str, default: T) -> Result<T> {
        match self.take(place, name) {
            None => Ok(default),
            Some(Given::Word(w)) => {
                serde_json::from_value(w.clone().into()).map_err(|e| self.wrong(&format!("{name} `{w}`: {e}")))
            }
            Some(other) => Err(self.wrong(&format!("{name} is {other:?}, expected a name"))),
        }
    }

    fn filter(&mut self, place: usize, default: Filter) -> Result<Filter> {
        self.word(place, "interpolation", default)
    }

    fn fill(&mut self, place: usize) -> Result<[u8; 3]> {
        let byte = |v: &f64| (v.fract() == 0.0 && (0.0..=255.0).contains(v)).then_some(*v as u8);
        let found = match self.take(place, "fill") {
            None => return Ok([0; 3]),
            Some(Given::Numbers(v)) => v.iter().map(byte).collect::<Option<Vec<_>>>(),
            Some(_) => None,
        };
        match found.as_deref() {
            Some([v]) => Ok([*v; 3]),
            Some([r, g, b]) => Ok([*r, *g, *b]),
            _ => Err(self.wrong("fill must be one or three numbers from 0 to 255")),
        }
    }

    /// Refuses arguments that nobody took.
    fn done(self, transform: Transform) -> Result<Transform> {
        if let Some((name, _)) = self.by_name.iter().find(|(_, v)| v.is_some()) {
            return Err(self.wrong(&format!("no argument is called `{name}`, or it is given twice")));
        }
        if self.by_place.iter().any(Option::is_some) {
            return Err(self.wrong("too many arguments, or one that is given by its name here"));
        }
        transform.check().map_err(|e| self.wrong(&e.to_string()))?;
        Ok(transform)
    }
}

/// The parts of a list, by the commas that are not inside of parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    let split = move |c: char| {
        depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
        c == ',' && depth == 0
    };
    text.split(split).filter(|p| !p.trim().is_empty())
}

impl FromStr for Transform {
    type Err = Error;

    /// Reads a call with torchvision's names and arguments, such as `RandomCrop(224, padding=4)` or `RandomRotation((-10, 20))`.
    ///
    /// ```
    /// use candlelight_data::Transform;
    /// let flip: Transform = "transforms.RandomHorizontalFlip(p=0.25)".parse()?;
    /// assert_eq!(flip, Transform::HorizontalFlip { p: 0.25 });
    /// # Ok::<(), candlelight_data::Error>(())
    /// ```
    fn from_str(text: &str) -> Result<Self> {
        let mut c = Call::read(text.trim())?;
        let symmetric = |v: f64| (-v, v);
        let twice = |v: f64| (v, v);
        let transform = match c.name {
            "Resize" => match (c.size()?, c.filter(1, Filter::Bilinear)?) {
                ((size, true), filter) => Transform::ResizeTo { size, filter },
                (((size, _), false), filter) => Transform::Resize { size, filter },
            },
            "ResizeKeepRatio" => Transform::ResizeKeepRatio {
                size: c.size()?.0,
                longest: c.number(1, "longest", 0.0)?,
                filter: c.filter(2, Filter::Bilinear)?,
            },
            "ResizeOpencv" => Transform::ResizeOpencv { size: c.size()?.0 },
            "CenterCrop" => Transform::CenterCrop { size: c.size()?.0 },
            "CenterCropOrPad" => Transform::CenterCropOrPad { size: c.size()?.0, fill: c.fill(1)? },
            "CenterSquare" => Transform::CenterSquare,
            "RandomCrop" => {
                let size = c.size()?.0;
                let padding = c.number(1, "padding", 0.0)?;
                if padding.fract() != 0.0 || !(0.0..=65536.0).contains(&padding) {
                    return Err(c.wrong(&format!("padding {padding} is no number of pixels")));
                }
                let (fill, mode) = (c.fill(NAMED)?, c.word(NAMED, "padding_mode", PadMode::Constant)?);
                Transform::RandomCrop { size, padding: padding as usize, mode, fill }
            }
            "RandomResizedCrop" => Transform::RandomResizedCrop {
                size: c.size()?.0,
                scale: c.pair(1, "scale", (0.08, 1.0), twice)?,
                ratio: c.pair(2, "ratio", (3.0 / 4.0, 4.0 / 3.0), twice)?,
                filter: Interpolation::Fixed(c.filter(3, Filter::Bilinear)?),
            },
            "RandomHorizontalFlip" => Transform::HorizontalFlip { p: c.number(0, "p", 0.5)? },
            "RandomVerticalFlip" => Transform::VerticalFlip { p: c.number(0, "p", 0.5)? },
            "RandomRotation" => Transform::RandomRotation {
                degrees: c.pair(0, "degrees", (f64::NAN, f64::NAN), symmetric)?,
                filter: c.filter(1, Filter::Nearest)?,
                fill: c.fill(NAMED)?,
            },
            "RandomAffine" => Transform::RandomAffine {
                degrees: c.pair(0, "degrees", (f64::NAN, f64::NAN), symmetric)?,
                translate: c.pair(1, "translate", (0.0, 0.0), twice)?,
                scale: c.pair(2, "scale", (1.0, 1.0), twice)?,
                shear: c.pair(3, "shear", (0.0, 0.0), symmetric)?,
                filter: c.filter(4, Filter::Nearest)?,
                fill: c.fill(5)?,
            },
            "RandomPerspective" => Transform::RandomPerspective {
                distortion: c.number(0, "distortion_scale", 0.5)?,
                p: c.number(1, "p", 0.5)?,
                filter: c.filter(2, Filter::Bilinear)?,
                fill: c.fill(3)?,
            },
            "ColorJitter" => Transform::ColorJitter {
                brightness: c.number(0, "brightness", 0.0)?,
                contrast: c.number(1, "contrast", 0.0)?,
                saturation: c.number(2, "saturation", 0.0)?,
                hue: c.number(3, "hue", 0.0)?,
                p: c.number(NAMED, "p", 1.0)?,
            },
            "Grayscale" => Transform::Grayscale { p: 1.0 },
            "RandomGrayscale" => Transform::Grayscale { p: c.number(0, "p", 0.1)? },
            "GaussianBlur" => Transform::GaussianBlur {
                sigma: c.pair(NAMED, "sigma", (0.1, 2.0), twice)?,
                p: c.number(NAMED, "p", 1.0)?,
            },
            "GaussianNoise" => {
                Transform::GaussianNoise { std: c.number(NAMED, "sigma", 0.1)?, p: c.number(NAMED, "p", 1.0)? }
            }
            "AutoAugment" => {
                let Some(Given::Word(name)) = c.take(0, "policy") else { return Err(c.wrong("a policy is missing")) };
                let policy = name.parse().map_err(|e: Error| c.wrong(&e.to_string()))?;
                Transform::Policy { policy, hints: PolicyHints::default() }
            }
            other => {
                let names: Vec<&str> = CALLS.iter().filter_map(|call| call.split('(').next()).collect();
                return Err(match ELSEWHERE.iter().find(|(n, _)| *n == other) {
                    Some((_, why)) => c.wrong(why),
                    None => c.wrong(&format!("no transform is called `{other}`: there are {}", names.join(", "))),
                });
            }
        };
        c.done(transform)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_torchvision_reads_them() {
        let read = |text: &str| text.parse::<Transform>().unwrap_or_else(|e| panic!("{e}"));
        let filter = Filter::Bilinear;
        for (text, want) in [
            ("Resize(256)", Transform::Resize { size: 256, filter }),
            (
                "T.Resize((10, 20), interpolation=InterpolationMode.BICUBIC)",
                Transform::ResizeTo { size: (10, 20), filter: Filter::Bicubic },
            ),
            ("Resize(size=[8,9])", Transform::ResizeTo { size: (8, 9), filter }),
            ("CenterCrop(224)", Transform::CenterCrop { size: (224, 224) }),
            ("CenterSquare", Transform::CenterSquare),
            (
                "RandomCrop(32, padding=4, padding_mode='reflect')",
                Transform::RandomCrop { size: (32, 32), padding: 4, mode: PadMode::Reflect, fill: [0; 3] },
            ),
            ("RandomVerticalFlip()", Transform::VerticalFlip { p: 0.5 }),
            (
                "RandomRotation(15, fill=(1, 2, 3))",
                Transform::RandomRotation { degrees: (-15.0, 15.0), filter: Filter::Nearest, fill: [1, 2, 3] },
            ),
            (
                "ColorJitter(0.4, hue=0.1)",
                Transform::ColorJitter { brightness: 0.4, contrast: 0.0, saturation: 0.0, hue: 0.1, p: 1.0 },
            ),
            ("GaussianNoise(sigma=0.05)", Transform::GaussianNoise { std: 0.05, p: 1.0 }),
            ("ResizeOpencv(64)", Transform::ResizeOpencv { size: (64, 64) }),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
        for policy in
            ["AutoAugment('rand-m9-mstd0.5-inc1')", "AutoAugment(policy=rand-m9-mstd0.5-inc1)", "AutoAugment(v0)"]
        {
            assert!(matches!(read(policy), Transform::Policy { .. }), "{policy}");
        }
        let Transform::RandomAffine { degrees, translate, scale, shear, .. } =
            read("RandomAffine(0, translate=(0.1, 0.2), scale=(0.9, 1.1), shear=5)")
        else {
            panic!("an affine map")
        };
        assert_eq!((degrees, translate, scale, shear), ((0.0, 0.0), (0.1, 0.2), (0.9, 1.1), (-5.0, 5.0)));
        for call in CALLS {
            let name = call.split('(').next().unwrap();
            let e = format!("{name}(nothing=1, nothing=2)").parse::<Transform>().unwrap_err().to_string();
            assert!(e.contains("expected"), "{name} is not known: {e}");
        }
    }

    #[test]
    fn what_is_no_call_says_why() {
        for (text, words) in [
            ("Resize", "size must be"),
            ("Resize(0)", "size must be"),
            ("Resize(1.5)", "size must be"),
            ("Resize(256", "expected `)`"),
            ("CenterCrop(224, 3)", "too many arguments"),
            ("CenterCrop(224, p=1)", "no argument is called `p`"),
            ("RandomCrop(padding=4, 32)", "behind an argument with a name"),
            ("RandomRotation()", "degrees"),
            ("RandomHorizontalFlip(p=2)", "p"),
            ("RandomCrop(32, padding_mode=wrap)", "padding_mode `wrap`"),
            ("GaussianBlur(3)", "too many arguments"),
            ("GaussianNoise(0.0, 0.1)", "too many arguments"),
            ("RandomCrop(32, 4, 1)", "too many arguments"),
            ("RandomRotation(15, nearest, 1)", "too many arguments"),
            ("GaussianBlur(kernel_size=3)", "expected GaussianBlur(*, sigma="),
            ("ToTensor()", "leave it out"),
            ("Normalize((0.5,), (0.5,))", "mean and std"),
            ("Mirror()", "there are Resize,"),
            ("AutoAugment()", "a policy is missing"),
            ("ColorJitter((a, b))", "no list of numbers"),
        ] {
            let e = text.parse::<Transform>().unwrap_err().to_string();
            assert!(e.contains(words), "{text}: {e}");
        }
    }
}
