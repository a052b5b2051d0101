//! Published counts, the groups that DepGraph finds, and that a pruned network computes what the whole one computes with the removed
//! channels at zero.

use super::*;
use crate::cost::{Convention, Cost};
use crate::weights;
use candlelight_autograd::{Key, Tape, tensor_from};

struct Net {
    config: ModelConfig,
    params: ParamStore,
    model: Box<dyn Classifier>,
    structure: Structure,
}

fn net(config: ModelConfig) -> Net {
    let params = ParamStore::new();
    let model = config.build(params.builder(Key::new(7))).unwrap();
    let structure = Structure::of_model(&*model, &config, &params).unwrap();
    Net { config, params, model, structure }
}

fn named(name: &str) -> Net {
    net(ModelConfig::named(name).unwrap())
}

/// A network with normalisations as after training.
fn trained(name: &str) -> Net {
    let net = named(name);
    for (i, (name, tensor)) in net.params.values().into_iter().enumerate() {
        let (n, last) = (tensor.elem_count(), name.rsplit('.').next().unwrap_or(""));
        let noise = Key::new(9).index(i as u64).uniform(n);
        let values: Vec<f32> = match last {
            "running_mean" | "bias" => noise.iter().map(|u| u - 0.5).collect(),
            "running_var" => noise.iter().map(|u| 0.5 + u).collect(),
            "weight" if tensor.rank() == 1 => noise.iter().map(|u| 0.5 + u).collect(),
            _ => continue,
        };
        net.params.set(&name, &tensor_from(values, tensor.shape()).unwrap()).unwrap();
    }
    net
}

impl Net {
    fn random(&self, seed: u64) -> Scores {
        Importance::Random.scores(&self.structure, &[], &[], &Key::new(seed)).unwrap()
    }

    fn keep(&self, text: &str, seed: u64) -> Keep {
        let rates = self.structure.rates(&self.config, &text.parse().unwrap()).unwrap();
        self.structure.select(&rates, &self.random(seed), &Limits::default()).unwrap()
    }

    fn logits(&self, images: &Tensor) -> Vec<f32> {
        self.model.forward(&Tape::off().constant(images), None).unwrap().values().unwrap()
    }

    /// The configuration of the whole network, in which shortcuts without parameters give zeros for removed channels.
    fn masked(&self, keep: &Keep) -> ModelConfig {
        let mut config = self.config.clone();
        let ModelConfig::ResNet(c) = &mut config else { return config };
        if c.shortcut == crate::resnet::Shortcut::Projection {
            return config;
        }
        let whole = self.structure.paddings(&self.structure.all());
        let dims = |name: &str| self.params.var(name).ok().map(|v| v.dims().to_vec());
        let mut shortcuts = whole;
        for (stage, from) in shortcuts.iter_mut().enumerate() {
            let kept = &keep[self.structure.group_of(&format!("layer{}.0.conv2.weight", stage + 1), 0).unwrap()];
            let inputs = if stage == 0 { "conv1.weight".into() } else { format!("layer{stage}.0.conv2.weight") };
            let before = &keep[self.structure.group_of(&inputs, 0).unwrap()];
            for (i, from) in from.iter_mut().enumerate() {
                *from = from.filter(|f| kept.contains(&i) && before.contains(f));
            }
        }
        c.narrow(&dims, &shortcuts).unwrap();
        config
    }

    /// The pruned network, and how far its logits are from those of the whole one in which the normalisations of removed channels give zero,
    /// divided by the largest of them.
    fn off(&self, keep: &Keep, side: usize) -> (Net, f32) {
        let state = self.params.state_dict();
        let small = pruned(&self.config, &self.structure, &state, keep).unwrap();
        let smaller = net(small.config.clone());
        weights::load(&smaller.params, &small.tensors, true).unwrap();
        let masked = net(self.masked(keep));
        weights::load(&masked.params, &state, true).unwrap();
        for (group, keep) in self.structure.groups().iter().zip(keep) {
            for (at, member) in group.members.iter().enumerate() {
                let var = masked.params.var(&member.name).unwrap();
                if var.rank() != 1 || member.name.contains("running") {
                    continue;
                }
                let mut values = var.to_vec1::<f32>().unwrap();
                for channel in (0..group.len()).filter(|c| !keep.contains(c)) {
                    group.entries(channel, at).iter().for_each(|e| values[*e] = 0.0);
                }
                masked.params.set(&member.name, &tensor_from(values, var.shape()).unwrap()).unwrap();
            }
        }
        let channels = self.config.channels();
        let images = tensor_from(Key::new(3).normal(2 * channels * side * side), (2, channels, side, side)).unwrap();
        let (a, b) = (smaller.logits(&images), masked.logits(&images));
        let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(scale > 1e-3, "logits of nothing");
        (smaller, a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale)
    }
}

/// (network, rates, parameters, exact multiply-adds, those that HRank published)
const PUBLISHED: &[(&str, &str, usize, u64, u64)] = &[
    ("resnet50", "[0.]*20", 25_557_032, 4_089_184_256, 4_111_514_624),
    ("resnet50", "[0.]+[0.1]*3+[0.35]*16", 15_091_575, 2_240_373_880, 2_259_031_992),
    ("resnet50", "[0.]+[0.25]*3+[0.5]*16", 11_047_336, 1_507_328_000, 1_523_060_224),
    ("resnet50", "[0.]+[0.5]*3+[0.6]*16", 8_017_755, 943_231_376, 954_965_592),
    ("resnet56", "[0.]*30", 853_018, 125_485_696, 126_554_816),
    ("resnet56", "[0.]+[0.18]*29", 660_157, 89_460_352, 90_349_760),
    ("resnet56", "[0.]+[0.15]*2+[0.4]*27", 485_413, 65_168_128, 65_940_032),
    ("resnet110", "[0.]*57", 1_727_962, 252_887_680, 254_988_992),
    ("resnet110", "[0.]+[0.2]*2+[0.3]*18+[0.35]*36", 1_045_951, 139_006_144, 140_547_584),
];

#[test]
fn pruned_networks_have_the_published_counts() {
    for &(name, rates, parameters, exact, published) in PUBLISHED {
        let whole = named(name);
        let keep = whole.keep(rates, 1);
        assert_eq!(whole.structure.parameters(&keep), parameters, "{name} {rates}");
        assert_eq!(whole.structure.macs(&keep), exact, "{name} {rates}");
        let small = pruned(&whole.config, &whole.structure, &whole.params.state_dict(), &keep).unwrap();
        let smaller = net(small.config);
        let cost = Cost::total(&trace(&*smaller.model, &smaller.config).unwrap());
        assert_eq!(smaller.params.count().0, parameters, "{name} {rates}");
        assert_eq!((cost.macs(Convention::Exact), cost.macs(Convention::Hrank)), (exact, published), "{name} {rates}");
    }
}

#[test]
fn multiply_adds_are_torchvisions() {
    for (name, macs) in [
        ("resnet18", 1_814_073_344),
        ("resnet34", 3_663_761_408),
        ("resnext50_32x4d", 4_230_479_872),
        ("wide_resnet50_2", 11_398_021_120),
        ("vit_b_16", 17_563_828_224u64),
        ("vit_b_32", 4_409_186_304),
    ] {
        let config = ModelConfig::named(name).unwrap();
        let model = config.build(ParamStore::new().builder(Key::new(0))).unwrap();
        assert_eq!(Cost::total(&trace(&*model, &config).unwrap()).macs(Convention::Exact), macs, "{name}");
    }
}

/// What Torch-Pruning (e80127d) finds: its number of groups, and the parameters that are left when each loses half its channels.
#[test]
fn groups_are_those_of_depgraph() {
    for (name, groups, half) in
        [("resnet18", 12, 3_055_880), ("resnet50", 37, 6_917_640), ("resnext50_32x4d", 37, 6_789_384)]
    {
        let whole = named(name);
        assert_eq!(whole.structure.groups().len(), groups, "{name}");
        let keep = whole.structure.select(&vec![0.5; groups], &whole.random(0), &Limits::default()).unwrap();
        assert_eq!(whole.structure.parameters(&keep), half, "{name}");
    }
}

#[test]
fn a_pruned_network_is_the_whole_one_with_channels_at_zero() {
    for (name, rates, side) in [
        ("resnet20", "[0.25]+[0.25]+[0.4]+[0.5]*9", 32),
        ("resnet56", "[0.1]+[0.1]+[0.18]*28", 32),
        ("resnet18", "[0.3]*2+[0.2]*2+[0.5]*8", 64),
        ("resnet50", "[0.1]+[0.2]*3+[0.5]*16", 64),
    ] {
        let whole = trained(name);
        let (_, off) = whole.off(&whole.keep(rates, 5), side);
        assert!(off < 1e-6, "{name}: {off:e}");
    }
    // Groups of channels, and every group of the network, the last stage's included.
    for name in ["resnext50_32x4d", "resnet20"] {
        let whole = trained(name);
        let rates = vec![0.3; whole.structure.groups().len()];
        let keep = whole.structure.select(&rates, &whole.random(2), &Limits::default()).unwrap();
        let (_, off) = whole.off(&keep, 64);
        assert!(off < 1e-6, "{name}: {off:e}");
    }
}

#[test]
fn a_pruned_network_is_pruned_again() {
    let whole = trained("resnet20");
    let (smaller, _) = whole.off(&whole.keep("[0.25]+[0.25]+[0.4]+[0.5]*9", 5), 32);
    // The residual streams can still be narrowed, each by itself.
    assert_eq!(smaller.structure.groups().len(), whole.structure.groups().len());
    let (again, off) = smaller.off(&smaller.keep("[0.2]+[0.2]+[0.3]+[0.5]*9", 6), 32);
    assert!(off < 1e-6, "{off:e}");
    let text = serde_json::to_string(&again.config).unwrap();
    assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), again.config);
}

#[test]
fn rates_that_do_not_fit_say_why() {
    let fails = |net: &Net, text: &str| {
        let rates: CompressRates = text.parse().unwrap();
        net.structure.rates(&net.config, &rates).unwrap_err().to_string()
    };
    let e = fails(&named("resnet50"), "[0.1]*19");
    assert!(e.contains("19 entries, this model takes 20: conv1"), "{e}");
    let e = fails(&named("resnet18"), "[0.1]+[0.2]+[0.]*10");
    assert!(e.contains("conv1 and layer1.0.conv2 are added to each other"), "{e}");
    let small = named("resnet20");
    let rates = small.structure.rates(&small.config, &"[0.]*3+[0.99]*9".parse().unwrap()).unwrap();
    let e = small.structure.select(&rates, &small.random(0), &Limits::default()).unwrap_err().to_string();
    assert!(e.contains("layer1.0.conv1") && e.contains("none of its 16 channels"), "{e}");
    let mut keep = small.structure.all();
    keep[1].clear();
    assert!(small.structure.check(&keep).unwrap_err().to_string().contains("none of its"));
    keep[1] = vec![3, 2];
    assert!(small.structure.check(&keep).unwrap_err().to_string().contains("ascending"));
    let vit = named("vit_demo_patch4");
    let scores = vit.random(0);
    let rates = vec![0.0; scores.len()];
    let keep = vit.structure.select(&rates, &scores, &Limits::default()).unwrap();
    assert_eq!(keep, vit.structure.all());
}

#[test]
fn a_search_meets_its_target_and_no_more() {
    let net = named("resnet20");
    let state = net.params.state_dict();
    let scores = Importance::L2.scores(&net.structure, &state, &[], &Key::new(0)).unwrap();
    let limits = Limits { round_to: 0, ignore: vec!["conv1".into()] };
    let (macs, all) = (|keep: &Keep| net.structure.macs(keep), net.structure.all());
    let (keep, rate) = net.structure.search(Goal::Macs, 0.5, &scores, &limits).unwrap();
    assert!(macs(&keep) * 2 <= macs(&all) && macs(&keep) * 9 > macs(&all) * 4, "{} of {}", macs(&keep), macs(&all));
    let stem = net.structure.group_of("conv1.weight", 0).unwrap();
    assert_eq!((net.structure.groups()[stem].name.as_str(), keep[stem].len()), ("conv1", 16));
    let rounded = Limits { round_to: 8, ..limits.clone() };
    let (keep, _) = net.structure.search(Goal::Parameters, 0.4, &scores, &rounded).unwrap();
    assert!(keep.iter().all(|k| k.len() % 8 == 0) && rate < 0.5);
    assert!(net.structure.parameters(&keep) * 5 <= net.structure.parameters(&all) * 2);
    assert!(
        net.structure
            .search(Goal::Macs, 1e-6, &scores, &limits)
            .unwrap_err()
            .to_string()
            .contains("one channel in every layer")
    );
    assert!(net.structure.search(Goal::Macs, 0.0, &scores, &limits).is_err());
    // Of equal scores the earlier channels go first; what is near the largest stays.
    let mut scores: Scores = net.structure.groups().iter().map(|g| vec![1.0; g.len()]).collect();
    let keep = net.structure.select(&vec![0.5; scores.len()], &scores, &Limits::default()).unwrap();
    assert_eq!(keep[1], (8..16).collect::<Vec<_>>());
    scores[1] = (0..16).map(f64::from).collect();
    let keep = net.structure.above(0.5, &scores, &limits);
    assert_eq!((keep[1].clone(), keep[2].len()), ((8..16).collect(), net.structure.groups()[2].len()));
}

#[test]
fn importance_finds_the_filters_that_do_nothing() {
    let net = trained("resnet20");
    let group = net.structure.group_of("layer2.1.conv1.weight", 0).unwrap();
    // Filter 5 has weights of zero, and nothing reads it.
    for (name, axis) in [("layer2.1.conv1.weight", 0), ("layer2.1.conv2.weight", 1), ("layer2.1.bn1.weight", 0)] {
        let t = net.params.var(name).unwrap();
        let mask: Vec<f32> = (0..t.dims()[axis]).map(|i| if i == 5 { 0.0 } else { 1.0 }).collect();
        let mut dims = vec![1; t.rank()];
        dims[axis] = mask.len();
        let masked = t.broadcast_mul(&tensor_from(mask, dims).unwrap()).unwrap();
        net.params.set(name, &masked).unwrap();
    }
    let state = net.params.state_dict();
    // Gradients of a network: none for running statistics.
    let gradients: Vec<_> =
        net.params.entries().iter().map(|e| (e.name.clone(), e.var.affine(0.5, 0.0).unwrap())).collect();
    for how in [Importance::L1, Importance::L2, Importance::Bn] {
        let scores = how.scores(&net.structure, &state, &gradients, &Key::new(0)).unwrap();
        let own = &scores[group];
        let least = (0..own.len()).min_by(|a, b| own[*a].total_cmp(&own[*b])).unwrap();
        assert_eq!(least, 5, "{how:?}: {own:?}");
    }
    let taylor =
        |gradients: &[(String, Tensor)]| Importance::Taylor.scores(&net.structure, &state, gradients, &Key::new(0));
    let scores = taylor(&gradients).unwrap();
    assert!(scores[group][5] < scores[group].iter().sum::<f64>() / 32.0);
    assert!(taylor(&[]).unwrap_err().to_string().contains("cannot be judged by Taylor"));
    // FPGM drops what is in the middle: here the zeros, among filters around zero.
    let scores = Importance::Fpgm.scores(&net.structure, &state, &[], &Key::new(0)).unwrap();
    assert!((0..32).all(|i| i == 5 || scores[group][i] > scores[group][5]));
    assert!("l3".parse::<Importance>().unwrap_err().to_string().contains("fpgm"));
    let vit = named("vit_demo_patch4");
    let e = Importance::Bn.scores(&vit.structure, &vit.params.state_dict(), &[], &Key::new(0)).unwrap_err();
    assert!(e.to_string().contains("no batch normalisation"), "{e}");
}

#[test]
fn ranks_are_collected_in_one_pass_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for (name, files) in [("resnet20", 19), ("resnet50", 53), ("resnet56", 55), ("resnet110", 109)] {
        let ranks = Ranks::new(&named(name).structure);
        let folder = dir.path().join(name);
        ranks.save_npy(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), files, "{name}");
    }
    let net = trained("resnet20");
    let mut ranks = Ranks::new(&net.structure);
    assert_eq!((ranks.sites[0].name.as_str(), ranks.sites[2].name.as_str()), ("bn1", "layer1.0.bn2"));
    let images = |key| tensor_from(Key::new(key).normal(4 * 3 * 32 * 32), (4, 3, 32, 32)).unwrap();
    let mut steady = Steady::default();
    for key in 0..2 {
        ranks.add(4, |tape| net.model.forward(&tape.constant(&images(key)), None)).unwrap();
        let scores = ranks.scores(&net.structure, &Limits::default()).unwrap();
        let keep = net.structure.select(&vec![0.0; scores.len()], &scores, &Limits::default()).unwrap();
        assert_eq!(steady.add(keep), key as usize);
    }
    assert_eq!(ranks.images, 8);
    // A stream's score is the average over the places where it is seen.
    let stream = net.structure.group_of("layer1.0.conv2.weight", 0).unwrap();
    let scores = ranks.scores(&net.structure, &Limits::default()).unwrap();
    let mean = [2, 4, 6].iter().map(|i| ranks.averages(*i)[3]).sum::<f64>() / 3.0;
    assert!((scores[stream][3] - mean).abs() < 1e-9 && mean > 1.0 && mean <= 32.0);
    let file = dir.path().join("ranks.safetensors");
    ranks.save(&file).unwrap();
    let npy = dir.path().join("npy");
    ranks.save_npy(&npy).unwrap();
    for path in [&file, &npy] {
        let back = Ranks::read(path, &net.structure).unwrap();
        let close = |i: usize| back.averages(i).iter().zip(ranks.averages(i)).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!((0..19).all(close), "{}", path.display());
        let e = Ranks::read(path, &named("resnet32").structure).unwrap_err().to_string();
        assert!(e.contains("another model") || e.contains("rank_conv"), "{e}");
        let e = Ranks::read(path, &named("resnet18").structure).unwrap_err().to_string();
        assert!(e.contains("another model"), "{e}");
    }
    let wrong = (Tensor::zeros(16, DType::F32, &Device::Cpu).unwrap() - 1.0).unwrap();
    wrong.write_npy(npy.join("rank_conv1.npy")).unwrap();
    let e = Ranks::read(&npy, &net.structure).unwrap_err().to_string();
    assert!(e.contains("rank_conv1.npy") && e.contains("rank of -1"), "{e}");
    let vit = named("vit_demo_patch4");
    let ranks = Ranks::new(&vit.structure);
    assert!(ranks.scores(&vit.structure, &Limits::default()).unwrap_err().to_string().contains("have no rank"));
}

#[test]
fn heads_and_hidden_units_of_transformers_are_groups() {
    let tiny = named("vit_tiny_patch16");
    // Per block its heads and its hidden units; the width is tied by normalisations over it.
    let sizes: Vec<usize> = tiny.structure.groups().iter().map(Group::len).collect();
    assert_eq!(sizes, [3, 768].repeat(12));
    assert_eq!(tiny.structure.groups()[0].name, "blocks.0.attn.qkv");
    assert_eq!(tiny.structure.groups()[1].name, "blocks.0.mlp.fc1");
    let vit = named("vit_demo_patch4");
    let rates: Vec<f64> = vit.structure.groups().iter().map(|g| if g.len() == 4 { 0.25 } else { 0.5 }).collect();
    let keep = vit.structure.select(&rates, &vit.random(1), &Limits::default()).unwrap();
    let state = vit.params.state_dict();
    let small = pruned(&vit.config, &vit.structure, &state, &keep).unwrap();
    let smaller = net(small.config);
    weights::load(&smaller.params, &small.tensors, true).unwrap();
    assert_eq!(smaller.params.count().0, vit.structure.parameters(&keep));
    let cost = Cost::total(&trace(&*smaller.model, &smaller.config).unwrap());
    assert_eq!(cost.products, vit.structure.macs(&keep));
    // What reads removed heads and units is zero in the whole transformer.
    let masked = net(vit.config.clone());
    let mut tensors = state;
    for (group, keep) in vit.structure.groups().iter().zip(&keep) {
        for (at, member) in group.members.iter().enumerate().filter(|(_, m)| m.axis == 1) {
            let (_, t) = tensors.iter_mut().find(|(n, _)| *n == member.name).unwrap();
            let mut mask = vec![1f32; t.dims()[1]];
            let gone = (0..group.len()).filter(|c| !keep.contains(c));
            gone.for_each(|c| group.entries(c, at).iter().for_each(|e| mask[*e] = 0.0));
            *t = t.broadcast_mul(&tensor_from(mask, (1, t.dims()[1])).unwrap()).unwrap();
        }
    }
    weights::load(&masked.params, &tensors, true).unwrap();
    let images = tensor_from(Key::new(3).normal(2 * 28 * 28), (2, 1, 28, 28)).unwrap();
    let (a, b) = (smaller.logits(&images), masked.logits(&images));
    let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.0 && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * scale.max(1.0)), "{a:?} {b:?}");
}

#[test]
fn yolov5_is_pruned_like_a_residual_network() {
    let whole = trained("yolov5n-cls");
    // Streams and both ways of each block, its bottlenecks, what joins them, and what halves the image.
    assert_eq!(whole.structure.groups()[0].name, "model.0.conv");
    let rates = vec![0.3; whole.structure.groups().len()];
    let keep = whole.structure.select(&rates, &whole.random(2), &Limits::default()).unwrap();
    let (smaller, off) = whole.off(&keep, 64);
    assert!(off < 1e-6, "{off:e}");
    assert_eq!(smaller.params.count().0, whole.structure.parameters(&keep));
    let text = serde_json::to_string(&smaller.config).unwrap();
    assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), smaller.config);
    // Every channel is seen behind SiLU.
    let ranks = Ranks::new(&whole.structure);
    assert!(ranks.scores(&whole.structure, &Limits::default()).is_ok());
}

/// What was measured of HRankPlus itself: how much of its projections stays at initial values.
#[test]
fn the_faults_of_hrankplus_are_reproduced() {
    let whole = trained("resnet50");
    let mut ranks = Ranks::new(&whole.structure);
    for (i, site) in ranks.sites.iter_mut().enumerate() {
        site.set(Key::new(1).index(i as u64).uniform(site.len()));
    }
    let state = whole.params.state_dict();
    let keep = |text: &str| whole.keep(text, 1);
    let made = |text: &str| hrankplus(&whole.config, &whole.structure, &state, &ranks, &keep(text), Key::new(5));
    let small = made("[0.]+[0.1]*3+[0.35]*16").unwrap();
    let fresh = ParamStore::new();
    small.config.build(fresh.builder(Key::new(5))).unwrap();
    for (stage, percent) in [(1, "35.9"), (2, "63.9"), (3, "63.9"), (4, "64.0")] {
        let name = format!("layer{stage}.0.downsample.0.weight");
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (_, t) = small.tensors.iter().find(|(n, _)| *n == name).unwrap();
        let (copied, initial) = (values(t), values(&fresh.var(&name).unwrap()));
        let left = copied.iter().zip(&initial).filter(|(a, b)| a == b).count();
        assert_eq!(format!("{:.1}", 100.0 * left as f64 / copied.len() as f64), percent, "{name}");
    }
    let e = made("[0.1]+[0.2]*3+[0.]*16").unwrap_err().to_string();
    assert!(e.contains("downsample.0") && e.contains("fails"), "{e}");
    let cifar = trained("resnet20");
    let ranks = Ranks::new(&cifar.structure);
    let keep = cifar.keep("[0.]+[0.18]*11", 1);
    let small =
        hrankplus(&cifar.config, &cifar.structure, &cifar.params.state_dict(), &ranks, &keep, Key::new(5)).unwrap();
    let (_, norm) = small.tensors.iter().find(|(n, _)| n == "layer1.0.bn1.running_mean").unwrap();
    assert!(norm.to_vec1::<f32>().unwrap().iter().all(|v| *v == 0.0), "its normalisations are not copied");
    net(small.config.clone());
    // A checkpoint of theirs says its widths by its tensors.
    let file: Vec<_> = small.tensors.iter().map(|(n, t)| (format!("module.{n}"), t.clone())).collect();
    let mut read = cifar.config.clone();
    let fitted = read.architecture_mut().fit(&file, &crate::adapt::Fitting::default()).unwrap();
    assert!(read == small.config && fitted.notes.iter().any(|n| n.contains("a pruned network")), "{:?}", fitted.notes);
    let vit = named("vit_demo_patch4");
    let e = hrankplus(&vit.config, &vit.structure, &vit.params.state_dict(), &ranks, &vit.structure.all(), Key::new(0));
    assert!(e.unwrap_err().to_string().contains("ResNet-50"));
}
