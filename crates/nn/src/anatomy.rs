//! Which of a model's parameters belong to which part of it.

use candlelight_autograd::glob;

/// The parts of a model, as patterns of the names of their parameters; `*` stands for any text. Optimizers and freezing ask the model
/// for its anatomy instead of guessing it from names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// The prefix of the names of the classifying layer's parameters, such as `head.` or `fc.`. Empty where there is no such layer.
    pub head: String,
    /// Prefixes of what trains together with the head, such as further classifying layers that only training needs.
    pub beside_head: Vec<String>,
    /// The name of the weight that reads the channels of images, such as `conv1.weight`. Empty where there is none.
    pub stem: String,
    /// One pattern per block for its attention, such as `blocks.0.attn.*`, from the input to the output.
    pub attention: Vec<String>,
    /// The pattern of the last stage before the head, such as `layer4.*`. Empty where the model has no stages.
    pub last_stage: String,
    /// The patterns of each layer, from the input to the head, for learning rates that fall from layer to layer towards the input.
    /// Together they match every parameter.
    pub layers: Vec<Vec<String>>,
    /// The pattern of the normalisation between the last layer and the head, such as `norm.*`. Layer-wise learning rates need it apart:
    /// timm counts it as a part of the last layer, MAE as a part of the head.
    pub final_norm: String,
    /// Names of parameters that get no weight decay although they are no vectors, such as position embeddings and class tokens.
    pub no_decay: Vec<String>,
}

impl Anatomy {
    /// Whether a parameter belongs to the head, or trains together with it.
    pub fn in_head(&self, name: &str) -> bool {
        self.heads().any(|head| name.starts_with(head))
    }

    /// The prefixes of the head and of what trains together with it.
    pub fn heads(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.head).chain(&self.beside_head).map(String::as_str).filter(|h| !h.is_empty())
    }

    /// The layer that a parameter belongs to, by its place in [`Anatomy::layers`], counted from 0.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|patterns| patterns.iter().any(|p| glob(p, name)))
    }
}
