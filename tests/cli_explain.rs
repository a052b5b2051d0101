//! `explain` as a user meets it: pictures, numbers, error texts.

mod programs;

use programs::{folders, ok, refused, run, trained};

#[test]
fn maps_are_drawn_counted_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    for (name, model) in [("cnn", "resnet20"), ("vit", "vit_mini_patch4")] {
        trained(d, name, &["--epochs", "1", "--model", model]);
    }
    let source = "data/validation/10";
    let cnn = ["--weights", "out/cnn/best.safetensors", "--source", source];
    let text =
        ok(d, "explain", &[&cnn[..], &["--method", "gradcam,layercam,occlusion", "--judge", "--class", "10"]].concat());
    assert!(text.contains("gradcam, deletion 0.") && text.contains("image 3/3"), "{text}");
    let folder = d.join("runs/explain/exp");
    for name in ["12.gradcam.png", "13.layercam.png", "14.occlusion.png", "sheet.png"] {
        let picture = image_size(&folder.join(name));
        assert!(name == "sheet.png" || picture == (16, 16), "{name}: {picture:?}");
    }
    let maps: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("maps.json")).unwrap()).unwrap();
    assert_eq!(maps.as_array().unwrap().len(), 9);
    let first = &maps[0];
    assert_eq!((first["method"].as_str(), first["name"].as_str()), (Some("gradcam"), Some("10")));
    assert_eq!(first["map"]["values"].as_array().unwrap().len(), 256);
    assert_eq!(first["faithful"]["deleted"].as_array().unwrap().len(), 29);
    // A second run has a folder of its own; the likeliest class is explained by default.
    let vit = ["--weights", "out/vit/best.safetensors", "--source", source];
    let methods = ["--method", "gradcam,attention,rollout,grad_rollout,integrated_gradients", "--discard", "0.5"];
    ok(d, "explain", &[&vit[..], &methods].concat());
    assert!(d.join("runs/explain/exp2/12.grad_rollout.png").exists());
    // A picture that cannot be read is counted, the others are drawn.
    std::fs::write(d.join(source).join("0.png"), "no picture").unwrap();
    let (code, text) = run(d, "explain", &cnn);
    assert!(code == Some(1) && text.contains("1 of 4 images could not be read"), "{text}");
    let no = |more: &[&str], words: &[&str]| refused(d, "explain", &[&cnn[..], more].concat(), words);
    no(&["--layer", "layer9"], &["no place `layer9`", "layer"]);
    no(&["--method", "rollout"], &["rollout", "no attention"]);
    no(&["--method", "gradcamm"], &["no method `gradcamm`"]);
    no(&["--class", "cat"], &["--class cat", "3 classes"]);
    refused(d, "explain", &[&vit[..], &["--layer", "blocks.9"]].concat(), &["no place `blocks.9`", "blocks."]);
}

fn image_size(path: &std::path::Path) -> (usize, usize) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let image = candlelight::data::decode(&bytes, &candlelight::data::Decode::default()).unwrap();
    (image.height, image.width)
}
