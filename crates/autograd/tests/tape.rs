//! The tape's promises.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Init;
use candlelight_autograd::{Error, Gradients, Key, ParamStore, Precision, Tape, bridge, ops, tensor_from};
use candlelight_kernels::gelu::Gelu;
use std::cell::RefCell;
use std::rc::Rc;

fn store(tensors: &[(&str, &[usize])]) -> ParamStore {
    let params = ParamStore::new();
    let vb = params.builder(Key::new(7));
    for (name, dims) in tensors {
        vb.get_with_hints(*dims, name, Init::Randn { mean: 0.0, stdev: 0.5 }).unwrap();
    }
    params
}

fn tensor(params: &ParamStore, name: &str) -> Tensor {
    params.var(name).unwrap().as_tensor().clone()
}

fn random(seed: u64, dims: &[usize]) -> Tensor {
    tensor_from(Key::new(seed).normal(dims.iter().product()), dims).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-5 * scale), "{a:?}\n{b:?}");
}

#[test]
fn gradients_meet_in_a_diamond() {
    let tape = Tape::new(&ParamStore::new());
    let x = tape.leaf(&random(1, &[3]));
    let a = x.scale(2.0).unwrap();
    let sum = a.add(&x).unwrap().add(&a).unwrap().add(&x.add(&x).unwrap()).unwrap(); // 2x + x + 2x + 2x
    let seed = random(2, &[3]);
    let d = tape.backward_with(&sum, &seed, &[x], &mut Gradients::new(&ParamStore::new())).unwrap();
    close(d[0].as_ref().unwrap(), &values(&(seed * 7.0).unwrap()));
}

#[test]
fn deep_chains_do_not_overflow_the_stack() {
    let tape = Tape::new(&ParamStore::new());
    let x = tape.leaf(&random(1, &[2]));
    let mut y = x.clone();
    for _ in 0..100_000 {
        y = y.reshape(2).unwrap();
    }
    assert_eq!(tape.len(), 100_000);
    let seed = random(2, &[2]);
    let d = tape.backward_with(&y, &seed, &[x], &mut Gradients::new(&ParamStore::new())).unwrap();
    close(d[0].as_ref().unwrap(), &values(&seed));
}

#[test]
fn parameters_without_gradient_are_named_and_frozen_ones_are_not_asked_for() {
    let params = store(&[("used.weight", &[3, 4]), ("forgotten.weight", &[3, 4])]);
    let x = random(3, &[2, 4]);
    let run = |grads: &mut Gradients| {
        let tape = Tape::new(&params);
        let y = ops::linear(&tape.constant(&x), &tensor(&params, "used.weight"), None).unwrap();
        tape.backward(&ops::cross_entropy(&y, &[0, 2], 0.0).unwrap(), grads)
    };
    match run(&mut Gradients::new(&params)) {
        Err(e @ Error::NoGradient { .. }) => assert!(e.to_string().contains("forgotten.weight"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(params.freeze("forgotten.*"), 1);
    run(&mut Gradients::new(&params)).unwrap();
}

#[test]
fn accumulated_micro_batches_are_the_whole_batch() {
    let params = store(&[("w", &[3, 4]), ("b", &[3])]);
    let x = random(3, &[4, 4]);
    let add = |grads: &mut Gradients, x: &Tensor, labels: &[u32], scale: f32| {
        let tape = Tape::new(&params);
        let y = ops::linear(&tape.constant(x), &tensor(&params, "w"), Some(&tensor(&params, "b"))).unwrap();
        tape.backward_scaled(&ops::cross_entropy(&y, labels, 0.0).unwrap(), scale, grads).unwrap();
    };
    let (mut whole, mut parts) = (Gradients::new(&params), Gradients::new(&params));
    add(&mut whole, &x, &[0, 1, 2, 0], 1.0);
    add(&mut parts, &x.narrow(0, 0, 2).unwrap().contiguous().unwrap(), &[0, 1], 0.5);
    add(&mut parts, &x.narrow(0, 2, 2).unwrap().contiguous().unwrap(), &[2, 0], 0.5);
    for name in ["w", "b"] {
        close(parts.get(name).unwrap(), whole.get(name).unwrap());
    }
    let norm = whole.norm().unwrap();
    assert!((whole.clip_norm(norm / 2.0).unwrap() - norm).abs() < 1e-9);
    assert!((whole.norm().unwrap() - norm / 2.0).abs() < 1e-5);
}

/// A little of everything: layer norm, linear, attention, GELU, dropout, drop-path, tokens.
fn segment(params: &ParamStore, x: &candlelight_autograd::Value) -> candlelight_autograd::Value {
    let t = |n: &str| tensor(params, n);
    let h = ops::layer_norm(x, &t("norm.weight"), &t("norm.bias"), 1e-6).unwrap();
    let h = ops::linear(&h, &t("qkv.weight"), None).unwrap();
    let h = ops::attention(&h, 2, Some((Key::new(5), 0.2))).unwrap();
    let h = ops::linear_gelu(&h, &t("fc.weight"), &t("fc.bias"), Gelu::Erf).unwrap();
    let h = ops::dropout(&h, Key::new(6), 0.3).unwrap();
    let h = ops::drop_path(&h, Key::new(7), 0.3).unwrap();
    x.add(&h).unwrap()
}

fn segment_params() -> ParamStore {
    store(&[
        ("norm.weight", &[8]),
        ("norm.bias", &[8]),
        ("qkv.weight", &[24, 8]),
        ("fc.weight", &[8, 8]),
        ("fc.bias", &[8]),
    ])
}

#[test]
fn checkpoints_give_the_same_bits_and_hooks_fire_once_when_a_gradient_is_final() {
    let params = segment_params();
    let x = random(3, &[3, 5, 8]);
    let run = |checkpointed: bool| {
        let tape = Tape::new(&params);
        let x = tape.leaf(&x);
        let mut y = segment(&params, &x);
        for _ in 0..2 {
            y = if checkpointed {
                let params = params.clone();
                tape.checkpoint(&[&y], move |v| Ok(segment(&params, &v[0]))).unwrap()
            } else {
                segment(&params, &y)
            };
        }
        let fired = Rc::new(RefCell::new(vec![]));
        let mut grads = Gradients::new(&params);
        let seen = fired.clone();
        grads.on_ready(move |name, g| seen.borrow_mut().push((name.to_string(), g.to_vec())));
        let dx = tape.backward_with(&y, &random(4, &[3, 5, 8]), &[x], &mut grads).unwrap();
        let all: Vec<Vec<f32>> = params.names().iter().map(|n| grads.get(n).unwrap().to_vec()).collect();
        let mut fired = fired.borrow().clone();
        fired.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(fired.len(), params.len(), "one call a parameter");
        for (name, g) in &fired {
            assert_eq!(grads.get(name).unwrap(), g.as_slice(), "{name} changed after its hook");
        }
        (dx[0].as_ref().unwrap().to_vec(), all)
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn every_operation_agrees_with_finite_differences() {
    let params = segment_params();
    let x = random(3, &[2, 5, 8]);
    let seed = random(4, &[2, 4, 8]);
    let ids = [4, 0, 1, 1, 3, 3, 2, 0];
    let forward = |x: &candlelight_autograd::Value| {
        let y = segment(&params, x);
        ops::gather_tokens(&y, &ids).unwrap()
    };
    let tape = Tape::new(&params);
    let leaf = tape.leaf(&x);
    let y = forward(&leaf);
    let dx = tape.backward_with(&y, &seed, &[leaf], &mut Gradients::new(&params)).unwrap();
    let scalar = |x: Vec<f32>| {
        let y = forward(&Tape::off().constant(&tensor_from(x, (2, 5, 8)).unwrap()));
        values(y.tensor()).iter().zip(values(&seed)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum::<f64>()
    };
    let base = values(&x);
    for i in (0..base.len()).step_by(7) {
        let h = 1e-2;
        let at = |d: f32| {
            let mut v = base.clone();
            v[i] += d;
            scalar(v)
        };
        let fd = (at(h) - at(-h)) / (2.0 * f64::from(h));
        let got = f64::from(dx[0].as_ref().unwrap()[i]);
        assert!((fd - got).abs() < 5e-3 * fd.abs().max(1.0), "{i}: {got}, finite difference {fd}");
    }
}

#[test]
fn evaluation_records_nothing_and_constants_get_no_gradient() {
    let params = segment_params();
    let off = Tape::off();
    let y = segment(&params, &off.constant(&random(3, &[2, 5, 8])));
    assert!(off.is_empty() && y.source().is_none());
    let tape = Tape::new(&ParamStore::new());
    let z = tape.constant(&random(1, &[2])).add(&tape.constant(&random(2, &[2]))).unwrap();
    assert!(tape.is_empty() && z.source().is_none());
}

#[test]
fn a_candle_closure_is_a_node() {
    let params = store(&[("w", &[3, 4])]);
    let w = tensor(&params, "w");
    let x = random(3, &[2, 4]);
    let ours = |use_candle: bool| {
        let tape = Tape::new(&params);
        let leaf = tape.leaf(&x);
        let y = if use_candle {
            ops::candle(&tape, &[&leaf, &tape.value(&w)], |t| t[0].matmul(&t[1].t()?)?.tanh()).unwrap()
        } else {
            let y = ops::linear(&leaf, &w, None).unwrap();
            ops::candle(&tape, &[&y], |t| t[0].tanh()).unwrap()
        };
        let mut grads = Gradients::new(&params);
        let d = tape.backward_with(&y, &random(5, &[2, 3]), &[leaf], &mut grads).unwrap();
        (values(y.tensor()), d[0].as_ref().unwrap().to_vec(), grads.get("w").unwrap().to_vec())
    };
    let (a, b) = (ours(true), ours(false));
    close(&a.0, &b.0);
    close(&a.1, &b.1);
    close(&a.2, &b.2);
}

#[test]
fn kernels_work_under_candles_backward() {
    let var = |seed, dims: &[usize]| Var::from_tensor(&random(seed, dims)).unwrap();
    let (x, g, b) = (var(1, &[2, 5, 24]), var(2, &[24]), var(3, &[24]));
    let (w, c) = (var(4, &[8, 8]), var(5, &[8]));
    let forward = |x: &Tensor, ours: bool| -> candle_core::Result<Tensor> {
        let h = if ours {
            bridge::layer_norm(x, &g, &b, 1e-6)?
        } else {
            let mean = x.mean_keepdim(2)?;
            let d = x.broadcast_sub(&mean)?;
            let var = d.sqr()?.mean_keepdim(2)?;
            d.broadcast_div(&(var + 1e-6)?.sqrt()?)?.broadcast_mul(&g)?.broadcast_add(&b)?
        };
        let h = if ours {
            bridge::attention(&h, 2, Precision::F32)?
        } else {
            let part =
                |i: usize| h.reshape((2, 5, 3, 2, 4))?.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            let p = candle_nn::ops::softmax(&(q.matmul(&k.t()?.contiguous()?)? * 0.5)?, 3)?;
            p.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((2, 5, 8))?
        };
        let h = if ours { bridge::gelu(&h, Gelu::Erf)? } else { h.gelu_erf()? };
        if ours {
            bridge::linear(&h, &w, &c, Precision::F32)
        } else {
            h.reshape((10, 8))?.matmul(&w.t()?)?.broadcast_add(&c)?.reshape((2, 5, 8))
        }
    };
    let run = |ours: bool| {
        let y = forward(&x, ours).unwrap();
        let grads = (&y * random(9, &[2, 5, 8])).unwrap().sum_all().unwrap().backward().unwrap();
        let all: Vec<Vec<f32>> = [&x, &g, &b, &w, &c].iter().map(|v| values(grads.get(v).unwrap())).collect();
        (values(&y), all)
    };
    let (a, b) = (run(true), run(false));
    close(&a.0, &b.0);
    a.1.iter().zip(&b.1).for_each(|(a, b)| close(a, b));
}

#[test]
fn shapes_are_checked_before_kernels_run() {
    let params = segment_params();
    let tape = Tape::new(&params);
    let x = tape.constant(&random(1, &[2, 5, 8]));
    let small = tape.constant(&random(1, &[2, 8]));
    assert!(x.add(&small).unwrap_err().to_string().contains("[2, 5, 8]"));
    assert!(ops::linear(&x, &random(1, &[3, 7]), None).is_err());
    assert!(ops::attention(&x, 3, None).is_err());
    assert!(ops::select_tokens(&x, 3, 3).is_err());
    assert!(ops::dropout(&x, Key::new(0), 1.0).is_err());
    assert!(tape.backward(&x, &mut Gradients::new(&params)).unwrap_err().to_string().contains("scalar"));
    let half = tape.constant(&Tensor::zeros((2, 2), DType::F64, &Device::Cpu).unwrap());
    assert!(ops::gelu(&half, Gelu::Erf).unwrap_err().to_string().contains("expected f32"));
}

/// Value and every gradient of `f` once with the kernels and once composed from candle's operations.
fn both_ways(params: &ParamStore, x: &Tensor, f: impl Fn(&candlelight_autograd::Value) -> candlelight_autograd::Value) {
    let run = |tape: Tape| {
        let leaf = tape.leaf(x);
        let y = f(&leaf);
        let mut grads = Gradients::new(params);
        let dx = tape.backward_with(&y, &random(99, y.dims()), &[leaf], &mut grads).unwrap();
        let dx = dx[0].as_ref().map(|g| g.to_vec());
        let grads: Vec<(String, Vec<f32>)> = grads.iter().map(|(n, g)| (n.to_string(), g.to_vec())).collect();
        (values(y.tensor()), dx, grads)
    };
    let (y, dx, grads) = run(Tape::new(params));
    let (y2, dx2, grads2) = run(Tape::new(params).with_composed_ops());
    close(&y2, &y);
    assert_eq!(dx2.is_some(), dx.is_some());
    close(&dx2.unwrap_or_default(), &dx.unwrap_or_default());
    assert_eq!(grads.len(), grads2.len());
    for ((n, a), (m, b)) in grads.iter().zip(&grads2) {
        assert_eq!(n, m);
        close(b, a);
    }
}

#[test]
fn composed_operations_agree_with_the_kernels() {
    let params = segment_params();
    both_ways(&params, &random(3, &[3, 5, 8]), |x| segment(&params, x));

    let params = store(&[("table", &[1, 4, 6]), ("token", &[1, 1, 6]), ("pos", &[1, 5, 6]), ("conv", &[4, 3, 2, 2])]);
    let t = |n: &str| tensor(&params, n);
    let x = random(4, &[2, 4, 6]);
    both_ways(&params, &x, |x| ops::add_table(x, &t("table")).unwrap());
    both_ways(&params, &x, |x| ops::gather_tokens(x, &[3, 0, 0, 1, 2, 3]).unwrap());
    both_ways(&params, &x, |x| ops::prepend_token(x, &t("token"), Some(&[0.5; 6])).unwrap());
    let restore = [2, 0, 1, 3, 1, 3, 2, 0];
    both_ways(&params, &random(5, &[2, 3, 6]), |x| {
        ops::unshuffle_tokens(x, &t("token"), &restore, &t("pos").detach()).unwrap()
    });
    both_ways(&params, &x, |x| ops::select_tokens(x, 1, 2).unwrap());
    both_ways(&params, &x, |x| ops::mean_tokens(x).unwrap().scale(-1.5).unwrap());
    for kind in [Gelu::Erf, Gelu::Tanh] {
        both_ways(&params, &x, |x| ops::gelu(x, kind).unwrap());
    }
    both_ways(&params, &random(6, &[2, 3, 4, 6]), |x| {
        ops::linear(&ops::image_patches(x, 2, None).unwrap(), &t("conv"), None).unwrap()
    });
    both_ways(&params, &random(7, &[3, 5]), |x| ops::cross_entropy(x, &[4, 0, 2], 0.1).unwrap());
    let targets = tensor_from(vec![0.2, 0.8, 0.0, 0.5, 0.25, 0.0], (2, 3)).unwrap();
    both_ways(&params, &random(8, &[2, 3]), |x| ops::soft_cross_entropy(x, &targets).unwrap());
    for sum in [false, true] {
        both_ways(&params, &random(8, &[2, 3]), |x| ops::binary_cross_entropy(x, &targets, sum).unwrap());
    }
    let params = store(&[("g", &[6]), ("b", &[6])]);
    let t = |n: &str| tensor(&params, n);
    for train in [true, false] {
        for affine in [true, false] {
            // Fresh statistics each time: training moves them.
            let moved = std::cell::RefCell::new(vec![]);
            both_ways(&params, &random(11, &[3, 5, 6]), |x| {
                let (mean, var) = (tensor_from(vec![0.5; 6], 6).unwrap(), tensor_from(vec![2.0; 6], 6).unwrap());
                let (mean, var) = (Var::from_tensor(&mean).unwrap(), Var::from_tensor(&var).unwrap());
                let weights = (t("g"), t("b"));
                let how = ops::BatchNorm { eps: 1e-5, momentum: 0.1, train };
                let affine = affine.then_some((&weights.0, &weights.1));
                let y = ops::batch_norm(x, affine, (mean.as_tensor(), var.as_tensor()), how).unwrap();
                moved.borrow_mut().push([values(&mean), values(&var)].concat());
                y
            });
            let moved = moved.into_inner();
            close(&moved[0], &moved[1]);
            assert_eq!(moved[0][0] != 0.5 && moved[0][6] != 2.0, train);
        }
    }
    let images = random(9, &[2, 3, 4, 6]);
    let mask = [1., 0., 1., 1., 0., 0., 0., 1., 0., 1., 1., 0.];
    for norm_pix in [false, true] {
        both_ways(&params, &random(10, &[2, 6, 12]), |x| ops::mae_loss(x, &images, 2, &mask, norm_pix).unwrap());
    }
    let chosen =
        |tape: Tape| values(ops::image_patches(&tape.constant(&images), 2, Some(&[5, 1, 0, 0])).unwrap().tensor());
    assert_eq!(chosen(Tape::off()), chosen(Tape::off().with_composed_ops()));
}

#[test]
fn a_residual_branch_is_computed_for_the_kept_samples_with_the_gradients_of_all() {
    let params = store(&[("w", &[6, 6])]);
    let w = tensor(&params, "w");
    let x = random(12, &[5, 3, 6]);
    let mut kinds = std::collections::BTreeSet::new();
    for i in 0..40 {
        let key = || Key::new(i);
        let seen = std::cell::Cell::new(0);
        // Against the same branch on all samples, dropped afterwards.
        let run = |whole: bool| {
            let tape = Tape::new(&params);
            let leaf = tape.leaf(&x);
            let branch = |x: &candlelight_autograd::Value| {
                seen.set(x.dims()[0]);
                ops::linear(x, &w, None)
            };
            let y = if whole {
                leaf.add(&ops::drop_path(&branch(&leaf).unwrap(), key(), 0.5).unwrap()).unwrap()
            } else {
                ops::residual(&leaf, key(), 0.5, branch).unwrap()
            };
            let mut grads = Gradients::new(&params);
            let dx = tape.backward_with(&y, &random(99, y.dims()), &[leaf], &mut grads).unwrap();
            (values(y.tensor()), dx[0].as_ref().unwrap().to_vec(), grads.get("w").unwrap().to_vec())
        };
        let (a, b) = (run(true), run(false));
        kinds.insert(seen.get());
        close(&b.0, &a.0);
        close(&b.1, &a.1);
        close(&b.2, &a.2);
    }
    assert!(kinds.contains(&5) && kinds.contains(&2), "all and some are kept at times: {kinds:?}");
    both_ways(&params, &x, |x| {
        ops::residual::<Error>(x, Key::new(3), 0.5, |x| ops::linear(x, &tensor(&params, "w"), None)).unwrap()
    });
}

#[test]
fn operations_of_convolutional_networks_agree_with_candles_and_with_finite_differences() {
    let params = store(&[("w", &[6, 2, 3, 3]), ("b", &[6]), ("g", &[4]), ("s", &[4])]);
    let t = |n: &str| tensor(&params, n);
    let x = random(3, &[2, 7, 7, 4]);
    for how in
        [ops::Conv2d { groups: 2, ..ops::Conv2d::new(2, 1) }, ops::Conv2d { groups: 2, ..ops::Conv2d::new(1, 0) }]
    {
        both_ways(&params, &x, |x| ops::conv2d(x, &t("w"), Some(&t("b")), how).unwrap());
    }
    both_ways(&params, &x, |x| ops::relu(x).unwrap());
    both_ways(&params, &x, |x| ops::channels_last(&ops::channels_first(x).unwrap()).unwrap().scale(2.0).unwrap());
    both_ways(&params, &x, |x| ops::max_pool2d(x, ops::Pool2d::new(3, 2, 1)).unwrap());
    both_ways(&params, &x, |x| ops::avg_pool2d(x, ops::Pool2d { ceil: true, ..ops::Pool2d::new(2, 2, 0) }).unwrap());
    both_ways(&params, &x, |x| ops::adaptive_avg_pool2d(x, (3, 2)).unwrap());
    for how in [ops::GlobalPool::Avg, ops::GlobalPool::Max, ops::GlobalPool::AvgMax, ops::GlobalPool::CatAvgMax] {
        both_ways(&params, &x, |x| ops::global_pool2d(x, how).unwrap());
    }
    // A block: the residual shares its gradient with the input of the normalisation.
    let running = || (tensor_from(vec![0.1; 4], 4).unwrap(), tensor_from(vec![1.5; 4], 4).unwrap());
    for train in [true, false] {
        both_ways(&params, &x, |x| {
            let (mean, var) = running();
            let (mean, var) = (Var::from_tensor(&mean).unwrap(), Var::from_tensor(&var).unwrap());
            let how = ops::BatchNorm { eps: 1e-5, momentum: 0.1, train };
            let running = (mean.as_tensor(), var.as_tensor());
            let (g, s) = (t("g"), t("s"));
            let h = ops::batch_norm_then(x, Some((&g, &s)), running, how, ops::Then::Relu).unwrap();
            ops::batch_norm_then(&h, Some((&g, &s)), running, how, ops::Then::AddRelu(x)).unwrap()
        });
    }
    let tape = Tape::off();
    let v = tape.constant(&x);
    for e in [
        ops::conv2d(&v, &random(1, &[6, 3, 3, 3]), None, ops::Conv2d::new(1, 1)),
        ops::conv2d(&v, &random(1, &[6, 4, 9, 9]), None, ops::Conv2d::new(1, 0)),
        ops::max_pool2d(&v, ops::Pool2d::new(9, 1, 0)),
        ops::max_pool2d(&tape.constant(&random(1, &[2, 3])), ops::Pool2d::new(2, 1, 0)),
    ] {
        assert!(e.is_err());
    }
}

#[test]
fn a_tape_is_walked_once_and_only_for_its_own_values() {
    let params = store(&[("w", &[3, 4])]);
    let forward = |tape: &Tape| {
        let y = ops::linear(&tape.constant(&random(1, &[2, 4])), &tensor(&params, "w"), None).unwrap();
        ops::cross_entropy(&y, &[0, 1], 0.0).unwrap()
    };
    let (tape, other) = (Tape::new(&params), Tape::new(&params));
    let (loss, foreign) = (forward(&tape), forward(&other));
    let mut grads = Gradients::new(&params);
    assert!(tape.backward(&foreign, &mut grads).unwrap_err().to_string().contains("another tape"));
    tape.backward(&loss, &mut grads).unwrap();
    assert!(tape.backward(&loss, &mut grads).unwrap_err().to_string().contains("has run"));
}

#[test]
fn hooks_are_silent_for_parameters_that_got_nothing() {
    let params = store(&[("used", &[3, 4]), ("idle", &[3, 4])]);
    let tape = Tape::new(&params);
    let x = tape.constant(&random(1, &[2, 4]));
    let loss = ops::cross_entropy(&ops::linear(&x, &tensor(&params, "used"), None).unwrap(), &[0, 1], 0.0).unwrap();
    ops::linear(&x, &tensor(&params, "idle"), None).unwrap(); // recorded, but the loss does not depend on it
    let seen = Rc::new(RefCell::new(vec![]));
    let log = seen.clone();
    let mut grads = Gradients::new(&params);
    grads.on_ready(move |name, _| log.borrow_mut().push(name.to_string()));
    assert!(tape.backward(&loss, &mut grads).is_err());
    assert_eq!(*seen.borrow(), ["used"]);
}
