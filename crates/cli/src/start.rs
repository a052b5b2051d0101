//! From the command line to the exit status: arguments, configuration files, logging, error messages.

use crate::config;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// The result type of programs: any error, which [`start`] prints.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The arguments of a program with `--config FILE`: the file's entries as flags, then the command line, which overrides them.
///
/// # Errors
/// When the file cannot be read, or has an entry that is no flag.
pub fn parse<P: clap::Parser>() -> Result<P> {
    let command = P::command().args_override_self(true);
    let line = arguments(&command);
    let mut all = line[..1].to_vec();
    // A program whose file is more than flags reads it itself, and calls the argument otherwise.
    let own = command.get_arguments().any(|a| a.get_long() == Some("config") && a.get_id() == "config");
    let short = command.get_arguments().any(|a| a.get_long() == Some("config") && a.get_short() == Some('c'));
    let file = line.iter().enumerate().find_map(|(i, a)| {
        if a == "--config" || (short && a == "-c") {
            return line.get(i + 1).cloned();
        }
        let a = a.to_str()?;
        let joined = || a.strip_prefix("-c").filter(|_| short).map(|p| p.strip_prefix('=').unwrap_or(p));
        a.strip_prefix("--config=").or_else(joined).map(OsString::from)
    });
    if let (Some(path), true) = (file, own) {
        all.extend(config::flags(&PathBuf::from(&path), &command)?);
        // A list at the file's end must not go on with the first argument of the line.
        let mut end = OsString::from("--config=");
        end.push(path);
        all.push(end);
    }
    all.extend_from_slice(&line[1..]);
    let matches = command.get_matches_from(all);
    P::from_arg_matches(&matches).map_err(|e| e.exit())
}

/// Parses the arguments, runs the program, and ends it with an exit status, after a message if it failed. Memory that is freed is kept for
/// the next step.
pub fn start<P: clap::Parser>(run: impl FnOnce(&P) -> Result<ExitCode>) -> ExitCode {
    candlelight_kernels::mem::keep_freed_memory();
    log();
    match parse::<P>().and_then(|args| run(&args)) {
        Ok(code) => code,
        Err(e) if matches!(e.downcast_ref(), Some(candlelight_engine::Error::Interrupted)) => {
            println!(
                "stopped by a signal, before there was anything to save; what was computed so far is in its files"
            );
            ExitCode::from(130)
        }
        Err(e) => {
            let code = fail(e.as_ref());
            for flag in flags_of(&e.to_string(), &P::command()) {
                eprintln!("  the flag is {flag}");
            }
            code
        }
    }
}

/// The flags for settings that the error of a library names: the library knows its field `max_pixels`, and not the program's flag.
fn flags_of(text: &str, command: &clap::Command) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    let known = words.filter(|w| command.get_arguments().any(|a| a.get_long() == Some(w)));
    let mut flags: Vec<String> = known.map(|w| format!("--{w}")).filter(|f| !text.contains(f.as_str())).collect();
    flags.dedup();
    flags
}

/// Command-line arguments with MAE's underscores: `--max-steps` and `--max_steps` are the same flag, and so are timm's `-vb` and `--vb`. Paths
/// may be no Unicode.
fn arguments(command: &clap::Command) -> Vec<OsString> {
    let known =
        |name: &str| command.get_arguments().any(|a| a.get_all_aliases().is_some_and(|all| all.contains(&name)));
    let flag = |a: OsString| match a.to_str().and_then(|s| s.strip_prefix("--")) {
        Some(rest) => {
            let (name, value) = rest.split_at(rest.find('=').unwrap_or(rest.len()));
            format!("--{}{value}", name.replace('-', "_")).into()
        }
        None => match a.to_str().and_then(|s| s.strip_prefix('-')) {
            Some(name) if name.len() > 1 && known(name) => format!("--{name}").into(),
            _ => a,
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser, Debug)]
    #[command(rename_all = "snake_case")]
    struct Args {
        #[arg(long, num_args = 1.., action = clap::ArgAction::Set)]
        mean: Option<Vec<f32>>,
    }

    #[test]
    fn flags_are_found_for_the_settings_of_libraries() {
        assert_eq!(flags_of("set `mean` to 3; `cat` is no class", &Args::command()), ["--mean"]);
        assert!(flags_of("`mean`: give --mean", &Args::command()).is_empty());
    }
}
