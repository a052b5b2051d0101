//! Names as people read them.

use unicode_normalization::UnicodeNormalization;

/// The name in Unicode's composed form (NFC), without space and invisible marks around it.
pub(super) fn plain(name: &str) -> String {
    let invisible =
        |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\0');
    name.nfc().collect::<String>().trim_matches(invisible).to_string()
}

/// The name without regard to case, to compatible forms of letters (NFKC), and to what separates its words.
pub(super) fn folded(name: &str) -> String {
    let small: String = plain(name).nfkc().flat_map(char::to_lowercase).collect::<String>().nfc().collect();
    let words = small.split(|c: char| c.is_whitespace() || c == '_' || c == '-').filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// What the name is if it is UTF-8 that was read as Latin-1, Windows-1252 or code page 437, as old archives and programs do. Every reading
/// that is exact is given.
pub(super) fn repaired(name: &str) -> Vec<String> {
    let mut all = vec![];
    for form in [name.to_string(), plain(name)] {
        for code in [latin_1, windows_1252, code_page_437] {
            let bytes: Option<Vec<u8>> = form.chars().map(code).collect();
            let text = bytes.filter(|b| !b.is_ascii()).and_then(|b| String::from_utf8(b).ok()).map(|t| plain(&t));
            if let Some(text) = text
                && !all.contains(&text)
            {
                all.push(text);
            }
        }
    }
    all
}

fn latin_1(c: char) -> Option<u8> {
    u8::try_from(u32::from(c)).ok()
}

fn windows_1252(c: char) -> Option<u8> {
    // The codes 0x80 to 0x9f; five of them stand for nothing, and programs keep them as they are.
    const TABLE: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";
    match TABLE.chars().position(|t| t == c) {
        Some(i) => Some(0x80 + i as u8),
        None => latin_1(c).filter(|b| !(0x80..0xa0).contains(b)),
    }
}

fn code_page_437(c: char) -> Option<u8> {
    // The codes from 0x80 on.
    const TABLE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                         αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
    if c.is_ascii() { Some(c as u8) } else { TABLE.chars().position(|t| t == c).map(|i| 0x80 + i as u8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms_and_space_do_not_matter() {
        assert_eq!(plain("cafe\u{301}"), plain("caf\u{e9}"));
        assert_eq!(plain("\u{feff} cat\r\n"), "cat");
        assert_ne!(plain("Cat"), plain("cat"));
        assert_eq!(folded("Great_White-Shark"), folded("great  white shark"));
        assert_eq!(folded("ﬁsh"), "fish");
        assert_eq!(folded("ÉTÉ"), folded("e\u{301}te\u{301}"));
        assert_ne!(folded("cat"), folded("car"));
    }

    #[test]
    fn utf_8_that_was_read_as_something_else_is_repaired() {
        assert!(repaired("caf\u{c3}\u{a9}").contains(&"café".to_string()));
        assert!(repaired("cafe\u{cc}\u{81}").contains(&"café".to_string()), "decomposed before it was misread");
        assert!(repaired("caf├⌐").contains(&"café".to_string()));
        assert!(repaired("itâ€™s").contains(&"it’s".to_string()));
        assert!(repaired("τî½").is_empty() || repaired("τî½").contains(&"猫".to_string()));
        assert!(repaired("cat").is_empty() && repaired("café").is_empty() && repaired("猫").is_empty());
        let (mut codes, high): (Vec<u8>, Vec<char>) = (vec![], (0x80..=0xffu8).map(char::from).collect());
        codes.extend(high.iter().filter_map(|c| latin_1(*c)));
        assert_eq!(codes, (0x80..=0xff).collect::<Vec<u8>>());
        assert_eq!(
            (code_page_437('Ç'), code_page_437('\u{a0}'), code_page_437('█')),
            (Some(0x80), Some(0xff), Some(0xdb))
        );
        assert_eq!((windows_1252('€'), windows_1252('Ÿ'), windows_1252('é')), (Some(0x80), Some(0x9f), Some(0xe9)));
    }
}
