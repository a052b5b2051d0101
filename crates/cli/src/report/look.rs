//! The worst mistakes of a model as pictures, with what it looked at.

use crate::Result;
use crate::explain::{overlay, seen};
use crate::finegrained::Predictions;
use crate::predict::Source;
use candlelight_autograd::{Key, tensor_from};
use candlelight_data::{Decode, Loader, Out, encode_png};
use candlelight_engine::trained::Trained;
use candlelight_models::explain::{Explain, Method};
use candlelight_store::atomic::write_atomic;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// An image that a model took for another class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// The image's name.
    pub image: String,
    /// Its class.
    pub label: String,
    /// The class that the model named.
    pub guess: String,
    /// The probability of its class.
    pub p_label: f64,
    /// The probability of the class that the model named.
    pub p_guess: f64,
}

/// The folder of the pictures of mistakes in that of a run.
pub(super) const FOLDER: &str = "mistakes";

/// Writes the `most` worst mistakes into the folder of a run: pictures as the model sees them, each with a map of what spoke for the wrong class,
/// and their list `mistakes.json`. Images that cannot be read and models without a map leave pictures out.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn look(
    folder: &Path,
    model: &Trained,
    images: &Loader,
    (said, decode): (&Predictions, &Decode),
    most: usize,
) -> Result<()> {
    let classes = model.config.classes();
    let worst = said.worst(classes, most);
    let into = folder.join(FOLDER);
    // The pictures of an earlier look do not belong to this one.
    let _ = std::fs::remove_dir_all(&into);
    std::fs::create_dir_all(&into).map_err(|e| format!("{}: {e}", into.display()))?;
    let put = |name: String, bytes: &[u8]| write_atomic(&into.join(name), |f| f.write_all(bytes));
    let (size, channels) = (model.config.image(), model.config.channels());
    let mut all = vec![];
    for (number, w) in worst.into_iter().enumerate() {
        let Some(data) = images.dataset() else { break };
        let name = data.name(w.place);
        let label = |class: usize| model.names.label(class);
        all.push(Mistake {
            image: name.clone(),
            label: label(w.label),
            guess: label(w.guess),
            p_label: w.p_label,
            p_guess: w.p_guess,
        });
        let Ok(picture) = Source::Sample(data.clone(), w.place).image(Path::new(&name), decode) else { continue };
        let mut pixels = vec![0.0; channels * size.0 * size.1];
        if images.pipeline().apply(picture, &Key::new(0), 0, Out::F32(&mut pixels)).is_err() {
            continue;
        }
        let image = tensor_from(pixels, (1, channels, size.0, size.1))?.to_device(&model.params.device())?;
        let shown = seen(&image.get(0)?, &images.pipeline().normalize)?;
        put(format!("{number}.png"), &encode_png(&shown)?)?;
        // A model of someone else's may have no place to look at.
        if let Ok(found) = Explain::new(Method::GradCam).run(&*model.model, &image, Some(&[w.guess])) {
            put(format!("{number}.map.png"), &encode_png(&overlay(&shown, &found[0].map))?)?;
        }
    }
    let text = serde_json::to_string_pretty(&all)? + "\n";
    Ok(write_atomic(&folder.join("mistakes.json"), |f| f.write_all(text.as_bytes()))?)
}
