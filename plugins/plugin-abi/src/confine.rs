//! What a plugin's process gives up before foreign code runs in it.

use std::io;

/// Closes every descriptor but the first three, which are the daemon's.
///
/// Threads: only where nothing of this process has opened one yet.
#[cfg(target_os = "linux")]
pub(crate) fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the process has just begun: no descriptor above the first three belongs to any value
    // of this program, and the call touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    check(result as libc::c_int)
}

/// Puts `/dev/null` in the place of standard input.
#[cfg(target_os = "linux")]
pub(crate) fn empty_stdin() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both descriptors are open; replacing standard input invalidates no value, because
    // it is only ever used by its number.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) })
}

/// Limits memory and descriptors, leaves no core file, gains no rights, and dies with the daemon.
///
/// `memory_bytes` is what may be mapped beyond what the program has mapped already.
#[cfg(target_os = "linux")]
pub(crate) fn give_up(memory_bytes: u64) -> io::Result<()> {
    let mapped = mapped_bytes()?;
    limit(libc::RLIMIT_AS, mapped.saturating_add(memory_bytes))?;
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_NOFILE, crate::limits::DESCRIPTORS_MAX)?;
    // SAFETY: these options take numbers and touch no memory.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

#[cfg(target_os = "linux")]
fn limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure lives through the call, which only reads it.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

#[cfg(target_os = "linux")]
fn mapped_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let kibibytes = kibibytes.ok_or_else(|| io::Error::other("/proc/self/status has no VmSize"))?;
    Ok(kibibytes.saturating_mul(1024))
}

#[cfg(target_os = "linux")]
fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::*;

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;

    pub(crate) fn close_inherited() -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "plugins are confined on Linux alone"))
    }

    pub(crate) fn empty_stdin() -> io::Result<()> {
        close_inherited()
    }

    pub(crate) fn give_up(_memory_bytes: u64) -> io::Result<()> {
        close_inherited()
    }
}
