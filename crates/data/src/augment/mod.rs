//! Augmentations: transforms, policies of many operations, and random erasing.

mod erase;
mod leveled;
mod policy;
mod policy_tables;
mod transform;

pub use erase::{EraseMode, RandomErasing};
pub use leveled::PolicyHints;
pub use policy::Policy;
pub use transform::{Interpolation, Transform};
