//! Images before they become inputs of a network.

pub mod resize;
