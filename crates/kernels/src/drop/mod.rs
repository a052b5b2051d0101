//! What is dropped at random in training: single values, whole branches of a sample and blocks of an image.

pub mod block;
pub mod dropout;
