//! A file descriptor that is readable for as long as it is raised.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What is written and read: an eventfd wants eight bytes, a pipe takes them whole.
const TOKEN: [u8; 8] = 1u64.to_ne_bytes();

/// A descriptor for the host's poll loop. The host polls it and neither reads, writes nor closes it.
#[derive(Debug)]
pub(crate) struct Signal {
    reader: File,
    /// `None` where one descriptor is both ends.
    writer: Option<File>,
    is_raised: bool,
}

impl Signal {
    /// A lowered signal: an eventfd where the system has one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the flags are of this call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made it, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { reader: File::from(fd), writer: None, is_raised: false })
    }

    /// A lowered signal: the ends of a pipe.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn new() -> io::Result<Self> {
        Self::pipe()
    }

    #[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
    fn pipe() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            // A host that reads it against the rule must not make the library wait.
            // SAFETY: a live descriptor and no pointers.
            if unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let reader = File::from(OwnedFd::from(reader));
        let writer = Some(File::from(OwnedFd::from(writer)));
        Ok(Self { reader, writer, is_raised: false })
    }

    /// The descriptor to poll; it lives as long as this.
    pub(crate) fn fd(&self) -> i32 {
        self.reader.as_raw_fd()
    }

    /// Makes it readable, or not.
    pub(crate) fn set(&mut self, raised: bool) {
        if self.is_raised == raised {
            return;
        }
        self.is_raised = raised;
        // Both ends are ours and hold one token at most, so neither call can wait or fail.
        let _done = if raised {
            self.writer.as_ref().unwrap_or(&self.reader).write(&TOKEN)
        } else {
            (&self.reader).read(&mut [0; 8])
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(signal: &Signal) -> bool {
        let mut polled = libc::pollfd { fd: signal.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live struct, as counted.
        let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
        ready == 1 && polled.revents & libc::POLLIN != 0
    }

    #[test]
    fn it_is_readable_while_it_is_raised() {
        for mut signal in [Signal::new().unwrap(), Signal::pipe().unwrap()] {
            assert!(!is_readable(&signal));
            for _ in 0..3 {
                signal.set(true);
                signal.set(true);
                assert!(is_readable(&signal));
                signal.set(false);
                signal.set(false);
                assert!(!is_readable(&signal));
            }
        }
    }

    #[test]
    fn a_host_that_reads_it_stops_nothing() {
        for mut signal in [Signal::new().unwrap(), Signal::pipe().unwrap()] {
            signal.set(true);
            assert_eq!((&signal.reader).read(&mut [0; 8]).unwrap(), 8);
            signal.set(false);
            signal.set(true);
            assert!(is_readable(&signal));
        }
    }
}
