//! What a file holds before any value is read: dictionaries of tensors.

/// A tensor of a file that was not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle {
    /// The file, of weights in several files.
    pub(crate) part: usize,
    /// The tensor's number in the file.
    pub(crate) index: usize,
}

/// A dictionary of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dictionary {
    /// The keys that lead to it; none for that of the whole file.
    pub(crate) path: Vec<String>,
    /// The tensors in it by name.
    pub(crate) entries: Vec<(String, Handle)>,
}
