//! Names that resemble a mistyped one.

/// At most two of the names: those that differ least from `name`, counted in letters to change, and in no more than a third of them.
///
/// ```
/// assert_eq!(candlelight_store::nearest(["resnet50", "vit_b_16"].into_iter(), "resnet51"), ["resnet50"]);
/// ```
pub fn nearest<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = names.map(|n| (distance(name, n), n)).collect();
    near.sort_unstable();
    let limit = name.chars().count().max(9) / 3;
    near.into_iter().filter(|(d, _)| *d <= limit).take(2).map(|(_, n)| n).collect()
}

/// The Levenshtein distance between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == *cb { corner } else { corner + 1 };
            corner = row[j + 1];
            row[j + 1] = cost.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
