//! candle-transformers' own ViT on the weights that `export` writes, beside ours.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candlelight::autograd::tensor_from;
use candlelight::models::transformers::vit as theirs;
use candlelight::models::vit::Pool;
use candlelight::models::weights;
use candlelight::models::weights::names::{Family, from_timm};
use candlelight::models::{FeatureExtractor, transformers::frozen_vit};
use candlelight::prelude::*;

#[test]
fn candle_transformers_loads_our_weights_and_gives_our_logits() {
    let config = VitConfig {
        image: (32, 32),
        patch: 8,
        dim: 48,
        depth: 3,
        heads: 4,
        classes: 7,
        pool: Pool::Token,
        ..registry::vit("vit_base_patch16").unwrap()
    };
    let params = ParamStore::new();
    let ours = Vit::new(&config, params.builder(Key::new(0))).unwrap();
    for (name, t) in params.values() {
        // Away from the neutral start of norms and biases.
        let noise = tensor_from(Key::new(1).child(&name).normal(t.elem_count()), t.shape()).unwrap();
        params.set(&name, &(t + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    weights::write_safetensors(&path, &from_timm(&params.state_dict(), Family::Huggingface).unwrap(), None).unwrap();
    let c = theirs::Config {
        hidden_size: 48,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 192,
        layer_norm_eps: 1e-6,
        image_size: 32,
        patch_size: 8,
        ..theirs::Config::vit_base_patch16_224()
    };
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let builder = || VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
    let model = theirs::Model::new(&c, 7, builder()).unwrap();
    let images = tensor_from(Key::new(2).normal(2 * 3 * 32 * 32), (2, 3, 32, 32)).unwrap();
    let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let tape = Tape::off();
    let mine = values(ours.forward(&tape.constant(&images), None).unwrap().tensor());
    let logits = values(&model.forward(&images).unwrap());
    assert!(off(&mine, &logits) < 1e-5, "{}", off(&mine, &logits));

    let frozen = frozen_vit(&c, builder()).unwrap();
    let theirs = values(&frozen.extract(&images).unwrap());
    let mine = values(&ours.extract(&images).unwrap());
    assert_eq!((frozen.width(), theirs.len()), (48, 96));
    assert!(off(&mine, &theirs) < 1e-5, "{}", off(&mine, &theirs));
}
