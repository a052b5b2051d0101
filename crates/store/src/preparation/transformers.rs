//! transformers' `config.json`.

use super::beside::{Found, origin};
use super::{Preparation, Setting};
use crate::error::Result;
use crate::json::{Object, whole};
use serde_json::{Map, Value};

/// Whether this is the configuration of a model that looks at images.
pub(super) fn is(config: &Object) -> bool {
    let any = |keys: &[&str]| keys.iter().any(|k| config.get(k).is_some());
    any(&["image_size", "num_channels"]) || (any(&["id2label", "label2id"]) && config.get("vocab_size").is_none())
}

/// The names by their numbers in text, if these are 0, 1, 2 and so on.
pub(super) fn by_number(map: &Map<String, Value>) -> Option<Vec<String>> {
    let mut names = vec![None; map.len()];
    for (number, name) in map {
        *names.get_mut(number.trim().parse::<usize>().ok()?)? = Some(name.as_str()?.to_string());
    }
    names.into_iter().collect()
}

/// The model's own settings: its size, channels, and the names of its classes.
pub(super) fn read(config: &Object) -> Result<Found> {
    let mut notes = vec![];
    let set = |v| Setting::new(v, origin(config.path));
    let size = match config.get("image_size") {
        Some(v) => Some(sides(v).ok_or_else(|| config.wrong("image_size", "a number of pixels, or [height, width]"))?),
        None => None,
    };
    let names = names(config, &mut notes)?;
    let num_classes = match (&names, config.whole("num_labels", 0)?) {
        (Some(names), None) => Some(names.len()),
        (_, count) => count,
    };
    // Names that transformers makes up say how many classes there are, and nothing more.
    let made_up = |names: &Vec<String>| names.iter().enumerate().all(|(i, n)| *n == format!("LABEL_{i}"));
    let architecture = config.get("architectures").and_then(|v| v.get(0)).or(config.get("model_type"));
    Ok(Found {
        preparation: Preparation {
            size: size.map(|v| Setting::new(v, origin(config.path))),
            channels: config.whole("num_channels", 1)?.map(|v| Setting::new(v, origin(config.path))),
            classes: names.filter(|n| !made_up(n)).map(set),
            ..Preparation::default()
        },
        architecture: architecture.and_then(|v| v.as_str()).map(ToString::to_string),
        num_classes,
        notes,
    })
}

/// `id2label`, else `label2id` turned round.
fn names(config: &Object, notes: &mut Vec<String>) -> Result<Option<Vec<String>>> {
    let object = |key: &str, expected: &str| match config.get(key) {
        Some(Value::Object(map)) if map.is_empty() => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(config.wrong(key, expected)),
        None => Ok(None),
    };
    let expected = "names by number, for every number from 0 on";
    let by_id = object("id2label", expected)?;
    let by_name = object("label2id", "numbers by name")?;
    let Some(by_id) = by_id else {
        let Some(by_name) = by_name else { return Ok(None) };
        let turned = || {
            let mut names = vec![None; by_name.len()];
            for (name, number) in by_name {
                *names.get_mut(whole(number, 0)?)? = Some(name.clone());
            }
            names.into_iter().collect::<Option<Vec<_>>>()
        };
        return turned().map(Some).ok_or_else(|| config.wrong("label2id", "every number from 0 on once"));
    };
    let names = by_number(by_id).ok_or_else(|| config.wrong("id2label", expected))?;
    let other = names.iter().enumerate().find(|(i, n)| {
        by_name
            .and_then(|m| m.get(n.as_str()))
            .and_then(|v| whole(v, 0))
            .is_some_and(|j| j != *i && names.get(j) != Some(*n))
    });
    if let Some((i, name)) = other {
        notes.push(format!("config.json: label2id gives `{name}` another number than id2label, whose {i} is taken"));
    }
    Ok(Some(names))
}

/// Height and width of a number of pixels, or of [height, width].
pub(super) fn sides(v: &Value) -> Option<(usize, usize)> {
    match v {
        Value::Array(a) => match &a[..] {
            [h, w] => Some((whole(h, 1)?, whole(w, 1)?)),
            _ => None,
        },
        one => whole(one, 1).map(|n| (n, n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn classes_have_the_names_that_people_gave_them() {
        let of = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            let path = Path::new("config.json");
            let o = Object { path, value: &value };
            assert!(is(&o));
            let found = read(&o).and_then(|f| f.checked(path)).map_err(|e| e.to_string())?;
            Ok::<_, String>((found.num_classes, found.preparation.classes.map(|c| c.value), found.notes.len()))
        };
        let names = |n: &[&str]| Some(n.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of(r#"{"id2label": {"1": "b", "0": "a"}}"#), Ok((Some(2), names(&["a", "b"]), 0)));
        assert_eq!(of(r#"{"label2id": {"b": "1", "a": 0}}"#), Ok((Some(2), names(&["a", "b"]), 0)));
        assert_eq!(of(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#), Ok((Some(2), None, 0)));
        assert_eq!(
            of(r#"{"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}"#),
            Ok((Some(2), names(&["a", "b"]), 1))
        );
        // ImageNet's two cranes: label2id can name but one.
        assert_eq!(of(r#"{"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}"#).unwrap().2, 0);
        assert!(of(r#"{"id2label": {"0": "a", "2": "b"}}"#).unwrap_err().contains("every number from 0 on"));
        assert!(
            of(r#"{"id2label": {"0": "a", "1": "b"}, "num_labels": 3}"#)
                .unwrap_err()
                .contains("the names of 3 classes, found 2")
        );
        assert!(of(r#"{"image_size": [224]}"#).unwrap_err().contains("[height, width]"));
    }
}
