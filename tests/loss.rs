//! Losses beside torch's, torchvision's and timm's (`tests/golden/loss.py`), and the numbers of the published examples.

mod goldens;

use candle_core::{Device, Tensor};
use candlelight::autograd::{Result, Value};
use candlelight::nn::loss::{self, AsymmetricConfig};
use candlelight::prelude::*;
use goldens::{close, golden, values};

type Case<'a> = Box<dyn Fn(&Value) -> Result<Value> + 'a>;

#[test]
fn values_and_gradients_are_those_of_torch_and_timm() {
    let g = golden("loss");
    let labels: Vec<u32> = g["labels"].to_vec1().unwrap();
    let (hot, soft, several, weight) = (&g["hot"], &g["soft"], &g["several"], values(&g["weight"]));
    let w = weight.as_slice();
    assert_eq!(loss::one_hot(&labels, 5, 0.0).unwrap(), values(hot));
    let asl = |gamma_neg, gamma_pos, clip| AsymmetricConfig { gamma_neg, gamma_pos, clip };
    let cases: Vec<(&str, Case)> = vec![
        ("weighted", Box::new(|x| loss::weighted_cross_entropy(x, &labels, 0.0, w))),
        ("weighted_smoothed", Box::new(|x| loss::weighted_cross_entropy(x, &labels, 0.1, w))),
        ("weighted_soft", Box::new(|x| loss::weighted_soft_cross_entropy(x, soft, w))),
        ("bce_pos", Box::new(|x| loss::weighted_binary_cross_entropy(x, several, None, Some(w), false))),
        ("bce_weight_sum", Box::new(|x| loss::weighted_binary_cross_entropy(x, several, Some(w), Some(w), true))),
        ("asl", Box::new(|x| loss::asymmetric(x, several, &AsymmetricConfig::default()))),
        ("asl_plain", Box::new(move |x| loss::asymmetric(x, several, &asl(0.0, 0.0, 0.0)))),
        ("asl_soft", Box::new(move |x| loss::asymmetric(x, soft, &asl(2.0, 0.0, 0.1)))),
        ("focal", Box::new(|x| loss::focal(x, hot, 2.0, None))),
        ("focal_alpha", Box::new(|x| loss::focal(x, soft, 1.5, Some(w)))),
        ("sigmoid_focal", Box::new(|x| loss::sigmoid_focal(x, several, 2.0, 0.25))),
        ("dice", Box::new(|x| loss::dice(x, hot, 1.0))),
        ("mse", Box::new(|x| loss::mse(x, hot))),
        ("huber", Box::new(|x| loss::huber(x, hot, 0.5))),
        ("smooth_l1", Box::new(|x| loss::smooth_l1(x, hot, 0.5))),
        ("jsd", Box::new(|x| loss::jsd_cross_entropy(x, &labels[..2], 3, 12.0, 0.1))),
        ("distillation", Box::new(|x| loss::distillation(x, &g["teacher"], 4.0))),
    ];
    assert_eq!(cases.len(), g.keys().filter(|k| k.ends_with(".loss")).count());
    for (name, case) in cases {
        let params = ParamStore::new();
        params.builder(Key::new(0)).get(g["logits"].shape(), "x").unwrap();
        params.set("x", &g["logits"]).unwrap();
        for composed in [false, true] {
            let tape = Tape::new(&params);
            let tape = if composed { tape.with_composed_ops() } else { tape };
            let loss = case(&tape.value(params.var("x").unwrap().as_tensor())).unwrap();
            let mut grads = Gradients::new(&params);
            tape.backward(&loss, &mut grads).unwrap();
            close(name, &values(loss.tensor()), &values(&g[&format!("{name}.loss")]), 2e-6, 1e-3);
            close(name, grads.get("x").unwrap(), &values(&g[&format!("{name}.grad")]), 2e-6, 1e-3);
        }
    }
}

/// The numbers of the specification, by hand.
#[test]
fn the_examples_of_the_specification_come_out() {
    let tape = Tape::off();
    let of = |rows: &[f32], width: usize| Tensor::from_slice(rows, (rows.len() / width, width), &Device::Cpu).unwrap();
    let z = tape.constant(&of(&[2.0, 0.5, -1.0, 0.2, 1.7, 0.3, -0.5, 0.1, 0.9], 3));
    let labels = [0, 1, 0];
    let hot = of(&loss::one_hot(&labels, 3, 0.0).unwrap(), 3);
    let w = [1.0, 2.0, 3.0];
    let near = |v: Result<Value>, want: f32| {
        let got = v.unwrap().scalar().unwrap();
        assert!((got - want).abs() < 2e-6, "{got}, want {want}");
    };
    near(z.cross_entropy(&labels, 0.0), 0.851_538_96);
    near(z.cross_entropy(&labels, 0.1), 0.911_538_9);
    near(loss::weighted_cross_entropy(&z, &labels, 0.0, &w), 0.734_923_4);
    near(loss::weighted_cross_entropy(&z, &labels, 0.1, &w), 0.891_661_9);
    near(loss::focal(&z, &hot, 2.0, None), 0.486_224_4);
    near(loss::dice(&z, &hot, 1.0), 0.328_625_7);
    let s = tape.constant(&of(&[0.3, -1.2, 2.0], 3));
    near(loss::sigmoid_focal(&s, &of(&[1.0, 0.0, 1.0], 3), 2.0, 0.25), 0.012_043_122);
    let (a, b) = (tape.constant(&of(&[0.0, 1.5, -2.0, 0.3], 4)), of(&[0.5, 0.0, 1.0, 0.2], 4));
    near(loss::mse(&a, &b), 2.8775);
    near(loss::huber(&a, &b, 1.0), 0.9075 * 1.0);
    near(loss::huber(&a, &b, 0.5), 0.5325);
    near(loss::smooth_l1(&a, &b, 0.5), 1.065);
}

#[test]
fn what_does_not_fit_is_named() {
    let tape = Tape::off();
    let x = tape.constant(&Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap());
    let y = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    let e = |v: Result<Value>| v.unwrap_err().to_string();
    assert!(e(loss::focal(&x, &y, 2.0, None)).contains("targets [2, 2] for logits [2, 3]"));
    assert!(e(loss::weighted_cross_entropy(&x, &[0, 3], 0.0, &[1.0; 3])).contains("label 3 is past the last of 3"));
    assert!(e(loss::weighted_cross_entropy(&x, &[0, 1], 0.0, &[1.0; 2])).contains("2 class weights for 3 classes"));
    assert!(e(loss::weighted_cross_entropy(&x, &[0, 0], 0.0, &[0.0, 1.0, 1.0])).contains("weights of all labels"));
    assert!(
        e(loss::jsd_cross_entropy(&x, &[0, 1], 3, 12.0, 0.1)).contains("2 rows of logits for 3 splits of 2 labels")
    );
    assert!(loss::one_hot(&[4], 3, 0.1).is_err());
}
