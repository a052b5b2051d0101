//! What adapters add to a linear layer or a convolution.

use crate::{Error, Result, init};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::ops::{self, Conv2dConfig, Weight};
use candlelight_autograd::{Key, Tape, Value};

/// The kind of layer that asks for an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Linear,
    /// Some of the outputs of a linear layer.
    Part,
    Conv,
}

const ASKED: [(Kind, &str); 3] = [(Kind::Linear, "peft.linear"), (Kind::Part, "peft.part"), (Kind::Conv, "peft.conv")];

impl Kind {
    /// The layer and its kind, of the name under which a layer asks a builder for the settings of its adapter.
    pub(super) fn asked(name: &str) -> Option<(&str, Kind)> {
        let of = |(kind, word): &(Kind, &str)| {
            let rest = name.strip_suffix(word)?;
            if rest.is_empty() { Some((rest, *kind)) } else { Some((rest.strip_suffix('.')?, *kind)) }
        };
        ASKED.iter().find_map(of)
    }
}

/// The settings of one layer's adapter. A rank of 0 stands for IA3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Settings {
    pub(super) rank: usize,
    pub(super) scale: f64,
    pub(super) dropout: f32,
    pub(super) dora: bool,
    pub(super) feedforward: bool,
}

impl Settings {
    /// As a tensor, because a builder gives nothing else.
    pub(super) fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let flag = |b: bool| f64::from(u8::from(b));
        let values = [self.rank as f64, self.scale, f64::from(self.dropout), flag(self.dora), flag(self.feedforward)];
        Tensor::new(&values, device)
    }

    /// What the builder says to a layer of this kind; `None` where it gets no adapter, or the builder knows of none.
    fn of(kind: Kind, vb: &VarBuilder) -> Result<Option<Self>> {
        let word = ASKED.iter().find(|(k, _)| *k == kind).map_or("", |(_, word)| word);
        // A builder that has every tensor, such as one of zeros, knows nothing of adapters.
        if !vb.contains_tensor(word) || vb.contains_tensor("peft.none") {
            return Ok(None);
        }
        let values = vb.get_unchecked(word)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(match values[..] {
            [rank, scale, dropout, dora, feedforward] => Some(Settings {
                rank: rank as usize,
                scale,
                dropout: dropout as f32,
                dora: dora != 0.0,
                feedforward: feedforward != 0.0,
            }),
            _ => None,
        })
    }
}

/// A low-rank branch beside a layer, or beside some of its outputs.
#[derive(Debug, Clone)]
struct Lora {
    a: Tensor, // (r, I), of a convolution (r, I, k, k)
    b: Tensor, // (O, r), of a convolution (O, r, 1, 1)
    /// DoRA's norms: (O), of a convolution (1, O, 1, 1).
    magnitude: Option<Tensor>,
    scale: f64,
    dropout: f32,
    /// The first of the layer's outputs that it adds to.
    from: usize,
}

/// A factor for each input or output.
#[derive(Debug, Clone)]
struct Ia3 {
    factors: Tensor,
    /// Whether the inputs are multiplied.
    inputs: bool,
    /// The first of the layer's outputs that are multiplied, and how many.
    outputs: (usize, usize),
}

/// The adapters of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    lora: Vec<Lora>,
    ia3: Vec<Ia3>,
    outputs: usize,
}

/// The layer that an adapter belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
    /// `None` for a linear layer.
    pub(crate) conv: Option<Conv2dConfig>,
}

impl Base<'_> {
    fn run(&self, x: &Value, w: &dyn Weight, bias: Option<&dyn Weight>) -> Result<Value> {
        match self.conv {
            Some(config) => ops::conv2d(x, w, bias, config),
            None => ops::linear(x, w, bias),
        }
    }

    fn bias(&self) -> Option<&dyn Weight> {
        self.bias.map(|b| b as &dyn Weight)
    }
}

impl Adapter {
    /// The adapter that the builder of a linear layer has for it.
    pub(crate) fn linear(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Option<Box<Self>>> {
        let Some(settings) = Settings::of(Kind::Linear, vb)? else { return Ok(None) };
        let mut adapter = Adapter { lora: vec![], ia3: vec![], outputs };
        adapter.add(&settings, (inputs, outputs, None), 0, vb)?;
        Ok(Some(Box::new(adapter)))
    }

    /// The adapter of a linear layer with `outputs` outputs, and those of parts of it: each has a name, from which output on it begins, and a
    /// common length.
    pub(crate) fn parts(
        whole: Option<Box<Self>>,
        (inputs, outputs): (usize, usize),
        parts: &[(&str, usize)],
        len: usize,
        vb: &VarBuilder,
    ) -> Result<Option<Box<Self>>> {
        let mut adapter = whole.unwrap_or_else(|| Box::new(Adapter { lora: vec![], ia3: vec![], outputs }));
        for (name, from) in parts {
            let vb = vb.pp(name);
            if let Some(settings) = Settings::of(Kind::Part, &vb)? {
                let refuse = |message: &str| Err(Error::Param { name: vb.prefix(), message: message.into() });
                if settings.feedforward {
                    return refuse(
                        "its inputs are those of the whole fused layer: give that one factors of its inputs",
                    );
                }
                if settings.dora && adapter.lora.iter().any(|l| l.from == 0 && l.b.dims()[0] == outputs) {
                    return refuse("DoRA on it and on the fused layer it is a part of: name one of them");
                }
                adapter.add(&settings, (inputs, len, None), *from, &vb)?;
            }
        }
        Ok(Some(adapter).filter(|a| !(a.lora.is_empty() && a.ia3.is_empty())))
    }

    /// The adapter that the builder of a convolution has for it.
    pub(crate) fn conv(
        (inputs, outputs, kernel): (usize, usize, usize),
        config: Conv2dConfig,
        vb: &VarBuilder,
    ) -> Result<Option<Box<Self>>> {
        let Some(settings) = Settings::of(Kind::Conv, vb)? else { return Ok(None) };
        let refuse = |message: String| Err(Error::Param { name: vb.prefix(), message });
        if config.groups > 1 && settings.rank > 0 {
            return refuse(format!(
                "a convolution of {} groups gets no LoRA, because its result could not be merged into the weight: leave it out with exclude_modules",
                config.groups
            ));
        }
        if settings.dropout > 0.0 {
            return refuse(format!(
                "lora_dropout {} is for linear layers: leave it 0 for convolutions",
                settings.dropout
            ));
        }
        let mut adapter = Adapter { lora: vec![], ia3: vec![], outputs };
        adapter.add(&settings, (inputs, outputs, Some(kernel)), 0, vb)?;
        Ok(Some(Box::new(adapter)))
    }

    /// Makes the parameters. A starts with PyTorch's values of a layer, B at 0, factors at 1; norms are not known before the weight is, so they
    /// start as NaN and are set by [`super::train_only`].
    fn add(
        &mut self,
        settings: &Settings,
        (inputs, outputs, kernel): (usize, usize, Option<usize>),
        from: usize,
        vb: &VarBuilder,
    ) -> Result<()> {
        if settings.rank == 0 {
            let n = if settings.feedforward { inputs } else { outputs };
            let dims: Vec<usize> = match (kernel, settings.feedforward) {
                (Some(_), _) => vec![1, n, 1, 1],
                (None, true) => vec![1, n],
                (None, false) => vec![n, 1],
            };
            let factors = vb.get_with_hints(dims, "ia3_l", Init::Const(1.0))?;
            self.ia3.push(Ia3 { factors, inputs: settings.feedforward, outputs: (from, outputs) });
            return Ok(());
        }
        let (r, area) = (settings.rank, kernel.unwrap_or(1).pow(2));
        // What one output reads: of a convolution each pixel of the kernel. No product of this shape has a higher rank.
        let inputs_of_one = inputs * area;
        if r > inputs_of_one.min(outputs) {
            return Err(Error::Param {
                name: vb.prefix(),
                message: format!(
                    "a rank of {r} for a layer of {inputs_of_one} inputs and {outputs} outputs: expected at most the smaller width"
                ),
            });
        }
        let fan = init::fan_in(inputs * area);
        let (a, b): (Vec<usize>, Vec<usize>) = match kernel {
            Some(k) => (vec![r, inputs, k, k], vec![outputs, r, 1, 1]),
            None => (vec![r, inputs], vec![outputs, r]),
        };
        let norms = if kernel.is_some() { vec![1, outputs, 1, 1] } else { vec![outputs] };
        let norms = settings.dora.then(|| vb.get_with_hints(norms, "lora_magnitude_vector", Init::Const(f64::NAN)));
        self.lora.push(Lora {
            a: vb.get_with_hints(a, "lora_A.weight", fan)?,
            b: vb.get_with_hints(b, "lora_B.weight", Init::Const(0.0))?,
            magnitude: norms.transpose()?,
            scale: settings.scale,
            dropout: settings.dropout,
            from,
        });
        Ok(())
    }

    /// What the layer with its adapters makes of `x`, on a residual where there is one. `key` draws dropout in training.
    pub(crate) fn forward(
        &self,
        x: &Value,
        base: Base<'_>,
        residual: Option<&Value>,
        key: Option<&Key>,
    ) -> Result<Value> {
        let tape = x.tape();
        let mut x = x.clone();
        for factors in self.ia3.iter().filter(|f| f.inputs) {
            x = x.mul(&flat(tape, &factors.factors)?)?;
        }
        let dropped = self.dropped(&x, key)?;
        let seen = dropped.as_ref().unwrap_or(&x);
        let mut y = if self.lora.iter().any(|l| l.magnitude.is_some()) {
            self.decomposed(&x, dropped.as_ref(), base)?
        } else {
            match (self.branch(seen, base)?, base.bias, base.conv) {
                (Some(side), Some(bias), None) => ops::linear_add(&x, base.weight, bias, &side)?,
                (Some(side), ..) => base.run(&x, base.weight, base.bias())?.add(&side)?,
                (None, ..) => base.run(&x, base.weight, base.bias())?,
            }
        };
        for factors in self.ia3.iter().filter(|f| !f.inputs) {
            y = y.mul(&self.beside(flat(tape, &factors.factors)?, factors.outputs)?)?;
        }
        residual.map_or(Ok(y.clone()), |r| r.add(&y))
    }

    /// The inputs of the branches in training with dropout.
    fn dropped(&self, x: &Value, key: Option<&Key>) -> Result<Option<Value>> {
        let Some(rate) = self.lora.iter().map(|l| l.dropout).find(|d| *d > 0.0).filter(|_| x.tape().recording()) else {
            return Ok(None);
        };
        match key {
            Some(key) => ops::dropout(x, key.child("lora_dropout"), rate).map(Some),
            None => Err(Error::Config(format!(
                "lora_dropout {rate}: the layers outside of attention and MLP draw no random numbers; leave it 0 with them as targets"
            ))),
        }
    }

    /// The low-rank branches, `s B A x`: their As are one matrix, their Bs another one with zeros between them.
    fn branch(&self, x: &Value, base: Base<'_>) -> Result<Option<Value>> {
        let tape = x.tape();
        let scaled = |l: &Lora| tape.value(&l.b).scale(l.scale as f32);
        match &self.lora[..] {
            [] => Ok(None),
            [only] if only.b.dims()[0] == self.outputs => {
                Ok(Some(ops::linear(&base.run(x, &only.a, None)?, &scaled(only)?, None)?))
            }
            all => {
                let downs: Vec<Value> = all.iter().map(|l| tape.value(&l.a)).collect();
                let ups = all.iter().map(|l| {
                    let len = l.b.dims()[0];
                    scaled(l)?.pad(0, l.from, self.outputs - l.from - len) // (O, r)
                });
                let up = ops::cat(&ups.collect::<Result<Vec<_>>>()?, 1)?; // (O, sum of r)
                Ok(Some(ops::linear(&base.run(x, &ops::cat(&downs, 0)?, None)?, &up, None)?))
            }
        }
    }

    /// DoRA: every output times `m / |W + s B A|`, in front of the bias.
    fn decomposed(&self, x: &Value, dropped: Option<&Value>, base: Base<'_>) -> Result<Value> {
        let tape = x.tape();
        let mut factor: Option<Value> = None;
        for l in &self.lora {
            let Some(m) = &l.magnitude else { continue };
            let norms = norms(base.weight, l.from, &l.a, &l.b, l.scale)?;
            let ratio = flat(tape, m)?.div(&tape.constant(&norms))?; // (O)
            let ratio = self.beside(ratio, (l.from, l.b.dims()[0]))?;
            factor = Some(factor.map_or(Ok(ratio.clone()), |f| f.mul(&ratio))?);
        }
        let plain = base.run(x, base.weight, None)?;
        let Some(factor) = factor else { return Ok(plain) };
        let y = match dropped {
            None => plain.mul(&factor)?,
            // The part that DoRA adds sees dropout, the layer itself does not.
            Some(d) => plain.add(&base.run(d, base.weight, None)?.mul(&factor.affine(1.0, -1.0)?)?)?,
        };
        let side = self.branch(dropped.unwrap_or(x), base)?;
        let y = side.map_or(Ok(y.clone()), |side| y.add(&side.mul(&factor)?))?;
        base.bias.map_or(Ok(y.clone()), |b| y.add(&tape.value(b)))
    }

    /// Factors of some outputs, with 1 for all others.
    fn beside(&self, factors: Value, (from, len): (usize, usize)) -> Result<Value> {
        if len == self.outputs {
            return Ok(factors);
        }
        factors.affine(1.0, -1.0)?.pad(0, from, self.outputs - from - len)?.affine(1.0, 1.0)
    }
}

/// A parameter as a vector.
fn flat(tape: &Tape, t: &Tensor) -> Result<Value> {
    tape.value(t).reshape(t.elem_count())
}

/// The norm of each row of `W + s B A`, from row `from` on, without a gradient: (O).
pub(super) fn norms(weight: &Tensor, from: usize, a: &Tensor, b: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let rows = b.dims()[0];
    let w = weight.detach().narrow(0, from, rows)?.flatten_from(1)?; // (O, I)
    let delta = delta(a, b, scale)?;
    (w + delta)?.sqr()?.sum(1)?.sqrt()
}

/// `s B A` as a matrix (O, I).
pub(super) fn delta(a: &Tensor, b: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let (a, b) = (a.detach().flatten_from(1)?, b.detach().flatten_from(1)?);
    b.matmul(&a)? * scale
}
