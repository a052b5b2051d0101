//! Images as sequences of tokens: patches, and the order of the tokens.

pub mod patch;
pub mod sequence;
