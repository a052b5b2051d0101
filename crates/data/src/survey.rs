//! A survey of data sets: what their pictures are, and what is wrong with them.

use crate::error::{Error, Result};
use crate::image::{Decode, Facts, Image, decode_with_facts, orientation};
use crate::load::Normalize;
use crate::sets::{Dataset, Label, Picture};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names that are kept of each kind of finding.
const KEPT: usize = 10;

/// What a survey looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurveyConfig {
    /// How pictures are decoded.
    pub decode: Decode,
    /// Samples of each part that are looked at, evenly spread over it; 0 for all. Duplicates are found among these alone.
    pub scan: usize,
    /// Number of threads; 0 for as many as there are cores. The result does not depend on it.
    pub threads: usize,
}

impl Default for SurveyConfig {
    /// All samples, decoded by default, on all cores.
    fn default() -> Self {
        SurveyConfig { decode: Decode::default(), scan: 0, threads: 0 }
    }
}

/// A count, and the first names behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// How many there are.
    pub count: usize,
    /// The first ten, in the order of the parts and of their samples.
    pub first: Vec<String>,
}

impl Found {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(text());
        }
    }
}

/// What a survey found. Displayed, it is a few lines for people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Survey {
    /// For each part its name, its samples, and how many of them were looked at.
    pub parts: Vec<(String, usize, usize)>,
    /// Width and height of the picture with the fewest pixels, of the middle one, and of the one with the most; none where
    /// no picture can be read.
    pub sizes: Option<[(usize, usize); 3]>,
    /// How many pictures are of each kind of file; `decoded` are those that were no files.
    pub kinds: BTreeMap<String, usize>,
    /// How many pictures have each number of channels, as they are stored.
    pub channels: BTreeMap<usize, usize>,
    /// How many pictures have each number of bits per value, as they are stored: 8, 16 or 32.
    pub bit_depths: BTreeMap<u8, usize>,
    /// The mean of each channel over all pixels: from 0 to 1 for bytes, in the pictures' own units for real numbers.
    pub mean: Vec<f64>,
    /// The standard deviation of each channel over all pixels, in the units of the mean.
    pub std: Vec<f64>,
    /// Pictures whose number of channels differs from that of the first one and that the mean leaves out. Gray pictures
    /// among coloured ones count for all three channels.
    pub left_out: Found,
    /// Pictures whose EXIF orientation says that they are to be turned or mirrored; TIFFs, which always are, do not count.
    pub turned: Found,
    /// Whether those were turned.
    pub turns: bool,
    /// Pictures whose largest and least values are less than 1/8 of the range of their bit depth apart, but not equal.
    pub little_range: Found,
    /// Those of them that have 16 bits per value and use at most the lowest 12.
    pub twelve_bits: usize,
    /// Pictures whose pixels all have one value.
    pub constant: Found,
    /// For each part, pictures that repeat the pixels of an earlier one of the part.
    pub within: Vec<Found>,
    /// Pictures that have the pixels of one in an earlier part.
    pub across: Found,
    /// Pictures that have the pixels of an earlier one, and another label.
    pub contradictory: Found,
    /// Pictures that cannot be read, with the reasons.
    pub broken: Found,
}

/// What was found in one picture.
struct Look {
    width: usize,
    height: usize,
    facts: Facts,
    sums: Vec<f64>,
    squares: Vec<f64>,
    turned: bool,
    /// The values' span as a share of their range, where there is a range.
    span: Option<f64>,
    constant: bool,
    /// Whether a 16-bit picture stays within 12 bits.
    twelve: bool,
    hash: u64,
    label: Label,
}

/// Looks at the pictures of some parts of a data set, such as `("train", &train)` and `("val", &val)`.
///
/// ```
/// use candlelight_data::{Dataset, Image, Label, Picture, Result, Sample, SurveyConfig, survey};
/// struct Grays;
/// impl Dataset for Grays {
///     fn len(&self) -> usize {
///         3
///     }
///     fn get(&self, i: usize) -> Result<Sample> {
///         Ok(Sample { picture: Picture::Image(Image::filled(8, 8, 3, [i as u8 / 2; 3])), label: Label::None })
///     }
/// }
/// let found = survey(&[("train", &Grays)], &SurveyConfig::default())?;
/// assert_eq!((found.constant.count, found.within[0].count), (3, 1));
/// # Ok::<(), candlelight_data::Error>(())
/// ```
///
/// # Errors
/// When the settings are wrong. What is wrong with single pictures is part of the survey.
pub fn survey(parts: &[(&str, &dyn Dataset)], config: &SurveyConfig) -> Result<Survey> {
    survey_with(parts, config, &|_, _| {})
}

/// [`survey`] that calls `progress` with how many pictures were looked at and how many there are, from any of its threads.
///
/// # Errors
/// When the settings are wrong.
pub fn survey_with(
    parts: &[(&str, &dyn Dataset)],
    config: &SurveyConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Survey> {
    config.decode.check()?;
    let mut places = vec![];
    let mut survey = Survey { turns: config.decode.orientation, ..Survey::default() };
    for (p, (name, data)) in parts.iter().enumerate() {
        let all = data.len();
        let n = if config.scan == 0 { all } else { config.scan.min(all) };
        places.extend((0..n).map(|i| (p, (i as u128 * all as u128 / n as u128) as usize)));
        survey.parts.push(((*name).to_owned(), all, n));
        survey.within.push(Found::default());
    }
    let looks = looked(parts, config, &places, progress);
    survey.gather(parts, &places, &looks);
    survey.duplicates(parts, &places, &looks);
    Ok(survey)
}

/// One look for each place, made by several threads.
fn looked(
    parts: &[(&str, &dyn Dataset)],
    config: &SurveyConfig,
    places: &[(usize, usize)],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<Result<Look>> {
    let threads = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let all = Mutex::new(BTreeMap::new());
    let work = || loop {
        let k = next.fetch_add(1, Ordering::Relaxed);
        let Some(&(p, i)) = places.get(k) else { return };
        let look = catch_unwind(AssertUnwindSafe(|| look(parts[p].1, i, &config.decode)))
            .unwrap_or_else(|_| Err(Error::Decode("reading or decoding the sample panicked".into())));
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(k, look);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, places.len());
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(places.len()) {
            scope.spawn(work);
        }
        work();
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn look(data: &dyn Dataset, i: usize, options: &Decode) -> Result<Look> {
    let sample = data.get(i)?;
    let (image, facts, turned) = match sample.picture {
        Picture::Encoded(bytes) => {
            let (image, facts) = decode_with_facts(&bytes, options)?;
            let tiff = facts.kind == Some(crate::Kind::Tiff);
            (image, facts, !tiff && orientation(&bytes).is_some_and(|o| o > 1))
        }
        Picture::Image(image) => {
            let bit_depth = if image.values().is_some() { 32 } else { 8 };
            let facts = Facts { kind: None, channels: image.channels, bit_depth };
            (image, facts, false)
        }
    };
    let c = image.channels;
    let (mut sums, mut squares) = (vec![0.0f64; c], vec![0.0f64; c]);
    let (least, most);
    let mut hasher = DefaultHasher::new();
    match image.values() {
        None => {
            // Whole numbers add up exactly, and a histogram is quicker than a sum.
            let mut counts = vec![[0u64; 256]; c];
            for pixel in image.data.chunks_exact(c) {
                pixel.iter().zip(&mut counts).for_each(|(v, counts)| counts[usize::from(*v)] += 1);
            }
            for k in 0..c {
                for (v, n) in counts[k].iter().enumerate() {
                    let v = v as f64 / 255.0;
                    sums[k] += *n as f64 * v;
                    squares[k] += *n as f64 * v * v;
                }
            }
            let used = |v: &usize| counts.iter().any(|counts| counts[*v] > 0);
            least = (0..256).find(used).unwrap_or(0) as f64 / 255.0;
            most = (0..256).rev().find(used).unwrap_or(0) as f64 / 255.0;
            hasher.write(&image.data);
        }
        Some(values) => {
            for pixel in values.chunks_exact(c) {
                for (k, v) in pixel.iter().map(|&v| f64::from(v)).enumerate() {
                    sums[k] += v;
                    squares[k] += v * v;
                }
            }
            least = f64::from(values.iter().copied().fold(f32::MAX, f32::min));
            most = f64::from(values.iter().copied().fold(f32::MIN, f32::max));
            values.iter().for_each(|v| hasher.write(&v.to_le_bytes()));
        }
    }
    for side in [image.width, image.height, c] {
        hasher.write_u64(side as u64);
    }
    // Numbers that were taken as they are have no range.
    let ranged = image.values().is_none() || facts.bit_depth < 32;
    Ok(Look {
        width: image.width,
        height: image.height,
        sums,
        squares,
        turned,
        span: ranged.then_some(most - least),
        constant: constant(&image),
        twelve: ranged && facts.bit_depth == 16 && most < 4096.0 / 65536.0,
        facts,
        hash: hasher.finish(),
        label: sample.label,
    })
}

/// Whether all pixels of an image are equal.
fn constant(image: &Image) -> bool {
    fn same<T: PartialEq>(v: &[T], c: usize) -> bool {
        v.chunks_exact(c).all(|p| p == &v[..c])
    }
    match image.values() {
        None => same(&image.data, image.channels),
        Some(values) => same(values, image.channels),
    }
}

fn named(parts: &[(&str, &dyn Dataset)], (p, i): (usize, usize)) -> String {
    let name = parts[p].1.name(i);
    if parts.len() > 1 && !name.contains(parts[p].0) { format!("{}: {name}", parts[p].0) } else { name }
}

/// A label in words, so that parts whose classes are numbered differently can be compared.
fn in_words(data: &dyn Dataset, label: &Label) -> String {
    let class = |c: &u32| data.classes().get(*c as usize).cloned().unwrap_or_else(|| c.to_string());
    match label {
        Label::None => String::new(),
        Label::Class(c) => class(c),
        Label::Classes(all) => all.iter().map(class).collect::<Vec<_>>().join(" and "),
        Label::Numbers(all) => format!("{all:?}"),
    }
}

impl Survey {
    /// Pictures that were looked at.
    pub fn looked_at(&self) -> usize {
        self.parts.iter().map(|p| p.2).sum()
    }

    /// The means and deviations as a normalisation; none where no picture can be read. The deviation of a channel that has
    /// one value everywhere is given as 1.
    pub fn normalize(&self) -> Option<Normalize> {
        let std = self.std.iter().map(|&s| if s > 0.0 { s as f32 } else { 1.0 }).collect();
        (!self.mean.is_empty()).then(|| Normalize { mean: self.mean.iter().map(|&m| m as f32).collect(), std })
    }

    fn gather(&mut self, parts: &[(&str, &dyn Dataset)], places: &[(usize, usize)], looks: &[Result<Look>]) {
        // Gray among colours counts for three channels; otherwise the first picture says how many there are.
        let channels = |wide: bool| looks.iter().flatten().map(|l| l.sums.len()).find(|&c| !wide || c == 3);
        let first = channels(false);
        let c = if first == Some(1) { channels(true).or(first) } else { first }.unwrap_or(0);
        let (mut sums, mut squares, mut pixels, mut sides) = (vec![0.0; c], vec![0.0; c], 0.0f64, vec![]);
        for (place, look) in places.iter().zip(looks) {
            let name = || named(parts, *place);
            let l = match look {
                Ok(l) => l,
                Err(e) => {
                    let text = e.to_string();
                    let own = parts[place.0].1.name(place.1);
                    self.broken.add(|| if text.contains(&own) { text } else { format!("{}: {text}", name()) });
                    continue;
                }
            };
            sides.push((l.width, l.height));
            let kind = l.facts.kind.map_or_else(|| "decoded".to_owned(), |k| k.to_string());
            *self.kinds.entry(kind).or_default() += 1;
            *self.channels.entry(l.facts.channels).or_default() += 1;
            *self.bit_depths.entry(l.facts.bit_depth).or_default() += 1;
            if l.turned {
                self.turned.add(name);
            }
            if l.constant {
                self.constant.add(name);
            } else if l.span.is_some_and(|s| s < 1.0 / 8.0) {
                self.little_range.add(name);
                self.twelve_bits += usize::from(l.twelve);
            }
            let have = l.sums.len();
            if have == c || (have == 1 && c == 3) {
                for k in 0..c {
                    sums[k] += l.sums[k.min(have - 1)];
                    squares[k] += l.squares[k.min(have - 1)];
                }
                pixels += (l.width * l.height) as f64;
            } else {
                self.left_out.add(|| format!("{} ({have} channels)", name()));
            }
        }
        sides.sort_by_key(|&(w, h)| (w * h, w));
        self.sizes = (!sides.is_empty()).then(|| [sides[0], sides[sides.len() / 2], sides[sides.len() - 1]]);
        if pixels > 0.0 {
            self.mean = sums.iter().map(|s| s / pixels).collect();
            let deviation = |(q, m): (&f64, &f64)| (q / pixels - m * m).max(0.0).sqrt();
            self.std = squares.iter().zip(&self.mean).map(deviation).collect();
        }
    }

    fn duplicates(&mut self, parts: &[(&str, &dyn Dataset)], places: &[(usize, usize)], looks: &[Result<Look>]) {
        let mut seen: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (k, look) in looks.iter().enumerate() {
            let Ok(look) = look else { continue };
            let earlier = seen.entry(look.hash).or_default();
            let pair = |of: usize| format!("{} = {}", named(parts, places[k]), named(parts, places[of]));
            let part = places[k].0;
            if let Some(&of) = earlier.iter().find(|&&e| places[e].0 == part) {
                self.within[part].add(|| pair(of));
            }
            if let Some(&of) = earlier.iter().find(|&&e| places[e].0 != part) {
                self.across.add(|| pair(of));
            }
            let words = |k: usize| {
                looks[k].as_ref().map_or_else(|_| String::new(), |l| in_words(parts[places[k].0].1, &l.label))
            };
            let own = words(k);
            if let Some(&of) = earlier.iter().find(|&&e| !own.is_empty() && !words(e).is_empty() && words(e) != own) {
                self.contradictory.add(|| format!("{}, as {own} and as {}", pair(of), words(of)));
            }
            // Of many equal pictures, one of each part and label is enough to compare with.
            if !earlier.iter().any(|&e| places[e].0 == part && words(e) == own) {
                earlier.push(k);
            }
        }
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |of: Vec<(String, usize)>| -> String {
            of.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let show = |(w, h): (usize, usize)| format!("{w}x{h}");
        if let Some([least, middle, most]) = self.sizes {
            let (least, middle, most) = (show(least), show(middle), show(most));
            writeln!(f, "sizes      {least} to {most}, median {middle} ({} looked at)", self.looked_at())?;
        }
        if !self.kinds.is_empty() {
            writeln!(f, "files      {}", counts(self.kinds.iter().map(|(k, n)| (k.clone(), *n)).collect()))?;
            let channels = counts(self.channels.iter().map(|(c, n)| (format!("{c} in"), *n)).collect());
            let depths = counts(self.bit_depths.iter().map(|(d, n)| (format!("{d} in"), *n)).collect());
            writeln!(f, "channels   {channels}")?;
            writeln!(f, "bits       {depths}")?;
            let numbers = |v: &[f64]| v.iter().map(|m| format!("{m:.3}")).collect::<Vec<_>>().join(" ");
            writeln!(f, "mean       {}", numbers(&self.mean))?;
            writeln!(f, "std        {}", numbers(&self.std))?;
        }
        let mut list = |label: &str, what: &str, found: &Found, always: bool| -> fmt::Result {
            if found.count == 0 && !always {
                return Ok(());
            }
            writeln!(f, "{label:<10} {}{what}", found.count)?;
            found.first.iter().try_for_each(|name| writeln!(f, "           {name}"))?;
            match found.count - found.first.len() {
                0 => Ok(()),
                more => writeln!(f, "           and {more} more"),
            }
        };
        list("left out", " of another number of channels, which the mean leaves out", &self.left_out, false)?;
        let turned =
            if self.turns { " by EXIF, and shown so" } else { " by EXIF, which is ignored as torchvision ignores it" };
        list("turned", turned, &self.turned, false)?;
        let twelve = match self.twelve_bits {
            0 => String::new(),
            n => format!("; {n} of them are 12 bits or fewer stored in 16, which need a bit depth of 16"),
        };
        list("dark/flat", &format!(" use less than 1/8 of their range of values{twelve}"), &self.little_range, false)?;
        list("constant", " have one value everywhere", &self.constant, false)?;
        for ((name, ..), found) in self.parts.iter().zip(&self.within) {
            list("duplicates", &format!(" in {name} repeat the pixels of an earlier one"), found, false)?;
        }
        list("leaks", " have the pixels of one in an earlier part", &self.across, false)?;
        list("conflicts", " have the pixels of another one with another label", &self.contradictory, false)?;
        list("broken", "", &self.broken, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode_png;
    use crate::sets::Sample;

    struct Listed(Vec<(Picture, Label)>, Vec<String>);

    impl Dataset for Listed {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn get(&self, i: usize) -> Result<Sample> {
            Ok(Sample { picture: self.0[i].0.clone(), label: self.0[i].1.clone() })
        }
        fn classes(&self) -> &[String] {
            &self.1
        }
    }

    fn picture(seed: u8, scale: u8) -> Image {
        Image::new(6, 5, 3, (0..90u8).map(|i| i.wrapping_mul(37).wrapping_add(seed) / scale).collect()).unwrap()
    }

    fn png(image: &Image) -> Picture {
        Picture::Encoded(encode_png(image).unwrap())
    }

    fn sets() -> (Listed, Listed) {
        let classes = vec!["cat".to_owned(), "dog".to_owned()];
        let train = vec![
            (png(&picture(1, 1)), Label::Class(0)),
            (png(&picture(2, 1)), Label::Class(1)),
            (png(&picture(1, 1)), Label::Class(1)),
            (png(&picture(3, 16)), Label::Class(1)),
            (png(&Image::filled(9, 9, 3, [7, 8, 9])), Label::Class(1)),
            (Picture::Encoded(b"%PDF".to_vec()), Label::Class(1)),
        ];
        let val = vec![(Picture::Image(picture(2, 1)), Label::Class(0)), (png(&picture(5, 1)), Label::Class(1))];
        // The classes of the second part are numbered the other way round.
        (Listed(train, classes.clone()), Listed(val, classes.into_iter().rev().collect()))
    }

    #[test]
    fn a_survey_finds_what_is_wrong_for_any_number_of_threads() {
        let (train, val) = sets();
        let run = |threads| {
            survey(&[("train", &train), ("val", &val)], &SurveyConfig { threads, ..SurveyConfig::default() }).unwrap()
        };
        let found = run(1);
        assert_eq!(found, run(5));
        assert_eq!(found.parts, [("train".to_owned(), 6, 6), ("val".to_owned(), 2, 2)]);
        assert_eq!(found.sizes, Some([(6, 5), (6, 5), (9, 9)]));
        assert_eq!((found.kinds["PNG"], found.kinds["decoded"]), (6, 1));
        assert_eq!((found.constant.count, found.little_range.count, found.broken.count), (1, 1, 1));
        assert!(found.broken.first[0].contains("PDF") && found.broken.first[0].contains("train"), "{found}");
        assert_eq!((found.within[0].count, found.within[1].count, found.across.count), (1, 0, 1));
        // The same pixels as cat and as dog; across the parts both are called dog.
        assert_eq!(found.contradictory.count, 1, "{found}");
        let text = found.to_string();
        for words in ["duplicates 1 in train", "leaks      1", "conflicts  1", "constant   1", "broken     1"] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn means_are_those_of_all_pixels_and_make_a_normalisation() {
        let data = Listed(
            vec![
                (Picture::Image(Image::new(1, 1, 3, vec![0, 51, 255]).unwrap()), Label::None),
                (Picture::Image(Image::new(1, 1, 1, vec![255]).unwrap()), Label::None),
            ],
            vec![],
        );
        let found = survey(&[("all", &data)], &SurveyConfig::default()).unwrap();
        for (m, want) in found.mean.iter().zip([0.5, 0.6, 1.0]) {
            assert!((m - want).abs() < 1e-12);
        }
        for (s, want) in found.std.iter().zip([0.5, 0.4, 0.0]) {
            assert!((s - want).abs() < 1e-7, "{s} {want}");
        }
        let n = found.normalize().unwrap();
        assert_eq!((n.mean.len(), n.std[2]), (3, 1.0));
        let wrong = SurveyConfig { decode: Decode { bit_depth: 12, ..Decode::default() }, ..SurveyConfig::default() };
        assert!(survey(&[("all", &data)], &wrong).unwrap_err().to_string().contains("bit_depth 12"));
    }

    #[test]
    fn twelve_bits_in_sixteen_are_called_so() {
        let pgm = |most: u32| {
            let mut bytes = b"P5 8 8 65535\n".to_vec();
            bytes.extend((0..64u32).flat_map(|i| ((i * 5171 % (most + 1)) as u16).to_be_bytes()));
            (Picture::Encoded(bytes), Label::None)
        };
        let data = Listed(vec![pgm(4095), pgm(65535), pgm(4095)], vec![]);
        for (bit_depth, channels) in [(8, None), (16, Some(1))] {
            let decode = Decode { bit_depth, channels, ..Decode::default() };
            let found = survey(&[("all", &data)], &SurveyConfig { decode, ..SurveyConfig::default() }).unwrap();
            assert_eq!((found.little_range.count, found.twelve_bits), (2, 2));
            assert_eq!((found.bit_depths[&16], found.channels[&1]), (3, 3));
            assert!(found.to_string().contains("2 of them are 12 bits or fewer stored in 16"));
        }
    }
}
