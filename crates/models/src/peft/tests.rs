use super::*;
use crate::{ModelConfig, VitConfig, registry};
use candle_core::Device;
use candlelight_autograd::{Key, ParamStore};

#[test]
fn parts_of_a_fused_layer_are_counted_as_in_the_literature() {
    let vit =
        |name: &str, classes: usize| ModelConfig::from(VitConfig { classes, depth: 1, ..registry::vit(name).unwrap() });
    let count = |config: &ModelConfig, lora: LoraConfig| {
        let (mut peft, params) = (Peft::Lora(lora), ParamStore::new());
        let (model, _) = config.build_with(&mut peft, &params, Key::new(0)).unwrap();
        train_only(&peft, &params, &model.anatomy()).unwrap();
        params.count().1
    };
    // One block of ViT-B; all twelve have the published numbers.
    let r = |r: usize, on: &str| LoraConfig { r, ..LoraConfig::on(on) };
    let head = |classes: usize| 768 * classes + classes;
    let b16 = |classes| vit("vit_b_16", classes);
    assert_eq!(12 * (count(&b16(101), r(16, "q,v")) - head(101)) + head(101), 667_493);
    assert_eq!(12 * (count(&b16(1000), r(8, "qkv")) - head(1000)) + head(1000), 1_063_912);
    let none = LoraConfig { modules_to_save: Some(vec![]), ..r(8, "qkv,attn.proj") };
    assert_eq!(12 * count(&b16(1000), none), 442_368);
    // On every linear layer, the classifier too: 8 x (768 + 101) of these are its.
    let all = LoraConfig { modules_to_save: Some(vec![]), ..r(8, "q,k,v,o,fc1,fc2,head") };
    assert_eq!(12 * (count(&b16(101), all) - 6_952) + 6_952, 1_334_056);
    let r50 = registry::entry("resnet50").unwrap().config;
    let convs = LoraConfig { target_modules: Some(r"layer4\..*conv\d".parse().unwrap()), ..LoraConfig::default() };
    assert_eq!(count(&r50, convs.clone()), 2_286_568);
    let rx50 = registry::entry("resnext50_32x4d").unwrap().config;
    let e = rx50.build_with(&mut Peft::Lora(convs), &ParamStore::new(), Key::new(0)).err().unwrap().to_string();
    assert!(e.contains("layer4.0.conv2") && e.contains("32 groups"), "{e}");
}

#[test]
fn files_that_are_no_adapters_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let said = |path: &Path| read(path).unwrap_err().to_string();
    assert!(said(dir.path()).contains("expected a folder with adapter_config.json"));
    let settings = dir.path().join(SETTINGS);
    for (text, word) in [
        ("", "no JSON"),
        (r#"{"peft_type": "PREFIX_TUNING"}"#, "PREFIX_TUNING"),
        (r#"{"r": 4}"#, "the kind none"),
        (r#"{"peft_type": "LORA", "r": "four"}"#, "do not fit"),
        (r#"{"peft_type": "LORA", "fan_in_fan_out": true}"#, "fan_in_fan_out is true"),
        (r#"{"peft_type": "LORA", "r": 2}"#, "an adapter without"),
    ] {
        std::fs::write(&settings, text).unwrap();
        assert!(said(dir.path()).contains(word), "{word}: {}", said(dir.path()));
    }
    let none = vec![("fc.weight".to_string(), Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap())];
    weights::write_safetensors(&dir.path().join(TENSORS), &none, None).unwrap();
    assert!(said(dir.path()).contains("no tensor of an adapter"));
    let peft = Peft::Lora(LoraConfig::on("fc"));
    assert!(written(&peft, &none, "fc.", Naming::Own).unwrap_err().to_string().contains("--lora"));
}
