//! Files of the HuggingFace hub by name: `hf:facebook/vit-mae-base`, `hf:OWNER/NAME@REVISION:FILE`.

use crate::error::{Error, Result};
use crate::nearest;
use crate::shards::shards;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Weights that are often asked for; where a name is not found, the nearest of these is suggested.
pub const KNOWN: &[&str] = &[
    "facebook/vit-mae-base",
    "facebook/vit-mae-large",
    "facebook/vit-mae-huge",
    "google/vit-base-patch16-224",
    "google/vit-base-patch16-224-in21k",
    "google/vit-large-patch16-224",
    "timm/vit_base_patch16_224.mae",
    "timm/vit_large_patch16_224.mae",
    "timm/vit_huge_patch14_224.mae",
    "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "timm/deit_tiny_patch16_224.fb_in1k",
    "timm/deit_small_patch16_224.fb_in1k",
    "timm/deit_base_patch16_224.fb_in1k",
    "timm/resnet18.a1_in1k",
    "timm/resnet50.a1_in1k",
];

/// Files that hold a model's weights, the best first.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Files that say how a model's images are prepared and what its classes are called; they are fetched with the weights where there are any.
const SETTINGS: [&str; 3] = ["config.json", "preprocessor_config.json", "processor_config.json"];

/// Where the hub is and how it is asked.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    /// Another server than <https://huggingface.co>.
    pub endpoint: Option<String>,
    /// Another cache than `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// For private and gated models; without it the one `huggingface-cli login` stored is used.
    pub token: Option<String>,
    /// Whether only the cache is used, without the network.
    pub offline: bool,
}

/// A name's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    repo: String,
    revision: String,
    file: Option<String>,
}

fn parse(name: &str) -> Result<Name> {
    let bad =
        || Error::Config(format!("`{name}`: expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:FILE"));
    let rest = name.strip_prefix("hf:").ok_or_else(bad)?;
    let (rest, file) = match rest.split_once(':') {
        Some((rest, file)) => (rest, Some(file.to_string())),
        None => (rest, None),
    };
    let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let parts: Vec<&str> = repo.split('/').collect();
    let escapes = |f: &str| f.is_empty() || f.starts_with('/') || f.split('/').any(|p| p == "..");
    if parts.len() > 2 || !parts.iter().all(|p| plain(p)) || revision.is_empty() || file.as_deref().is_some_and(escapes)
    {
        return Err(bad());
    }
    Ok(Name { repo: repo.into(), revision: revision.into(), file })
}

impl Hub {
    /// `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`, as Python's huggingface_hub reads them.
    pub fn from_env() -> Self {
        let var = |n: &str| std::env::var(n).ok().filter(|v| !v.is_empty());
        let on = |v: String| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Hub {
            endpoint: var("HF_ENDPOINT"),
            cache: None,
            token: var("HF_TOKEN"),
            offline: var("HF_HUB_OFFLINE").is_some_and(on),
        }
    }

    /// The local path of the named weights, which are downloaded if the cache does not hold them. Of weights in several files it is the path
    /// of the index, beside which all files lie. The model's `config.json` and `preprocessor_config.json` are downloaded with them, where
    /// there are any, so that [`Preparation::of_weights`](crate::Preparation::of_weights) finds them there. What the cache holds is not
    /// asked for again.
    ///
    /// # Errors
    /// When the name is malformed, there is no such model or file, it needs a token, or the network fails.
    pub fn locate(&self, name: &str) -> Result<PathBuf> {
        let n = parse(name)?;
        let cache = self.cache.clone().map_or_else(Cache::from_env, Cache::new);
        let repo = Repo::with_revision(n.repo.clone(), RepoType::Model, n.revision.clone());
        let candidates: Vec<&str> = n.file.as_deref().map_or(WEIGHTS.to_vec(), |f| vec![f]);
        let cached = |file: &str| cache.repo(repo.clone()).get(file);
        if let Some((file, path)) = candidates.iter().find_map(|f| Some((*f, cached(f)?)))
            && parts(file, &path)?.iter().all(|p| cached(p).is_some())
        {
            return Ok(path);
        }
        if self.offline {
            let place = cache.path().display();
            return Err(Error::Hub(format!(
                "{name} is not in the cache {place}, and HF_HUB_OFFLINE forbids to download it"
            )));
        }
        let token = self.token.clone().or_else(|| cache.token());
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_token(token.clone()).with_retries(3);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').into());
        }
        let api = builder.build().map_err(|e| explain(name, &n, &e, token.is_some()))?.repo(repo.clone());
        let fetch = |api: &ApiRepo, file: &str| api.get(file).map_err(|e| explain(name, &n, &e, token.is_some()));
        let files: Vec<String> = match api.info() {
            Ok(info) => info.siblings.into_iter().map(|s| s.rfilename).collect(),
            // A named file can be had without the list; what hinders both is told by the fetch.
            Err(_) if n.file.is_some() => vec![],
            Err(e) => return Err(explain(name, &n, &e, token.is_some())),
        };
        let file = match &n.file {
            Some(file) => file.clone(),
            None => match WEIGHTS.iter().find(|w| files.iter().any(|f| f == *w)) {
                Some(file) => file.to_string(),
                None => {
                    let some = files.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
                    let message = format!("{name} holds no {}; it has {some}: name one as {name}:FILE", WEIGHTS[0]);
                    return Err(Error::Hub(message));
                }
            },
        };
        let path = fetch(&api, &file)?;
        for part in parts(&file, &path)? {
            fetch(&api, &part)?;
        }
        for settings in SETTINGS.iter().filter(|s| files.iter().any(|f| f == *s)) {
            fetch(&api, settings)?;
        }
        Ok(path)
    }
}

/// The files that an index names; none for a file that is not an index.
fn parts(file: &str, path: &Path) -> Result<BTreeSet<String>> {
    if file.ends_with(".index.json") { shards(path) } else { Ok(BTreeSet::new()) }
}

/// The error of a failed request, with advice.
fn explain(name: &str, n: &Name, e: &ApiError, token: bool) -> Error {
    let text = e.to_string();
    let refused = text.contains("401") || text.contains("403");
    if refused || text.contains("404") {
        let near = nearest(KNOWN.iter().copied(), &n.repo);
        let hint = match (near.first(), &n.file) {
            (Some(near), _) if *near != n.repo => format!(", did you mean hf:{near}?"),
            (_, Some(file)) => format!(", or it has no file {file}"),
            _ => String::new(),
        };
        let login = match (refused, token) {
            (true, true) => "; the token was refused",
            (true, false) => "; private and gated models need a token: set HF_TOKEN",
            _ => "",
        };
        return Error::Hub(format!("no model {name} on the hub{hint}{login}"));
    }
    let advice = "is there a network? HF_ENDPOINT names another server, HF_HUB_OFFLINE=1 uses the cache alone";
    Error::Hub(format!("{name} could not be downloaded: {text}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_parts_and_cannot_leave_the_cache() {
        let n = parse("hf:timm/vit_base_patch16_224.mae@v1:sub/model.safetensors").unwrap();
        assert_eq!((n.repo.as_str(), n.revision.as_str()), ("timm/vit_base_patch16_224.mae", "v1"));
        assert_eq!(n.file.as_deref(), Some("sub/model.safetensors"));
        assert_eq!(parse("hf:gpt2").unwrap().revision, "main");
        for bad in ["gpt2", "hf:", "hf:a/b/c", "hf:a/../b", "hf:a/b:../x", "hf:a/b:/etc/passwd", "hf:a/b@", "hf:a b/c"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
