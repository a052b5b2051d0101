//! MAE pretraining. Prints how the run ended, and where its checkpoint, log and picture are.
//!
//! ```text
//! cargo run --release --example mae_pretrain                       # a small model on the shipped images, about 2 minutes
//! cargo run --release --example mae_pretrain -- --data_path DATA --model mae_vit_base_patch16 --norm_pix_loss
//! ```

use candlelight::data::{Loader, Pipeline};
use candlelight::engine::pretrain::{Pretrain, Shown};
use candlelight::engine::signals::Signals;
use candlelight::engine::task::Task;
use candlelight::engine::train::Trainer;
use candlelight_cli::common::{count, finish};
use candlelight_cli::mae_pretrain::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let (config, plan) = (args.config()?, args.plan());
    let device = args.common.device()?;
    let (size, output) = (config.model.image, args.output());
    let images = args.images(config.model.channels)?;
    let pipeline = Pipeline::mae_pretrain(size, images.normalize.clone());
    let load = args.common.loading(&plan, size);
    let mut loader = Loader::new(images.train.clone(), pipeline, load)?.decoding(images.decode);
    if !device.is_cpu() && images.decode.bit_depth == 8 {
        loader = loader.bytes(); // a quarter of the traffic; normalised on the device
    }
    tracing::info!("loading: {}", loader.plan());
    let held_out = args.shown(&images, size)?;
    let shown = Shown::new(&held_out, &config.model, config.mask_ratio, images.normalize)?;
    let signals = Signals::install()?;
    let mut trainer = Trainer::new(plan.clone().check()?, Pretrain::new(config, shown, plan.seed, &device)?)?;
    count(trainer.task().params(), &device);
    tracing::info!("{} steps per epoch; writing to {}", loader.steps(), output.display());
    let folder = args.common.folder(&output)?;
    let Some(outcome) = args.common.session(&loader, &folder, &mut trainer, &signals)? else {
        return Ok(ExitCode::SUCCESS);
    };
    Ok(finish(outcome, &output, &loader, &[("picture", output.join("reconstruction.png").display().to_string())]))
}

fn main() -> ExitCode {
    start(run)
}
