//! NTS-Net against PyTorch: `tests/golden/ntsnet.py`.

mod goldens;

use candle_core::Tensor;
use candlelight::data::{Batch, Pixels};
use candlelight::engine::classify::{Classify, ClassifyConfig};
use candlelight::engine::task::{At, Task};
use candlelight::models::ntsnet::anchors;
use candlelight::models::{Classifier, ModelConfig, NtsNet, NtsNetConfig, ResNetConfig};
use candlelight::nn::{Region, crop_resize};
use candlelight::optim::{Group, Optimizer, Rule, SgdConfig};
use candlelight::prelude::*;
use goldens::{close, filled, golden, values};

const SIDE: usize = 64;
const LABELS: [u32; 3] = [0, 2, 1];

fn config() -> NtsNetConfig {
    let ModelConfig::ResNet(base) = ModelConfig::named("resnet18").unwrap() else { panic!("a residual network") };
    let trunk = ResNetConfig { depths: vec![1, 1], widths: vec![8, 16], classes: 3, image: (SIDE, SIDE), ..base };
    NtsNetConfig { dropout: 0.0, ..NtsNetConfig::on(trunk) }
}

/// A network with the weights of the golden.
fn filled_net(params: &ParamStore) -> NtsNet {
    let model = NtsNet::new(&config(), params.builder(Key::new(0))).unwrap();
    for e in params.entries().into_iter().filter(|e| !e.name.contains("running") && !e.name.contains("num_batches")) {
        let norm = e.name.contains("bn") || e.name.contains("downsample.1");
        let std = if e.name.contains("proposal") {
            0.03
        } else if e.var.rank() > 1 {
            0.2
        } else {
            0.1
        };
        let one = if norm && e.name.contains(".bn") && e.name.ends_with("weight") { 1.0 } else { 0.0 };
        params.set(&e.name, &(filled(&e.name, e.var.dims(), std) + one).unwrap()).unwrap();
    }
    model
}

fn photos() -> Tensor {
    filled("photos", &[3, 3, SIDE, SIDE], 1.0)
}

fn task(params: &ParamStore) -> Classify<ModelConfig> {
    let model: Box<dyn Classifier> = Box::new(filled_net(params));
    let config: ModelConfig = config().into();
    Classify::new(ClassifyConfig::new(config, 3), params.clone(), model).unwrap()
}

fn loss(task: &Classify<ModelConfig>, tape: &Tape) -> Value {
    let batch = Batch::new(Pixels::F32(vec![]), (SIDE, SIDE), 3, LABELS.to_vec());
    task.loss(tape, &photos(), &batch, 0, At { epoch: 0, step: 0 }).unwrap()
}

#[test]
fn crops_are_those_of_interpolate_with_their_gradients() {
    let g = golden("ntsnet");
    let region = |image, top, left, bottom, right| Region { image, top, left, bottom, right };
    let cuts = [region(0, 1, 2, 8, 9), region(1, -3, -2, 4, 7), region(1, 5, 6, 14, 15), region(0, 3, 4, 4, 5)];
    for (align, name) in [(true, "crops.True"), (false, "crops.False")] {
        let tape = Tape::new(&ParamStore::new());
        let images = tape.leaf(&filled("images", &[2, 2, 9, 12], 1.0));
        let crops = crop_resize(&images, &cuts, (6, 5), align).unwrap();
        close(name, &values(crops.tensor()), &values(&g[name]), 1e-5, 1e-6);
        let towards = tape.constant(&filled("towards", crops.dims(), 1.0));
        let sum = crops.mul(&towards).unwrap().sum_all().unwrap();
        let grad = &tape.gradients(&sum, &[&images]).unwrap()[0];
        close(&format!("{name}.grad"), &values(grad), &values(&g[&format!("{name}.grad")]), 1e-5, 1e-6);
    }
}

#[test]
fn a_step_gives_the_parts_the_losses_and_the_gradients_of_pytorch() {
    let g = golden("ntsnet");
    let params = ParamStore::new();
    let task = task(&params);
    let tape = Tape::new(&params);
    let own = ParamStore::new();
    let model = filled_net(&own);
    let found = model.find(&Tape::new(&own).constant(&photos()), Some(&Key::new(1))).unwrap();
    close("raw", &values(found.raw.tensor()), &values(&g["raw"]), 1e-4, 1e-5);
    close("joined", &values(found.joined.tensor()), &values(&g["joined"]), 1e-4, 1e-5);
    close("scores", &values(found.scores.tensor()), &values(&g["scores"]), 1e-4, 1e-5);
    let regions = found.regions.iter().flatten().flat_map(|r| [r.top, r.left, r.bottom, r.right]);
    assert_eq!(regions.map(|v| v as f32).collect::<Vec<_>>(), values(&g["regions"]));
    // Theirs are by image and part, ours by part and image.
    let parts = found.parts.tensor().reshape((6, 3, 3)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
    close("parts", &values(&parts), &values(&g["parts"]), 1e-4, 1e-5);

    let loss = loss(&task, &tape);
    let each = ["of_raw", "of_joined", "of_parts", "of_ranks"].map(|n| values(&g[n])[0]);
    close("loss", &[loss.scalar().unwrap()], &[each.iter().sum::<f32>()], 1e-5, 0.0);
    let mut grads = Gradients::new(&params);
    tape.backward(&loss, &mut grads).unwrap();
    let mut seen = 0;
    for e in params.entries().into_iter().filter(|e| e.trainable) {
        let Some(want) = g.get(&format!("grad.{}", e.name)) else { panic!("{} has no golden", e.name) };
        let Some(grad) = grads.get(&e.name) else {
            assert!(values(want).iter().all(|v| *v == 0.0), "{}", e.name);
            continue;
        };
        let grad = grad.to_vec();
        let rows = want.elem_count();
        let grad: Vec<f32> = match grad.len() == rows {
            true => grad,
            false => grad.chunks_exact(grad.len() / rows).map(|r| r.iter().sum()).collect(),
        };
        close(&e.name, &grad, &values(want), 1e-4, 1e-4);
        seen += 1;
    }
    assert!(seen > 25, "{seen} gradients");
    for (name, want) in &g {
        if let Some(name) = name.strip_prefix("after.") {
            close(name, &values(&params.var(name).unwrap()), &values(want), 1e-4, 1e-6);
        }
    }
}

#[test]
fn twenty_steps_are_pytorchs() {
    let g = golden("ntsnet");
    let params = ParamStore::new();
    let task = task(&params);
    // The golden's first step saw the images before its optimizer was made.
    loss(&task, &Tape::new(&params));
    let rules = [Rule::named("*", Group { weight_decay: 1e-4, lr_scale: 1.0 })];
    let mut sgd = Optimizer::new(SgdConfig::default(), &rules, &params).unwrap();
    let mut grads = Gradients::new(&params);
    let mut losses = vec![];
    for _ in 0..20 {
        let tape = Tape::new(&params);
        let loss = loss(&task, &tape);
        losses.push(loss.scalar().unwrap());
        grads.zero();
        tape.backward(&loss, &mut grads).unwrap();
        sgd.update(&grads, 1e-3).unwrap();
    }
    close("losses", &losses, &values(&g["steps"]), 1e-3, 0.0);
    let images = Tape::off().constant(&photos());
    let logits = task.model().forward(&images, None).unwrap();
    close("evaluated", &values(logits.tensor()), &values(&g["evaluated"]), 2e-3, 2e-3);
}

#[test]
fn the_regions_of_448_pixels_are_those_of_the_published_settings() {
    let all = anchors((448, 448), 32, &[(14, 14), (7, 7), (4, 4)]);
    let ours: Vec<f32> = all.iter().flat_map(|r| [r.top, r.left, r.bottom, r.right]).map(|v| v as f32).collect();
    assert_eq!((all.len(), ours), (1614, values(&golden("ntsnet")["anchors"])));
}
