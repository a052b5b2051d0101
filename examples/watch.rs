//! Serves a page on training runs to the browsers of this machine, or writes it to a file; prints where it is.
//!
//! ```text
//! cargo run --release --example watch -- output_dir
//! ```

use candlelight_cli::watch::Args;
use candlelight_cli::{Result, start};
use candlelight_watch::{Runs, Server};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let runs = Runs::find(&args.output_dirs)?;
    if let Some(file) = &args.report {
        std::fs::write(file, runs.report()).map_err(|e| format!("{}: {e}", file.display()))?;
        println!("{}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let server = Server::bind(args.port, runs)
        .map_err(|e| format!("port {}: {e}; choose another with --port, or 0 for any that is free", args.port))?;
    println!("http://{} (ends with Ctrl-C)", server.address()?);
    server.run();
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
