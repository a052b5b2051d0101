//! Strings of compress rates, in HRank's notation.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Shares of filters to remove, one per entry, in HRank's notation: `[0.]+[0.1]*3+[0.35]*16` is one entry of 0, three of 0.1 and sixteen of
/// 0.35. A term is one number, from 0 to less than 1, in brackets or without, and how often it repeats.
///
/// ```
/// use candlelight_models::prune::CompressRates;
/// let rates: CompressRates = "[0.]+[0.18]*2".parse()?;
/// assert_eq!(rates.0, [0.0, 0.18, 0.18]);
/// assert!("[0.]+[1.5]".parse::<CompressRates>().is_err());
/// # Ok::<(), candlelight_models::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CompressRates(pub Vec<f64>);

impl FromStr for CompressRates {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut reader = Reader { text, at: 0 };
        let mut rates = vec![];
        loop {
            reader.term(&mut rates)?;
            match reader.next() {
                None => return Ok(CompressRates(rates)),
                Some('+') => {}
                Some(_) => return Err(reader.wrong("expected `+` or the end")),
            }
        }
    }
}

impl fmt::Display for CompressRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = &self.0[..];
        while let Some(rate) = left.first() {
            let n = left.iter().take_while(|r| *r == rate).count();
            let plus = if left.len() == self.0.len() { "" } else { "+" };
            let times = if n > 1 { format!("*{n}") } else { String::new() };
            write!(f, "{plus}[{rate:?}]{times}")?;
            left = &left[n..];
        }
        Ok(())
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Bytes read so far.
    at: usize,
}

impl Reader<'_> {
    /// The next character, which is taken.
    fn next(&mut self) -> Option<char> {
        self.blanks();
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, c: char) -> bool {
        self.blanks();
        let there = self.text[self.at..].starts_with(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    /// The characters of a number.
    fn digits(&mut self, dot: bool) -> (usize, &str) {
        self.blanks();
        let (from, rest) = (self.at, &self.text[self.at..]);
        let end = rest.find(|c: char| !(c.is_ascii_digit() || (dot && c == '.'))).unwrap_or(rest.len());
        self.at += end;
        (from, &rest[..end])
    }

    /// `[RATE]*TIMES`, `[RATE]` or the same without brackets.
    fn term(&mut self, rates: &mut Vec<f64>) -> Result<()> {
        let bracket = self.take('[');
        let (from, number) = self.digits(true);
        let Ok(rate) = number.parse::<f64>() else {
            self.at = from;
            return Err(self.here("expected a rate such as 0.35"));
        };
        if !(0.0..1.0).contains(&rate) {
            self.at = from;
            return Err(self.here("expected a rate from 0 to less than 1, the share of filters to remove"));
        }
        if bracket && !self.take(']') {
            return Err(self.here("expected `]`: a term holds one number"));
        }
        let mut times = 1;
        if self.take('*') {
            let (from, number) = self.digits(false);
            times = number.parse::<usize>().unwrap_or(0);
            if times == 0 || times > 10_000 {
                self.at = from;
                return Err(self.here("expected how often the rate repeats, from 1 to 10000"));
            }
        }
        rates.extend(std::iter::repeat_n(rate, times));
        Ok(())
    }

    /// An error at the character that was taken last.
    fn wrong(&mut self, why: &str) -> Error {
        self.at -= self.text[..self.at].chars().next_back().map_or(0, char::len_utf8);
        self.here(why)
    }

    /// An error at the next character, which is pointed at.
    fn here(&self, why: &str) -> Error {
        let place = self.text[..self.at].chars().count();
        Error::Config(format!(
            "compress_rate, character {}: {why}\n  {}\n  {}^",
            place + 1,
            self.text,
            " ".repeat(place)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_hrank_reads_them() {
        let of = |text: &str| text.parse::<CompressRates>().unwrap().0;
        let long = of("[0.]+[0.1]*3+[0.35]*16");
        assert_eq!((long.len(), long[0], long[3], long[19]), (20, 0.0, 0.1, 0.35));
        assert_eq!(of(" 0.5 + [ .25 ] * 2 "), [0.5, 0.25, 0.25]);
        for text in ["[0.0]+[0.1]*3+[0.35]*16", "[0.5]"] {
            assert_eq!(text.parse::<CompressRates>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, place, why) in [
            ("", 1, "expected a rate"),
            ("[x]", 2, "expected a rate"),
            ("[0.1]*", 7, "how often"),
            ("[0.1]*0", 7, "how often"),
            ("[0.1]+[1.0]", 8, "less than 1"),
            ("[-0.5]", 2, "expected a rate"),
            ("[0.1,0.2]", 5, "expected `]`"),
            ("[0.1][0.2]", 6, "expected `+`"),
            ("[0.1]+", 7, "expected a rate"),
            ("[0.1.2]", 2, "expected a rate"),
            ("[1e-1]", 2, "less than 1"),
            ("[0.1]é", 6, "expected `+`"),
        ] {
            let e = text.parse::<CompressRates>().unwrap_err().to_string();
            assert!(e.contains(&format!("character {place}:")) && e.contains(why), "{text}: {e}");
            let mark = e.lines().last().unwrap();
            assert_eq!(mark.chars().count(), 2 + place, "{e}");
        }
    }
}
