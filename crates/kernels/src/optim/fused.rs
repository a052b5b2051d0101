//! The updates that devices have one kernel for.

/// How a tensor changes. The formulas are those of `candlelight-optim`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// AdamW and Adam; slots m and v. A line's rate is already divided by 1 - beta1^t.
    AdamW {
        /// 1 - beta1.
        take1: f32,
        /// beta2.
        b2: f32,
        /// 1 - beta2.
        take2: f32,
        /// 1 / sqrt(1 - beta2^t).
        root: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
    /// SGD with momentum; one slot.
    Sgd {
        /// The momentum.
        momentum: f32,
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// Lion; one slot.
    Lion {
        /// 1 - beta1.
        take1: f32,
        /// 1 - beta2.
        take2: f32,
    },
    /// A moving average: `param` moves towards `grad` by this share.
    Average {
        /// 1 - decay.
        take: f32,
    },
}

impl Update {
    /// The slots that are read and written.
    pub fn slots(self) -> usize {
        match self {
            Update::AdamW { .. } => 2,
            Update::Sgd { .. } | Update::Lion { .. } => 1,
            Update::Average { .. } => 0,
        }
    }
}

/// An update of one tensor, for a device's kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    /// The formula, with the numbers that tensors share.
    pub how: Update,
    /// The learning rate, as the formula uses it.
    pub lr: f32,
    /// What the parameter is multiplied by: the weight decay of AdamW.
    pub keep: f32,
    /// The share of the parameter that is added to the gradient: the weight decay of Adam.
    pub coupled: f32,
}
