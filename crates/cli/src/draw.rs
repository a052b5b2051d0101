//! Draws letters and pictures into pictures.

use candlelight_data::Image;

/// Writes text in letters of 8 x 8 dots, each `scale` pixels wide.
pub fn write(sheet: &mut Image, x: usize, y: usize, text: &str, scale: usize, color: [u8; 3]) {
    use font8x8::UnicodeFonts;
    let dot = Image::filled(scale, scale, 3, color);
    for (i, letter) in text.chars().enumerate() {
        let glyph = font8x8::BASIC_FONTS.get(letter).unwrap_or([0; 8]);
        for (dy, bits) in glyph.into_iter().enumerate() {
            for dx in (0..8).filter(|dx| bits >> dx & 1 == 1) {
                paste(sheet, &dot, x + scale * (8 * i + dx), y + scale * dy);
            }
        }
    }
}

/// Copies the part of an RGB picture that fits.
pub fn paste(sheet: &mut Image, part: &Image, x: usize, y: usize) {
    for row in 0..part.height.min(sheet.height.saturating_sub(y)) {
        let n = part.width.min(sheet.width.saturating_sub(x)) * 3;
        let at = ((y + row) * sheet.width + x) * 3;
        if n > 0 {
            sheet.data[at..at + n].copy_from_slice(&part.data[row * part.width * 3..][..n]);
        }
    }
}
