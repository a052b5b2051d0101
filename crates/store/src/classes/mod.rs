//! The names of classes: those of a model's outputs, those of a data set, and which of one are which of the other.

mod file;
mod fold;
mod forms;
pub mod imagenet;
mod matching;
mod mismatch;

pub use file::{NamesFile, read};
pub use imagenet::synsets;
pub use matching::Matching;
pub use mismatch::Mismatch;

use crate::preparation::Setting;

/// What is known of the classes that a model's outputs stand for: how many there are, and perhaps what they are called.
#[derive(Debug, Clone, PartialEq)]
pub struct Names {
    outputs: usize,
    names: Option<Setting<Vec<String>>>,
}

impl Names {
    /// The names of a model with this number of outputs, for instance those of [`Preparation::classes`](crate::Preparation::classes);
    /// `None` where nothing names them.
    ///
    /// # Errors
    /// [`Mismatch::Head`] when there is not one name for each output.
    pub fn new(outputs: usize, names: Option<Setting<Vec<String>>>) -> Result<Self, Mismatch> {
        match names {
            Some(n) if n.value.len() != outputs => {
                Err(Mismatch::Head { outputs, names: n.value.len(), origin: n.origin.to_string() })
            }
            names => Ok(Names { outputs, names }),
        }
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The names, and where they come from.
    pub fn names(&self) -> Option<&Setting<Vec<String>>> {
        self.names.as_ref()
    }

    /// What an output is called: its name, or `class 7` where it has none.
    pub fn label(&self, output: usize) -> String {
        let name = self.names.as_ref().and_then(|n| n.value.get(output));
        name.cloned().unwrap_or_else(|| format!("class {output}"))
    }

    /// Which output each class of the data is, by name.
    ///
    /// Names are the same if people read them as the same: they are compared in Unicode's composed form without space around them. Where a
    /// name has no such partner, and one other reading fits exactly one output, that one is taken and told in [`Matching::notes`]: UTF-8
    /// that was read as Latin-1, Windows-1252 or code page 437; another case, or underscores and hyphens for spaces; WordNet's ids for
    /// words, and the other way round; one of the words of a name that lists several; the outputs' numbers. The data may have fewer
    /// classes than the model, in any order.
    ///
    /// Without names, 1,000 outputs are ImageNet's if the data's names are; names that are numbers are the outputs' numbers; and as many
    /// classes as outputs are taken in their order. Each of these is told.
    ///
    /// ```
    /// use candlelight_store::classes::Names;
    /// use candlelight_store::preparation::{Origin, Setting};
    ///
    /// let names = Setting::new(vec!["ant".into(), "cat".into(), "dog".into()], Origin::File("config.json".into()));
    /// let model = Names::new(3, Some(names))?;
    /// let found = model.matching(&["dog".into(), "ant".into()])?;
    /// assert_eq!(found.outputs, [2, 0]);
    /// # Ok::<(), candlelight_store::classes::Mismatch>(())
    /// ```
    ///
    /// # Errors
    /// A [`Mismatch`] when a class is not one of the model's, fits several of them, shares its output with another class, or when nothing
    /// tells which is which.
    pub fn matching(&self, data: &[String]) -> Result<Matching, Mismatch> {
        matching::matching(self, data)
    }
}
