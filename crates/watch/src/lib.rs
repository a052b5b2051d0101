#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod page;
mod run;
mod serve;

pub use run::{Runs, base64};
pub use serve::Server;
