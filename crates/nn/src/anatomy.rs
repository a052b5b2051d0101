//! What others need to know of a model's parameters.

use candlelight_autograd::glob;

/// The parts of a model by the names of their parameters, in which `*` stands for any text: asked of the model, never guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// The classifying layer, `head.` or `fc.`: what its parameters' names begin with. Empty where there is none.
    pub head: String,
    /// The weight that sees the channels of images, such as `conv1.weight`. Empty where there is none.
    pub stem: String,
    /// The attention of each block, from the input on: `blocks.0.attn.*`.
    pub attention: Vec<String>,
    /// The last stage before the head: `layer4.*`. Empty where there are none.
    pub last_stage: String,
    /// Patterns of each layer from the input to the head, for rates that fall towards the input. Together they match every parameter.
    pub layers: Vec<Vec<String>>,
    /// The normalisation between the last layer and the head, `norm.*`, which timm counts to the last layer and MAE to the head.
    pub final_norm: String,
    /// What is no vector and still not decayed: positions, class tokens.
    pub no_decay: Vec<String>,
}

impl Anatomy {
    /// Whether a parameter is the head's.
    pub fn in_head(&self, name: &str) -> bool {
        !self.head.is_empty() && name.starts_with(&self.head)
    }

    /// The layer that a parameter belongs to, by its place in [`Anatomy::layers`].
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|patterns| patterns.iter().any(|p| glob(p, name)))
    }
}
