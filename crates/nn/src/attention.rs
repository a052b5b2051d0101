//! Multi-head self-attention.

use crate::{Dropout, Linear};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, Result, Value, ops};

/// Multi-head self-attention, A. Vaswani et al., arXiv 1706.03762, with timm's names: `qkv` (3 D, D) and `proj` (D, D).
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::{Attention, init};
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::ones((2, 5, 8), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = Attention::new(8, 2, init::xavier_uniform, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x), None)?.dims(), [2, 5, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Attention {
    /// Its name, for values that are looked at.
    name: String,
    qkv: Linear,
    proj: Linear,
    heads: usize,
    attn_drop: f32,
    proj_drop: Dropout,
}

impl Attention {
    /// Attention over tokens of `width` values, which `heads` must divide. `init` gives the initial distribution of a weight from its
    /// numbers of inputs and outputs; biases start at 0.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(width: usize, heads: usize, init: fn(usize, usize) -> Init, vb: VarBuilder) -> Result<Self> {
        // Heads that do not divide the width are refused by the operation, with the numbers.
        Self::sized(width, (heads, width), init, vb)
    }

    /// Attention of `heads` heads of `head` values each, which need not make up the width: `qkv` is (3 H Dh, D), `proj` (D, H Dh).
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn with_heads(
        width: usize,
        heads: usize,
        head: usize,
        init: fn(usize, usize) -> Init,
        vb: VarBuilder,
    ) -> Result<Self> {
        Self::sized(width, (heads, heads * head), init, vb)
    }

    fn sized(
        width: usize,
        (heads, inner): (usize, usize),
        init: fn(usize, usize) -> Init,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Attention {
            name: vb.prefix(),
            qkv: Linear::with_init(width, 3 * inner, init(width, 3 * inner), Init::Const(0.0), vb.pp("qkv"))?
                .with_parts(&["q", "k", "v"], &vb)?,
            proj: Linear::with_init(inner, width, init(inner, width), Init::Const(0.0), vb.pp("proj"))?,
            heads,
            attn_drop: 0.0,
            proj_drop: Dropout(0.0),
        })
    }

    /// The same layer with dropout on the attention probabilities and after the projection, with rates in [0, 1).
    #[must_use]
    pub fn with_dropout(self, probabilities: f32, projection: f32) -> Self {
        Attention { attn_drop: probabilities, proj_drop: Dropout(projection), ..self }
    }

    /// x (B, N, D) -> (B, N, D). `key` draws the dropout of training; `None` turns it off, for evaluation.
    ///
    /// # Errors
    /// When the width differs or the heads do not divide it.
    pub fn forward(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = self.attend(x, key)?; // (B, N, D)
        let h = self.proj.forward_keyed(&h, key.map(|k| k.child("proj")).as_ref())?;
        self.proj_drop.forward(&h, key.map(|k| k.child("proj_drop")))
    }

    /// The same, added to a residual (B, N, D).
    ///
    /// # Errors
    /// When the shapes differ or the heads do not divide the width.
    pub fn forward_add(&self, x: &Value, key: Option<&Key>, residual: &Value) -> Result<Value> {
        if self.proj_drop.drops(key) {
            return residual.add(&self.forward(x, key)?);
        }
        self.proj.forward_add(&self.attend(x, key)?, key.map(|k| k.child("proj")).as_ref(), residual)
    }

    /// The number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    fn attend(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = self.qkv.forward_keyed(x, key.map(|k| k.child("qkv")).as_ref())?; // (B, N, 3 D)
        let h = h.tap(|| format!("{}.qkv", self.name));
        let h = ops::attention(&h, self.heads, key.map(|k| (k.child("attn_drop"), self.attn_drop)))?; // (B, N, D)
        Ok(h.tap(|| format!("{}.mixed", self.name)))
    }
}
