//! Preparing images before they become the input of a network.

pub mod resize;
