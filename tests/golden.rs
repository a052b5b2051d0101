//! Agreement with PyTorch: the files of `tests/golden/`, written by `tests/golden/make.py`.

mod goldens;

use candle_core::Tensor;
use candlelight::kernels::act::gelu::Gelu;
use candlelight::models::vit::Pool;
use candlelight::models::weights;
use candlelight::optim::AdamWConfig;
use candlelight::prelude::*;
use goldens::{Golden, close, golden, values};
use std::collections::HashMap;

fn small() -> MaeConfig {
    MaeConfig {
        image: (16, 24),
        patch: 4,
        channels: 3,
        dim: 32,
        depth: 2,
        heads: 4,
        decoder_dim: 16,
        decoder_depth: 1,
        decoder_heads: 2,
        ..registry::mae("mae_vit_base_patch16").unwrap()
    }
}

fn model(g: &Golden, norm_pix_loss: bool) -> (Mae, ParamStore) {
    let params = ParamStore::on(&goldens::device());
    let model = Mae::init(&MaeConfig { norm_pix_loss, ..small() }, &params, Key::new(0)).unwrap();
    let weights: Vec<(String, Tensor)> =
        g.iter().filter_map(|(n, t)| Some((n.strip_prefix("weights.")?.to_string(), t.clone()))).collect();
    let report = weights::load(&params, &weights, true).unwrap();
    assert_eq!(report.loaded.len(), weights.len());
    (model, params)
}

fn batch(g: &Golden, step: usize) -> (Tensor, Mask) {
    let noise = values(&g["noise"].get(step).unwrap());
    (
        g["images"].get(step % 4).unwrap().contiguous().unwrap().to_device(&goldens::device()).unwrap(),
        Mask::from_noise(&noise, 24, 0.75).unwrap(),
    )
}

/// design.md's tolerance, over all gradients of a model.
fn check_gradients(g: &Golden, prefix: &str, grads: &Gradients, tol: f32) {
    let wanted: Vec<(&str, &Tensor)> = g.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?, t))).collect();
    let largest = wanted.iter().flat_map(|(_, t)| values(t)).fold(0.0f32, |m, v| m.max(v.abs()));
    for (name, want) in wanted {
        let found = values(&grads.tensor(name).unwrap().unwrap_or_else(|| panic!("{name} has no gradient")));
        close(name, &found, &values(want), f64::from(tol), 1e-3 * f64::from(largest));
    }
}

#[test]
fn mae_loss_prediction_and_every_gradient() {
    let g = golden("mae_small");
    for (norm_pix, name) in [(false, "pixels"), (true, "norm_pix")] {
        let (model, params) = model(&g, norm_pix);
        let (images, mask) = batch(&g, 0);
        // Our kernels, and the operations other devices run.
        for tape in [Tape::new(&params), Tape::new(&params).with_composed_ops()] {
            let (loss, pred) = model.forward(&tape.constant(&images), &mask).unwrap();
            close("loss", &[loss.scalar().unwrap()], &values(&g[&format!("{name}.loss")]), 1e-5, 0.0);
            close("pred", &values(pred.tensor()), &values(&g[&format!("{name}.pred")]), 1e-4, 0.0);
            let mut grads = Gradients::new(&params);
            tape.backward(&loss, &mut grads).unwrap();
            check_gradients(&g, &format!("{name}.grad."), &grads, 1e-4);
        }
    }
}

#[test]
fn vit_logits_loss_and_every_gradient_are_timms() {
    let g = golden("vit_small");
    for (pool, name) in [(Pool::Avg, "avg"), (Pool::Token, "token")] {
        let config = VitConfig {
            image: (8, 12),
            patch: 4,
            dim: 16,
            depth: 2,
            heads: 2,
            classes: 5,
            pool,
            ..registry::vit("vit_base_patch16").unwrap()
        };
        let params = ParamStore::on(&goldens::device());
        let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
        let prefix = format!("{name}.weights.");
        let theirs: Vec<(String, Tensor)> =
            g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect();
        weights::load(&params, &theirs, true).unwrap();
        let images = g["images"].to_device(&goldens::device()).unwrap();
        for tape in [Tape::new(&params), Tape::new(&params).with_composed_ops()] {
            let logits = model.forward(&tape.constant(&images), None).unwrap();
            close("logits", &values(logits.tensor()), &values(&g[&format!("{name}.logits")]), 1e-5, 0.0);
            let loss = ops::cross_entropy(&logits, &[0, 4, 2], 0.1).unwrap();
            close("loss", &[loss.scalar().unwrap()], &values(&g[&format!("{name}.loss")]), 1e-5, 0.0);
            let mut grads = Gradients::new(&params);
            tape.backward(&loss, &mut grads).unwrap();
            check_gradients(&g, &format!("{name}.grad."), &grads, 1e-4);
        }
    }
}

fn train(g: &Golden, precision: Precision) -> (Vec<f32>, f64) {
    let (model, params) = model(g, true);
    let config = AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() };
    let mut opt = Optimizer::new(config, &mae_rules(0.05), &params).unwrap();
    let mut grads = Gradients::new(&params);
    let mut losses = vec![];
    let mut cosine = 0.0;
    for step in 0..50 {
        let (images, mask) = batch(g, step);
        let tape = Tape::new(&params).with_precision(precision);
        let (loss, _) = model.forward(&tape.constant(&images), &mask).unwrap();
        losses.push(loss.scalar().unwrap());
        grads.zero();
        tape.backward(&loss, &mut grads).unwrap();
        if step == 0 {
            let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
            for name in params.names() {
                let ours = values(&grads.tensor(&name).unwrap().unwrap());
                for (a, b) in ours.into_iter().zip(values(&g[&format!("{precision}.grad.{name}")])) {
                    let (a, b) = (f64::from(a), f64::from(b));
                    (xy, xx, yy) = (xy + a * b, xx + a * a, yy + b * b);
                }
            }
            cosine = xy / (xx * yy).sqrt();
        }
        opt.update(&grads, 1e-3).unwrap();
    }
    (losses, cosine)
}

#[test]
fn fifty_steps_follow_pytorch_in_f32_and_in_bf16() {
    let g = golden("mae_small");
    for (precision, tol, least) in [(Precision::F32, 1e-3, 0.999_999), (Precision::Bf16, 1e-2, 0.999)] {
        let (losses, cosine) = train(&g, precision);
        let want = values(&g[&format!("{precision}.losses")]);
        for (i, (a, b)) in losses.iter().zip(&want).enumerate() {
            assert!((a - b).abs() <= tol * b, "{precision} step {i}: {a}, PyTorch {b}");
        }
        assert!(cosine >= least, "{precision}: gradient cosine {cosine}");
        assert!(want[49] < want[0], "the reference learns");
    }
}

#[test]
fn single_operations() {
    let g = golden("kernels");
    let run = |name: &str, inputs: &[&str], f: &dyn Fn(&[Value]) -> candlelight::autograd::Result<Value>| {
        let tape = Tape::new(&ParamStore::new());
        let store = ParamStore::new();
        let x: Vec<Value> = inputs.iter().map(|i| tape.leaf(&g[&format!("{name}.{i}")])).collect();
        let y = f(&x).unwrap();
        close(name, &values(y.tensor()), &values(&g[&format!("{name}.y")]), 1e-5, 0.0);
        let seed = g[&format!("{name}.g")].reshape(y.tensor().shape()).unwrap();
        let leaves: Vec<&Value> = x.iter().collect();
        let d = tape.backward_with(&y, &seed, &leaves, &mut Gradients::new(&store)).unwrap();
        for (i, d) in inputs.iter().zip(d) {
            close(&format!("{name} d{i}"), &values(&d.unwrap()), &values(&g[&format!("{name}.d{i}")]), 2e-5, 0.0);
        }
    };
    run("gelu", &["x"], &|v| ops::gelu(&v[0], Gelu::Erf));
    run("gelu_tanh", &["x"], &|v| ops::gelu(&v[0], Gelu::Tanh));
    run("attention", &["qkv"], &|v| ops::attention(&v[0], 3, None));
    run("cross_entropy", &["x"], &|v| ops::cross_entropy(&v[0], &[0, 4, 2, 6], 0.1));
    run("soft_cross_entropy", &["x"], &|v| ops::soft_cross_entropy(&v[0], &g["soft_cross_entropy.t"]));

    // Operations with weights: gradients of parameters.
    for name in ["layer_norm", "linear"] {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        for p in ["w", "b"] {
            vb.get(g[&format!("{name}.{p}")].shape(), p).unwrap();
            params.set(p, &g[&format!("{name}.{p}")]).unwrap();
        }
        let (w, b) = (params.var("w").unwrap().as_tensor().clone(), params.var("b").unwrap().as_tensor().clone());
        let tape = Tape::new(&params);
        let x = tape.leaf(&g[&format!("{name}.x")]);
        let y =
            if name == "linear" { ops::linear(&x, &w, Some(&b)) } else { ops::layer_norm(&x, &w, &b, 1e-6) }.unwrap();
        close(name, &values(y.tensor()), &values(&g[&format!("{name}.y")]), 1e-5, 0.0);
        let mut grads = Gradients::new(&params);
        let dx = tape.backward_with(&y, &g[&format!("{name}.g")], &[&x], &mut grads).unwrap();
        close(name, &values(dx[0].as_ref().unwrap()), &values(&g[&format!("{name}.dx")]), 2e-5, 0.0);
        for p in ["w", "b"] {
            close(name, grads.get(p).unwrap(), &values(&g[&format!("{name}.d{p}")]), 2e-5, 0.0);
        }
    }
}

#[test]
fn files_of_torch_save_are_read_in_every_layout() {
    for (name, whole_state) in [("zip", true), ("legacy", true), ("nested", true), ("module", false)] {
        let path = format!("{}/tests/golden/{name}.pth", env!("CARGO_MANIFEST_DIR"));
        let tensors: Golden = weights::read(path.as_ref()).unwrap().into_iter().collect();
        assert_eq!(tensors["0.weight"].to_vec2::<f32>().unwrap(), [[0., 1., 2.], [3., 4., 5.]], "{name}");
        assert_eq!(values(&tensors["1.running_var"]), [1.0, 1.0], "{name}");
        assert_eq!(tensors["1.num_batches_tracked"].to_scalar::<i64>().unwrap(), 0, "{name}");
        if whole_state {
            assert_eq!(tensors["strided"].to_vec2::<f32>().unwrap(), [[4., 8.], [6., 10.]], "{name}");
            assert_eq!(values(&tensors["half"]), [1.5, -2.0], "{name}");
        }
    }
}

#[test]
fn damaged_files_of_torch_save_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pth");
    for name in ["zip", "legacy"] {
        let bytes = std::fs::read(format!("{}/tests/golden/{name}.pth", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for cut in (0..bytes.len()).step_by(bytes.len() / 20) {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(weights::read(&path).is_err(), "{name} cut at {cut} of {}", bytes.len());
        }
    }
    std::fs::write(&path, "hello").unwrap();
    assert!(weights::read(&path).unwrap_err().to_string().contains("neither"));
}

#[test]
fn fresh_weights_have_the_published_distributions() {
    let config = registry::mae("mae_vit_tiny_patch16").unwrap();
    let params = ParamStore::new();
    Mae::init(&config, &params, Key::new(0)).unwrap();
    let stats = |name: &str| {
        let v = values(params.var(name).unwrap().as_tensor());
        let n = v.len() as f64;
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let std = (v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        (mean, std, v.iter().fold(0.0f64, |m, &x| m.max(f64::from(x).abs())))
    };
    // Xavier-uniform: bound sqrt(6 / (in + out)), deviation bound / sqrt(3).
    for (name, fans) in [
        ("blocks.0.attn.qkv.weight", 192 + 576),
        ("decoder_embed.weight", 192 + 192),
        ("patch_embed.proj.weight", 768 + 192),
    ] {
        let bound = (6.0 / f64::from(fans)).sqrt();
        let (mean, std, max) = stats(name);
        assert!(mean.abs() < 0.02 * bound && (std * 3f64.sqrt() / bound - 1.0).abs() < 0.02, "{name}: {mean} {std}");
        assert!(max <= bound && max > 0.99 * bound, "{name}: {max} of {bound}");
    }
    let (_, std, _) = stats("mask_token");
    assert!((std - 0.02).abs() < 0.004, "{std}");
    let (_, _, max) = stats("patch_embed.proj.bias");
    assert!(max <= 1.0 / 768f64.sqrt() && max > 0.8 / 768f64.sqrt(), "{max}");
    assert_eq!(stats("blocks.3.mlp.fc1.bias"), (0.0, 0.0, 0.0));
    assert_eq!(stats("norm.weight"), (1.0, 0.0, 1.0));
}

#[test]
fn position_embeddings_reach_other_grids_as_in_mae_and_timm() {
    use candlelight::models::posemb::{Interpolation, resample};
    let g = golden("posemb");
    for (how, name) in [(Interpolation::Mae, "mae"), (Interpolation::Timm, "timm")] {
        for to in [(4, 6), (8, 12), (7, 5), (2, 3), (1, 1), (14, 14)] {
            let got = resample(&g["table"], (4, 6), to, 1, how).unwrap();
            let want = &g[&format!("{name}.{}x{}", to.0, to.1)];
            assert_eq!(got.dims(), want.dims());
            close(&format!("{name} {to:?}"), &values(&got), &values(want), 1e-5, 0.0);
        }
    }
    let e = resample(&g["table"], (5, 5), (7, 7), 1, Interpolation::Mae).unwrap_err().to_string();
    assert!(e.contains("25 rows") && e.contains("5 x 5"), "{e}");
}

#[test]
fn torchvisions_and_transformers_weights_give_their_logits() {
    use candlelight::models::weights::names::{Family, from_timm, to_timm};
    let g = golden("families");
    for (name, family) in [("torchvision", Family::Torchvision), ("huggingface", Family::Huggingface)] {
        let config = VitConfig {
            image: (8, 8),
            patch: 4,
            dim: 16,
            depth: 2,
            heads: 2,
            mlp_ratio: 2,
            classes: 3,
            pool: Pool::Token,
            ..registry::vit("vit_base_patch16").unwrap()
        };
        let prefix = format!("{name}.weights.");
        let theirs: Vec<(String, Tensor)> =
            g.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t.clone()))).collect();
        let params = ParamStore::new();
        let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
        weights::load(&params, &to_timm(&theirs).unwrap(), true).unwrap();
        let logits = model.forward(&Tape::off().constant(&g["images"]), None).unwrap();
        close(name, &values(logits.tensor()), &values(&g[&format!("{name}.logits")]), 1e-4, 0.0);
        let back: HashMap<String, Tensor> = from_timm(&params.state_dict(), family).unwrap().into_iter().collect();
        if family == Family::Torchvision {
            assert_eq!(back.len(), theirs.len());
            theirs.iter().for_each(|(n, t)| assert_eq!(values(&back[n]), values(t), "{n}"));
        }
    }
}
