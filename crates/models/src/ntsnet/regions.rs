//! Where the informative parts of an image may lie, and the choice of some that hardly overlap.

use candlelight_nn::Region;

/// The ratios of width to height.
const RATIOS: [f64; 3] = [0.667, 1.0, 1.5];

/// Sizes of the regions of a level, as powers of two times one and a half of its stride; the last level also has the plain size.
const POWERS: [f64; 3] = [0.0, 1.0 / 3.0, 2.0 / 3.0];

/// The number of regions at each place of a level.
pub(super) const fn per_place(level: usize, levels: usize) -> usize {
    RATIOS.len() * if level + 1 == levels { POWERS.len() } else { POWERS.len() - 1 }
}

/// The regions of images of `image` (height, width) pixels: for each level, whose map has the given (rows, columns) and twice the stride of the
/// level before it, by size, ratio, row and column. Sides are whole pixels, rounded down; regions reach beyond the image.
pub fn anchors(image: (usize, usize), stride: usize, maps: &[(usize, usize)]) -> Vec<Region> {
    // Coordinates are rounded where none is negative: in an image with half of its side around it.
    let whole = |at: f32, side: usize| (at + (side / 2) as f32).floor() as i64 - (side / 2) as i64;
    let mut all = vec![];
    for (level, (rows, columns)) in maps.iter().enumerate() {
        let stride = (stride << level) as f64;
        let powers = if level + 1 == maps.len() { &POWERS[..] } else { &POWERS[1..] };
        for (power, ratio) in powers.iter().flat_map(|p| RATIOS.iter().map(move |r| (p, r))) {
            let size = 1.5 * stride * power.exp2();
            let (high, wide) = ((size / ratio.sqrt()) as f32 / 2.0, (size * ratio.sqrt()) as f32 / 2.0);
            for (row, column) in (0..*rows).flat_map(|r| (0..*columns).map(move |c| (r, c))) {
                let centre = |i: usize| ((i as f64 + 0.5) * stride) as f32;
                let (y, x) = (centre(row), centre(column));
                all.push(Region {
                    image: 0,
                    top: whole(y - high, image.0),
                    left: whole(x - wide, image.1),
                    bottom: whole(y + high, image.0),
                    right: whole(x + wide, image.1),
                });
            }
        }
    }
    all
}

/// The share of two regions' union that both cover.
fn overlap(a: &Region, b: &Region) -> f64 {
    let common = |from: i64, to: i64| (to - from).max(0);
    let both = common(a.top.max(b.top), a.bottom.min(b.bottom)) * common(a.left.max(b.left), a.right.min(b.right));
    let area = |r: &Region| (r.bottom - r.top) * (r.right - r.left);
    both as f64 / (area(a) + area(b) - both).max(1) as f64
}

/// The numbers of the `n` regions with the best scores, of which no two overlap by `iou` of their union or more; of equal scores the region that
/// comes later is better. Where too few are left, the best of the others follow.
pub fn choose(scores: &[f32], regions: &[Region], iou: f32, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..regions.len().min(scores.len())).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(b.cmp(a)));
    let mut chosen: Vec<usize> = vec![];
    for i in &order {
        if chosen.len() < n && chosen.iter().all(|c| overlap(&regions[*c], &regions[*i]) < f64::from(iou)) {
            chosen.push(*i);
        }
    }
    let others: Vec<usize> = order.into_iter().filter(|i| !chosen.contains(i)).take(n - chosen.len()).collect();
    chosen.extend(others);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_448_pixels_has_1614_regions() {
        let all = anchors((448, 448), 32, &[(14, 14), (7, 7), (4, 4)]);
        assert_eq!((all.len(), per_place(0, 3), per_place(2, 3)), (1614, 6, 9));
        // 48 x 2^(1/3) pixels at the first place, 0.667 times as wide as high.
        let r = all[0];
        assert_eq!((r.top, r.left, r.bottom, r.right), (-22, -9, 53, 40));
        let last = all[1613];
        assert_eq!((last.top, last.left, last.bottom, last.right), (323, 261, 572, 634));
    }

    #[test]
    fn the_best_that_hardly_overlap_are_chosen() {
        let region = |top, left, bottom, right| Region { image: 0, top, left, bottom, right };
        let boxes = [region(1, 10, 12, 20), region(1, 11, 11, 20), region(20, 30, 40, 50)];
        assert_eq!(choose(&[0.4, 0.5, 0.55], &boxes, 0.4, 2), [2, 1]);
        assert_eq!(choose(&[0.4, 0.5, 0.55], &boxes, 0.4, 3), [2, 1, 0]);
        assert_eq!(choose(&[0.4, 0.5, 0.45], &boxes, 0.9, 3), [1, 2, 0]);
        assert_eq!(choose(&[0.4, 0.4, f32::NAN], &boxes, 0.25, 2), [2, 1]);
    }
}
