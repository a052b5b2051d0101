//! The tape's promises.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Init;
use candlelight_autograd::{Error, Gradient, Gradients, Key, ParamStore, Precision, Tape, bridge, ops, tensor_from};
use candlelight_kernels::act::gelu::Gelu;
use candlelight_testkit::values;
use std::sync::{Arc, Mutex};

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

#[track_caller]
fn close(a: &[f32], b: &[f32]) {
    candlelight_testkit::close("values", a, b, 2e-5);
}

#[test]
fn gradients_meet_in_a_diamond() {
    let tape = Tape::new(&ParamStore::new());
    let x = tape.leaf(&random(1, &[3]));
    let a = x.scale(2.0).unwrap();
    let sum = a.add(&x).unwrap().add(&a).unwrap().add(&x.add(&x).unwrap()).unwrap(); // 2x + x + 2x + 2x
    let seed = random(2, &[3]);
    let d = tape.backward_with(&sum, &seed, &[&x], &mut Gradients::new(&ParamStore::new())).unwrap();
    close(&values(d[0].as_ref().unwrap()), &values(&(seed * 7.0).unwrap()));
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
    let d = tape.backward_with(&y, &seed, &[&x], &mut Gradients::new(&ParamStore::new())).unwrap();
    close(&values(d[0].as_ref().unwrap()), &values(&seed));
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
        let fired = Arc::new(Mutex::new(vec![]));
        let mut grads = Gradients::new(&params);
        let seen = fired.clone();
        grads.on_ready(move |name, g| {
            let Gradient::Host(g) = g else { panic!("{name} is on the CPU") };
            seen.lock().unwrap().push((name.to_string(), g.to_vec()));
        });
        let dx = tape.backward_with(&y, &random(4, &[3, 5, 8]), &[&x], &mut grads).unwrap();
        let all: Vec<Vec<f32>> = params.names().iter().map(|n| grads.get(n).unwrap().to_vec()).collect();
        let mut fired = fired.lock().unwrap().clone();
        fired.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(fired.len(), params.len(), "one call a parameter");
        for (name, g) in &fired {
            assert_eq!(grads.get(name).unwrap(), g.as_slice(), "{name} changed after its hook");
        }
        (values(dx[0].as_ref().unwrap()), all)
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
    let dx = tape.backward_with(&y, &seed, &[&leaf], &mut Gradients::new(&params)).unwrap();
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
        let got = f64::from(values(dx[0].as_ref().unwrap())[i]);
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
        let d = tape.backward_with(&y, &random(5, &[2, 3]), &[&leaf], &mut grads).unwrap();
        (values(y.tensor()), values(d[0].as_ref().unwrap()), grads.get("w").unwrap().to_vec())
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
    let bytes = tape.constant(&Tensor::zeros((2, 2), DType::U8, &Device::Cpu).unwrap());
    assert!(x.add(&bytes).is_err());
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
            let dx = tape.backward_with(&y, &random(99, y.dims()), &[&leaf], &mut grads).unwrap();
            (values(y.tensor()), values(dx[0].as_ref().unwrap()), grads.get("w").unwrap().to_vec())
        };
        let (a, b) = (run(true), run(false));
        kinds.insert(seen.get());
        close(&b.0, &a.0);
        close(&b.1, &a.1);
        close(&b.2, &a.2);
    }
    assert!(kinds.contains(&5) && kinds.contains(&2), "all and some are kept at times: {kinds:?}");
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
    let seen = Arc::new(Mutex::new(vec![]));
    let log = seen.clone();
    let mut grads = Gradients::new(&params);
    grads.on_ready(move |name, _| log.lock().unwrap().push(name.to_string()));
    assert!(tape.backward(&loss, &mut grads).is_err());
    assert_eq!(*seen.lock().unwrap(), ["used"]);
}

#[test]
fn nothing_holds_a_graph_of_candles() {
    // A parameter is a `Var`, and everything candle computes from one remembers it, and what it was computed from.
    let params = segment_params();
    for tape in [Tape::new(&params), Tape::new(&params).with_composed_ops()] {
        let x = Var::from_tensor(&random(3, &[3, 5, 8])).unwrap();
        let leaf = tape.leaf(&(x.as_tensor() * 2.0).unwrap());
        let y = segment(&params, &leaf);
        let loss = y.mean_all().unwrap();
        assert!(![leaf.tensor(), y.tensor(), loss.tensor()].iter().any(|t| t.track_op()));
        assert!(!tape.value(&tensor(&params, "fc.bias")).tensor().track_op());
        let mut grads = Gradients::new(&params);
        let seed = random(1, &[]);
        let found = tape.backward_with(&loss, &seed, &[&leaf], &mut grads).unwrap();
        assert!(!found[0].as_ref().unwrap().track_op());
        for name in params.names() {
            assert!(!grads.tensor(&name).unwrap().unwrap().track_op(), "{name}");
        }
    }
}

#[test]
fn values_of_another_tape_are_refused_in_segments_too() {
    let params = store(&[("w", &[4, 4])]);
    let (tape, other) = (Tape::new(&params), Tape::new(&params));
    let (x, foreign) = (tape.leaf(&random(1, &[2, 4])), other.leaf(&random(2, &[2, 4])));
    let e = x.add(&foreign).unwrap_err().to_string();
    assert!(e.contains("another tape"), "{e}");
    assert!(ops::linear(&x, &other.value(&tensor(&params, "w")), None).is_err());
    assert!(ops::cat(&[x.clone(), foreign], 0).is_err());
    // The segment's leaf and the skip have the same number on their tapes: the gradients would be mixed up.
    let skip = x.clone();
    let e = tape.checkpoint(&[&x], move |v| v[0].add(&skip)).unwrap_err().to_string();
    assert!(e.contains("segment's inputs"), "{e}");
    let outer = x.clone();
    assert!(tape.checkpoint(&[&x], move |_| Ok(outer.clone())).is_err());
    let y = tape.checkpoint(&[&x, &x], |v| v[0].add(&v[1])).unwrap();
    let d = tape.backward_with(&y, &random(3, &[2, 4]), &[&x], &mut Gradients::new(&params)).unwrap();
    close(&values(d[0].as_ref().unwrap()), &values(&(random(3, &[2, 4]) * 2.0).unwrap()));
}

/// Names and gradients a hook saw.
type Seen = Arc<Mutex<Vec<(String, Vec<f32>)>>>;

fn watched(params: &ParamStore) -> (Gradients, Seen) {
    let seen = Seen::default();
    let (mut grads, log) = (Gradients::new(params), seen.clone());
    grads.on_ready(move |name, g| {
        let Gradient::Host(g) = g else { panic!("{name} is on the CPU") };
        log.lock().unwrap().push((name.to_string(), g.to_vec()));
    });
    (grads, seen)
}

#[test]
fn a_table_that_is_also_a_weight_is_ready_after_its_last_use() {
    let params = store(&[("tied", &[4, 4]), ("only", &[2, 4])]);
    let (mut grads, seen) = watched(&params);
    let tape = Tape::new(&params);
    // Read as input first, as weight last; the other one as input alone.
    let x = tape.value(&tensor(&params, "only")).scale(2.0).unwrap();
    let h = tape.value(&tensor(&params, "tied")).scale(0.5).unwrap().narrow(0, 0, 2).unwrap();
    let y = ops::linear(&x.add(&h).unwrap(), &tensor(&params, "tied"), None).unwrap();
    tape.backward(&ops::cross_entropy(&y, &[0, 3], 0.0).unwrap(), &mut grads).unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = seen.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["only", "tied"], "each once");
    for (name, g) in &seen {
        assert_eq!(grads.get(name).unwrap(), g, "{name} changed after it was ready");
    }
}

#[test]
fn gradients_are_ready_when_the_last_micro_batch_is_done() {
    let params = store(&[("w", &[3, 4])]);
    let (mut grads, seen) = watched(&params);
    for i in 0..3 {
        grads.accumulating(i < 2);
        let tape = Tape::new(&params);
        let y = ops::linear(&tape.constant(&random(i, &[2, 4])), &tensor(&params, "w"), None).unwrap();
        tape.backward_scaled(&y.cross_entropy(&[0, 1], 0.0).unwrap(), 1.0 / 3.0, &mut grads).unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1, grads.get("w").unwrap());
}

#[test]
fn inner_values_have_gradients_and_detached_ones_stop_them() {
    let params = store(&[("w", &[3, 4])]);
    let w = tensor(&params, "w");
    let tape = Tape::new(&params);
    let x = tape.leaf(&random(1, &[2, 4]));
    let inner = ops::linear(&x, &w, None).unwrap();
    let stopped = inner.detach();
    assert!(stopped.source().is_none());
    let loss = (&inner * &inner).unwrap().add(&stopped.scale(5.0).unwrap()).unwrap().sum_all().unwrap();
    let parameter = tape.value(&w);
    let found = tape.gradients(&loss, &[&inner, &x, &parameter]).unwrap();
    let twice = (inner.tensor() * 2.0).unwrap();
    close(&values(&found[0]), &values(&twice));
    close(&values(&found[1]), &values(&twice.matmul(&w).unwrap()));
    close(&values(&found[2]), &values(&twice.t().unwrap().matmul(x.tensor()).unwrap()));
    let tape = Tape::new(&params);
    let (x, y) = (tape.leaf(&random(1, &[2])), tape.leaf(&random(2, &[2])));
    let e = tape.gradients(&x.sum_all().unwrap(), &[&x, &y]).unwrap_err().to_string();
    assert!(e.contains("value 1"), "{e}");
}

#[test]
fn weights_may_be_computed() {
    // A weight in two factors: the product's gradient goes on to both, as to parameters.
    let params = store(&[("a", &[3, 2]), ("b", &[2, 4])]);
    let tape = Tape::new(&params);
    let w = tape.value(&tensor(&params, "a")).matmul(&tape.value(&tensor(&params, "b"))).unwrap();
    let x = tape.constant(&random(1, &[5, 4]));
    let loss = ops::linear(&x, &w, None).unwrap().cross_entropy(&[0, 1, 2, 0, 1], 0.0).unwrap();
    let mut grads = Gradients::new(&params);
    tape.backward(&loss, &mut grads).unwrap();
    assert!(["a", "b"].iter().all(|n| grads.get(n).unwrap().iter().any(|v| *v != 0.0)));
}

#[test]
fn kernels_in_candle_programs_check_their_shapes() {
    let (x, w) = (random(1, &[2, 6]), random(2, &[4]));
    let e = bridge::layer_norm(&x, &w, &w, 1e-6).unwrap_err().to_string();
    assert!(e.contains("[2, 6]") && e.contains("[4]"), "{e}");
}

#[test]
fn what_a_training_holds_may_move_to_another_thread() {
    fn moves<T: Send>() {}
    moves::<Gradients>();
    moves::<ParamStore>();
    moves::<Error>();
}

#[test]
fn equal_values_share_gradients_as_in_pytorch() {
    let tape = Tape::new(&ParamStore::new());
    let x = tape.leaf(&Tensor::new(&[2f32, 5.0, 5.0], &Device::Cpu).unwrap());
    let first = x.max(0, false).unwrap();
    let d = tape.gradients(&first, &[&x]).unwrap();
    assert_eq!(values(&d[0]), [0.0, 1.0, 0.0], "max(dim): the first");
    for (clamped, want) in [(true, [0.0, 0.0, 0.0]), (false, [0.5, 0.0, 0.0])] {
        let tape = Tape::new(&ParamStore::new());
        let x = tape.leaf(&Tensor::new(&[2f32, 5.0, 7.0], &Device::Cpu).unwrap());
        let y = if clamped {
            x.clamp(2.0, 5.0).unwrap()
        } else {
            x.minimum(&tape.constant(&Tensor::new(&[2f32, 4.0, 4.0], &Device::Cpu).unwrap())).unwrap()
        };
        assert_eq!(values(&tape.gradients(&y.sum_all().unwrap(), &[&x]).unwrap()[0]), want);
    }
}

#[test]
fn a_nan_passes_the_rectifier_both_ways() {
    for tape in [Tape::new(&ParamStore::new()), Tape::new(&ParamStore::new()).with_composed_ops()] {
        let x = tape.leaf(&Tensor::new(&[f32::NAN, -1.0, 0.0, 2.0], &Device::Cpu).unwrap());
        let y = x.relu().unwrap();
        assert!(values(y.tensor())[0].is_nan());
        let seed = Tensor::new(&[3f32, 3.0, 3.0, 3.0], &Device::Cpu).unwrap();
        let d = tape.backward_with(&y, &seed, &[&x], &mut Gradients::new(&ParamStore::new())).unwrap();
        assert_eq!(values(d[0].as_ref().unwrap()), [3.0, 0.0, 0.0, 3.0]);
    }
}

#[test]
fn a_parameter_can_be_asked_for_that_a_checkpointed_segment_uses() {
    let params = store(&[("w", &[4, 4])]);
    let (w, x) = (tensor(&params, "w"), random(1, &[3, 4]));
    let run = |checkpointed: bool| {
        let tape = Tape::new(&params);
        let (x, inner) = (tape.constant(&x), w.clone());
        let f = move |v: &[candlelight_autograd::Value]| ops::linear(&v[0], &inner, None);
        let y = if checkpointed { tape.checkpoint(&[&x], f).unwrap() } else { f(std::slice::from_ref(&x)).unwrap() };
        // Once more outside of the segment.
        let loss = ops::linear(&y, &w, None).unwrap().sum(&[0, 1], false).unwrap();
        values(&tape.gradients(&loss, &[&tape.value(&w)]).unwrap()[0])
    };
    close(&run(true), &run(false));
}

#[test]
fn a_segment_that_is_never_walked_is_freed() {
    let params = store(&[("w", &[4, 4])]);
    let (w, held) = (tensor(&params, "w"), std::rc::Rc::new(()));
    let weak = std::rc::Rc::downgrade(&held);
    let tape = Tape::new(&params);
    let segment = move |v: &[candlelight_autograd::Value]| {
        let _ = &held;
        ops::linear(&v[0], &w, None)
    };
    let y = tape.checkpoint(&[&tape.constant(&random(1, &[3, 4]))], segment).unwrap();
    drop((y, tape));
    assert!(weak.upgrade().is_none(), "the tape is held by its own node");
}

#[test]
fn a_wrong_number_of_inputs_and_wrong_dimensions_are_errors() {
    use candlelight_autograd::spec::{AddKept, Arrange, Binary, LayerNormOp, Reduce, Reduction, Where};
    let tape = Tape::off();
    let x = tape.constant(&random(1, &[4, 3]));
    let text = |r: Result<candlelight_autograd::Value, Error>| r.unwrap_err().to_string();
    assert!(text(tape.apply(&Binary::Add, &[&x])).contains("1 inputs, expected 2"));
    assert!(text(tape.apply(&Where { condition: [true; 12].into() }, &[&x])).contains("expected 2"));
    assert!(text(tape.apply(&LayerNormOp { eps: 1e-5 }, &[&x])).contains("expected 3"));
    assert!(text(tape.apply(&ops::Activation::Relu, &[])).contains("0 inputs, expected 1"));
    let linear = candlelight_autograd::spec::LinearOp { gelu: None };
    assert!(text(tape.apply(&linear, &[&x])).contains("1 inputs, expected 2 to 3"));
    assert!(text(tape.apply(&Arrange::Cat(0), &[])).contains("0 inputs, expected 1 or more"));
    for dims in [vec![5], vec![0, 0], vec![1, 0]] {
        let sum = Reduce { kind: Reduction::Sum, dims, keep: false };
        assert!(text(tape.apply(&sum, &[&x])).contains("ascending order"));
    }
    let y = tape.constant(&random(2, &[1, 3]));
    let kept = AddKept { kept: [100].into(), scale: 1.0 };
    for tape in [Tape::off(), Tape::off().with_composed_ops()] {
        let (x, y) = (tape.constant(x.tensor()), tape.constant(y.tensor()));
        assert!(text(tape.apply(&kept, &[&x, &y])).contains("expected numbers below 4"));
    }
}

#[test]
fn gradients_made_before_a_parameter_came_or_was_unfrozen_are_refused() {
    let params = store(&[("a", &[2, 2])]);
    params.freeze("a");
    let mut grads = Gradients::new(&params);
    params.unfreeze("a");
    let loss = |name: &str| {
        let tape = Tape::new(&params);
        ops::linear(&tape.constant(&random(1, &[1, 2])), &tensor(&params, name), None)
            .unwrap()
            .sum(&[0, 1], false)
            .unwrap()
    };
    let y = loss("a");
    assert!(y.tape().backward(&y, &mut grads).unwrap_err().to_string().contains("a did not train"));
    let mut grads = Gradients::new(&params);
    assert!(grads.fit(&params));
    params.builder(Key::new(1)).get((2, 2), "b").unwrap();
    assert!(!grads.fit(&params));
    let y = loss("b");
    assert!(y.tape().backward(&y, &mut grads).unwrap_err().to_string().contains("Gradients::new"));
}

#[test]
fn a_gradient_of_an_earlier_micro_batch_alone_is_announced_too() {
    let params = store(&[("a", &[2, 2]), ("b", &[2, 2])]);
    let (mut grads, seen) = watched(&params);
    for (name, more) in [("a", true), ("b", false)] {
        grads.accumulating(more);
        let tape = Tape::new(&params);
        let y = ops::linear(&tape.constant(&random(1, &[1, 2])), &tensor(&params, name), None).unwrap();
        tape.backward_with(&y, &random(2, &[1, 2]), &[], &mut grads).unwrap();
    }
    let mut names: Vec<String> = seen.lock().unwrap().iter().map(|(n, _)| n.clone()).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_nan_is_the_largest_and_the_smallest_value_wherever_it_stands() {
    let tape = Tape::off();
    for row in [[f32::NAN, 1.0, f32::INFINITY], [1.0, f32::INFINITY, f32::NAN], [1.0, f32::NAN, f32::NEG_INFINITY]] {
        let x = tape.constant(&tensor_from(row.to_vec(), (1, 3)).unwrap());
        assert!(values(x.max(1, false).unwrap().tensor())[0].is_nan(), "{row:?}");
        assert!(values(x.min(1, false).unwrap().tensor())[0].is_nan(), "{row:?}");
    }
    let none = tape.constant(&Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap());
    assert_eq!(none.max(1, false).unwrap().dims(), [0]);
    let none = tape.constant(&Tensor::zeros((2, 3, 0), DType::F32, &Device::Cpu).unwrap());
    assert_eq!(none.index_select(1, &[0]).unwrap().dims(), [2, 1, 0]);
}

#[test]
fn a_seed_of_another_type_becomes_the_values() {
    let tape = Tape::new(&ParamStore::new());
    let x = tape.leaf(&random(1, &[3]));
    let y = x.exp().unwrap();
    let seed = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
    let d = tape.backward_with(&y, &seed, &[&x], &mut Gradients::new(&ParamStore::new())).unwrap();
    close(&values(d[0].as_ref().unwrap()), &values(y.tensor()));
}
