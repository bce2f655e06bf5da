//! From the command line's words to an exit code.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use firmware_config::{Loaded, Override};

use crate::assemble::load_profile;
use crate::cli::{
    Cli, Command, ConfigCommand, Demo, KeyCommand, ModelCommand, MqttCommand, Setup, ToolCommand,
};
use crate::error::{AssembleError, AssembleKind};
use crate::model_files::ModelFiles;
use crate::{
    approve, bench, demo, devices, doctor, encode, foreign, inspect, key, logits, prepare,
    run as answers, serve,
};

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
    keep_panics_quiet();
    foreign::this_is_the_program();
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

/// A panic's message may quote a prompt: its place alone is printed.
fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        match panic.location() {
            Some(place) => eprintln!("zonda: thread {name} panicked at {place}"),
            None => eprintln!("zonda: thread {name} panicked"),
        }
    }));
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
            log_to_stderr(&loaded.profile.log.level, &loaded);
            serve::serve(&loaded.profile, &model(&loaded), stdout)
        }
        Command::Run(arguments) => {
            let loaded = configure(&arguments.setup)?;
            answers::run(&loaded.profile, &model(&loaded), &arguments, stdout)
        }
        Command::Chat(arguments) => {
            let loaded = configure(&arguments.setup)?;
            let model = model(&loaded);
            answers::chat(&loaded.profile, &model, &arguments, &mut stdin(), stdout)
        }
        Command::Demo(arguments) => demonstrate(&arguments, &mut stdin(), stdout),
        Command::Encode(arguments) => {
            encode::encode(&arguments.tokenizer, &arguments.version, &mut stdin(), stdout)
        }
        Command::Logits(arguments) => {
            let loaded = configure(&arguments.setup)?;
            logits::logits(&loaded.profile, &model(&loaded), &mut stdin(), stdout)
        }
        Command::Bench(arguments) => {
            let loaded = configure(&arguments.setup)?;
            let files = match arguments.size {
                Some(size) => ModelFiles::Synthetic(size, arguments.encoding),
                None => model(&loaded),
            };
            bench::bench(&loaded.profile, &files, &arguments, stdout)
        }
        Command::Model(ModelCommand::Inspect { path, json, tensors }) => {
            inspect::inspect(&ModelFiles::from(path), json, tensors, stdout)
        }
        Command::Model(ModelCommand::Prepare { model, output, force }) => {
            prepare::prepare(&model, &output, force, stdout)
        }
        Command::Config(command) => config(command, stdout),
        Command::Mqtt(MqttCommand::Acl { setup, drop_in }) => {
            let loaded = configure(&setup)?;
            write!(stdout, "{}", crate::plugins::broker_rules(&loaded.profile, drop_in))?;
            Ok(())
        }
        Command::Tool(ToolCommand::List { setup }) => {
            approve::list(&configure(&setup)?.profile, stdout)
        }
        Command::Tool(ToolCommand::Approve { server, tools, setup }) => {
            approve::approve(&configure(&setup)?.profile, &server, &tools, stdout)
        }
        Command::Key(KeyCommand::New { name }) => key::new(&name, &mut std::io::stderr(), stdout),
        Command::Devices(arguments) => devices::print(arguments.json, stdout),
        Command::Doctor => doctor::doctor(stdout),
        Command::Plugin(command) => {
            let loaded = configure(command.setup())?;
            foreign::command(&loaded.profile, &command, stdout)
        }
        Command::PluginHost { .. } => foreign::host(),
    }
}

fn demonstrate(
    arguments: &Demo,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let loaded = configure(&arguments.setup)?;
    demo::demo(&loaded.profile, &model(&loaded), &arguments.sentences, input, output)
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
                writeln!(stdout, "{}", profile.id)?;
            }
        }
    }
    Ok(())
}

fn configure(setup: &Setup) -> Result<Loaded, AssembleError> {
    let loaded = load(setup, overrides(setup)?)?;
    // The answer is what a person waits for at the terminal; only trouble stands beside it.
    log_to_stderr("warn", &loaded);
    Ok(loaded)
}

fn load(setup: &Setup, overrides: Vec<Override>) -> Result<Loaded, AssembleError> {
    load_profile(setup.config.as_deref(), setup.profile.as_deref(), overrides)
}

fn log_to_stderr(level: &str, loaded: &Loaded) {
    // The embedded broker's library tells of every connection at info; that of the tools' servers
    // tells of what they say at every level.
    let broker = if level == "info" { ",mqtt5=warn" } else { "" };
    let directives = format!("{level}{broker},rmcp=off");
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(directives);
    // A second call in one process keeps the first subscriber.
    let _kept = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .try_init();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

fn model(loaded: &Loaded) -> ModelFiles {
    let files = ModelFiles::from(loaded.profile.model.path.clone());
    if files == ModelFiles::Embedded {
        eprintln!(
            "zonda: no model given: the small one in the program answers, which calls the tools of a \
             request and knows little else; --model PATH loads another"
        );
    }
    files
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
