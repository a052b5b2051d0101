use super::*;
use crate::registry;
use candlelight_autograd::{Gradients, tensor_from};

/// (parameters, entries of the state dict, layer4)
const PUBLISHED: &[(&str, usize, usize, usize)] = &[
    ("resnet18", 11_689_512, 122, 8_393_728),
    ("resnet34", 21_797_672, 218, 13_114_368),
    ("resnet50", 25_557_032, 320, 14_964_736),
    ("resnet101", 44_549_160, 626, 14_964_736),
    ("resnet152", 60_192_808, 932, 14_964_736),
    ("resnext50_32x4d", 25_028_904, 320, 14_544_896),
    ("resnext101_32x8d", 88_791_336, 626, 28_745_728),
    ("resnext101_64x4d", 83_455_272, 626, 26_976_256),
    ("wide_resnet50_2", 68_883_240, 320, 41_971_712),
    ("wide_resnet101_2", 126_886_696, 626, 41_971_712),
    ("resnetblur18", 11_689_512, 122, 8_393_728),
    ("resnetblur50", 25_557_032, 320, 14_964_736),
];

#[test]
fn parameters_and_state_dicts_are_the_published_ones() {
    for &(name, parameters, entries, layer4) in PUBLISHED {
        let params = ParamStore::new();
        ResNet::new(&registry::resnet(name).unwrap(), params.builder(Key::new(0))).unwrap();
        let state = params.state_dict();
        let of = |p: &str| -> usize {
            params.entries().iter().filter(|e| e.name.starts_with(p)).map(|e| e.var.elem_count()).sum()
        };
        assert_eq!((of(""), state.len(), of("layer4")), (parameters, entries, layer4), "{name}");
    }
    for (name, parameters) in [("resnet20", 269_722), ("resnet56", 853_018), ("resnet110", 1_727_962)] {
        let params = ParamStore::new();
        ResNet::new(&registry::resnet(name).unwrap(), params.builder(Key::new(0))).unwrap();
        assert_eq!(params.count().1, parameters, "{name}");
    }
}

fn small(block: Block) -> ResNetConfig {
    ResNetConfig {
        depths: vec![1, 1, 1, 2],
        widths: vec![8, 8, 16, 16],
        base_width: if block == Block::Basic { 64 } else { 32 },
        groups: if block == Block::Basic { 1 } else { 2 },
        classes: 5,
        drop_path: 0.2,
        dropout: 0.1,
        zero_init_last: false,
        ..large(block, [1; 4], 1, 64)
    }
}

#[test]
fn every_parameter_trains_and_frozen_ones_keep_their_statistics() {
    for (block, pool) in [(Block::Basic, GlobalPool::CatAvgMax), (Block::Bottleneck, GlobalPool::Avg)] {
        let config = ResNetConfig { pool, ..small(block) };
        let params = ParamStore::new();
        let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
        let images = tensor_from(Key::new(1).normal(2 * 3 * 64 * 48), (2, 3, 64, 48)).unwrap();
        let step = || {
            let tape = Tape::new(&params);
            let logits = model.forward(&tape.constant(&images), Some(&Key::new(2))).unwrap();
            assert_eq!(logits.dims(), [2, 5]);
            let mut grads = Gradients::new(&params);
            tape.backward(&ops::cross_entropy(&logits, &[1, 4], 0.0).unwrap(), &mut grads).unwrap();
            assert!(grads.missing().is_empty(), "{:?}", grads.missing());
        };
        let statistic = |name: &str| params.var(name).unwrap().to_vec1::<f32>().unwrap();
        step();
        let (first, last) = (statistic("layer1.0.bn1.running_mean"), statistic("layer4.1.bn1.running_mean"));
        assert!(first.iter().all(|v| *v != 0.0));
        assert_eq!(params.var("bn1.num_batches_tracked").unwrap().to_scalar::<f32>().unwrap(), 1.0);
        "layer4_fc".parse::<candlelight_nn::freeze::Trained>().unwrap().apply(&params, &model.anatomy()).unwrap();
        step();
        assert_eq!(statistic("layer1.0.bn1.running_mean"), first, "a frozen norm is in evaluation");
        assert!(statistic("layer4.1.bn1.running_mean") != last);
    }
}

#[test]
fn pyramid_heads_and_large_images() {
    let params = ParamStore::new();
    let vb = params.builder(Key::new(0));
    let config = ResNetConfig { image: (64, 64), ..small(Block::Bottleneck) };
    let mut model = ResNet::new(&config, vb.clone()).unwrap();
    let tape = Tape::off();
    let images =
        |side: usize| tape.constant(&tensor_from(Key::new(1).normal(3 * side * side), (1, 3, side, side)).unwrap());
    let levels = model.features(&images(64), &[0, 4, 2]).unwrap();
    let shapes: Vec<&[usize]> = levels.iter().map(Value::dims).collect();
    assert_eq!(shapes, [&[1, 8, 32, 32][..], &[1, 64, 2, 2], &[1, 32, 8, 8]]);
    assert!(model.features(&images(64), &[5]).unwrap_err().to_string().contains("0 to 4"));
    let values = |v: &Value| v.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let vectors = model.pooled_features(&images(64), &[4, 2]).unwrap();
    let mean: Vec<f32> = values(&levels[1]).chunks(4).map(|c| c.iter().sum::<f32>() / 4.0).collect();
    assert_eq!((vectors[0].dims(), vectors[1].dims()), (&[1, 64][..], &[1, 32][..]));
    assert!(values(&vectors[0]).iter().zip(mean).all(|(a, b)| (a - b).abs() < 1e-6));
    let (plain, pooled) = (model.forward(&images(64), None).unwrap(), model.forward_test_pool(&images(64)).unwrap());
    let off = values(&plain).iter().zip(values(&pooled)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-5, "one window: the plain head");
    assert_eq!(model.forward_test_pool(&images(128)).unwrap().dims(), [1, 5]);
    assert!(model.forward_test_pool(&images(32)).is_err());
    let gray = tape.constant(&tensor_from(vec![0.0; 64 * 64], (1, 1, 64, 64)).unwrap());
    assert!(model.forward(&gray, None).unwrap_err().to_string().contains("1 channels"));
    let e = model.reset_classifier(7, GlobalPool::Avg, vb.clone()).unwrap_err().to_string();
    assert!(e.contains("fc.weight"), "{e}");
    params.forget("fc.*");
    model.reset_classifier(7, GlobalPool::Avg, vb.clone()).unwrap();
    assert_eq!(model.forward(&images(64), None).unwrap().dims(), [1, 7]);
    model.reset_classifier(0, GlobalPool::Avg, vb).unwrap();
    assert_eq!(model.forward(&images(64), None).unwrap().dims(), [1, 64]);
}

#[test]
fn every_convolution_may_have_a_width_of_its_own() {
    let pruned = PrunedWidths {
        stem: 7,
        stages: vec![9, 11, 13, 15],
        inner: [1, 1, 1, 2].map(|n| (0..n).map(|i| vec![3 + i, 5 + i]).collect()).to_vec(),
        shortcuts: vec![],
    };
    let config = ResNetConfig { groups: 1, base_width: 64, pruned: Some(pruned), ..small(Block::Bottleneck) };
    let params = ParamStore::new();
    let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
    let dims = |name: &str| params.var(name).unwrap().dims().to_vec();
    assert_eq!(dims("conv1.weight"), [7, 3, 7, 7]);
    assert_eq!(dims("layer4.1.conv2.weight"), [6, 4, 3, 3]);
    assert_eq!(dims("layer2.0.downsample.0.weight"), [11, 9, 1, 1]);
    assert_eq!(dims("fc.weight"), [5, 15]);
    let images = tensor_from(vec![0.5; 3 * 64 * 64], (1, 3, 64, 64)).unwrap();
    assert_eq!(Module::forward(&model, &images).unwrap().dims(), [1, 5]);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ResNetConfig>(&text).unwrap(), config);
    let mut bad = config;
    bad.pruned.as_mut().unwrap().inner[3].pop();
    assert!(bad.check().unwrap_err().to_string().contains("pruned widths"));
}

#[test]
fn the_model_knows_its_parts() {
    let params = ParamStore::new();
    let model = ResNet::new(&small(Block::Basic), params.builder(Key::new(0))).unwrap();
    let parts = model.anatomy();
    assert!(params.names().iter().all(|n| parts.layer_of(n).is_some()), "{parts:?}");
    assert_eq!((parts.layer_of("fc.bias"), parts.layers.len()), (Some(6), 7));
    assert!(parts.in_head("fc.weight") && !parts.in_head("layer4.0.conv1.weight"));
    let images = Tape::off().constant(&tensor_from(vec![0.5; 3 * 64 * 64], (1, 3, 64, 64)).unwrap());
    let taps = model.tapped(&images, &["layer2", "stem"]).unwrap();
    assert_eq!((taps[0].dims(), taps[1].dims()), (&[1, 8, 8, 8][..], &[1, 8, 32, 32][..]));
    assert!(model.tapped(&images, &["layer9"]).unwrap_err().to_string().contains("layer4"));
    assert!(model.memory(8, 1000, 1000).unwrap() > 1 << 20);
}

#[test]
fn the_last_stage_and_the_head_have_the_published_numbers_of_parameters() {
    for (classes, want) in [(1000, 17_013_736), (200, 15_374_536)] {
        let params = ParamStore::new();
        let config = ResNetConfig { classes, ..registry::resnet("resnet50").unwrap() };
        let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
        let part: candlelight_nn::freeze::Trained = "partial(layer4,fc)".parse().unwrap();
        part.apply(&params, &model.anatomy()).unwrap();
        assert_eq!(params.count().1, want);
    }
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let text = |c: ResNetConfig| c.check().unwrap_err().to_string();
    let base = small(Block::Bottleneck);
    assert!(text(ResNetConfig { groups: 0, ..base.clone() }).contains("0 groups"));
    assert!(text(ResNetConfig { depths: vec![1], ..base.clone() }).contains("1 depths and 4 widths"));
    assert!(text(ResNetConfig { groups: 2, ..small(Block::Basic) }).contains("bottleneck"));
    assert!(text(ResNetConfig { drop_path: 1.0, ..base.clone() }).contains("drop_path 1"));
    assert!(text(ResNetConfig { norm: BatchNormConfig { eps: 0.0, ..base.norm }, ..base }).contains("bn_eps 0"));
    let e = registry::resnet("resnext50_32x4").unwrap_err().to_string();
    assert!(e.contains("did you mean resnext50_32x4d"), "{e}");
}
