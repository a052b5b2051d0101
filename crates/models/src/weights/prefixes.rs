//! What wrappers put in front of a model's names, and the sets of weights that lie under different prefixes of one dictionary.

use std::collections::BTreeSet;

/// First parts of names that stand for a wrapper, a place in a larger program, or one of several models.
const PREFIXES: [&str; 40] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_forward_module",
    "_checkpoint_wrapped_module",
    "model",
    "net",
    "network",
    "base_model",
    "state_dict",
    "state_dict_ema",
    "model_state_dict",
    "model_ema",
    "ema",
    "ema_model",
    "averaged_model",
    "backbone",
    "body",
    "trunk",
    "encoder",
    "visual",
    "image_encoder",
    "feature_extractor",
    "student",
    "teacher",
    "student_backbone",
    "teacher_backbone",
    "backbone_momentum",
    "encoder_q",
    "encoder_k",
    "base_encoder",
    "momentum_encoder",
    "online_encoder",
    "target_encoder",
    "online_network",
    "target_network",
    "online_net",
    "target_net",
    "query_encoder",
    "key_encoder",
];

/// Prefixes that split a dictionary into sets of weights even where no part of it is known.
const SETS: [&str; 7] = ["model", "ema", "model_ema", "state_dict", "state_dict_ema", "student", "teacher"];

/// Wrappers that torch puts around modules, which may stand anywhere in a name.
const INSIDE: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// Names by which the first layers of known architectures are recognised.
const FIRST: [&str; 18] = [
    "patch_embed.proj.weight",
    "conv_proj.weight",
    "vit.embeddings.patch_embeddings.projection.weight",
    "deit.embeddings.patch_embeddings.projection.weight",
    "beit.embeddings.patch_embeddings.projection.weight",
    "dinov2.embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.weight",
    "vit.embeddings.cls_token",
    "embeddings.cls_token",
    "conv1.weight",
    "conv1.0.weight",
    "conv_stem.weight",
    "stem.0.weight",
    "stem.conv.weight",
    "stem.conv1.weight",
    "features.0.0.weight",
    "features.conv0.weight",
    "downsample_layers.0.0.weight",
];

/// A set of weights under one prefix of a dictionary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The parts of the prefix.
    pub(crate) prefix: Vec<String>,
    /// The numbers of the tensors in the dictionary, and their names without the prefix.
    pub(crate) names: Vec<(usize, String)>,
}

/// The known parts at the start of a name. What follows is never empty.
fn run(name: &str) -> Vec<&str> {
    let parts: Vec<&str> = name.split('.').collect();
    let known = parts.iter().take(parts.len() - 1).take_while(|p| PREFIXES.contains(p)).count();
    parts[..known].to_vec()
}

fn shared<'a>(a: &[&'a str], b: &[&str]) -> Vec<&'a str> {
    a.iter().zip(b).take_while(|(x, y)| x == y).map(|(x, _)| *x).collect()
}

/// Splits the names of a dictionary by the prefixes under which a model lies, and removes these. Of a prefix only what leads to the model's
/// own tensors is removed: `encoder.layers.0` stays where `conv_proj` lies beside `encoder`. Other tensors, such as a projector beside
/// the backbone, keep their names, and belong to the model that they share most of the prefix with.
pub(crate) fn split(names: &[String]) -> Vec<Part> {
    let names: Vec<String> =
        names.iter().map(|n| INSIDE.iter().fold(n.clone(), |n, w| n.replace(&format!(".{w}"), "."))).collect();
    if let Some(own) = own_wrapper(&names) {
        let bare: Vec<String> = names.iter().map(|n| n[own.len() + 1..].to_string()).collect();
        let mut parts = split(&bare);
        parts.iter_mut().for_each(|p| p.prefix.insert(0, own.clone()));
        return parts;
    }
    let runs: Vec<Vec<&str>> = names.iter().map(|n| run(n)).collect();
    let mut roots: Vec<Vec<&str>> = vec![];
    for (name, run) in names.iter().zip(&runs) {
        let skip: usize = run.iter().map(|p| p.len() + 1).sum();
        if FIRST.contains(&&name[skip..]) && !roots.contains(run) {
            roots.push(run.clone());
        }
    }
    if roots.is_empty() {
        // No architecture that is known: our own checkpoints of any model, or a wrapper that every name carries.
        let firsts: Vec<&str> = runs.iter().filter_map(|r| r.first().copied()).collect();
        let mut different = firsts.clone();
        different.sort_unstable();
        different.dedup();
        if firsts.len() == names.len() && different.len() > 1 && different.iter().all(|d| SETS.contains(d)) {
            roots = different.into_iter().map(|d| vec![d]).collect();
        } else {
            let common = runs.iter().skip(1).fold(runs.first().cloned().unwrap_or_default(), |c, r| shared(&c, r));
            roots = vec![common];
        }
    }
    let mut parts: Vec<Part> =
        roots.iter().map(|r| Part { prefix: r.iter().map(ToString::to_string).collect(), names: vec![] }).collect();
    for (i, (name, run)) in names.iter().zip(&runs).enumerate() {
        let fits: Vec<usize> = roots.iter().map(|root| shared(run, root).len()).collect();
        let best = fits.iter().copied().max().unwrap_or(0);
        for (part, fit) in parts.iter_mut().zip(fits) {
            if fit == best {
                let skip: usize = run[..fit].iter().map(|p| p.len() + 1).sum();
                part.names.push((i, name[skip..].to_string()));
            }
        }
    }
    parts
}

/// A word of somebody's own program in front of every name, such as `vit.` or `net2.`, behind which the names are a model's.
fn own_wrapper(names: &[String]) -> Option<String> {
    let first = names.first()?.split_once('.')?.0.to_string();
    let bare: Option<Vec<&str>> = names.iter().map(|n| n.strip_prefix(&first)?.strip_prefix('.')).collect();
    let bare = bare?;
    // Known words are removed as they are, and a model's own name is none.
    if !run(names.first()?).is_empty() || names.iter().any(|n| FIRST.contains(&n.as_str())) {
        return None;
    }
    let found = bare.iter().any(|n| {
        let skip: usize = run(n).iter().map(|p| p.len() + 1).sum();
        FIRST.contains(&&n[skip..])
    });
    found.then_some(first)
}

/// The known prefixes with which a model's own names begin, of every length.
pub(crate) fn of_model<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for name in names {
        let parts = run(name);
        all.extend((1..=parts.len()).map(|n| parts[..n].iter().map(|p| format!("{p}.")).collect::<String>()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(names: &[&str]) -> Vec<(String, Vec<String>)> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let parts = split(&names).into_iter();
        parts.map(|p| (p.prefix.join("."), p.names.into_iter().map(|(_, n)| n).collect())).collect()
    }

    fn one(names: &[&str]) -> (String, Vec<String>) {
        let mut all = parts(names);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn any_run_of_wrappers_is_removed_and_nothing_else() {
        let own = ["patch_embed.proj.weight", "blocks.0.norm1.weight", "cls_token"];
        for p in [
            "",
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "model.module.",
            "backbone.",
            "module.encoder_q.",
            "net.encoder.",
            "teacher.backbone.",
        ] {
            let names: Vec<String> = own.iter().map(|n| format!("{p}{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(one(&names).1, own, "{p}");
        }
        // torchvision's transformer and HuggingFace's bare one have an encoder of their own.
        for p in ["", "module.", "model."] {
            let names = ["conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight", "encoder.ln.bias"];
            let wrapped: Vec<String> = names.iter().map(|n| format!("{p}{n}")).collect();
            assert_eq!(one(&wrapped.iter().map(String::as_str).collect::<Vec<_>>()).1, names);
        }
        let bare = ["embeddings.cls_token", "encoder.layer.0.layernorm_before.bias", "layernorm.weight"];
        assert_eq!(one(&bare).1, bare);
        // A model of one's own.
        assert_eq!(
            one(&["module.model.0.w", "module.model.2.w"]),
            ("module.model".into(), vec!["0.w".into(), "2.w".into()])
        );
        assert_eq!(one(&["encoder.0.w", "decoder.0.w"]).1, ["encoder.0.w", "decoder.0.w"]);
        assert_eq!(one(&["blocks.0._orig_mod.w", "a._checkpoint_wrapped_module.b"]).1, ["blocks.0.w", "a.b"]);
    }

    #[test]
    fn other_tensors_beside_a_model_keep_their_names() {
        let (prefix, names) =
            one(&["backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "head.fc.weight", "projector.0.weight"]);
        assert_eq!(
            (prefix.as_str(), names),
            (
                "backbone",
                ["conv1.weight", "layer1.0.conv1.weight", "head.fc.weight", "projector.0.weight"]
                    .map(String::from)
                    .to_vec()
            )
        );
        let (_, names) = one(&["module.backbone.conv1.weight", "module.head.fc.weight"]);
        assert_eq!(names, ["conv1.weight", "head.fc.weight"]);
    }

    #[test]
    fn several_models_in_one_dictionary_are_sets() {
        let two =
            parts(&["student.backbone.conv1.weight", "student.dino_head.w", "teacher.backbone.conv1.weight", "queue"]);
        assert_eq!(
            two[0],
            ("student.backbone".into(), ["conv1.weight", "dino_head.w", "queue"].map(String::from).to_vec())
        );
        assert_eq!(two[1], ("teacher.backbone".into(), ["conv1.weight", "queue"].map(String::from).to_vec()));
        let ours = parts(&["model.w", "ema.w"]);
        assert_eq!(ours, [("ema".into(), vec!["w".to_string()]), ("model".into(), vec!["w".to_string()])]);
        let custom = one(&["model.w", "body.w"]);
        assert_eq!(custom.1, ["model.w", "body.w"]);
        let own = of_model(["model.net.0.w", "model.1.w", "a.w"].into_iter());
        assert_eq!(own.into_iter().collect::<Vec<_>>(), ["model.", "model.net."]);
    }
}
