//! The conformance table: every operation over shapes (0, 1, primes, a tile more or less one), against its composition in f64, which
//! finite differences check, on every backend. A new operation is one row.

use candle_core::{DType, Device, Tensor, Var};
use candlelight_autograd::ops::{self, Activation, GlobalPool, Then, Weight};
use candlelight_autograd::{Gradients, Key, ParamStore, Result, Tape, Value};
use candlelight_kernels::act::gelu::Gelu;

type Function = Box<dyn Fn(&[Value]) -> Result<Value>>;

struct Row {
    name: &'static str,
    inputs: Vec<Vec<usize>>,
    /// Makes normal numbers what the operation takes.
    range: fn(f64) -> f64,
    f: Function,
    /// Of f32 against f64, relative to the largest entry.
    tolerance: f64,
}

fn row(name: &'static str, inputs: &[&[usize]], f: impl Fn(&[Value]) -> Result<Value> + 'static) -> Row {
    let inputs = inputs.iter().map(|d| d.to_vec()).collect();
    Row { name, inputs, range: |v| v, f: Box::new(f), tolerance: 2e-5 }
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

impl Row {
    fn data(&self, i: usize) -> Vec<f64> {
        let n = self.inputs[i].iter().product();
        Key::new(i as u64).child(self.name).normal(n).iter().map(|v| (self.range)(f64::from(*v))).collect()
    }

    fn tensor(&self, i: usize, data: Vec<f64>, dtype: DType) -> Tensor {
        Tensor::from_vec(data, self.inputs[i].as_slice(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    /// The result, and the gradients of all inputs.
    fn run(&self, tape: Tape, dtype: DType, device: &Device) -> (Vec<f64>, Vec<Vec<f64>>) {
        let leaf = |i| tape.leaf(&self.tensor(i, self.data(i), dtype).to_device(device).unwrap());
        let leaves: Vec<Value> = (0..self.inputs.len()).map(leaf).collect();
        let y = (self.f)(&leaves).unwrap_or_else(|e| panic!("{} {:?}: {e}", self.name, self.inputs));
        let seed = self.seed(y.dims()).to_dtype(dtype).unwrap().to_device(device).unwrap();
        let of: Vec<&Value> = leaves.iter().collect();
        let none = &mut Gradients::new(&ParamStore::new());
        let found = tape.backward_with(&y, &seed, &of, none).unwrap();
        assert!(!y.tensor().track_op(), "{}: a value with a graph", self.name);
        assert!(found.iter().flatten().all(|g| !g.track_op()), "{}: a gradient with a graph", self.name);
        let gradient = |(g, v): (Option<Tensor>, &Value)| g.map_or(vec![0.0; v.tensor().elem_count()], |g| values(&g));
        (values(y.tensor()), found.into_iter().zip(&leaves).map(gradient).collect())
    }

    fn seed(&self, dims: &[usize]) -> Tensor {
        let data: Vec<f32> = Key::new(99).child(self.name).normal(dims.iter().product());
        Tensor::from_vec(data, dims, &Device::Cpu).unwrap()
    }

    /// `sum(seed f(inputs))` with one entry moved, in f64.
    fn moved(&self, input: usize, entry: usize, by: f64) -> f64 {
        let tape = Tape::off().with_composed_ops();
        let constant = |i: usize| {
            let mut data = self.data(i);
            if i == input {
                data[entry] += by;
            }
            tape.constant(&self.tensor(i, data, DType::F64))
        };
        let all: Vec<Value> = (0..self.inputs.len()).map(constant).collect();
        let y = (self.f)(&all).unwrap();
        let seed = values(&self.seed(y.dims()));
        values(y.tensor()).iter().zip(seed).map(|(y, s)| y * s).sum()
    }

    fn check(&self) {
        let what = |part: &str| format!("{} {:?}: {part}", self.name, self.inputs);
        let (y, grads) = self.run(Tape::new(&ParamStore::new()).with_composed_ops(), DType::F64, &Device::Cpu);
        for (i, g) in grads.iter().enumerate() {
            for entry in (0..g.len()).step_by((g.len() / 12).max(1)) {
                let h = 1e-5;
                let fd = (self.moved(i, entry, h) - self.moved(i, entry, -h)) / (2.0 * h);
                let near = (fd - g[entry]).abs() < 2e-6 * fd.abs().max(1.0);
                assert!(near, "{}: {}, finite difference {fd}", what(&format!("d{i}[{entry}]")), g[entry]);
            }
        }
        let tape = || Tape::new(&ParamStore::new());
        let mut backends =
            vec![("kernels", tape(), Device::Cpu), ("composed", tape().with_composed_ops(), Device::Cpu)];
        // A build for it has one: a GPU, or the driver that stands in for it. For a tensor
        // without elements candle launches a grid without blocks, which no device takes.
        let empty = y.is_empty() || self.inputs.iter().flatten().any(|d| *d == 0);
        if candle_core::utils::cuda_is_available() && !empty {
            backends.push(("cuda:0", tape(), candlelight_autograd::device::cuda(0).unwrap()));
        }
        for (backend, tape, device) in backends {
            let (y32, grads32) = self.run(tape, DType::F32, &device);
            self.close(&y32, &y, &what(&format!("{backend} in f32")));
            for (i, (a, b)) in grads32.iter().zip(&grads).enumerate() {
                self.close(a, b, &what(&format!("{backend} in f32, d{i}")));
            }
        }
    }

    fn close(&self, got: &[f64], want: &[f64], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let scale = want.iter().fold(1e-2f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= self.tolerance * scale, "{what}[{i}]: {a}, in f64 {b}");
        }
    }
}

const POSITIVE: fn(f64) -> f64 = |v| v.abs() + 0.2;

fn arithmetic() -> Vec<Row> {
    let mut all = vec![];
    for (a, b) in [
        (&[0, 3][..], &[3][..]),
        (&[1], &[1]),
        (&[2, 1, 5], &[3, 1]),
        (&[7, 13], &[7, 13]),
        (&[], &[4]),
        (&[1, 17], &[5, 1]),
        (&[16385], &[16385]),
    ] {
        all.push(row("add", &[a, b], |v| &v[0] + &v[1]));
        all.push(row("sub", &[a, b], |v| &v[0] - &v[1]));
        all.push(row("mul", &[a, b], |v| &v[0] * &v[1]));
        all.push(Row { range: POSITIVE, ..row("div", &[a, b], |v| &v[0] / &v[1]) });
        all.push(row("maximum", &[a, b], |v| v[0].maximum(&v[1])));
        all.push(row("minimum", &[a, b], |v| v[0].minimum(&v[1])));
    }
    for d in [&[0][..], &[1], &[3, 5], &[2, 17]] {
        all.push(row("affine", &[d], |v| v[0].affine(-1.5, 2.0)));
        all.push(row("scale", &[d], |v| v[0].scale(0.25)));
        all.push(row("neg", &[d], |v| -&v[0]));
        all.push(row("pow 2", &[d], |v| v[0].pow(2.0)));
        all.push(Row { range: POSITIVE, ..row("pow -0.5", &[d], |v| v[0].pow(-0.5)) });
        all.push(row("exp", &[d], |v| v[0].exp()));
        all.push(Row { range: POSITIVE, ..row("log", &[d], |v| v[0].log()) });
        all.push(Row { range: POSITIVE, ..row("sqrt", &[d], |v| v[0].sqrt()) });
        all.push(row("abs", &[d], |v| v[0].abs()));
        all.push(row("clamp", &[d], |v| v[0].clamp(-0.5, 1.0)));
        for kind in [
            Activation::Relu,
            Activation::LeakyRelu(0.1),
            Activation::Gelu(Gelu::Erf),
            Activation::Gelu(Gelu::Tanh),
            Activation::Silu,
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Softplus,
        ] {
            all.push(row("activation", &[d], move |v| v[0].activation(kind)));
        }
    }
    all
}

fn reductions() -> Vec<Row> {
    let mut all = vec![];
    for (d, dims) in
        [(&[2, 3, 5][..], &[1][..]), (&[2, 3, 5], &[0, -1]), (&[1, 1], &[]), (&[7], &[0]), (&[4, 31], &[-1])]
    {
        for keep in [false, true] {
            all.push(row("sum", &[d], move |v| v[0].sum(dims, keep)));
            all.push(row("mean", &[d], move |v| v[0].mean(dims, keep)));
            all.push(row("var, biased", &[d], move |v| v[0].var(dims, false, keep)));
            if d != [1, 1] {
                all.push(row("var", &[d], move |v| v[0].var(dims, true, keep)));
            }
            if let [dim] = dims {
                all.push(row("max", &[d], move |v| v[0].max(*dim, keep)));
                all.push(row("min", &[d], move |v| v[0].min(*dim, keep)));
            }
        }
    }
    all.push(row("sum of nothing", &[&[0, 3]], |v| v[0].sum(&[0], false)));
    for (d, dim) in [(&[3, 5][..], -1), (&[2, 7, 3], 1), (&[1, 1], 0), (&[0, 4], 1), (&[33], 0)] {
        all.push(row("softmax", &[d], move |v| v[0].softmax(dim)));
        all.push(row("log_softmax", &[d], move |v| v[0].log_softmax(dim)));
    }
    all
}

fn shapes() -> Vec<Row> {
    let halves = |v: &[Value]| v[0].narrow(1, 1, 2);
    vec![
        row("reshape", &[&[2, 6]], |v| v[0].reshape((3, 4))),
        row("reshape nothing", &[&[0, 6]], |v| v[0].reshape((3, 0))),
        row("permute", &[&[2, 3, 5]], |v| v[0].permute(&[2, 0, 1])),
        row("transpose", &[&[2, 3, 5]], |v| v[0].transpose(-1, 0)),
        row("narrow", &[&[2, 5, 3]], halves),
        row("narrow to nothing", &[&[2, 5, 3]], |v| v[0].narrow(1, 2, 0)),
        row("pad", &[&[2, 3]], |v| v[0].pad(-1, 2, 1)),
        row("pad behind", &[&[2, 3, 2]], |v| v[0].pad(0, 0, 3)),
        row("place", &[&[2, 3, 2]], |v| v[0].place(1, &[None, Some(2), Some(0), None, Some(2)])),
        row("place channels", &[&[2, 2, 3]], |v| v[0].place(-1, &[Some(1), None])),
        row("expand", &[&[2, 1, 3]], |v| v[0].expand(&[4, 2, 5, 3])),
        row("cat", &[&[2, 3], &[2, 1], &[2, 4]], |v| ops::cat(v, 1)),
        row("cat with nothing", &[&[2, 3], &[0, 3]], |v| ops::cat(v, 0)),
        row("stack", &[&[2, 3], &[2, 3]], |v| ops::stack(v, 1)),
        row("squeeze", &[&[2, 1, 3]], |v| v[0].squeeze(1)?.unsqueeze(0)),
        row("flatten", &[&[2, 3, 4]], |v| v[0].flatten_from(1)),
        row("index_select", &[&[3, 5, 2]], |v| v[0].index_select(1, &[4, 0, 4])),
        row("index_select nothing", &[&[3, 5]], |v| v[0].index_select(0, &[])),
        row("gather", &[&[2, 4, 3]], |v| v[0].gather(1, &[0, 3, 1, 2, 2, 0, 1, 1, 3, 0, 0, 2], &[2, 2, 3])),
        row("embedding", &[&[5, 3]], |v| ops::embedding(v[0].tape(), &v[0], &[4, 4, 0])),
        row("where", &[&[2, 2], &[2, 2]], |v| ops::where_cond(&[true, false, false, true], &v[0], &v[1])),
        row("channels", &[&[2, 3, 4, 5]], |v| ops::channels_first(&ops::channels_last(&v[0])?)),
        row("pad_channels", &[&[2, 2, 2, 3]], |v| ops::pad_channels(&v[0], 1, 2)),
    ]
}

fn products() -> Vec<Row> {
    let mut all = vec![];
    for (m, k, n) in [(1, 1, 1), (7, 13, 5), (16, 33, 17), (0, 3, 2), (3, 0, 2), (97, 31, 33)] {
        all.push(row("matmul", &[&[m, k], &[k, n]], |v| v[0].matmul(&v[1])));
        if k > 0 {
            all.push(row("linear", &[&[m, k], &[n, k], &[n]], |v| ops::linear(&v[0], &v[1], Some(&v[2]))));
            all.push(row("linear_add", &[&[m, k], &[n, k], &[n], &[m, n]], |v| {
                ops::linear_add(&v[0], &v[1], &v[2], &v[3])
            }));
            all.push(row("linear without bias", &[&[m, k], &[n, k]], |v| ops::linear(&v[0], &v[1], None)));
        }
        for kind in [Gelu::Erf, Gelu::Tanh] {
            all.push(row("linear_gelu", &[&[m, 3], &[n, 3], &[n]], move |v| {
                ops::linear_gelu(&v[0], &v[1], &v[2], kind)
            }));
        }
    }
    all.push(row("matmul, batched", &[&[2, 3, 4, 5], &[3, 5, 2]], |v| v[0].matmul(&v[1])));
    all.push(row("matmul, broadcast", &[&[4, 5], &[7, 5, 3]], |v| v[0].matmul(&v[1])));
    all.push(row("linear on a sequence", &[&[2, 3, 7], &[5, 7], &[5]], |v| ops::linear(&v[0], &v[1], Some(&v[2]))));
    all.push(row("linear with a kernel", &[&[4, 12], &[3, 3, 2, 2]], |v| ops::linear(&v[0], &v[1], None)));
    all.push(row("a computed weight", &[&[5, 4], &[3, 2], &[2, 4]], |v| {
        ops::linear(&v[0], &v[1].matmul(&v[2])?, None)
    }));
    all
}

fn norms() -> Vec<Row> {
    let mut all = vec![];
    for d in [&[1, 3][..], &[2, 5, 8], &[7, 31], &[3, 17], &[0, 4]] {
        let c = d[d.len() - 1];
        all.push(row("layer_norm", &[d, &[c], &[c]], |v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-6)));
    }
    for (d, groups) in [(&[2, 3, 2, 4][..], 2), (&[1, 5, 6], 1), (&[3, 7, 5], 5), (&[0, 4, 2], 2)] {
        let c = d[d.len() - 1];
        all.push(row("group_norm", &[d, &[c], &[c]], move |v| ops::group_norm(&v[0], groups, &v[1], &v[2], 1e-5)));
    }
    for d in [&[2, 3][..], &[4, 5, 7], &[3, 16], &[31, 17]] {
        let c = d[d.len() - 1];
        for train in [true, false] {
            let config = ops::BatchNormStep { eps: 1e-3, momentum: 0.1, train };
            let running = move |device: &Device| {
                let of = |v: f32| Var::from_vec(vec![v; c], c, device).unwrap();
                (of(0.25), of(1.5))
            };
            // Normalising two rows of one channel leaves only a sign: their gradient is near zero and all rounding.
            let row = |name, inputs: &[&[usize]], f: Function| Row { tolerance: 5e-4, ..row(name, inputs, f) };
            all.push(row(
                "batch_norm",
                &[d, &[c], &[c]],
                Box::new(move |v| {
                    let (m, s) = running(v[0].tensor().device());
                    ops::batch_norm(&v[0], Some((&v[1], &v[2])), (m.as_tensor(), s.as_tensor()), config)
                }),
            ));
            all.push(row(
                "batch_norm, add, relu",
                &[d, &[c], &[c], d],
                Box::new(move |v| {
                    let (m, s) = running(v[0].tensor().device());
                    let affine: (&dyn Weight, &dyn Weight) = (&v[1], &v[2]);
                    ops::batch_norm_then(
                        &v[0],
                        Some(affine),
                        (m.as_tensor(), s.as_tensor()),
                        config,
                        Then::AddRelu(&v[3]),
                    )
                }),
            ));
            all.push(row(
                "batch_norm, relu",
                &[d],
                Box::new(move |v| {
                    let (m, s) = running(v[0].tensor().device());
                    ops::batch_norm_then(&v[0], None, (m.as_tensor(), s.as_tensor()), config, Then::Relu)
                }),
            ));
        }
    }
    all
}

fn sequences() -> Vec<Row> {
    let mut all = vec![];
    for (b, n, heads, width) in [(1, 1, 1, 1), (2, 5, 2, 4), (1, 17, 3, 5), (0, 3, 1, 2)] {
        let qkv: &[usize] = &[b, n, 3 * heads * width];
        all.push(row("attention", &[qkv], move |v| ops::attention(&v[0], heads, None)));
        all.push(row("attention, dropout", &[qkv], move |v| ops::attention(&v[0], heads, Some((Key::new(5), 0.3)))));
    }
    all.extend([
        row("add_table", &[&[2, 4, 6], &[1, 4, 6]], |v| ops::add_table(&v[0], &v[1])),
        row("gather_tokens", &[&[2, 4, 3]], |v| ops::gather_tokens(&v[0], &[3, 0, 0, 1, 2, 3])),
        row("prepend_token", &[&[2, 4, 3], &[1, 1, 3]], |v| ops::prepend_token(&v[0], &v[1])),
        row("prepend_token to nothing", &[&[2, 0, 3], &[1, 1, 3]], |v| ops::prepend_token(&v[0], &v[1])),
        row("unshuffle_tokens", &[&[2, 3, 5], &[1, 1, 5]], |v| {
            let pos = Tensor::arange(0f32, 25., v[0].tensor().device())?.to_dtype(v[0].tensor().dtype())?;
            ops::unshuffle_tokens(&v[0], &v[1], &[2, 0, 1, 3, 1, 3, 2, 0], &pos.affine(0.1, -1.0)?)
        }),
        row("unshuffle_tokens of nothing", &[&[2, 1, 5], &[1, 1, 5]], |v| {
            let pos = Tensor::zeros((1, 5), v[0].tensor().dtype(), v[0].tensor().device())?;
            ops::unshuffle_tokens(&v[0], &v[1], &[], &pos)
        }),
        row("select_tokens", &[&[2, 4, 3]], |v| ops::select_tokens(&v[0], 1, 2)),
        row("select no tokens", &[&[2, 4, 3]], |v| ops::select_tokens(&v[0], 1, 0)),
        row("drop_tokens", &[&[2, 4, 3]], |v| ops::drop_tokens(&v[0], 1)),
        row("mean_tokens", &[&[2, 5, 7]], |v| ops::mean_tokens(&v[0])),
        row("image_patches", &[&[2, 3, 4, 6]], |v| ops::image_patches(&v[0], 2, None)),
        row("dropout", &[&[3, 7]], |v| ops::dropout(&v[0], Key::new(3), 0.3)),
        row("drop_path", &[&[5, 2, 3]], |v| ops::drop_path(&v[0], Key::new(3), 0.5)),
        row("drop_block2d", &[&[2, 5, 5, 3]], |v| ops::drop_block2d(&v[0], Key::new(3), 0.3, 3, 1.0)),
    ]);
    for key in 0..4 {
        all.push(row("residual", &[&[3, 2, 4], &[4, 4]], move |v| {
            ops::residual(&v[0], Key::new(key), 0.5, |x| ops::linear(x, &v[1], None))
        }));
    }
    all
}

fn images() -> Vec<Row> {
    let mut all = vec![];
    let plain = ops::Conv2dConfig::new(1, 1);
    for (x, w, config) in [
        (&[2, 7, 6, 4][..], &[6, 2, 3, 3][..], ops::Conv2dConfig { groups: 2, ..ops::Conv2dConfig::new(2, 1) }),
        (&[1, 5, 5, 3], &[17, 3, 3, 3], plain),
        (&[2, 4, 5, 31], &[33, 31, 1, 1], ops::Conv2dConfig::new(1, 0)),
        (&[1, 6, 7, 5], &[5, 1, 3, 3], ops::Conv2dConfig { groups: 5, dilation: (2, 1), ..plain }),
        (&[2, 5, 5, 3], &[3, 1, 3, 2], ops::Conv2dConfig { groups: 3, ..ops::Conv2dConfig::new(2, 1) }),
        (&[1, 9, 9, 2], &[3, 2, 7, 7], ops::Conv2dConfig::new(2, 3)),
        (&[0, 4, 4, 2], &[3, 2, 3, 3], plain),
    ] {
        all.push(row("conv2d", &[x, w, &w[..1]], move |v| ops::conv2d(&v[0], &v[1], Some(&v[2]), config)));
    }
    for (x, w, config) in [
        (&[2, 3, 4, 4][..], &[4, 3, 4, 4][..], ops::ConvTranspose2dConfig::new(2, 1)),
        (&[1, 1, 1, 5], &[5, 7, 4, 4], ops::ConvTranspose2dConfig::new(1, 0)),
        (
            &[2, 3, 2, 4],
            &[4, 2, 3, 3],
            ops::ConvTranspose2dConfig { groups: 2, output_padding: (1, 1), ..ops::ConvTranspose2dConfig::new(2, 1) },
        ),
    ] {
        let outputs = w[1] * config.groups;
        all.push(row("conv_transpose2d", &[x, w, &[outputs]], move |v| {
            ops::conv_transpose2d(&v[0], &v[1], Some(&v[2]), config)
        }));
    }
    let pool = ops::Pool2dConfig::new;
    for (x, config) in [
        (&[2, 7, 7, 4][..], pool(3, 2, 1)),
        (&[1, 1, 1, 1], pool(1, 1, 0)),
        (&[2, 5, 6, 3], ops::Pool2dConfig { ceil: true, ..pool(2, 2, 0) }),
        (&[1, 7, 5, 17], ops::Pool2dConfig { kernel: (3, 2), stride: (1, 3), padding: (0, 1), ceil: true }),
        (&[0, 4, 4, 2], pool(2, 2, 0)),
    ] {
        all.push(row("max_pool2d", &[x], move |v| ops::max_pool2d(&v[0], config)));
        all.push(row("avg_pool2d", &[x], move |v| ops::avg_pool2d(&v[0], config)));
    }
    for out in [(1, 1), (3, 2), (7, 5)] {
        all.push(row("adaptive_avg_pool2d", &[&[2, 5, 7, 3]], move |v| ops::adaptive_avg_pool2d(&v[0], out)));
    }
    for (size, stride) in [(3, 2), (3, 1), (5, 2), (4, 2)] {
        all.push(row("blur_pool2d", &[&[2, 7, 6, 3]], move |v| ops::blur_pool2d(&v[0], size, stride)));
    }
    for how in [GlobalPool::Avg, GlobalPool::Max, GlobalPool::AvgMax, GlobalPool::CatAvgMax] {
        all.push(row("global_pool2d", &[&[2, 3, 5, 4]], move |v| ops::global_pool2d(&v[0], how)));
    }
    all
}

fn losses() -> Vec<Row> {
    let targets = |v: &Value| Tensor::from_vec(vec![0.2f32, 0.8, 0.0, 0.5, 0.25, 0.0], v.dims(), v.tensor().device());
    let mut all = vec![
        row("cross_entropy", &[&[3, 5]], |v| v[0].cross_entropy(&[4, 0, 2], 0.0)),
        row("cross_entropy, smoothed", &[&[1, 17]], |v| v[0].cross_entropy(&[16], 0.1)),
        row("cross_entropy of one class", &[&[2, 1]], |v| v[0].cross_entropy(&[0, 0], 0.0)),
        row("soft_cross_entropy", &[&[2, 3]], move |v| ops::soft_cross_entropy(&v[0], &targets(&v[0])?)),
        row("mse", &[&[2, 3], &[2, 3]], |v| v[0].mse(&v[1])),
    ];
    for sum in [false, true] {
        all.push(row("binary_cross_entropy", &[&[2, 3]], move |v| {
            ops::binary_cross_entropy(&v[0], &targets(&v[0])?, sum)
        }));
    }
    for norm_pix in [false, true] {
        all.push(row("mae_loss", &[&[2, 6, 12]], move |v| {
            let images =
                Tensor::arange(0f32, 144., v[0].tensor().device())?.affine(0.37, 0.0)?.sin()?.reshape((2, 3, 4, 6))?;
            ops::mae_loss(&v[0], &images, 2, &[1., 0., 1., 1., 0., 0., 0., 1., 0., 1., 1., 0.], norm_pix)
        }));
    }
    all
}

#[test]
fn arithmetic_conforms() {
    arithmetic().iter().for_each(Row::check);
}

#[test]
fn reductions_conform() {
    reductions().iter().for_each(Row::check);
}

#[test]
fn shapes_conform() {
    shapes().iter().for_each(Row::check);
}

#[test]
fn products_conform() {
    products().iter().for_each(Row::check);
}

#[test]
fn norms_conform() {
    norms().iter().for_each(Row::check);
}

#[test]
fn sequences_conform() {
    sequences().iter().for_each(Row::check);
}

#[test]
fn images_conform() {
    images().iter().for_each(Row::check);
}

#[test]
fn losses_conform() {
    losses().iter().for_each(Row::check);
}

/// What the table's operations are called. An operation that is added has its row.
const NAMES: &str = "abs adaptive_avg_pool2d add add_kept add_table affine attention avg_pool2d batch_norm binary_cross_entropy \
blur_pool2d cat clamp conv2d conv_transpose2d cross_entropy div drop_block2d drop_path dropout exp expand gather gather_tokens gelu \
group_norm image_patches index_select layer_norm leaky_relu linear linear_add linear_gelu log log_softmax mae_loss matmul max max_pool2d maximum \
mean mean_tokens min minimum mul narrow pad permute place pow prepend_token relu reshape sigmoid silu soft_cross_entropy softmax softplus \
sqrt sub sum tanh unshuffle_tokens var where";

#[test]
fn the_table_has_every_operation_and_shapes_alone_are_the_real_ones() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(std::collections::BTreeSet::new()));
    let rows = [arithmetic(), reductions(), shapes(), products(), norms(), sequences(), images(), losses()];
    for row in rows.iter().flatten() {
        let run = |tape: &Tape| {
            let input = |i: usize| tape.constant(&row.tensor(i, row.data(i), DType::F32));
            (row.f)(&(0..row.inputs.len()).map(input).collect::<Vec<_>>()).unwrap()
        };
        let log = seen.clone();
        let dry = Tape::shapes_only().with_observer(move |call| {
            assert!(call.op.attributes().iter().all(|(name, _)| !name.is_empty()));
            log.borrow_mut().insert(call.op.name());
        });
        assert_eq!(run(&dry).dims(), run(&Tape::off()).dims(), "{}", row.name);
    }
    let names: Vec<&str> = seen.borrow().iter().copied().collect();
    assert_eq!(names.join(" "), NAMES);
}
