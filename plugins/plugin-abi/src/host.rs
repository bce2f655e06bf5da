//! The process around one plugin: reads what the daemon asks, calls the plugin, says what came.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::loaded::Loaded;
use crate::wire::{self, Ask, PROTOCOL, Say, Start};
use crate::{confine, offers};

/// The process of a plugin cannot do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Somebody else than the daemon started it.
    #[error("plugin-host is what zonda starts for each of its plugins; it is of no use by itself")]
    NotByDaemon,
    /// The process cannot be confined.
    #[error("the plugin's process cannot be confined: {0}")]
    Confine(io::Error),
    /// The daemon says what this program does not understand, or is gone.
    #[error("the daemon's end of the wire: {0}")]
    Wire(#[from] io::Error),
}

/// Hosts the plugin that the daemon names over standard input, until the daemon ends it.
///
/// Threads: to be called first in a process: it closes every descriptor but the first three, and
/// limits the process for good.
pub fn host() -> Result<(), HostError> {
    let control = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let control = control.map_err(|_| HostError::NotByDaemon)?;
    if control.peer_addr().is_err() {
        return Err(HostError::NotByDaemon);
    }
    drop(control);
    confine::close_inherited().map_err(HostError::Confine)?;
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    confine::empty_stdin().map_err(HostError::Confine)?;
    let Some(Ask::Start(start)) = wire::receive(&mut control)? else {
        return Err(HostError::NotByDaemon);
    };
    offers::open(control.try_clone()?, start.kept.clone());
    match begin(&start) {
        Ok(plugin) => serve(&mut control, plugin),
        Err(why) => Ok(offers::say(&Say::Refused(why))?),
    }
}

fn begin(start: &Start) -> Result<Loaded, String> {
    if start.protocol != PROTOCOL {
        return Err(format!(
            "the daemon speaks version {} of the wire, this program {PROTOCOL}: it was replaced \
             while the daemon ran; restart the daemon",
            start.protocol
        ));
    }
    confine::give_up(start.memory_bytes)
        .map_err(|error| format!("the process cannot be confined: {error}"))?;
    let plugin = Loaded::load(start)?;
    let ready = plugin.ready()?;
    offers::say(&Say::Ready(ready)).map_err(|error| error.to_string())?;
    Ok(plugin)
}

fn serve(control: &mut UnixStream, plugin: Loaded) -> Result<(), HostError> {
    loop {
        let said = match wire::receive(control)? {
            Some(Ask::Tool { index, arguments }) => plugin.call(index, &arguments).map(Say::Result),
            Some(Ask::Judge { is_final, texts }) => {
                plugin.judge(is_final, &texts).map(Say::Verdict)
            }
            Some(Ask::Observe { observations, dropped }) => {
                plugin.observe(&observations, dropped).map(|()| Say::Observed)
            }
            Some(Ask::Start(_)) => Err("a second start".into()),
            Some(Ask::Stop) | None => break,
        };
        offers::say(&said.unwrap_or_else(Say::Broke))?;
    }
    plugin.end();
    Ok(())
}
