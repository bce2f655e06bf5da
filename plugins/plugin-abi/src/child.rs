//! One process of a plugin, as the daemon holds it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use crate::journal::{Journal, Level};
use crate::limits::LINE_BYTES_MAX;
use crate::supervisor::Mail;
use crate::wire::{self, Say};

/// The program that hosts plugins, and its arguments; the plugin's id is added for lists of
/// processes.
#[derive(Debug, Clone)]
pub struct HostProgram {
    /// The program; it has to call [`host`](crate::host()).
    pub path: PathBuf,
    /// What makes it do so.
    pub arguments: Vec<OsString>,
}

/// A running process. It must be ended by [`Process::kill`].
pub(crate) struct Process {
    child: Child,
    control: UnixStream,
    output: UnixStream,
}

impl Process {
    /// Starts the program with an empty environment, in a process group of its own; two threads
    /// read what it says until its end.
    pub(crate) fn start(
        host: &HostProgram,
        id: &str,
        folder: &Path,
        readers: Readers,
    ) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let (output, their_output) = UnixStream::pair()?;
        let their_errors = their_output.try_clone()?;
        let child = Command::new(&host.path)
            .args(&host.arguments)
            .arg(id)
            .env_clear()
            .current_dir(folder)
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(their_output))
            .stderr(OwnedFd::from(their_errors))
            .process_group(0)
            .spawn()?;
        let process = Self { child, control, output };
        if let Err(error) = process.read_by(readers) {
            process.kill();
            return Err(error);
        }
        Ok(process)
    }

    fn read_by(&self, readers: Readers) -> io::Result<()> {
        let Readers { generation, mail, journal } = readers;
        let (control, output) = (self.control.try_clone()?, self.output.try_clone()?);
        let lines = journal.clone();
        thread::Builder::new()
            .name("plugin-says".into())
            .spawn(move || listen(control, generation, &mail, &journal))?;
        thread::Builder::new().name("plugin-output".into()).spawn(move || copy(output, &lines))?;
        Ok(())
    }

    /// Writes a frame; a process that does not read for so long is an error.
    pub(crate) fn write(&mut self, frame: &[u8], patience: Duration) -> io::Result<()> {
        self.control.set_write_timeout(Some(patience))?;
        self.control.write_all(frame)
    }

    /// Ends the process and all of its group, and says how it ended.
    pub(crate) fn kill(mut self) -> String {
        kill_group(&self.child);
        // Both readers end here, even where a descriptor outlives the process somewhere.
        let _both = self.control.shutdown(Shutdown::Both);
        let _both = self.output.shutdown(Shutdown::Both);
        match self.child.wait() {
            Ok(status) => ending(status),
            Err(error) => format!("its end cannot be told: {error}"),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

fn kill_group(child: &Child) {
    let Ok(group) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: the call touches no memory. The process was not waited for yet, so its number, which
    // is that of its group, is still its own.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Where a process's words go.
pub(crate) struct Readers {
    /// Tells this process's words from those of the ones before.
    pub(crate) generation: u64,
    pub(crate) mail: SyncSender<Mail>,
    pub(crate) journal: Journal,
}

fn listen(control: UnixStream, generation: u64, mail: &SyncSender<Mail>, journal: &Journal) {
    let mut control = BufReader::new(control);
    let why = loop {
        match wire::receive(&mut control) {
            Ok(Some(Say::Log { level, line })) => {
                journal.foreign(Level::from(level), line.as_bytes())
            }
            Ok(Some(say)) => {
                // Nobody listens any more: the plugin is being ended.
                if mail.send(Mail::Said { generation, say }).is_err() {
                    return;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    let _gone = mail.send(Mail::Closed { generation, why });
}

/// Copies what is printed, line by line; a long line comes in parts.
fn copy(output: UnixStream, journal: &Journal) {
    let mut output = BufReader::with_capacity(LINE_BYTES_MAX, output);
    loop {
        let line = match output.fill_buf() {
            Ok([]) => return,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let end = line.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(line.len());
        if length > 0 {
            journal.foreign(Level::Info, &line[..length]);
        }
        let used = end.map_or(length, |end| end + 1);
        output.consume(used);
    }
}
