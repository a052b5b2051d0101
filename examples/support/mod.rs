//! What the example programs share.
#![allow(dead_code)] // each example uses a part

use candle_core::{Device, DeviceLocation};
use std::process::ExitCode;

/// Command-line arguments with MAE's underscores: `--max-steps` and `--max_steps` are the same flag.
pub fn arguments() -> Vec<String> {
    let flag = |a: String| match a.strip_prefix("--") {
        Some(rest) => {
            let (name, value) = rest.split_at(rest.find('=').unwrap_or(rest.len()));
            format!("--{}{value}", name.replace('-', "_"))
        }
        None => a,
    };
    std::env::args().map(flag).collect()
}

/// A reader that closed the pipe (`| head`) has seen enough: that ends the program without a word.
fn leave_closed_pipes_quietly() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.to_string().contains("failed printing to stdout") {
            std::process::exit(141);
        }
        default(panic);
    }));
}

/// Log lines on standard error: `CANDLELIGHT_LOG=debug` shows more.
pub fn log() {
    leave_closed_pipes_quietly();
    let level = match std::env::var("CANDLELIGHT_LOG").as_deref() {
        Ok("debug") => tracing::Level::DEBUG,
        Ok("warn") => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Prints an error and its causes, one line each; exit status 1.
pub fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(e) = cause {
        if !text.contains(&e.to_string()) {
            eprintln!("  because: {e}");
        }
        text = e.to_string();
        cause = e.source();
    }
    ExitCode::FAILURE
}

/// `cpu`, `cuda` or `cuda:N`; by default the first GPU of a program built for one.
pub fn device(name: Option<&str>) -> Result<Device, Box<dyn std::error::Error>> {
    let name = name.unwrap_or(if cfg!(feature = "cuda") { "cuda:0" } else { "cpu" });
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number = if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) };
    match number {
        None => Err(format!("--device {name}: expected cpu, cuda or cuda:N").into()),
        Some(_) if !cfg!(feature = "cuda") => {
            Err(format!("--device {name}: this program was built for the CPU only; build it with --features cuda")
                .into())
        }
        Some(n) => Device::new_cuda(n).map_err(|e| format!("--device {name}: {e}").into()),
    }
}

/// The name [`device`] knows it by.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Cpu => "cpu".into(),
        other => format!("{other:?}"),
    }
}

/// The folder of the images that come with the repository.
pub fn shipped_data() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data")
}

/// Fashion-MNIST's pixel statistics.
pub fn fashion() -> candlelight::data::Normalize {
    candlelight::data::Normalize { mean: vec![0.286], std: vec![0.353] }
}
