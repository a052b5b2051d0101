//! The hub, spoken by a local server.
#![cfg(feature = "hub")]

use candlelight_store::Preparation;
use candlelight_store::hub::Hub;
use candlelight_store::shards::shards;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves `repo -> file -> bytes`; those below `private/` only with the token `secret`.
struct Server {
    endpoint: String,
    requests: Arc<AtomicUsize>,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

fn serve(files: &[(&str, Vec<u8>)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let files = Arc::new(Mutex::new(files.iter().map(|(n, b)| (n.to_string(), b.clone())).collect::<HashMap<_, _>>()));
    let (counter, shelf) = (requests.clone(), files.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let (mut reader, mut out) = (BufReader::new(stream.try_clone().unwrap()), stream);
            let mut head = vec![];
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                head.push(std::mem::take(&mut line).trim().to_string());
            }
            let path = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or("/").to_string();
            let field = |name: &str| {
                head.iter().find_map(|l| l.to_lowercase().strip_prefix(&format!("{name}: ")).map(ToString::to_string))
            };
            let allowed = !path.contains("private/") || field("authorization").as_deref() == Some("bearer secret");
            let shelf = shelf.lock().unwrap();
            let (status, extra, body) = if !allowed {
                ("401 Unauthorized", String::new(), vec![])
            } else if let Some(repo) = path.strip_prefix("/api/models/") {
                let repo = repo.split("/revision/").next().unwrap_or(repo);
                let siblings: Vec<_> = shelf
                    .keys()
                    .filter_map(|k| k.strip_prefix(&format!("{repo}/")))
                    .map(|f| serde_json::json!({"rfilename": f}))
                    .collect();
                let json = serde_json::json!({"siblings": siblings, "sha": COMMIT}).to_string().into_bytes();
                if siblings.is_empty() {
                    ("404 Not Found", String::new(), vec![])
                } else {
                    ("200 OK", String::new(), json)
                }
            } else {
                match shelf.get(&path.trim_start_matches('/').replacen("/resolve/main/", "/", 1)) {
                    None => ("404 Not Found", String::new(), vec![]),
                    Some(bytes) => {
                        let range = field("range").unwrap_or_default();
                        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
                        let from: usize = from.parse().unwrap_or(0);
                        let to = to.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
                        let tag = std::hash::BuildHasher::hash_one(
                            &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
                            bytes,
                        );
                        let extra = format!(
                            "x-repo-commit: {COMMIT}\r\netag: \"{tag:x}\"\r\ncontent-range: bytes {from}-{to}/{}\r\n",
                            bytes.len()
                        );
                        ("206 Partial Content", extra, bytes[from..=to].to_vec())
                    }
                }
            };
            let head =
                format!("HTTP/1.1 {status}\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body));
        }
    });
    Server { endpoint, requests, files }
}

/// The text of each file of the weights.
fn texts(path: &std::path::Path) -> Vec<String> {
    let files = match path.extension().is_some_and(|e| e == "json") {
        true => shards(path).unwrap().iter().map(|part| path.with_file_name(part)).collect(),
        false => vec![path.to_path_buf()],
    };
    files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect()
}

#[test]
fn weights_come_by_name_once_and_then_from_the_cache() {
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let server = serve(&[
        ("facebook/vit-mae-base/model.safetensors", b"whole".to_vec()),
        ("facebook/vit-mae-base/README.md", b"words".to_vec()),
        ("facebook/vit-mae-base/preprocessor_config.json", br#"{"image_mean": [0.5, 0.5, 0.5]}"#.to_vec()),
        ("big/parts/model.safetensors.index.json", index.into()),
        ("big/parts/model-1.safetensors", b"a".to_vec()),
        ("big/parts/model-2.safetensors", b"b".to_vec()),
        ("private/model/model.safetensors", b"hidden".to_vec()),
        ("odd/one/weights.safetensors", b"odd".to_vec()),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.path().into()), ..Hub::default() };
    assert_eq!(texts(&hub.locate("hf:facebook/vit-mae-base").unwrap()), ["whole"]);
    assert_eq!(texts(&hub.locate("hf:big/parts").unwrap()), ["a", "b"]);
    assert_eq!(texts(&hub.locate("hf:odd/one:weights.safetensors").unwrap()), ["odd"]);
    let asked = server.requests.load(Ordering::SeqCst);
    server.files.lock().unwrap().clear();
    let offline = Hub { offline: true, ..hub.clone() };
    for hub in [&hub, &offline] {
        assert_eq!(texts(&hub.locate("hf:facebook/vit-mae-base").unwrap()), ["whole"]);
        assert_eq!(texts(&hub.locate("hf:big/parts").unwrap()), ["a", "b"]);
        let found = Preparation::beside(&hub.locate("hf:facebook/vit-mae-base").unwrap()).unwrap();
        assert_eq!(found.preparation.mean.unwrap().value, [0.5; 3], "the settings come with the weights");
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), asked, "the cache asks nobody");
    let e = offline.locate("hf:google/vit-base-patch16-224").unwrap_err().to_string();
    assert!(e.contains("not in the cache") && e.contains("HF_HUB_OFFLINE"), "{e}");
}

#[test]
fn what_cannot_be_had_is_explained() {
    let server = serve(&[
        ("private/model/model.safetensors", b"hidden".to_vec()),
        ("odd/one/weights.safetensors", b"odd".to_vec()),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.path().into()), ..Hub::default() };
    let why = |hub: &Hub, name: &str| hub.locate(name).unwrap_err().to_string();
    let e = why(&hub, "hf:facebook/vit-mea-base");
    assert!(e.contains("did you mean hf:facebook/vit-mae-base"), "{e}");
    let e = why(&hub, "hf:private/model");
    assert!(e.contains("HF_TOKEN"), "{e}");
    assert!(why(&Hub { token: Some("wrong".into()), ..hub.clone() }, "hf:private/model").contains("token was refused"));
    let with = Hub { token: Some("secret".into()), ..hub.clone() };
    assert_eq!(texts(&with.locate("hf:private/model").unwrap()), ["hidden"]);
    let e = why(&hub, "hf:odd/one");
    assert!(e.contains("holds no model.safetensors") && e.contains("weights.safetensors"), "{e}");
    let e = why(&hub, "hf:odd/one:none.bin");
    assert!(e.contains("none.bin"), "{e}");
    // A port nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let e = why(&Hub { endpoint: Some(format!("http://{free}")), ..hub }, "hf:facebook/vit-mae-base");
    assert!(e.contains("is there a network?"), "{e}");
}
