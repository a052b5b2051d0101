//! Descriptions of a model for PyTorch: a Python file that builds it, pruned or not, and loads its weights.

use crate::error::{Error, Result};
use crate::registry::ModelConfig;
use crate::vit::Head;
use candlelight_autograd::ops::GlobalPool;

/// What comes before the modules.
const BEGIN: &str = r#""""A network as candlelight trained it, for PyTorch. `python THIS_FILE [WEIGHTS.safetensors]` builds it, loads the weights and prints what it gives
for an image of zeros; `from THIS_FILE import network` gives the module in evaluation.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

CONFIG = json.loads(r"""@CONFIG@""")
WEIGHTS = Path(__file__).parent / "@WEIGHTS@"


"#;

/// Batch normalisation, for networks that have it.
const NORM: &str = r#"def norm(width):
    return nn.BatchNorm2d(width, eps=CONFIG["norm"]["eps"], momentum=CONFIG["norm"]["momentum"])


"#;

/// What comes behind the modules.
const END: &str = r#"

def network(weights=WEIGHTS):
    state = load_file(weights)
    model = Network()
    for name, counter in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = state.get(name, counter).to(counter.dtype)
    model.load_state_dict(state)
    return model.eval()


if __name__ == "__main__":
    model = network(*sys.argv[1:2])
    with torch.no_grad():
        print(model(torch.zeros(1, CONFIG["channels"], *CONFIG["image"])))
"#;

/// A Python file that builds a model of this configuration in PyTorch and loads its weights from the safetensors file `weights` beside it. It
/// needs torch and safetensors alone.
///
/// # Errors
/// When the model has a part that is not described: blur pools, split normalisations, other pools than the mean, a probe, or no head.
pub fn pytorch(config: &ModelConfig, weights: &str) -> Result<String> {
    let fail = |what: &str| Err(Error::Config(format!("a model with {what} is not described for PyTorch")));
    if config.classes() == 0 {
        return fail("no head");
    }
    let (norm, network) = match config {
        ModelConfig::ResNet(c) if c.blur => return fail("blur pools"),
        ModelConfig::ResNet(c) if c.norm.splits != 1 => return fail("split normalisations"),
        ModelConfig::ResNet(c) if c.pool != GlobalPool::Avg => return fail("another pool than the mean"),
        ModelConfig::Yolo(c) if c.pool != GlobalPool::Avg => return fail("another pool than the mean"),
        ModelConfig::Vit(c) if c.head == Head::Probe => return fail("a probe"),
        ModelConfig::NtsNet(_) => return fail("parts (NTS-Net)"),
        ModelConfig::ResNet(_) => (NORM, include_str!("resnet.py")),
        ModelConfig::Yolo(_) => (NORM, include_str!("yolov5.py")),
        ModelConfig::Vit(_) => ("", include_str!("vit.py")),
    };
    let json = serde_json::to_string_pretty(config).map_err(|e| Error::Config(e.to_string()))?;
    let begin = BEGIN.replace("@CONFIG@", &json).replace("@WEIGHTS@", weights);
    Ok([&begin, norm, network, END].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_model_is_described_or_says_why_not() {
        for name in ["resnet50", "resnet20", "yolov5n-cls", "vit_b_16", "vit_tiny_patch16"] {
            let text = pytorch(&ModelConfig::named(name).unwrap(), "w.safetensors").unwrap();
            assert!(text.contains("class Network") && text.contains("w.safetensors") && !text.contains("@C"), "{name}");
        }
        let e = pytorch(&ModelConfig::named("resnetblur50").unwrap(), "w").unwrap_err().to_string();
        assert!(e.contains("blur pools"), "{e}");
    }
}
