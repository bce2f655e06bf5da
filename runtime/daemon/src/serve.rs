//! `zonda serve`: the model loads, the entrances open, and a signal closes them again.

use std::io::Write;
use std::thread::JoinHandle;
use std::time::Duration;

use firmware_config::Profile;
use protocol::{Stop, StopHandle, TransportError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::assemble::House;
use crate::detecting::Detecting;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;
use crate::plugins::{self, Entrance};
use crate::sensing::Sensing;

/// What the engine is given to finish after the entrances have closed.
const ENGINE_DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// Writes one line to `output` when every entrance is open.
pub(crate) fn serve(
    profile: &Profile,
    model: &ModelFiles,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let signals = Signals::new([SIGTERM, SIGINT])?;
    // Addresses are taken before the load, which may be long: a taken port shows at once.
    let mut sensing = Sensing::new(profile);
    let entrances = plugins::entrances(profile, &mut sensing)?;
    let mut progress = crate::progress::bar("loading");
    let house = House::build_telling(profile, model, sensing.news(), &mut progress)?;
    let addresses: Vec<String> =
        entrances.iter().map(|(name, entrance)| format!("{name}={}", entrance.address)).collect();
    let detecting = Detecting::start(&sensing, &house, profile)?;
    let (stop_handle, stop) = Stop::pair();
    let running = start(&house, entrances, &stop)?;
    writeln!(
        output,
        "zonda ready: model={} encoding={} device={} {}",
        house.card().id,
        house.card().encoding,
        house.device(),
        addresses.join(" ")
    )?;
    output.flush()?;
    let outcome = wait(signals, stop_handle, running);
    house.shutdown(ENGINE_DRAIN);
    // Behind the engine, which ends the answer that it may wait for.
    drop(detecting);
    outcome
}

/// One thread for each entrance; each reports its end.
struct Running {
    threads: Vec<JoinHandle<()>>,
    ends: flume::Receiver<(&'static str, Result<(), TransportError>)>,
}

fn start(
    house: &House,
    entrances: Vec<(&'static str, Entrance)>,
    stop: &Stop,
) -> Result<Running, AssembleError> {
    let (report, ends) = flume::bounded(entrances.len().max(1));
    let mut threads = Vec::new();
    for (name, entrance) in entrances {
        let (service, stop, report) = (house.service(), stop.clone(), report.clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let Entrance { transport, broker, .. } = entrance;
            let end = transport.serve(service, stop);
            drop(broker);
            // The receiver waits for every report, so this cannot fail while it matters.
            let _sent = report.send((name, end));
        })?;
        threads.push(thread);
    }
    Ok(Running { threads, ends })
}

/// Waits for a signal, or for the first entrance that breaks, and closes all of them.
fn wait(
    mut signals: Signals,
    stop_handle: StopHandle,
    running: Running,
) -> Result<(), AssembleError> {
    let signal_handle = signals.handle();
    let (told, signal) = flume::bounded(1);
    let waiter = std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(number) = signals.forever().next() {
            let _sent = told.send(number);
        }
    })?;
    let mut broken =
        flume::Selector::new().recv(&signal, |_| None).recv(&running.ends, |end| end.ok()).wait();
    match &broken {
        Some((name, Err(error))) => tracing::error!(transport = name, %error, "an entrance broke"),
        Some((name, Ok(()))) => tracing::error!(transport = name, "an entrance closed by itself"),
        None => tracing::info!("stopping: running answers may end"),
    }
    stop_handle.raise();
    signal_handle.close();
    for thread in running.threads {
        if thread.join().is_err() {
            tracing::error!("the thread of an entrance panicked");
        }
    }
    let _ended = waiter.join();
    broken = broken.or_else(|| running.ends.drain().find(|(_, end)| end.is_err()));
    match broken {
        None => Ok(()),
        Some((_, Err(error))) => Err(error.into()),
        Some((name, Ok(()))) => {
            Err(AssembleError::Input { message: format!("{name} closed by itself") })
        }
    }
}
