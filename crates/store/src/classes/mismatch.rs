//! Why the classes of a data set cannot be told to be a model's.

/// Why the classes of the data cannot be told to be the model's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The names given for a model are not as many as its outputs.
    #[error(
        "the model has {outputs} outputs, but {names} names are given ({origin}): give one name for each output, in their order"
    )]
    Head {
        /// The model's outputs.
        outputs: usize,
        /// The names.
        names: usize,
        /// Where the names come from.
        origin: String,
    },
    /// The data names no classes at all.
    #[error("the data has no named classes: expected class folders, or a list with labels")]
    Empty,
    /// Classes that the model does not know.
    #[error(
        "{} of the data's {data} classes are not among the model's {outputs} ({origin}): {}; leave them out, or rename them as the model calls them",
        .unknown.len(),
        listed(.unknown)
    )]
    Unknown {
        /// Each class, and the model's names that resemble it most.
        unknown: Vec<(String, Vec<String>)>,
        /// The data's classes.
        data: usize,
        /// The model's outputs.
        outputs: usize,
        /// Where the model's names come from.
        origin: String,
    },
    /// A class that can be several outputs.
    #[error("class `{name}` of the data can be {}: give it the whole name", several(.outputs))]
    Several {
        /// The class.
        name: String,
        /// The outputs and their names.
        outputs: Vec<(u32, String)>,
    },
    /// Several classes that are the same output.
    #[error("classes `{}` of the data are the same class of the model, output {output} `{label}`: join them", .names.join("` and `"))]
    Same {
        /// The classes.
        names: Vec<String>,
        /// The output.
        output: u32,
        /// Its name.
        label: String,
    },
    /// Names that are numbers beyond the outputs.
    #[error(
        "the data's classes are the numbers {least} to {most}, but the model's {outputs} outputs are 0 to {}{}: rename the classes, or give a file with the \
         names of the model's classes, one per line",
        .outputs.saturating_sub(1),
        if *.least == 1 && *.most == *.outputs as u64 { " (do the data's numbers start at 1?)" } else { "" }
    )]
    Numbers {
        /// The least number.
        least: u64,
        /// The greatest number.
        most: u64,
        /// The model's outputs.
        outputs: usize,
    },
    /// Names that are numbers but lie in another order, where the model's names are not known.
    #[error(
        "no class names of the model are known, and the data's classes are numbers in the order {order}: output {place} can be class `{number}` by \
         its number, or class `{at_place}` by its place, as torchvision numbers folders; give a file with the names of the model's classes, one per line"
    )]
    Order {
        /// The first classes in the data's order.
        order: String,
        /// The first place where both readings differ.
        place: usize,
        /// The class of that number.
        number: String,
        /// The class at that place.
        at_place: String,
    },
    /// No names, and another number of classes.
    #[error(
        "no class names of the model are known, and it has {outputs} outputs while the data has {data} classes: give a file with the names of the \
         model's classes, one per line in the order of its outputs"
    )]
    Count {
        /// The data's classes.
        data: usize,
        /// The model's outputs.
        outputs: usize,
    },
}

/// At most five of them, each with the names that resemble it.
fn listed(unknown: &[(String, Vec<String>)]) -> String {
    let one = |(name, near): &(String, Vec<String>)| match near.is_empty() {
        true => format!("`{name}`"),
        false => format!("`{name}` (did you mean `{}`?)", near.join("` or `")),
    };
    let shown = unknown.iter().take(5).map(one).collect::<Vec<_>>().join(", ");
    if unknown.len() > 5 { format!("{shown}, ...") } else { shown }
}

fn several(outputs: &[(u32, String)]) -> String {
    outputs.iter().take(5).map(|(o, n)| format!("output {o} `{n}`")).collect::<Vec<_>>().join(" or ")
}
