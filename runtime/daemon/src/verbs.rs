//! From the command line's words to an exit code.

use std::ffi::OsString;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use firmware_config::{Loaded, Override};

use crate::assemble::{AssembleError, AssembleKind, load_profile};
use crate::cli::{Cli, Command, ConfigCommand, ModelCommand, Setup};
use crate::{bench, devices, encode, inspect, logits, run as answers, serve};

/// Exit codes of sysexits.h that scripts and service files rely on.
const EXIT_DATA: u8 = 65;
const EXIT_CONFIGURATION: u8 = 78;
const EXIT_OTHER: u8 = 1;

/// Runs the command line and gives the exit code: 0 done, 2 usage, 65 bad model or data,
/// 78 bad configuration, 1 anything else.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // clap knows whether this is an error (2) or a wish for help (0).
        Err(error) => error.exit(),
    };
    let mut stdout = std::io::stdout();
    match dispatch(cli.command, &mut stdout) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe that had enough is no failure of ours.
        Err(AssembleError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("zonda: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &AssembleError) -> u8 {
    match (error, error.kind()) {
        (AssembleError::Fault(fault), _) if (400..500).contains(&fault.code.status()) => EXIT_DATA,
        (_, AssembleKind::Configuration | AssembleKind::Device) => EXIT_CONFIGURATION,
        (_, AssembleKind::Model | AssembleKind::Memory) => EXIT_DATA,
        (_, AssembleKind::Other) => EXIT_OTHER,
    }
}

fn dispatch(command: Command, stdout: &mut dyn Write) -> Result<(), AssembleError> {
    let stdin = || BufReader::new(std::io::stdin());
    match command {
        Command::Serve(arguments) => {
            let mut overrides = overrides(&arguments.setup)?;
            if let Some(address) = arguments.http {
                overrides.push(set("http.address", address.to_string(), "--http"));
            }
            if let Some(url) = &arguments.mqtt {
                overrides.push(set("mqtt.url", url.clone(), "--mqtt"));
            }
            let loaded = load(&arguments.setup, overrides)?;
            serve::serve(&loaded.profile, &model(&loaded)?, stdout)
        }
        Command::Run(arguments) => {
            let loaded = configure(&arguments.setup)?;
            answers::run(&loaded.profile, &model(&loaded)?, &arguments, stdout)
        }
        Command::Chat(arguments) => {
            let loaded = configure(&arguments.setup)?;
            let model = model(&loaded)?;
            answers::chat(&loaded.profile, &model, &arguments, &mut stdin(), stdout)
        }
        Command::Encode(arguments) => {
            encode::encode(&arguments.tokenizer, &arguments.version, &mut stdin(), stdout)
        }
        Command::Logits(arguments) => {
            let loaded = configure(&arguments.setup)?;
            logits::logits(&loaded.profile, &model(&loaded)?, &mut stdin(), stdout)
        }
        Command::Bench(arguments) => {
            let loaded = configure(&arguments.setup)?;
            bench::bench(&loaded.profile, &model(&loaded)?, &arguments, stdout)
        }
        Command::Model(ModelCommand::Inspect { path, json, tensors }) => {
            inspect::inspect(&path, json, tensors, stdout)
        }
        Command::Config(command) => config(command, stdout),
        Command::Devices(arguments) => devices::print(arguments.json, stdout),
    }
}

fn config(command: ConfigCommand, stdout: &mut dyn Write) -> Result<(), AssembleError> {
    match command {
        ConfigCommand::Check { setup } => {
            let loaded = configure(&setup)?;
            crate::plugins::check(&loaded.profile)?;
            writeln!(stdout, "configuration is good: profile {}", loaded.profile.id)?;
        }
        ConfigCommand::Dump { setup } => {
            for setting in configure(&setup)?.settings {
                let value = setting.value.unwrap_or_default();
                writeln!(stdout, "{:<32} {value:<32} # {}", setting.key, setting.origin)?;
            }
        }
        ConfigCommand::Profiles => {
            for profile in firmware_config::profiles() {
                writeln!(stdout, "{}", profile.id())?;
            }
        }
    }
    Ok(())
}

fn configure(setup: &Setup) -> Result<Loaded, AssembleError> {
    load(setup, overrides(setup)?)
}

fn load(setup: &Setup, overrides: Vec<Override>) -> Result<Loaded, AssembleError> {
    let loaded = load_profile(setup.config.as_deref(), setup.profile.as_deref(), overrides)?;
    log_to_stderr(&loaded.profile.log.level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

fn log_to_stderr(level: &str) {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(level);
    // A second call in one process keeps the first subscriber.
    let _kept = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .try_init();
}

fn model(loaded: &Loaded) -> Result<PathBuf, AssembleError> {
    loaded.profile.model.path.clone().ok_or_else(|| AssembleError::Configuration {
        message: "no model: give --model PATH, or set path in [model]".into(),
    })
}

fn set(key: &str, value: String, flag: &str) -> Override {
    Override { key: key.into(), value, flag: flag.into() }
}

fn overrides(setup: &Setup) -> Result<Vec<Override>, AssembleError> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut overrides = Vec::new();
    for pair in &setup.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| AssembleError::Configuration {
            message: format!("--set {pair}: write it as section.key=value"),
        })?;
        overrides.push(set(key, value.to_owned(), "--set"));
    }
    let flags = [
        ("model.path", setup.model.as_deref().map(path), "--model"),
        ("device.backend", setup.backend.clone(), "--backend"),
        ("device.threads", setup.threads.map(|count| count.to_string()), "--threads"),
    ];
    for (key, value, flag) in flags {
        if let Some(value) = value {
            overrides.push(set(key, value, flag));
        }
    }
    Ok(overrides)
}
