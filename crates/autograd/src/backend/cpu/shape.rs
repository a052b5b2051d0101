//! Shapes: gradients pass through as they are, without a copy.

use crate::error::Result;
use crate::node::{Done, Inputs};

pub(super) fn reshape(to: &[usize], x: &Inputs) -> Result<Done> {
    Ok(Done::host(x.tensor(0).reshape(to)?, |g, b| b.add(0, g)))
}
