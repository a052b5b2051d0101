//! What a model is made of: its layers in the order of the forward pass, with shapes, parameters and multiply-adds.

use crate::cost::{Convention, Cost};
use crate::error::Result;
use crate::model::Classifier;
use crate::prune::trace;
use crate::registry::ModelConfig;
use candlelight_autograd::{ParamStore, Trace, Traced};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

/// One layer of a model, or a block of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Where it is in the model, such as `layer1.0.conv1`; empty where it has no name because it has no parameters.
    pub name: String,
    /// What it is, by PyTorch's name where PyTorch has it as a module: `Conv2d`; a block of layers is a `Block`.
    pub kind: String,
    /// The dimensions of its result, as PyTorch has them: images are (B, C, H, W).
    pub output: Vec<usize>,
    /// Parameters of its own; a block has none.
    pub parameters: usize,
    /// Those that train.
    pub trainable: usize,
    /// Multiply-adds of its products.
    pub macs: u64,
    /// Whether PyTorch's models have a module for it. Additions, joins and attention itself are none.
    pub module: bool,
}

/// The layers of a model, and their sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The dimensions of the input.
    pub input: Vec<usize>,
    /// The layers, in the order of the forward pass; a block comes behind its last layer.
    pub rows: Vec<Row>,
    /// All parameters.
    pub parameters: usize,
    /// Those that train.
    pub trainable: usize,
    /// Values of running statistics and other buffers, which are saved with the parameters.
    pub buffers: usize,
    /// Multiply-adds by convention.
    pub macs: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// The summary of a classifier with parameters `params`, for one image of the configuration's size.
    ///
    /// # Errors
    /// When the image does not fit the model.
    pub fn of(model: &dyn Classifier, config: &ModelConfig, params: &ParamStore) -> Result<Self> {
        let (h, w) = config.image();
        Ok(Self::of_trace(&trace(model, config)?, params, &[1, config.channels(), h, w]))
    }

    /// The summary of any forward pass, from an input of these dimensions.
    pub fn of_trace(trace: &Trace, params: &ParamStore, input: &[usize]) -> Self {
        let names = trace.names(params);
        let sizes: BTreeMap<String, (usize, bool)> =
            params.entries().into_iter().map(|e| (e.name, (e.var.elem_count(), e.trainable))).collect();
        let blocks = blocks(sizes.keys());
        let (mut rows, mut seen) = (vec![], HashSet::new());
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &trace.calls {
            let own: Vec<&String> =
                call.inputs.iter().filter_map(|(_, o)| names.get(o)).filter(|n| sizes.contains_key(*n)).collect();
            let path = own.first().map_or("", |n| n.rsplit_once('.').map_or(n.as_str(), |(layer, _)| layer));
            let new: Vec<(usize, bool)> =
                own.iter().filter(|n| seen.insert((**n).clone())).map(|n| sizes[*n]).collect();
            let parts = kinds(call);
            for (i, (kind, module)) in parts.iter().enumerate() {
                let first = i == 0;
                rows.push(Row {
                    name: if first { path.to_string() } else { String::new() },
                    kind: (*kind).to_string(),
                    output: shown(&call.result),
                    parameters: if first { new.iter().map(|(n, _)| n).sum() } else { 0 },
                    trainable: if first { new.iter().filter(|(_, t)| *t).map(|(n, _)| n).sum() } else { 0 },
                    macs: if first { Cost::of(call).products } else { 0 },
                    module: *module,
                });
            }
            for block in blocks.iter().filter(|b| !path.is_empty() && path.starts_with(&format!("{b}."))) {
                last.insert(block, rows.len());
            }
        }
        // From the back, so that places stay right; of blocks that end together the inner one comes first.
        let mut ends: Vec<(&str, usize)> = last.into_iter().collect();
        ends.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.len().cmp(&b.0.len())));
        for (block, at) in ends {
            let output = rows[at - 1].output.clone();
            let (name, kind) = (block.to_string(), "Block".to_string());
            rows.insert(at, Row { name, kind, output, parameters: 0, trainable: 0, macs: 0, module: true });
        }
        let (parameters, trainable) = params.count();
        let all: usize = params.state_dict().iter().map(|(_, t)| t.elem_count()).sum();
        let cost = Cost::total(trace);
        let conventions = [("exact", Convention::Exact), ("hrank", Convention::Hrank), ("thop", Convention::Thop)];
        Summary {
            input: input.to_vec(),
            rows,
            parameters,
            trainable,
            buffers: all - parameters,
            macs: conventions.into_iter().map(|(name, c)| (name, cost.macs(c))).collect(),
        }
    }

    /// Megabytes (2^20 bytes) of the input, of the results of all modules forward and backward, and of the parameters, in f32: torchsummary's
    /// three figures. It counts every block's result once more, and as much memory backward as forward.
    pub fn megabytes(&self) -> [f64; 3] {
        let mb = |values: usize| values as f64 * 4.0 / f64::from(1 << 20);
        let results: usize = self.rows.iter().filter(|r| r.module).map(|r| r.output.iter().product::<usize>()).sum();
        [mb(self.input.iter().product()), mb(2 * results), mb(self.parameters)]
    }
}

/// Dimensions in PyTorch's order.
fn shown(dims: &[usize]) -> Vec<usize> {
    match *dims {
        [b, h, w, c] => vec![b, c, h, w],
        _ => dims.to_vec(),
    }
}

/// The rows of an operation: its kind, and whether it is a module of PyTorch's. Changes of shape have none.
fn kinds(call: &Traced) -> Vec<(&'static str, bool)> {
    let kernel = call.ints("kernel_size");
    let mut all = match call.name {
        "reshape" | "permute" | "narrow" | "expand" => vec![],
        // A window of one pixel takes every other pixel: a shortcut without parameters.
        "avg_pool2d" if kernel.iter().all(|k| *k == 1) => vec![("subsample", false)],
        "conv2d" => vec![("Conv2d", true)],
        "conv_transpose2d" => vec![("ConvTranspose2d", true)],
        "linear" | "linear_add" | "linear_gelu" => vec![("Linear", true)],
        "batch_norm" => vec![("BatchNorm2d", true)],
        "layer_norm" => vec![("LayerNorm", true)],
        "group_norm" => vec![("GroupNorm", true)],
        "relu" => vec![("ReLU", true)],
        "leaky_relu" => vec![("LeakyReLU", true)],
        "gelu" => vec![("GELU", true)],
        "silu" => vec![("SiLU", true)],
        "sigmoid" => vec![("Sigmoid", true)],
        "tanh" => vec![("Tanh", true)],
        "softplus" => vec![("Softplus", true)],
        "max_pool2d" => vec![("MaxPool2d", true)],
        "avg_pool2d" => vec![("AvgPool2d", true)],
        "adaptive_avg_pool2d" => vec![("AdaptiveAvgPool2d", true)],
        "blur_pool2d" => vec![("BlurPool2d", true)],
        other => vec![(other, false)],
    };
    if call.attribute("then").is_some() {
        all.push(("ReLU", true));
    }
    if call.name == "linear_gelu" {
        all.push(("GELU", true));
    }
    all
}

/// The modules that contain others and are more than a list of them: `layer1.0`, but not `layer1`, whose children are numbers.
fn blocks<'a>(parameters: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let mut children: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in parameters {
        let parts: Vec<&str> = name.split('.').collect();
        for i in 1..parts.len().saturating_sub(1) {
            children.entry(parts[..i].join(".")).or_default().insert(parts[i].to_string());
        }
    }
    let list = |names: &BTreeSet<String>| names.iter().all(|n| n.parse::<usize>().is_ok());
    children.into_iter().filter(|(_, names)| !list(names)).map(|(block, _)| block).collect()
}

/// A number with commas between thousands.
pub fn commas(n: u64) -> String {
    let digits = n.to_string();
    let place = |i: usize| i > 0 && (digits.len() - i) % 3 == 0;
    digits.chars().enumerate().flat_map(|(i, c)| place(i).then_some(',').into_iter().chain([c])).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = |r: &Row| format!("{:?}", r.output);
        let width = |of: &dyn Fn(&Row) -> usize, least: usize| self.rows.iter().map(of).max().unwrap_or(0).max(least);
        let (name, kind) = (width(&|r| r.name.len(), 5), width(&|r| r.kind.len(), 4));
        let shape = width(&|r| output(r).len(), 6);
        writeln!(
            f,
            "{:<name$}  {:<kind$}  {:<shape$}  {:>12}  {:>12}  {:>15}",
            "layer", "kind", "output", "parameters", "trainable", "MACs"
        )?;
        let number = |n: u64| if n == 0 { String::new() } else { commas(n) };
        for r in &self.rows {
            let line = format!(
                "{:<name$}  {:<kind$}  {:<shape$}  {:>12}  {:>12}  {:>15}",
                r.name,
                r.kind,
                output(r),
                number(r.parameters as u64),
                number(r.trainable as u64),
                number(r.macs)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        let [input, results, params] = self.megabytes();
        writeln!(f)?;
        writeln!(f, "parameters          {}", commas(self.parameters as u64))?;
        writeln!(f, "  trainable         {}", commas(self.trainable as u64))?;
        writeln!(f, "  frozen            {}", commas((self.parameters - self.trainable) as u64))?;
        writeln!(f, "buffers             {} (running statistics)", commas(self.buffers as u64))?;
        for (key, convention) in
            [("exact", Convention::Exact), ("hrank", Convention::Hrank), ("thop", Convention::Thop)]
        {
            let label = if key == "exact" { "multiply-adds" } else { "" };
            writeln!(f, "{label:<18}  {} ({convention})", commas(self.macs[key]))?;
        }
        writeln!(f, "input               {input:.2} MB, for {:?} in f32", self.input)?;
        writeln!(
            f,
            "forward + backward  {results:.2} MB, as torchsummary counts: results of all modules and blocks, twice"
        )?;
        writeln!(f, "parameters          {params:.2} MB")?;
        write!(f, "together            {:.2} MB", input + results + params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::Key;

    fn summary(name: &str, image: (usize, usize), classes: usize, freeze: &str) -> Summary {
        let mut config = ModelConfig::named(name).unwrap();
        config.architecture_mut().set_image(image);
        *config.architecture_mut().settings().unwrap().classes = classes;
        let params = ParamStore::new();
        let model = config.build(params.builder(Key::new(0))).unwrap();
        params.freeze(freeze);
        params.unfreeze("fc.*");
        Summary::of(&*model, &config, &params).unwrap()
    }

    #[test]
    fn resnet18_is_torchsummarys_to_the_unit() {
        let s = summary("resnet18", (256, 256), 200, "*");
        assert_eq!((s.parameters, s.trainable), (11_279_112, 102_600));
        let [input, results, params] = s.megabytes();
        let text = [input, results, params, input + results + params].map(|v| format!("{v:.2}"));
        assert_eq!(text, ["0.75", "82.01", "43.03", "125.78"]);
        let row = |i: usize| (s.rows[i].name.as_str(), s.rows[i].kind.as_str(), &s.rows[i].output[..]);
        assert_eq!(row(0), ("conv1", "Conv2d", &[1, 64, 128, 128][..]));
        assert_eq!(row(2), ("", "ReLU", &[1, 64, 128, 128][..]));
        assert_eq!(row(10), ("layer1.0", "Block", &[1, 64, 64, 64][..]));
        // torchsummary lists 68 layers.
        assert_eq!(s.rows.iter().filter(|r| r.module).count(), 68);
        assert_eq!(s.rows.iter().map(|r| r.parameters).sum::<usize>(), s.parameters);
        let text = s.to_string();
        assert!(text.contains("11,279,112") && text.contains("125.78 MB"), "{text}");
    }

    #[test]
    fn every_parameter_is_in_one_row_for_every_model() {
        for name in crate::registry::list("*") {
            let Ok(entry) = crate::registry::entry(name) else { continue };
            // The largest ones are made of the same layers.
            if ["huge", "large", "_h_", "_l_", "101", "152", "yolov5x", "yolov5l"].iter().any(|big| name.contains(big))
            {
                continue;
            }
            let params = ParamStore::new();
            let model = entry.config.build(params.builder(Key::new(0))).unwrap();
            let s = Summary::of(&*model, &entry.config, &params).unwrap();
            assert_eq!(s.rows.iter().map(|r| r.parameters).sum::<usize>(), s.parameters, "{name}");
            assert_eq!(s.rows.iter().map(|r| r.macs).sum::<u64>(), s.macs["exact"], "{name}");
            assert_eq!(s.parameters, s.trainable, "{name}");
        }
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(commas), ["0", "999", "1,000", "1,234,567"]);
    }
}
