use super::*;
use crate::adapt::Fitting;
use crate::model::Architecture;
use candle_core::Tensor;
use candlelight_autograd::{Gradients, ParamStore, Tape, tensor_from};

fn small() -> NtsNetConfig {
    let trunk =
        ResNetConfig { image: (64, 64), widths: vec![8, 8, 8, 16], classes: 3, ..resnet::variants()[0].config.clone() };
    NtsNetConfig::on(trunk)
}

fn images(n: usize) -> Tensor {
    tensor_from(Key::new(1).normal(n * 3 * 64 * 64), (n, 3, 64, 64)).unwrap()
}

#[test]
fn the_published_network_has_the_published_number_of_parameters() {
    let wanted = crate::adapt::wanted(&variants()[0].config).unwrap();
    let buffer = |n: &str| ["running_mean", "running_var", "num_batches_tracked"].iter().any(|b| n.ends_with(b));
    let count: usize = wanted.iter().filter(|(n, _)| !buffer(n)).map(|(_, d)| d.iter().product::<usize>()).sum();
    assert_eq!(count, 29_033_133);
}

#[test]
fn everything_trains_and_each_part_belongs_to_its_image() {
    let params = ParamStore::new();
    let model = NtsNet::new(&small(), params.builder(Key::new(0))).unwrap();
    let tape = Tape::new(&params);
    let found = model.find(&tape.constant(&images(2)), Some(&Key::new(2))).unwrap();
    assert_eq!((found.raw.dims(), found.joined.dims(), found.parts.dims()), (&[2, 3][..], &[2, 3][..], &[12, 3][..]));
    assert_eq!((found.scores.dims(), found.regions.len(), found.regions[1].len()), (&[2, 6][..], 2, 6));
    assert!(found.regions[1].iter().all(|r| r.image == 1));
    let Answers { logits, further, scores } = model.answers(&tape.constant(&images(2)), &Key::new(2)).unwrap();
    let loss = ops::cross_entropy(&logits, &[0, 2], 0.0).unwrap();
    let loss = loss.add(&ops::cross_entropy(&further[0], &[0, 2], 0.0).unwrap()).unwrap();
    let loss = loss.add(&ops::cross_entropy(&further[1], &[0, 2].repeat(6), 0.0).unwrap()).unwrap();
    let wrong: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let loss = loss.add(&candlelight_nn::loss::ranking(&scores.unwrap(), &wrong).unwrap()).unwrap();
    let mut grads = Gradients::new(&params);
    tape.backward(&loss, &mut grads).unwrap();
    // Regions of a level from which no part came have no gradient.
    assert!(grads.missing().iter().all(|n| n.contains("tidy")), "{:?}", grads.missing());
    let parts = model.anatomy();
    assert!(params.names().iter().all(|n| parts.layer_of(n).is_some()));
    for head in ["concat_net.weight", "partcls_net.bias", "proposal_net.down1.weight", "pretrained_model.fc.weight"] {
        assert!(parts.in_head(head), "{head}");
    }
    let (head, stage) = ("pretrained_model.fc.bias", "pretrained_model.layer4.1.conv1.weight");
    assert_eq!(parts.layer_of(head), Some(parts.layers.len() - 1));
    assert_eq!(parts.layer_of(stage), Some(parts.layers.len() - 2));
    assert!(!parts.in_head("pretrained_model.layer4.0.conv1.weight") && parts.stem == "pretrained_model.conv1.weight");
    assert!(model.memory(8, 1000, 1000).unwrap() > model.trunk.memory(8, 1000, 1000).unwrap());
    // Images are judged one by one, whatever the batch.
    let alone = |i: usize| {
        let one = images(2).narrow(0, i, 1).unwrap();
        model.forward(&Tape::off().constant(&one), None).unwrap().values().unwrap()
    };
    let both = model.forward(&Tape::off().constant(&images(2)), None).unwrap().values().unwrap();
    let apart = [alone(0), alone(1)].concat();
    assert!(both.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-5), "{both:?} {apart:?}");
}

#[test]
fn other_networks_are_trunks_too() {
    let vit = crate::VitConfig {
        image: (32, 32),
        patch: 8,
        dim: 16,
        depth: 2,
        heads: 2,
        classes: 4,
        ..crate::registry::vit("vit_tiny_patch16").unwrap()
    };
    let yolo = crate::YoloConfig {
        image: (64, 64),
        widths: [8, 8, 16, 16, 24],
        classes: 4,
        ..crate::yolov5::variants()[0].config.clone()
    };
    for (trunk, side) in [(ModelConfig::from(vit), 32), (yolo.into(), 64)] {
        let config = ModelConfig::from(NtsNetConfig::on(trunk));
        let params = ParamStore::new();
        let model = config.build(params.builder(Key::new(0))).unwrap();
        let image = tensor_from(Key::new(1).normal(3 * side * side), (1, 3, side, side)).unwrap();
        assert_eq!(model.forward(&Tape::off().constant(&image), None).unwrap().dims(), [1, 4]);
        let back: ModelConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
    }
}

#[test]
fn weights_of_the_whole_and_of_the_trunk_alone_are_taken() {
    let theirs = ParamStore::new();
    small().build(theirs.builder(Key::new(5))).unwrap();
    let file = theirs.state_dict();
    let mut fits = small();
    *fits.settings().unwrap().classes = 7;
    let fitted = fits.fit(&file, &Fitting::default()).unwrap();
    assert_eq!((fits.classes(), fitted.tensors.len()), (3, file.len()));
    // Other classes: what knows them starts anew.
    let mut seven = small();
    *seven.settings().unwrap().classes = 7;
    let load = |file: &[(String, Tensor)]| {
        let params = ParamStore::new();
        seven.build(params.builder(Key::new(6))).unwrap();
        seven.load_pretrained(&params, file, &Fitting::default()).map(|l| (l, params))
    };
    let (loaded, params) = load(&file).unwrap();
    let missing = &loaded.report.missing;
    assert!(missing.iter().all(|n| n.contains("net.") || n.contains(".fc.")) && missing.len() == 6, "{missing:?}");
    let same = |name: &str| {
        let values = |p: &ParamStore| p.var(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values(&params) == values(&theirs)
    };
    assert!(same("proposal_net.down2.weight") && same("pretrained_model.layer1.0.conv1.weight"));
    let trunk: Vec<_> =
        file.iter().filter_map(|(n, t)| Some((n.strip_prefix("pretrained_model.")?.to_string(), t.clone()))).collect();
    let (loaded, _) = load(&trunk).unwrap();
    assert!(loaded.notes.iter().any(|n| n.contains("trunk alone")), "{:?}", loaded.notes);
    let without = |name: &str| file.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
    assert!(load(&without("proposal_net.down3.bias")).unwrap_err().to_string().contains("proposal_net.down3.bias"));
    let e = fits.fit(&without("partcls_net.weight"), &Fitting::default()).unwrap_err().to_string();
    assert!(e.contains("partcls_net.weight"), "{e}");
    let e = fits.fit(&trunk, &Fitting::default()).unwrap_err().to_string();
    assert!(e.contains("no NTS-Net's weights"), "{e}");
    let mut fewer = NtsNetConfig { joined: 2, ..small() };
    assert!(fewer.fit(&file, &Fitting::default()).unwrap_err().to_string().contains("another number of parts"));
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let text = |c: NtsNetConfig| NtsNet::new(&c, ParamStore::new().builder(Key::new(0))).unwrap_err().to_string();
    assert!(text(NtsNetConfig { joined: 7, ..small() }).contains("7 of 6 parts"));
    assert!(text(NtsNetConfig { iou: 0.0, ..small() }).contains("iou 0"));
    assert!(text(NtsNetConfig { dropout: 1.0, ..small() }).contains("dropout 1"));
    assert!(text(NtsNetConfig { part: (0, 3), ..small() }).contains("0 x 3"));
    let nested = NtsNetConfig { trunk: Box::new(small().into()), ..small() };
    assert!(text(nested).contains("is no trunk"));
    let vit = ModelConfig::named("vit_tiny_patch16").unwrap();
    assert!(text(NtsNetConfig { part: (112, 112), ..NtsNetConfig::on(vit) }).contains("one size only"));
    let mut none = small();
    *none.settings().unwrap().classes = 0;
    assert!(text(none).contains("without classes"));
    let many = NtsNetConfig { parts: 600, ..small() };
    let model = NtsNet::new(&many, ParamStore::new().builder(Key::new(0))).unwrap();
    let e = model.forward(&Tape::off().constant(&images(1)), None).unwrap_err().to_string();
    assert!(e.contains("fewer than 600 parts"), "{e}");
}
