//! Pools of channels-last images: maxima and means of windows, and blurring with a stride.

pub mod blur;
pub mod window;
