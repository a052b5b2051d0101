//! What the example programs share.
#![allow(dead_code)] // each example uses a part

pub mod common;
pub mod data;
pub mod draw;
pub mod runs;
pub mod vision;

use candle_core::{Device, DeviceLocation};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The arguments of a program with `--config FILE`: the file's entries as flags, then the command line, which overrides them.
pub fn parse<P: clap::Parser>() -> Result<P> {
    let command = P::command().args_override_self(true);
    let line = arguments();
    let mut all = line[..1].to_vec();
    let file = line.iter().enumerate().find_map(|(i, a)| match a.to_str()?.strip_prefix("--config=") {
        Some(path) => Some(OsString::from(path)),
        None => (a == "--config").then(|| line.get(i + 1).cloned()).flatten(),
    });
    if let Some(path) = file {
        let path = PathBuf::from(path);
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| named(&e))?;
        let table: toml::Table = text.parse().map_err(|e| named(&e))?;
        for (key, value) in table {
            if !command.get_arguments().any(|a| a.get_long() == Some(&key) && key != "config") {
                return Err(named(&format!("`{key}` is not a flag of this program")).into());
            }
            let takes_none = |a: &clap::Arg| a.get_long() == Some(&key) && !a.get_action().takes_values();
            if command.get_arguments().any(takes_none) {
                match value.as_bool() {
                    Some(true) => all.push(format!("--{key}").into()),
                    Some(false) => {}
                    None => return Err(named(&format!("`{key}` must be true or false")).into()),
                }
                continue;
            }
            let plain = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), Into::into);
            match &value {
                toml::Value::Array(values) => {
                    all.push(format!("--{key}").into());
                    all.extend(values.iter().map(|v| plain(v).into()));
                }
                other => all.push(format!("--{key}={}", plain(other)).into()),
            }
        }
    }
    all.extend_from_slice(&line[1..]);
    let matches = command.get_matches_from(all);
    P::from_arg_matches(&matches).map_err(|e| e.exit())
}

/// Parses the arguments, runs the program, and ends it with an exit status, after a message if it failed.
pub fn start<P: clap::Parser>(run: impl FnOnce(&P) -> Result<ExitCode>) -> ExitCode {
    log();
    match parse::<P>().and_then(|args| run(&args)) {
        Ok(code) => code,
        Err(e) => fail(e.as_ref()),
    }
}

/// Command-line arguments with MAE's underscores: `--max-steps` and `--max_steps` are the same flag. Paths may be no Unicode.
pub fn arguments() -> Vec<OsString> {
    let flag = |a: OsString| match a.to_str().and_then(|s| s.strip_prefix("--")) {
        Some(rest) => {
            let (name, value) = rest.split_at(rest.find('=').unwrap_or(rest.len()));
            format!("--{}{value}", name.replace('-', "_")).into()
        }
        None => a,
    };
    std::env::args_os().map(flag).collect()
}

/// Ends the program without a message when the reader of its output closes the pipe, as in `| head`.
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

/// Calls `f` at most every so many seconds.
pub fn every<T>(seconds: u64, mut f: impl FnMut(T)) -> impl FnMut(T) {
    let mut last = std::time::Instant::now();
    move |v| {
        if last.elapsed().as_secs() >= seconds {
            last = std::time::Instant::now();
            f(v);
        }
    }
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
pub fn device(name: Option<&str>) -> Result<Device> {
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

/// The name of a device, as [`device`] accepts it.
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
