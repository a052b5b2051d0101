//! Follows every channel through the operations of a forward pass: which entries of which parameters belong to it, and which channels must go
//! together. This is the idea of DepGraph (G. Fang et al., arXiv 2301.12900), on our own list of operations.

use candlelight_autograd::spec::Origin;
use candlelight_autograd::{Trace, Traced};
use std::collections::{HashMap, HashSet};

/// The channels of a value: those along one of its dimensions.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    pub(super) axis: usize,
    pub(super) ids: Vec<usize>,
}

/// The channels along one dimension of a parameter or a running statistic.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) axis: usize,
    pub(super) ids: Vec<usize>,
}

/// A product of matrices: its multiply-adds are `factor` times the numbers of its channels.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) factor: u64,
    pub(super) outputs: Vec<usize>,
    pub(super) inputs: Vec<usize>,
}

/// Zeros beside channels: entry i of the result is channel `from[i]` of the input, or zeros.
#[derive(Debug)]
pub(super) struct Padding {
    pub(super) from: Vec<Option<usize>>,
    pub(super) to: Vec<usize>,
    pub(super) inputs: Vec<usize>,
}

/// All channels of a forward pass.
#[derive(Debug)]
pub(super) struct Channels<'a> {
    names: &'a HashMap<Origin, String>,
    parents: Vec<usize>,
    fixed: Vec<bool>,
    pub(super) axes: Vec<Axis>,
    places: HashMap<(String, usize), usize>,
    /// The channels of each operation's result.
    pub(super) flows: Vec<Flow>,
    pub(super) products: Vec<Product>,
    pub(super) paddings: Vec<Padding>,
    /// Parameters that an operation uses in a way that is not known here.
    opaque: HashSet<String>,
}

/// An input: a parameter's name, or the channels of a value.
enum Operand {
    Param(String),
    Value(Flow),
}

impl<'a> Channels<'a> {
    /// Follows the channels of a pass whose parameters have these names.
    pub(super) fn of(trace: &Trace, names: &'a HashMap<Origin, String>) -> Self {
        let mut all = Channels {
            names,
            parents: vec![],
            fixed: vec![],
            axes: vec![],
            places: HashMap::new(),
            flows: vec![],
            products: vec![],
            paddings: vec![],
            opaque: HashSet::new(),
        };
        for call in &trace.calls {
            let flow = all.call(call);
            all.flows.push(flow);
        }
        if let Origin::Call(n) = trace.result {
            all.fix(&all.flows[n].ids.clone());
        }
        let opaque: Vec<usize> =
            all.axes.iter().filter(|a| all.opaque.contains(&a.name)).flat_map(|a| a.ids.clone()).collect();
        all.fix(&opaque);
        all
    }

    /// The channel that stands for all that go together with `id`.
    pub(super) fn root(&self, mut id: usize) -> usize {
        while self.parents[id] != id {
            id = self.parents[id];
        }
        id
    }

    /// Whether a channel must stay.
    pub(super) fn is_fixed(&self, root: usize) -> bool {
        self.fixed[root]
    }

    fn fresh(&mut self, n: usize, fixed: bool) -> Vec<usize> {
        let first = self.parents.len();
        self.parents.extend(first..first + n);
        self.fixed.extend(std::iter::repeat_n(fixed, n));
        (first..first + n).collect()
    }

    fn fix(&mut self, ids: &[usize]) {
        for id in ids {
            let root = self.root(*id);
            self.fixed[root] = true;
        }
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high] = low;
        self.fixed[low] |= self.fixed[high];
    }

    fn join_all(&mut self, a: &[usize], b: &[usize]) {
        a.iter().zip(b).for_each(|(a, b)| self.join(*a, *b));
    }

    /// Notes that the entries of a parameter's dimension belong to these channels.
    fn register(&mut self, name: &str, axis: usize, ids: &[usize]) {
        match self.places.get(&(name.to_string(), axis)) {
            // Shared parameters tie what they serve.
            Some(&at) => self.join_all(&self.axes[at].ids.clone(), ids),
            None => {
                self.places.insert((name.into(), axis), self.axes.len());
                self.axes.push(Axis { name: name.into(), axis, ids: ids.to_vec() });
            }
        }
    }

    fn operand(&mut self, call: &Traced, i: usize) -> Option<Operand> {
        let (dims, origin) = call.inputs.get(i)?;
        Some(match (origin, self.names.get(origin)) {
            (Origin::Call(n), _) => Operand::Value(self.flows[*n].clone()),
            (_, Some(name)) => Operand::Param(name.clone()),
            _ => Operand::Value(self.unknown(dims)),
        })
    }

    /// Channels along the last dimension that must stay.
    fn unknown(&mut self, dims: &[usize]) -> Flow {
        let ids = self.fresh(dims.last().copied().unwrap_or(0), true);
        Flow { axis: dims.len().saturating_sub(1), ids }
    }

    /// The channels along the last dimension of an input, whatever they were along before.
    fn last(&mut self, call: &Traced, i: usize) -> Vec<usize> {
        let dims = call.inputs[i].0.clone();
        match self.operand(call, i) {
            Some(Operand::Value(f)) if f.axis + 1 == dims.len() && Some(&f.ids.len()) == dims.last() => f.ids,
            Some(Operand::Value(f)) => {
                self.fix(&f.ids);
                self.unknown(&dims).ids
            }
            Some(Operand::Param(name)) => {
                self.opaque.insert(name);
                self.unknown(&dims).ids
            }
            None => vec![],
        }
    }

    /// Gives a dimension of a weight to channels. A weight that is computed ties them to what it is computed from.
    fn weigh(&mut self, call: &Traced, i: usize, axis: usize, ids: &[usize]) {
        match self.operand(call, i) {
            Some(Operand::Param(name)) => self.register(&name, axis, ids),
            Some(Operand::Value(f)) if f.axis == axis && f.ids.len() == ids.len() => self.join_all(&f.ids, ids),
            Some(Operand::Value(f)) => {
                self.fix(&f.ids);
                self.fix(ids);
            }
            None => {}
        }
    }

    /// Vectors over the channels, such as a bias: every input from `from` up to `to` along its last dimension.
    fn vectors(&mut self, call: &Traced, from: usize, to: usize, ids: &[usize]) {
        for i in from..to.min(call.inputs.len()) {
            self.weigh(call, i, call.inputs[i].0.len().saturating_sub(1), ids);
        }
    }

    fn call(&mut self, call: &Traced) -> Flow {
        let along_last = |ids: Vec<usize>| Flow { axis: call.result.len().saturating_sub(1), ids };
        match call.name {
            "conv2d" => along_last(self.conv(call)),
            "linear" | "linear_gelu" | "linear_add" => along_last(self.linear(call)),
            "attention" => along_last(self.attention(call)),
            "batch_norm" => {
                let ids = self.last(call, 0);
                let affine = call.inputs.iter().skip(1).take_while(|(d, _)| d.len() == 1).count();
                self.vectors(call, 1, 1 + affine, &ids);
                for (_, id) in &call.state {
                    match self.names.get(&Origin::Tensor(*id)) {
                        Some(name) => self.register(name, 0, &ids),
                        None => self.fix(&ids),
                    }
                }
                if call.inputs.len() > 1 + affine {
                    let residual = self.last(call, 1 + affine);
                    self.join_all(&ids, &residual);
                }
                along_last(ids)
            }
            // Statistics over the channels: without one of them the others come out differently.
            "layer_norm" | "group_norm" => {
                let ids = self.last(call, 0);
                self.vectors(call, 1, 3, &ids);
                self.fix(&ids);
                along_last(ids)
            }
            "relu" | "leaky_relu" | "gelu" | "silu" | "sigmoid" | "tanh" | "softplus" | "affine" | "pow" | "exp"
            | "log" | "sqrt" | "abs" | "clamp" | "dropout" | "drop_path" | "drop_block2d" => {
                match self.operand(call, 0) {
                    Some(Operand::Value(f)) => f,
                    _ => self.opaque_call(call),
                }
            }
            "max_pool2d" | "avg_pool2d" | "adaptive_avg_pool2d" | "blur_pool2d" | "gather_tokens" | "mean_tokens" => {
                along_last(self.last(call, 0))
            }
            "prepend_token" | "add_table" | "unshuffle_tokens" => {
                let ids = self.last(call, 0);
                self.vectors(call, 1, usize::MAX, &ids);
                along_last(ids)
            }
            "add" | "sub" | "mul" | "div" | "maximum" | "minimum" => self.binary(call),
            "reshape" | "permute" | "narrow" | "pad" | "place" | "expand" | "cat" | "index_select" | "sum" | "mean"
            | "var" | "max" | "min" => self.arrange(call),
            _ => self.opaque_call(call),
        }
    }

    /// An operation that is not known here: what it reads and gives must stay.
    fn opaque_call(&mut self, call: &Traced) -> Flow {
        for i in 0..call.inputs.len() {
            match self.operand(call, i) {
                Some(Operand::Value(f)) => self.fix(&f.ids),
                Some(Operand::Param(name)) => _ = self.opaque.insert(name),
                None => {}
            }
        }
        self.unknown(&call.result)
    }

    /// Inputs x (B, H, W, I), w (O, I / groups, kh, kw), b (O).
    fn conv(&mut self, call: &Traced) -> Vec<usize> {
        let inputs = self.last(call, 0);
        let (w, groups) = (&call.inputs[1].0, call.int("groups").max(1));
        let per = w[1];
        // What lies at the same place of every group goes together, so that groups stay equally large.
        let tie = |all: &mut Self, ids: &[usize]| {
            let size = ids.len() / groups;
            (size..ids.len()).for_each(|i| all.join(ids[i % size], ids[i]));
        };
        // A depthwise convolution has no outputs of its own: each belongs to its input.
        let outputs = if per == 1 && groups == w[0] { inputs.clone() } else { self.fresh(w[0], false) };
        if groups > 1 && per > 1 {
            tie(self, &inputs);
            tie(self, &outputs);
        } else if groups > 1 && groups != w[0] {
            self.fix(&inputs);
            self.fix(&outputs);
        }
        self.weigh(call, 1, 0, &outputs);
        if per > 1 || groups == 1 {
            self.weigh(call, 1, 1, &inputs[..per]);
        }
        self.vectors(call, 2, 3, &outputs);
        let places: usize = call.result[..3].iter().product::<usize>() * w[2] * w[3];
        let read = if per > 1 || groups == 1 { inputs[..per].to_vec() } else { vec![] };
        self.products.push(Product { factor: places as u64, outputs: outputs.clone(), inputs: read });
        outputs
    }

    /// Inputs x (.., I), w (O, I), b (O), and a residual (.., O).
    fn linear(&mut self, call: &Traced) -> Vec<usize> {
        let (inputs, w) = (self.last(call, 0), &call.inputs[1].0);
        let outputs = self.fresh(w[0], false);
        self.weigh(call, 1, 0, &outputs);
        if w.len() == 2 {
            self.weigh(call, 1, 1, &inputs);
        } else {
            // The kernels of a convolution as rows.
            self.fix(&inputs);
        }
        self.vectors(call, 2, 3, &outputs);
        if call.name == "linear_add" {
            let residual = self.last(call, 3);
            self.join_all(&outputs, &residual);
        }
        let rows = call.result.iter().rev().skip(1).product::<usize>();
        self.products.push(Product { factor: rows as u64, outputs: outputs.clone(), inputs });
        outputs
    }

    /// Input qkv (B, N, 3 H D): a head is one channel, of all its queries, keys and values.
    fn attention(&mut self, call: &Traced) -> Vec<usize> {
        let qkv = self.last(call, 0);
        let width = qkv.len() / 3;
        let head = width / call.int("num_heads").max(1);
        for (i, id) in qkv.iter().enumerate() {
            let first = i % width / head * head;
            self.join(qkv[first], *id);
        }
        let tokens = call.result[1] as u64;
        let outputs = qkv[..width].to_vec();
        let factor = 2 * call.result[0] as u64 * tokens * tokens;
        self.products.push(Product { factor, outputs: outputs.clone(), inputs: vec![] });
        outputs
    }

    /// Arithmetic of two values that broadcast, aligned at the end.
    fn binary(&mut self, call: &Traced) -> Flow {
        let rank = call.result.len();
        let operands = (self.operand(call, 0), self.operand(call, 1));
        let lift = |i: usize, f: Flow| Flow { axis: f.axis + rank - call.inputs[i].0.len(), ids: f.ids };
        match operands {
            (Some(Operand::Value(a)), Some(Operand::Value(b))) => {
                let (a, b) = (lift(0, a), lift(1, b));
                if a.axis == b.axis && a.ids.len() == b.ids.len() {
                    self.join_all(&a.ids, &b.ids);
                    return a;
                }
                // A number, or one number per sample.
                match (a.ids.len(), b.ids.len()) {
                    (_, 0 | 1) => a,
                    (0 | 1, _) => b,
                    _ => self.opaque_call(call),
                }
            }
            (Some(Operand::Value(f)), Some(Operand::Param(name))) => self.scaled(call, (0, f), (1, name)),
            (Some(Operand::Param(name)), Some(Operand::Value(f))) => self.scaled(call, (1, f), (0, name)),
            _ => self.opaque_call(call),
        }
    }

    /// A value with a parameter that has an entry per channel, such as a scale.
    fn scaled(&mut self, call: &Traced, (at, f): (usize, Flow), (i, name): (usize, String)) -> Flow {
        let (rank, own) = (call.result.len(), &call.inputs[i].0);
        let f = Flow { axis: f.axis + rank - call.inputs[at].0.len(), ids: f.ids };
        if own.iter().all(|d| *d == 1) {
            return f;
        }
        match (f.axis + own.len()).checked_sub(rank) {
            Some(axis) if own[axis] == f.ids.len() => {
                self.register(&name, axis, &f.ids);
                f
            }
            _ => self.opaque_call(call),
        }
    }

    /// Changes of shape and order, and sums over dimensions.
    fn arrange(&mut self, call: &Traced) -> Flow {
        let Some(Operand::Value(f)) = self.operand(call, 0) else { return self.opaque_call(call) };
        let (from, to) = (&call.inputs[0].0, &call.result);
        let (dim, own) = (call.int("dim"), |d: usize| d == f.axis);
        match call.name {
            "reshape" => reshaped(&f, from, to).unwrap_or_else(|| self.opaque_call(call)),
            "permute" => {
                let axis = call.ints("dims").iter().position(|d| own(*d as usize)).unwrap_or(0);
                Flow { axis, ids: f.ids }
            }
            "narrow" if own(dim) => {
                let (start, length) = (call.int("start"), call.int("length"));
                Flow { ids: f.ids[start..start + length].to_vec(), ..f }
            }
            "pad" if own(dim) => {
                let (before, behind) = (call.ints("pad")[0] as usize, call.ints("pad")[1] as usize);
                let real = |i: usize| i.checked_sub(before).filter(|i| *i < f.ids.len());
                let from = (0..before + f.ids.len() + behind).map(real).collect();
                self.padded(f, from)
            }
            "place" if own(dim) => {
                let from = call.ints("index").iter().map(|i| usize::try_from(*i).ok()).collect();
                self.padded(f, from)
            }
            "narrow" | "pad" | "place" => f,
            "expand" => {
                let axis = f.axis + to.len() - from.len();
                if to[axis] == f.ids.len() { Flow { axis, ids: f.ids } } else { self.opaque_call(call) }
            }
            "index_select" if own(dim) => {
                let ids = call.ints("index").iter().map(|i| f.ids[*i as usize]).collect();
                Flow { ids, ..f }
            }
            "index_select" => f,
            "cat" => self.joined(call, dim),
            _ => {
                let dims: Vec<usize> = call.ints("dims").iter().map(|d| *d as usize).collect();
                let keep = call.attribute("keepdim") == Some(&candlelight_autograd::spec::Attr::Bool(true));
                if dims.iter().any(|d| own(*d)) {
                    return self.opaque_call(call);
                }
                let before = if keep { 0 } else { dims.iter().filter(|d| **d < f.axis).count() };
                Flow { axis: f.axis - before, ids: f.ids }
            }
        }
    }

    /// Channels among zeros. The result has channels of its own, because zeros can stand for any that go.
    fn padded(&mut self, f: Flow, from: Vec<Option<usize>>) -> Flow {
        let to = self.fresh(from.len(), false);
        self.paddings.push(Padding { from, to: to.clone(), inputs: f.ids });
        Flow { axis: f.axis, ids: to }
    }

    /// Values one after the other.
    fn joined(&mut self, call: &Traced, dim: usize) -> Flow {
        let mut all: Vec<Flow> = vec![];
        for i in 0..call.inputs.len() {
            match self.operand(call, i) {
                Some(Operand::Value(f)) if all.first().is_none_or(|a| a.axis == f.axis) => all.push(f),
                _ => return self.opaque_call(call),
            }
        }
        let axis = all.first().map_or(0, |f| f.axis);
        if axis == dim {
            return Flow { axis, ids: all.into_iter().flat_map(|f| f.ids).collect() };
        }
        let first = all[0].clone();
        all[1..].iter().for_each(|f| self.join_all(&first.ids, &f.ids));
        first
    }
}

/// The channels after a change of shape, where they are still along one dimension: as they were, or, where the last dimensions became one, each
/// once per place.
fn reshaped(f: &Flow, from: &[usize], to: &[usize]) -> Option<Flow> {
    let before = |dims: &[usize], axis: usize| dims[..axis].iter().product::<usize>();
    let same = |j: &usize| to[*j] == f.ids.len() && before(to, *j) == before(from, f.axis);
    if let Some(axis) = (0..to.len()).find(same) {
        return Some(Flow { axis, ids: f.ids.clone() });
    }
    let last = to.len().checked_sub(1)?;
    let flat = f.axis + 1 == from.len() && !f.ids.is_empty() && to[..last] == from[..last.min(from.len())];
    flat.then(|| Flow { axis: last, ids: (0..to[last]).map(|i| f.ids[i % f.ids.len()]).collect() })
}
