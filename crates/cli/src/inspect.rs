//! The flags of `inspect`, and what it prints of a file of weights.

use crate::Result;
use crate::weights::located;
use candlelight_autograd::ParamStore;
use candlelight_models::summary::commas;
use candlelight_models::weights::{self, Listing, Options};
use candlelight_models::{ModelConfig, adapt};
use clap::Parser;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// List what a file of weights holds: names, shapes, types, in the order of the file. Nothing in the file is run.
#[derive(Parser, Debug)]
#[command(name = "inspect", version, rename_all = "snake_case")]
pub struct Args {
    /// A file of weights: safetensors, a state dict or a whole module of PyTorch, or hf:OWNER/NAME
    file: String,
    /// Print modules as a tree with the number of their parameters, instead of every tensor
    #[arg(long)]
    tree: bool,
    /// Say which of a model's tensors the file has, and why it does not fit where it does not
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Of a file with several sets of weights, the one to compare with the model
    #[arg(long, value_name = "NAME")]
    weights_set: Option<String>,
}

impl Args {
    /// What the file holds, as text.
    ///
    /// # Errors
    /// When it is no file of weights, or there is no such model.
    pub fn text(&self) -> Result<String> {
        let path = located(&self.file)?;
        let mut text = String::new();
        if let Some(name) = &self.model {
            return self.compared(name, &path);
        }
        for listing in weights::list(&path)? {
            let values: usize = listing.tensors.iter().map(|t| t.dims.iter().product::<usize>()).sum();
            let key = if listing.path.is_empty() { String::new() } else { format!("`{}`: ", listing.path) };
            writeln!(text, "{key}{} tensors, {} values", listing.tensors.len(), commas(values as u64))?;
            if self.tree { tree(&listing, &mut text)? } else { table(&listing, &mut text)? }
        }
        Ok(text)
    }

    /// Why a file fits a model, or why it does not.
    fn compared(&self, name: &str, path: &std::path::Path) -> Result<String> {
        let mut config = ModelConfig::named(name)?;
        let options = Options { set: self.weights_set.clone(), ema: false };
        let file = weights::open(path, &options)?;
        let mut text = String::new();
        for set in &file.sets {
            let shown = if set.name.is_empty() { "the file" } else { &set.name };
            let read = if set.name == file.set { ", which is read" } else { "" };
            writeln!(text, "{shown}: {} tensors{}{read}", set.tensors, if set.averaged { ", averaged" } else { "" })?;
        }
        file.notes.iter().try_for_each(|n| writeln!(text, "{n}"))?;
        let fitted = config.architecture_mut().fit(&file.tensors, &adapt::Fitting::default());
        match fitted {
            Ok(fitted) => {
                fitted.notes.iter().try_for_each(|n| writeln!(text, "{n}"))?;
                let params = ParamStore::new();
                config.build(params.builder(candlelight_autograd::Key::new(0)))?;
                let report = weights::load(&params, &fitted.tensors, false)?;
                writeln!(text, "it fits {name}: {report}")?;
            }
            Err(e) => {
                writeln!(text, "it does not fit {name}: {e}")?;
                let model: BTreeMap<String, Vec<usize>> = adapt::wanted(config.architecture())?.into_iter().collect();
                let names: BTreeSet<&str> = file.tensors.iter().map(|(n, _)| n.as_str()).collect();
                let (mut missing, mut shapes) = (vec![], vec![]);
                for (name, dims) in &model {
                    match file.tensors.iter().find(|(n, _)| n == name) {
                        // Old files have no counters, and nothing needs them.
                        None if name.ends_with("num_batches_tracked") => {}
                        None => missing.push(name.clone()),
                        Some((_, t)) if t.dims() != dims.as_slice() => {
                            shapes.push(format!("{name} {:?} instead of {dims:?}", t.dims()));
                        }
                        _ => {}
                    }
                }
                let others: Vec<String> =
                    names.iter().filter(|n| !model.contains_key(**n)).map(ToString::to_string).collect();
                for (what, list) in
                    [("only in the model", missing), ("only in the file", others), ("of another shape", shapes)]
                {
                    if !list.is_empty() {
                        let more = list.len().saturating_sub(8);
                        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
                        writeln!(text, "  {what}: {}{rest}", list[..list.len().min(8)].join(", "))?;
                    }
                }
            }
        }
        Ok(text)
    }
}

fn table(listing: &Listing, text: &mut String) -> Result<()> {
    let width = listing.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in &listing.tensors {
        match (&t.dtype, &t.problem) {
            (Some(dtype), _) => writeln!(text, "  {:<width$}  {dtype:<9}{:?}", t.name, t.dims)?,
            (None, problem) => {
                writeln!(text, "  {:<width$}  cannot be read: {}", t.name, problem.as_deref().unwrap_or(""))?
            }
        }
    }
    Ok(())
}

fn tree(listing: &Listing, text: &mut String) -> Result<()> {
    // Modules in the order in which the file names them first.
    let mut order: Vec<String> = vec![];
    let mut sums: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for t in &listing.tensors {
        let parts: Vec<&str> = t.name.split('.').collect();
        for depth in 1..parts.len() {
            let module = parts[..depth].join(".");
            let sum = sums.entry(module.clone()).or_insert_with(|| {
                order.push(module);
                (0, 0)
            });
            sum.0 += 1;
            sum.1 += t.dims.iter().product::<usize>();
        }
    }
    for module in order {
        let (tensors, values) = sums[&module];
        let depth = module.matches('.').count();
        let name = module.rsplit('.').next().unwrap_or(&module);
        writeln!(text, "  {}{name}  {tensors} tensors, {} values", "  ".repeat(depth), commas(values as u64))?;
    }
    Ok(())
}
