//! What is passed over, by reason, with a count and the first names.

use std::fmt;

/// Names that are kept per reason.
const NAMED: usize = 3;

/// Files and folders that are not read, by reason. Nothing is left out of a data set without being counted here.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Skipped(Vec<Reason>);

/// One reason why something is not read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    /// What the skipped things have in common, such as `hidden and system files`.
    pub what: String,
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub names: Vec<String>,
}

impl Skipped {
    /// The reason of names that operating systems leave behind.
    pub(crate) const LITTER: &str = "hidden or system files and folders";

    /// Counts one more.
    pub(crate) fn add(&mut self, what: &str, name: &dyn fmt::Display) {
        self.add_many(what, 1, [name.to_string()]);
    }

    pub(crate) fn add_many(&mut self, what: &str, count: usize, names: impl IntoIterator<Item = String>) {
        let i = self.0.iter().position(|r| r.what == what).unwrap_or_else(|| {
            self.0.push(Reason { what: what.into(), count: 0, names: vec![] });
            self.0.len() - 1
        });
        self.0[i].count += count;
        self.0[i].names.extend(names);
        // The first by name, whatever thread came first.
        self.0[i].names.sort_unstable();
        self.0[i].names.truncate(NAMED);
    }

    pub(crate) fn extend(&mut self, other: Skipped) {
        for r in other.0 {
            self.add_many(&r.what, r.count, r.names);
        }
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.what.cmp(&b.what));
    }

    /// The reasons.
    pub fn reasons(&self) -> &[Reason] {
        &self.0
    }

    /// How many files and folders are skipped.
    pub fn count(&self) -> usize {
        self.0.iter().map(|r| r.count).sum()
    }

    /// True if nothing is skipped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.count > self.names.len() { ", ..." } else { "" };
        write!(f, "{} {}: {}{more}", self.count, self.what, self.names.join(", "))
    }
}

impl fmt::Display for Skipped {
    /// One line per reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}
