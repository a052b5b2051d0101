//! How images are prepared for a trained model, and which of its outputs the classes of data are.

use super::*;
use candlelight_data::Transform;

/// YOLOv5's preparation: the centre square, resized by OpenCV's rule.
pub fn yolov5(size: (usize, usize), normalize: Normalize) -> Pipeline {
    Pipeline::new(vec![Transform::CenterSquare, Transform::ResizeOpencv { size }], normalize)
}

impl Trained {
    /// How images are prepared for the model, and sentences on which rule decided: what is asked for, the checkpoint's record, what lies
    /// beside the weights or is known of them by name, and what is assumed otherwise, which is YOLOv5's own for its networks.
    ///
    /// # Errors
    /// When the settings contradict each other.
    pub fn pipeline(&self, asked: &Preparation) -> Result<(Pipeline, Vec<String>)> {
        let size = self.config.image();
        let channels = self.config.channels();
        let untouched = asked.crop_pct.is_none() && asked.crop_mode.is_none() && asked.interpolation.is_none();
        if let (Some(recorded), true) = (&self.evaluation, untouched && asked.size.is_none()) {
            let mut pipeline = recorded.clone();
            if let (Some(mean), Some(std)) = (&asked.mean, &asked.std) {
                pipeline.normalize = Normalize { mean: mean.value.clone(), std: std.value.clone() };
            }
            let (n, steps) = (&pipeline.normalize, pipeline.to_string().replace('\n', ", "));
            let notes = vec![
                format!("prepared as the checkpoint says: {steps}"),
                format!("channels normalised by means {:?} and deviations {:?}", n.mean, n.std),
            ];
            return Ok((pipeline, notes));
        }
        let asked = Preparation { channels: Some(Setting::new(channels, Origin::Assumed)), ..asked.clone() };
        let mut record = Preparation::default();
        if let Some(p) = &self.evaluation {
            record.mean = Some(Setting::new(p.normalize.mean.clone(), Origin::Record));
            record.std = Some(Setting::new(p.normalize.std.clone(), Origin::Record));
        }
        let known = Preparation {
            classes: None,
            test_size: None,
            test_crop_pct: None,
            channels: None,
            ..self.preparation.clone()
        };
        // Statistics of other channels, as where an RGB model was brought to gray, say nothing here.
        let fits = known.mean.as_ref().is_none_or(|m| m.value.len() == 1 || m.value.len() == channels);
        let known = if fits { known } else { Preparation { mean: None, std: None, ..known } };
        // The share that a crop keeps is that of the model's own size.
        let usual = Some(&self.usual).filter(|u| u.size.as_ref().is_some_and(|s| s.value == size)).cloned();
        let assumed = Preparation::assumed(size, channels);
        let said = asked.or(record).or(known);
        let open = said.crop_pct.is_none() && said.crop_mode.is_none() && said.interpolation.is_none();
        let p = said.or(usual.unwrap_or_default()).or(assumed).checked().map_err(Error::Config)?;
        let pipeline = Pipeline::prepared(&p)?;
        if matches!(self.config, ModelConfig::Yolo(_)) && self.evaluation.is_none() && open {
            let note = "prepared as YOLOv5 does: the centre square, resized by OpenCV's rule (--crop_pct, --crop_mode and \
                        --interpolation choose another preparation)";
            return Ok((yolov5(size, pipeline.normalize), vec![note.into()]));
        }
        Ok((pipeline, vec![p.to_string()]))
    }
}

/// The data with the classes of a model, and what was guessed: by name where names are known, by number where labels are numbers, and by
/// place where nothing else is known and there are as many.
///
/// # Errors
/// When a class of the data is none of the model's.
pub fn numbered(data: &Collection, names: &Names) -> Result<(Collection, Vec<String>)> {
    if data.classes().is_empty() {
        return Ok((data.clone(), vec![]));
    }
    let labels: Vec<String> = (0..names.outputs()).map(|i| names.label(i)).collect();
    // Labels that are numbers say themselves which outputs they mean.
    if data.has_numbers() && names.names().is_none() {
        if data.classes().len() > names.outputs() {
            let (most, outputs) = (data.classes().len() - 1, names.outputs());
            return Err(file(
                data.path(),
                format!(
                    "labels are numbers up to {most}, but the model has {outputs} outputs: other data, or other weights"
                ),
            ));
        }
        let map: Vec<u32> = (0..data.classes().len() as u32).collect();
        return Ok((data.renumbered(&map, &named_by_data(data.classes(), &map, labels))?, vec![]));
    }
    // Of classes without a sample, such as numbers between those that a list names, the model need not know any.
    let counted = |c: &usize| data.parts().iter().any(|p| p.counts.get(*c).is_some_and(|n| *n > 0));
    let numbers = data.has_numbers() && (0..data.classes().len()).any(|c| counted(&c));
    let used: Vec<usize> = (0..data.classes().len()).filter(|c| !numbers || counted(c)).collect();
    let classes: Vec<String> = used.iter().map(|&c| data.classes()[c].clone()).collect();
    let found = names.matching(&classes).map_err(|e| file(data.path(), e))?;
    let shown = if names.names().is_some() { labels } else { named_by_data(&classes, &found.outputs, labels) };
    let mut map = vec![0; data.classes().len()];
    used.iter().zip(&found.outputs).for_each(|(c, o)| map[*c] = *o);
    Ok((data.renumbered(&map, &shown)?, found.notes))
}

/// The names of outputs that only the data names.
fn named_by_data(classes: &[String], outputs: &[u32], mut labels: Vec<String>) -> Vec<String> {
    for (c, o) in classes.iter().zip(outputs) {
        labels[*o as usize] = c.clone();
    }
    labels
}
