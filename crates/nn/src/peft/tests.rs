use super::*;
use crate::{Attention, Conv2d, Linear, Mlp, Result, init};
use candle_core::{Device, Tensor};
use candlelight_autograd::ops::Conv2dConfig;
use candlelight_autograd::{Gradients, Key, ParamStore, Tape, Value, tensor_from};

fn tensor(seed: u64, dims: &[usize]) -> Tensor {
    tensor_from(Key::new(seed).normal(dims.iter().product()), dims).unwrap()
}

/// Draws every parameter of an adapter, so that it does something.
fn draw(params: &ParamStore) {
    for (i, name) in params.names().iter().enumerate().filter(|(_, n)| layer_of(n).is_some()) {
        let dims = params.var(name).unwrap().dims().to_vec();
        let noise = (tensor(40 + i as u64, &dims) * 0.5).unwrap();
        let value = if name.ends_with("lora_A.weight") || name.ends_with("lora_B.weight") {
            noise
        } else {
            (noise + 1.5).unwrap()
        };
        params.set(name, &value).unwrap();
    }
}

fn build<T>(config: &Peft, make: impl Fn(candle_nn::VarBuilder) -> Result<T>) -> Result<(ParamStore, T)> {
    let (params, plan) = (ParamStore::new(), Plan::new(config)?);
    let layer = make(plan.builder(params.builder(Key::new(0))))?;
    plan.finish()?;
    Ok((params, layer))
}

/// The greatest difference of two tensors.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn every_kind(layers: &str) -> Vec<(&'static str, Peft)> {
    let lora = LoraConfig { r: 2, lora_alpha: 3.0, ..LoraConfig::on(layers) };
    let ia3 = Ia3Config { target_modules: lora.target_modules.clone(), ..Ia3Config::default() };
    vec![
        ("lora", Peft::Lora(lora.clone())),
        ("rslora", Peft::Lora(LoraConfig { use_rslora: true, ..lora.clone() })),
        ("dora", Peft::Lora(LoraConfig { use_dora: true, ..lora })),
        ("ia3", Peft::Ia3(ia3.clone())),
        ("ia3 inputs", Peft::Ia3(Ia3Config { feedforward_modules: ia3.target_modules.clone(), ..ia3 })),
    ]
}

/// A layer with adapters computes what the plain layer computes with merged weights, and trains every parameter of the adapter.
fn same_as_merged<T>(
    config: &Peft,
    make: impl Fn(candle_nn::VarBuilder) -> Result<T>,
    run: impl Fn(&T, &Value) -> Result<Value>,
    x: &Tensor,
) {
    let (params, layer) = build(config, &make).unwrap();
    draw(&params);
    train_only(config, &params, &crate::Anatomy::default()).unwrap();
    let tape = Tape::new(&params);
    let y = run(&layer, &tape.constant(x)).unwrap();
    let tensors = merged(&params.values(), config).unwrap();
    assert!(tensors.iter().all(|(n, _)| layer_of(n).is_none()));
    let plain_params = ParamStore::new();
    let plain = make(plain_params.builder(Key::new(0))).unwrap();
    tensors.iter().for_each(|(n, t)| plain_params.set(n, t).unwrap());
    let want = run(&plain, &Tape::off().constant(x)).unwrap();
    assert!(apart(y.tensor(), want.tensor()) < 2e-5, "{config:?}: {}", apart(y.tensor(), want.tensor()));
    let mut grads = Gradients::new(&params);
    let n = y.tensor().elem_count();
    let weights = tape.constant(&tensor(9, &[n]));
    tape.backward(&y.reshape(n).unwrap().mul(&weights).unwrap().sum_all().unwrap(), &mut grads).unwrap();
    for (name, g) in grads.iter() {
        assert!(layer_of(name).is_some(), "{name} trains");
        assert!(g.iter().any(|v| *v != 0.0), "{name} gets no gradient");
    }
    if let Peft::Lora(LoraConfig { use_dora: false, .. }) = config {
        let back = unmerged(&tensors, &params.values(), config).unwrap();
        for (name, t) in back {
            assert!(apart(&t, params.var(&name).unwrap().as_tensor()) < 1e-5, "{name} comes back");
        }
    } else {
        assert!(unmerged(&tensors, &params.values(), config).is_err());
    }
}

#[test]
fn every_adapter_is_its_merged_weight_on_every_layer() {
    let x = tensor(1, &[2, 3, 6]);
    for (_, config) in every_kind("fc") {
        same_as_merged(&config, |vb| Linear::new(6, 4, vb.pp("fc")), |l, x| l.forward(x), &x);
        same_as_merged(&config, |vb| Linear::without_bias(6, 4, init::fan_in(6), vb.pp("fc")), |l, x| l.forward(x), &x);
        same_as_merged(&config, |vb| Linear::new(6, 6, vb.pp("fc")), |l, x| l.forward_add(x, None, x), &x);
        let image = tensor(2, &[2, 5, 5, 3]);
        let conv = Conv2dConfig::new(2, 1);
        same_as_merged(&config, |vb| Conv2d::new(3, 5, 3, conv, vb.pp("fc")), |l, x| l.forward(x), &image);
        // As many inputs as outputs: shapes do not tell which are multiplied.
        same_as_merged(&config, |vb| Conv2d::new(3, 3, 3, conv, vb.pp("fc")), |l, x| l.forward(x), &image);
    }
    for layers in ["qkv", "q,v", "k", "q,k,v,proj", "qkv,o", "qkv,v"] {
        for (kind, config) in every_kind(layers) {
            // A factor of a fused layer's inputs reaches its parts, but not the other way round.
            if kind != "ia3 inputs" && !(layers == "qkv,v" && kind == "dora") {
                let make = |vb: candle_nn::VarBuilder| Attention::new(8, 2, init::xavier_uniform, vb.pp("attn"));
                same_as_merged(&config, make, |l, x| l.forward(x, None), &tensor(3, &[2, 4, 8]));
            }
        }
    }
    for (_, config) in every_kind("fc1,fc2") {
        let make = |vb: candle_nn::VarBuilder| Mlp::new(6, 10, init::xavier_uniform, vb);
        same_as_merged(&config, make, |l, x| l.forward_add(x, None, x), &x);
    }
}

#[test]
fn the_example_of_the_paper_in_numbers() {
    let t = |values: &[f32], dims: (usize, usize)| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let config = LoraConfig { r: 1, lora_alpha: 16.0, ..LoraConfig::on("w") };
    for (dora, norms) in [(false, None), (true, Some([2.236_068, 5.0, 7.810_25]))] {
        let config = Peft::Lora(LoraConfig { use_dora: dora, ..config.clone() });
        let make = |vb: candle_nn::VarBuilder| Linear::without_bias(2, 3, init::fan_in(2), vb.pp("w"));
        let (params, layer) = build(&config, make).unwrap();
        params.set("w.weight", &t(&[1., 2., 3., 4., 5., 6.], (3, 2))).unwrap();
        params.set("w.lora_A.weight", &t(&[0.1, -0.2], (1, 2))).unwrap();
        train_only(&config, &params, &crate::Anatomy::default()).unwrap();
        let x = t(&[1., 1.], (1, 2));
        let run = || layer.forward(&Tape::off().constant(&x)).unwrap().values().unwrap();
        // B is 0: the adapter changes nothing yet.
        assert!(run().iter().zip([3., 7., 11.]).all(|(a, b)| (a - b).abs() < 1e-5));
        if let Some(want) = norms {
            let m = params.var("w.lora_magnitude_vector").unwrap().to_vec1::<f32>().unwrap();
            assert!(m.iter().zip(want).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5), "{m:?}");
            continue;
        }
        params.set("w.lora_B.weight", &t(&[1., 0., -1.], (3, 1))).unwrap();
        assert!(run().iter().zip([1.4, 7.0, 12.6]).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", run());
    }
}

#[test]
fn norms_that_were_loaded_are_kept() {
    let config = Peft::Lora(LoraConfig { r: 1, use_dora: true, ..LoraConfig::on("v") });
    let make = |vb: candle_nn::VarBuilder| Attention::new(4, 2, init::xavier_uniform, vb.pp("attn"));
    let (params, layer) = build(&config, make).unwrap();
    let x = tensor(5, &[1, 3, 4]);
    let plain = Attention::new(4, 2, init::xavier_uniform, params.builder(Key::new(0)).pp("attn")).unwrap();
    train_only(&config, &params, &crate::Anatomy::default()).unwrap();
    // The norms of the third part of the weight: nothing is changed while B is 0.
    let run = |l: &Attention| l.forward(&Tape::off().constant(&x), None).unwrap().tensor().clone();
    assert!(apart(&run(&layer), &run(&plain)) < 1e-5);
    let twice = (params.var("attn.v.lora_magnitude_vector").unwrap().as_tensor() * 2.0).unwrap();
    params.set("attn.v.lora_magnitude_vector", &twice).unwrap();
    train_only(&config, &params, &crate::Anatomy::default()).unwrap();
    assert!(apart(params.var("attn.v.lora_magnitude_vector").unwrap().as_tensor(), &twice) == 0.0);
}

#[test]
fn dropout_is_for_training_and_only_in_front_of_the_branch() {
    let config = Peft::Lora(LoraConfig { r: 2, lora_dropout: 0.5, ..LoraConfig::on("q,fc1") });
    let make = |vb: candle_nn::VarBuilder| {
        Ok((
            Attention::new(8, 2, init::xavier_uniform, vb.pp("attn"))?,
            Mlp::new(8, 16, init::xavier_uniform, vb.pp("mlp"))?,
        ))
    };
    let (params, (attention, mlp)) = build(&config, make).unwrap();
    let (x, key) = (tensor(6, &[2, 4, 8]), Key::new(3));
    let run = |key: Option<&Key>| {
        let tape = Tape::new(&params);
        mlp.forward(&attention.forward(&tape.constant(&x), key).unwrap(), key).unwrap().tensor().clone()
    };
    let off = || {
        let tape = Tape::off();
        mlp.forward(&attention.forward(&tape.constant(&x), None).unwrap(), None).unwrap().tensor().clone()
    };
    assert_eq!(apart(&run(Some(&key)), &off()), 0.0, "B is 0, and the layers themselves see no dropout");
    draw(&params);
    assert_eq!(apart(&run(Some(&key)), &run(Some(&key))), 0.0);
    assert!(apart(&run(Some(&key)), &off()) > 1e-3);
    assert!(apart(&run(Some(&key)), &run(Some(&Key::new(4)))) > 1e-3);
    // Layers that draw nothing say so when they train.
    let config = Peft::Lora(LoraConfig { r: 2, lora_dropout: 0.5, ..LoraConfig::on("fc") });
    let (params, layer) = build(&config, |vb| Linear::new(8, 4, vb.pp("fc"))).unwrap();
    assert!(layer.forward(&Tape::off().constant(&x)).is_ok());
    let e = layer.forward(&Tape::new(&params).constant(&x)).unwrap_err().to_string();
    assert!(e.contains("lora_dropout 0.5"), "{e}");
    let conv = |vb: candle_nn::VarBuilder| Conv2d::new(3, 5, 3, Conv2dConfig::new(1, 1), vb.pp("fc"));
    assert!(build(&config, conv).unwrap_err().to_string().contains("lora_dropout 0.5"));
}

#[test]
fn targets_are_those_of_peft() {
    let names = |s: &str, layer: &str, linear: bool| s.parse::<Modules>().unwrap().matches(layer, linear).unwrap();
    for (targets, layer, want) in [
        ("qkv", "blocks.0.attn.qkv", true),
        ("attn.qkv", "blocks.0.attn.qkv", true),
        ("n.qkv", "blocks.0.attn.qkv", false),
        ("q, v", "blocks.11.attn.v", true),
        ("query,value", "blocks.11.attn.v", true),
        ("q_proj", "blocks.11.attn.q", true),
        ("query", "query", true),
        ("query", "blocks.0.mlp.q", false),
        ("out_proj", "blocks.0.attn.proj", true),
        ("proj", "patch_embed.proj", true),
        ("all-linear", "head", true),
        (r".*\.attn\.qkv", "blocks.0.attn.qkv", true),
        (r"attn\.qkv", "blocks.0.attn.qkv", false),
        (r"blocks\.[01]\.mlp\.fc.*", "blocks.1.mlp.fc2", true),
        (r"blocks\.[01]\.mlp\.fc.*", "blocks.2.mlp.fc2", false),
        (r".*\.(query|value)", "blocks.2.attn.v", true),
        ("layer4.1.conv2,fc", "layer4.1.conv2", true),
        ("conv2", "layer4.1.conv2", true),
    ] {
        assert_eq!(names(targets, layer, true), want, "{targets} {layer}");
    }
    assert!(!names("all-linear", "conv1", false));
    for bad in ["", "q,,v", "(", "[a"] {
        assert!(bad.parse::<Modules>().is_err(), "{bad}");
    }
    let lora = LoraConfig {
        exclude_modules: Some("blocks.0.attn.qkv".parse().unwrap()),
        layers_to_transform: Some(Layers::Several(vec![0, 2])),
        modules_to_save: Some(vec!["head".into()]),
        rank_pattern: [(r"blocks\.2\.attn\.qkv".to_string(), 3)].into(),
        alpha_pattern: [("mlp.fc1".to_string(), 32.0)].into(),
        ..LoraConfig::on("qkv,fc1,head")
    };
    assert_eq!((lora.rank("blocks.2.attn.qkv").unwrap(), lora.rank("blocks.1.attn.qkv").unwrap()), (3, 8));
    assert_eq!(lora.scale("blocks.0.mlp.fc1", 8).unwrap(), 4.0);
    let rs = LoraConfig { use_rslora: true, ..lora.clone() };
    assert_eq!(rs.scale("blocks.0.attn.qkv", 4).unwrap(), 4.0);
    let config = Peft::Lora(lora);
    let got = ["blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1", "blocks.2.attn.qkv", "head", "x.head"];
    let got: Vec<bool> = got.iter().map(|l| config.wants(l, true).unwrap()).collect();
    assert_eq!(got, [false, true, false, true, false, false]);
    let one = LoraConfig {
        layers_to_transform: Some(Layers::One(1)),
        layers_pattern: Some("blocks".parse().unwrap()),
        ..LoraConfig::on("qkv")
    };
    let config = Peft::Lora(one);
    assert!(
        config.wants("stage.0.blocks.1.qkv", true).unwrap() && !config.wants("stage.1.blocks.0.qkv", true).unwrap()
    );
    assert!(!config.wants("stage.1.qkv", true).unwrap());
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let attention = |vb: candle_nn::VarBuilder| Attention::new(8, 2, init::xavier_uniform, vb.pp("attn"));
    for (config, word) in [
        (LoraConfig::default(), "target_modules"),
        (LoraConfig { r: 0, ..LoraConfig::on("q") }, "rank r of 0"),
        (LoraConfig { r: 9, ..LoraConfig::on("q") }, "a rank of 9 for a layer of 8 inputs and 8 outputs"),
        (LoraConfig { lora_alpha: 0.0, ..LoraConfig::on("q") }, "lora_alpha 0"),
        (LoraConfig { lora_dropout: 1.0, ..LoraConfig::on("q") }, "lora_dropout 1"),
        (LoraConfig::on("query_proj"), "`query_proj` matches no layer"),
        (LoraConfig::on("q,vv"), "`vv` matches no layer"),
        (
            LoraConfig { target_modules: Some(Modules::Pattern("attn".into())), ..LoraConfig::default() },
            "end in qkv, q, k, v, proj",
        ),
    ] {
        let e = build(&Peft::Lora(config), attention).unwrap_err().to_string();
        assert!(e.contains(word), "{word}: {e}");
    }
    let conv = |vb: candle_nn::VarBuilder| {
        Conv2d::new(8, 8, 3, Conv2dConfig { groups: 4, ..Conv2dConfig::new(1, 1) }, vb.pp("conv"))
    };
    let e = build(&Peft::Lora(LoraConfig::on("conv")), conv).unwrap_err().to_string();
    assert!(e.contains("4 groups"), "{e}");
    let inputs = Ia3Config {
        target_modules: Some("q".parse().unwrap()),
        feedforward_modules: Some("q".parse().unwrap()),
        ..Ia3Config::default()
    };
    assert!(build(&Peft::Ia3(inputs), attention).unwrap_err().to_string().contains("whole fused layer"));
    let twice = Peft::Lora(LoraConfig { use_dora: true, ..LoraConfig::on("qkv,v") });
    assert!(build(&twice, attention).unwrap_err().to_string().contains("name one of them"));
    let ia3 = Ia3Config {
        target_modules: Some("qkv".parse().unwrap()),
        feedforward_modules: Some("fc1".parse().unwrap()),
        ..Ia3Config::default()
    };
    assert!(build(&Peft::Ia3(ia3), attention).unwrap_err().to_string().contains("fc1"));
    let params = ParamStore::new();
    attention(params.builder(Key::new(0))).unwrap();
    let config = Peft::Lora(LoraConfig::on("q"));
    assert!(train_only(&config, &params, &crate::Anatomy::default()).unwrap_err().to_string().contains("no adapters"));
    let (params, _) = build(&config, attention).unwrap();
    let head = crate::Anatomy { head: "fc.".into(), ..crate::Anatomy::default() };
    assert!(train_only(&config, &params, &head).unwrap_err().to_string().contains("`fc`"));
    assert_eq!(params.count().0, params.count().1, "nothing is frozen after an error");
    let lost: Vec<_> = params.values().into_iter().filter(|(n, _)| n != "attn.q.lora_B.weight").collect();
    assert!(merged(&lost, &config).unwrap_err().to_string().contains("lora_B"));
    let short = |(n, t): (String, Tensor)| {
        let t = if n == "attn.q.lora_B.weight" { t.narrow(0, 0, 4).unwrap() } else { t };
        (n, t)
    };
    let other: Vec<_> = params.values().into_iter().map(short).collect();
    let e = merged(&other, &config).unwrap_err().to_string();
    assert!(e.contains("attn.q") && e.contains("[4, 8]") && e.contains("[8, 8]"), "{e}");
    let lost: Vec<_> = params.values().into_iter().filter(|(n, _)| n != "attn.qkv.weight").collect();
    assert!(merged(&lost, &config).unwrap_err().to_string().contains("no weight"));
    params.set("attn.q.lora_A.weight", &(tensor(1, &[8, 8]) * f64::INFINITY).unwrap()).unwrap();
    assert!(merged(&params.values(), &config).unwrap_err().to_string().contains("not finite"));
}

#[test]
fn biases_and_whole_layers_train_where_they_are_asked_for() {
    let make = |vb: candle_nn::VarBuilder| {
        let attention = Attention::new(8, 2, init::xavier_uniform, vb.pp("attn"))?;
        Ok((attention, Mlp::new(8, 16, init::xavier_uniform, vb.pp("mlp"))?, Linear::new(8, 3, vb.pp("head"))?))
    };
    let model = crate::Anatomy { head: "head.".into(), ..crate::Anatomy::default() };
    for (bias, whole, want) in [
        (Bias::None, None, "attn.q.lora_A.weight attn.q.lora_B.weight head.bias head.weight"),
        (Bias::LoraOnly, Some(vec![]), "attn.q.lora_A.weight attn.q.lora_B.weight attn.qkv.bias"),
        (
            Bias::All,
            Some(vec!["fc1".to_string()]),
            "attn.proj.bias attn.q.lora_A.weight attn.q.lora_B.weight attn.qkv.bias head.bias mlp.fc1.bias mlp.fc1.weight mlp.fc2.bias",
        ),
    ] {
        let config = Peft::Lora(LoraConfig { r: 2, bias, modules_to_save: whole, ..LoraConfig::on("q") });
        let (params, _) = build(&config, make).unwrap();
        train_only(&config, &params, &model).unwrap();
        let mut trained: Vec<String> = params.entries().into_iter().filter(|e| e.trainable).map(|e| e.name).collect();
        trained.sort();
        assert_eq!(trained.join(" "), want, "{bias:?}");
    }
}

#[test]
fn settings_are_those_of_peft_in_json() {
    let text = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query", "value"], "use_dora": true,
        "layers_to_transform": 3, "bias": "lora_only", "base_model_name_or_path": null, "task_type": null}"#;
    let config: Peft = serde_json::from_str(text).unwrap();
    let Peft::Lora(c) = &config else { panic!("LoRA") };
    assert_eq!((c.r, c.lora_alpha, c.use_dora, c.bias), (4, 16.0, true, Bias::LoraOnly));
    assert_eq!(c.layers_to_transform, Some(Layers::One(3)));
    assert_eq!(serde_json::from_str::<Peft>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    let config: Peft = serde_json::from_str(r#"{"peft_type": "IA3", "target_modules": "all-linear"}"#).unwrap();
    assert!(config.wants("head", true).unwrap());
}
