//! Operations on the device beside their composition in f64 on the CPU, on fresh random numbers.

use super::{Row, off, values};
use crate::Result;
use candle_core::{DType, Device, Tensor, Var};
use candlelight_autograd::ops::{BatchNormStep, Conv2dConfig, ConvTranspose2dConfig, Pool2dConfig};
use candlelight_autograd::{Gradients, Key, ParamStore, Precision, Tape, Value, ops};
use candlelight_kernels::act::gelu::Gelu;

type Function = Box<dyn Fn(&[Value]) -> candlelight_autograd::Result<Value>>;

/// An operation with the shapes of its inputs. The first input is in the type of the precision, the others, weights, in f32.
struct Case {
    name: String,
    inputs: Vec<Vec<usize>>,
    f: Function,
}

fn case(
    name: &str,
    inputs: &[&[usize]],
    f: impl Fn(&[Value]) -> candlelight_autograd::Result<Value> + 'static,
) -> Case {
    let inputs: Vec<Vec<usize>> = inputs.iter().map(|d| d.to_vec()).collect();
    Case { name: format!("{name} {:?}", inputs[0]), inputs, f: Box::new(f) }
}

/// Numbers below `below`, each row of `k` without repetition.
fn chosen(rows: usize, k: usize, below: usize) -> Vec<u32> {
    (0..rows).flat_map(|r| (0..k).map(move |i| ((i * 7 + r * 3) % below) as u32)).collect()
}

/// Places of `l` tokens, each once per row.
fn shuffled(rows: usize, l: usize) -> Vec<u32> {
    let step = [7, 5, 3, 1].into_iter().find(|s| l % s != 0 || *s == 1).unwrap_or(1);
    (0..rows).flat_map(|r| (0..l).map(move |i| ((i * step + r) % l) as u32)).collect()
}

fn cases(small: bool) -> Vec<Case> {
    let mut all = vec![];
    let widths: &[(usize, usize)] = if small {
        &[(3, 16), (5, 30), (33, 264)]
    } else {
        &[(3, 30), (197, 768), (6, 1024), (9, 1280), (50, 2048), (1001, 512)]
    };
    for &(rows, d) in widths {
        let out = if d % 8 == 0 { d + 24 } else { d + 3 };
        all.push(case("linear", &[&[2, rows, d], &[out, d], &[out]], |x| ops::linear(&x[0], &x[1], Some(&x[2]))));
        all.push(case("linear without bias", &[&[rows, d], &[out, d]], |x| ops::linear(&x[0], &x[1], None)));
        all.push(case("linear_gelu", &[&[rows, d], &[out, d], &[out]], |x| {
            ops::linear_gelu(&x[0], &x[1], &x[2], Gelu::Erf)
        }));
        all.push(case("linear_add", &[&[rows, d], &[out, d], &[out], &[rows, out]], |x| {
            ops::linear_add(&x[0], &x[1], &x[2], &x[3])
        }));
        all.push(case("residual with drop path", &[&[6, rows, d]], |x| {
            ops::residual(&x[0], Key::new(3), 0.5, |x| x.scale(0.7))
        }));
        all.push(case("layer_norm", &[&[2, rows, d], &[d], &[d]], |x| ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)));
        all.push(case("gelu", &[&[rows, d]], |x| ops::gelu(&x[0], Gelu::Erf)));
        all.push(case("gelu tanh", &[&[rows, d]], |x| ops::gelu(&x[0], Gelu::Tanh)));
        all.push(case("relu", &[&[rows, d]], |x| ops::relu(&x[0])));
        all.push(case("leaky_relu", &[&[rows, d]], |x| x[0].leaky_relu(0.2)));
        all.push(case("silu", &[&[rows, d]], |x| x[0].silu()));
        all.push(case("sigmoid", &[&[rows, d]], |x| x[0].sigmoid()));
        all.push(case("tanh", &[&[rows, d]], |x| x[0].tanh()));
        all.push(case("softplus", &[&[rows, d]], |x| x[0].softplus()));
        all.push(case("dropout", &[&[rows, d]], |x| ops::dropout(&x[0], Key::new(9), 0.3)));
        all.push(case("drop_path", &[&[7, rows, d]], |x| ops::drop_path(&x[0], Key::new(9), 0.3)));
        all.push(case("add", &[&[rows, d], &[rows, d]], |x| x[0].add(&x[1])));
        all.push(case("scale", &[&[rows, d]], |x| x[0].affine(-1.7, 0.0)));
        all.push(case("add_table", &[&[3, rows, d], &[rows, d]], |x| ops::add_table(&x[0], &x[1])));
        all.push(case("prepend_token", &[&[3, rows, d], &[1, 1, d]], |x| ops::prepend_token(&x[0], &x[1])));
        all.push(case("narrow", &[&[3, rows + 1, d]], |x| ops::drop_tokens(&x[0], 1)));
        all.push(case("mean_tokens", &[&[3, rows, d]], |x| ops::mean_tokens(&x[0])));
        let ids = chosen(3, rows, rows);
        all.push(case("gather_tokens", &[&[3, rows, d]], move |x| ops::gather_tokens(&x[0], &ids)));
        let (kept, restore) = (rows.div_ceil(4), shuffled(3, rows));
        all.push(case("unshuffle_tokens", &[&[3, kept + 1, d], &[1, 1, d]], move |x| {
            let pos = Tensor::from_vec(Key::new(5).normal((rows + 1) * d), (rows + 1, d), &Device::Cpu)?;
            let pos = pos.to_device(x[0].tensor().device())?;
            let pos = if x[0].tensor().dtype() == DType::F64 { pos.to_dtype(DType::F64)? } else { pos };
            ops::unshuffle_tokens(&x[0], &x[1], &restore, &pos)
        }));
    }
    let tokens: &[usize] = if small { &[1, 17, 66] } else { &[1, 50, 64, 65, 197, 257, 1024] };
    let heads: &[usize] = if small { &[16, 32, 80] } else { &[16, 32, 64, 80, 128] };
    for &n in tokens {
        for &d in heads {
            all.push(case("attention", &[&[2, n, 3 * 3 * d]], |x| ops::attention(&x[0], 3, None)));
        }
    }
    // Every query finds every key unlikely: the scores are around -200.
    all.push(case("attention far below 0", &[&[2, 17, 3 * 2 * 32]], |x| {
        let signs: Vec<f32> = [8.0, -8.0, 1.0].iter().flat_map(|s| [*s; 64]).collect();
        let signs = Tensor::from_vec(signs, (1, 1, 192), x[0].tensor().device())?.to_dtype(x[0].tensor().dtype())?;
        ops::attention(&x[0].abs()?.mul(&x[0].tape().constant(&signs))?, 2, None)
    }));
    let (side, patch): (usize, usize) = if small { (12, 4) } else { (224, 16) };
    let l = (side / patch) * (side / patch);
    let ids = chosen(2, l.div_ceil(4), l);
    all.push(case("image_patches", &[&[2, 3, side, side]], move |x| {
        // Images are constants where patches are chosen.
        ops::image_patches(&x[0].tape().constant(x[0].tensor()), patch, Some(&ids))?.add(&x[0].mean_all()?)
    }));
    for norm_pix in [false, true] {
        let mask: Vec<f32> = (0..2 * l).map(|i| f32::from(i % 4 != 0)).collect();
        all.push(case("mae_loss", &[&[2, l, 3 * patch * patch]], move |x| {
            let images = Tensor::from_vec(Key::new(6).normal(2 * 3 * side * side), (2, 3, side, side), &Device::Cpu)?;
            let images = images.to_device(x[0].tensor().device())?;
            let images = if x[0].tensor().dtype() == DType::F64 { images.to_dtype(DType::F64)? } else { images };
            ops::mae_loss(&x[0], &images, patch, &mask, norm_pix)
        }));
    }
    images(&mut all, small);
    for classes in if small { [2, 11] } else { [10, 1000] } {
        let labels: Vec<u32> = (0..9).map(|i| i % classes as u32).collect();
        all.push(case("cross_entropy", &[&[9, classes]], move |x| ops::cross_entropy(&x[0], &labels, 0.1)));
        let soft = move |x: &Value| -> candlelight_autograd::Result<Tensor> {
            let t = Tensor::from_vec(Key::new(7).uniform(9 * classes), (9, classes), &Device::Cpu)?;
            let t = t.to_device(x.tensor().device())?;
            Ok(if x.tensor().dtype() == DType::F64 { t.to_dtype(DType::F64)? } else { t })
        };
        all.push(case("soft_cross_entropy", &[&[9, classes]], move |x| ops::soft_cross_entropy(&x[0], &soft(&x[0])?)));
        all.push(case("binary_cross_entropy", &[&[9, classes]], move |x| {
            ops::binary_cross_entropy(&x[0], &soft(&x[0])?, true)
        }));
    }
    all
}

/// A convolution of images x (B, H, W, I), with the same stride, padding and dilation in both directions.
fn convolution(x: [usize; 4], outputs: usize, kernel: (usize, usize), [stride, padding, dilation]: [usize; 3]) -> Case {
    let two = |n: usize| (n, n);
    let config = Conv2dConfig { stride: two(stride), padding: two(padding), dilation: two(dilation), groups: 1 };
    let w = [outputs, x[3], kernel.0, kernel.1];
    let scale = 1.0 / ((x[3] * kernel.0 * kernel.1) as f32).sqrt();
    case(&format!("conv2d {kernel:?} stride {stride}"), &[&x, &w, &[outputs]], move |x| {
        ops::conv2d(&x[0], &x[1].scale(scale)?, Some(&x[2]), config)
    })
}

/// Convolutions, batch normalisation and pools of channels-last images.
fn images(all: &mut Vec<Case>, small: bool) {
    all.push(convolution([2, 9, 7, 3], 8, (3, 3), [2, 1, 1]));
    all.push(convolution([2, 8, 8, 16], 24, (3, 3), [1, 1, 1]));
    all.push(convolution([2, 7, 9, 8], 16, (1, 1), [1, 0, 1]));
    all.push(convolution([2, 7, 9, 8], 16, (1, 1), [2, 0, 1]));
    all.push(convolution([1, 11, 12, 16], 8, (5, 3), [2, 2, 2]));
    let config = ConvTranspose2dConfig { output_padding: (1, 0), ..ConvTranspose2dConfig::new(2, 1) };
    all.push(case("conv_transpose2d", &[&[2, 5, 6, 16], &[16, 8, 4, 3], &[8]], move |x| {
        ops::conv_transpose2d(&x[0], &x[1].scale(0.2)?, Some(&x[2]), config)
    }));
    if !small {
        all.push(convolution([3, 56, 56, 64], 64, (3, 3), [1, 1, 1]));
        all.push(convolution([2, 224, 224, 3], 64, (7, 7), [2, 3, 1]));
        all.push(convolution([4, 14, 14, 256], 512, (3, 3), [2, 1, 1]));
        // Enough of them for cuDNN, where that is there.
        all.push(convolution([24, 56, 56, 64], 64, (3, 3), [1, 1, 1]));
    }
    let images: &[&[usize]] = if small {
        &[&[3, 5, 4, 16], &[2, 3, 3, 5]]
    } else {
        &[&[3, 5, 4, 16], &[2, 3, 3, 5], &[8, 56, 56, 64], &[4, 7, 7, 2048]]
    };
    for &x in images {
        let c = x[3];
        for train in [true, false] {
            let step = BatchNormStep { eps: 1e-5, momentum: 0.1, train };
            let statistics = move |like: &Value| -> candlelight_autograd::Result<(Tensor, Tensor)> {
                let t = like.tensor();
                let dtype = if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
                let new = |v: f64| Var::from_tensor(&(Tensor::ones(c, dtype, t.device())? * v)?);
                Ok((new(0.1)?.into_inner(), new(1.5)?.into_inner()))
            };
            all.push(case(&format!("batch_norm train {train}"), &[x, &[c], &[c]], move |x| {
                let (mean, var) = statistics(&x[0])?;
                let y = ops::batch_norm(&x[0], Some((&x[1], &x[2])), (&mean, &var), step)?;
                // What the running statistics became counts too.
                let tape = x[0].tape();
                y.add(&tape.constant(&mean))?.mul(&tape.constant(&var))
            }));
            all.push(case(&format!("batch_norm relu train {train}"), &[x, &[c], &[c]], move |x| {
                let (mean, var) = statistics(&x[0])?;
                ops::batch_norm_then(&x[0], Some((&x[1], &x[2])), (&mean, &var), step, ops::Then::Relu)
            }));
            all.push(case(&format!("batch_norm add relu train {train}"), &[x, &[c], &[c], x], move |x| {
                let (mean, var) = statistics(&x[0])?;
                ops::batch_norm_then(&x[0], Some((&x[1], &x[2])), (&mean, &var), step, ops::Then::AddRelu(&x[3]))
            }));
        }
        all.push(case("max_pool2d", &[x], |x| ops::max_pool2d(&x[0], Pool2dConfig::new(3, 2, 1))));
        all.push(case("avg_pool2d", &[x], |x| {
            ops::avg_pool2d(&x[0], Pool2dConfig { ceil: true, ..Pool2dConfig::new(2, 2, 1) })
        }));
        all.push(case("adaptive_avg_pool2d", &[x], |x| ops::adaptive_avg_pool2d(&x[0], (1, 1))));
    }
}

impl Case {
    /// The inputs as f64, such as the precision can hold them.
    fn data(&self, key: &Key, precision: Precision) -> Result<Vec<Tensor>> {
        let one = |(i, dims): (usize, &Vec<usize>)| -> Result<Tensor> {
            let key = key.child(&self.name).index(i as u64);
            let t = Tensor::from_vec(key.normal(dims.iter().product()), dims.as_slice(), &Device::Cpu)?;
            let t = if precision == Precision::Bf16 { t.to_dtype(DType::BF16)? } else { t };
            Ok(t.to_dtype(DType::F64)?)
        };
        self.inputs.iter().enumerate().map(one).collect()
    }

    /// The result and the gradients of all inputs.
    fn run(&self, tape: &Tape, inputs: &[Tensor], key: &Key) -> Result<Vec<Vec<f64>>> {
        let leaves: Vec<Value> = inputs.iter().map(|t| tape.leaf(t)).collect();
        let y = (self.f)(&leaves)?;
        let seed: Vec<f32> = key.child("seed").normal(y.dims().iter().product());
        // What a bf16 result takes as its gradient is rounded: on both sides.
        let seed = Tensor::from_vec(seed, y.dims(), &Device::Cpu)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
        let none = &mut Gradients::new(&ParamStore::new());
        let of: Vec<&Value> = leaves.iter().collect();
        let grads = tape.backward_with(&y, &seed, &of, none)?;
        let mut all = vec![values(y.tensor())?];
        for g in grads {
            all.push(g.map_or(Ok(vec![]), |g| values(&g))?);
        }
        Ok(all)
    }

    fn check(&self, device: &Device, precision: Precision, key: &Key) -> Result<Row> {
        let data = self.data(key, precision)?;
        let want = self.run(&Tape::new(&ParamStore::new()).with_composed_ops(), &data, key)?;
        let narrow = |(i, t): (usize, &Tensor)| -> Result<Tensor> {
            // Images and weights are in f32 under every precision.
            let first = i == 0 && precision == Precision::Bf16 && !self.name.starts_with("image");
            let t = t.to_dtype(if first { DType::BF16 } else { DType::F32 })?.to_device(device)?;
            // A view that begins one value into its memory, as parts of tensors do.
            let longer = Tensor::cat(&[&t.flatten_all()?.narrow(0, 0, 1)?, &t.flatten_all()?], 0)?;
            Ok(longer.narrow(0, 1, t.elem_count())?.reshape(t.shape())?)
        };
        let inputs = data.iter().enumerate().map(narrow).collect::<Result<Vec<_>>>()?;
        let found = self.run(&Tape::new(&ParamStore::new()).with_precision(precision), &inputs, key)?;
        let error =
            found.iter().zip(&want).map(|(a, b)| off(a, b, 1e-3)).fold(0.0, |m: f64, e| if e <= m { m } else { e });
        let (tolerance, word) = if precision == Precision::Bf16 { (1.5e-2, "bf16") } else { (2e-5, "f32") };
        Ok(Row { name: format!("{} {word}", self.name), error, tolerance })
    }
}

/// Every operation that has a kernel, in f32 and in bf16.
///
/// # Errors
/// Those of the device.
pub fn operations(device: &Device, small: bool, seed: u64) -> Result<Vec<Row>> {
    let key = Key::new(seed);
    let mut rows = vec![];
    for case in cases(small) {
        for precision in [Precision::F32, Precision::Bf16] {
            // The CPU has no values in bf16.
            if precision == Precision::Bf16 && device.is_cpu() {
                continue;
            }
            rows.push(case.check(device, precision, &key).map_err(|e| format!("{} {precision:?}: {e}", case.name))?);
        }
    }
    Ok(rows)
}
