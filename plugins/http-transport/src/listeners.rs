//! Where connections come from: an address, a socket in the file system, or both.

use std::fs;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Its owner and its group may open the socket.
const SOCKET_MODE: u32 = 0o660;

/// Bound, and not yet listened to.
#[derive(Debug)]
pub(crate) struct Bound {
    tcp: Option<StdTcpListener>,
    socket: Option<(StdUnixListener, SocketFile)>,
}

/// Open entrances.
pub(crate) struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    _file: Option<SocketFile>,
}

/// A connection that has just come.
pub(crate) enum Arrival {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// The name of a socket, gone when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Bound {
    /// Takes what is named; connections queue from now on.
    ///
    /// Errors: what cannot be taken, with its name.
    pub(crate) fn new(
        address: Option<SocketAddr>,
        socket: Option<&Path>,
    ) -> Result<Self, (String, io::Error)> {
        let tcp = address.map(|address| {
            let listener = StdTcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let named =
            |error| (address.map_or_else(String::new, |address| address.to_string()), error);
        let tcp = tcp.transpose().map_err(named)?;
        let socket = socket.map(|path| {
            bind_socket(path).map_err(|error| (format!("unix:{}", path.display()), error))
        });
        Ok(Self { tcp, socket: socket.transpose()? })
    }

    /// The address with the port that was found.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Threads: within a runtime.
    pub(crate) fn listen(self) -> io::Result<Listeners> {
        let (unix, file) = self.socket.unzip();
        Ok(Listeners {
            tcp: self.tcp.map(TcpListener::from_std).transpose()?,
            unix: unix.map(UnixListener::from_std).transpose()?,
            _file: file,
        })
    }
}

impl Listeners {
    /// The next connection of any entrance.
    pub(crate) async fn next(&self) -> io::Result<Arrival> {
        tokio::select! {
            arrived = accept_tcp(self.tcp.as_ref()) => arrived,
            arrived = accept_unix(self.unix.as_ref()) => arrived,
        }
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<Arrival> {
    match listener {
        Some(listener) => {
            let (stream, address) = listener.accept().await?;
            Ok(Arrival::Tcp(stream, address.ip()))
        }
        None => pending().await,
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<Arrival> {
    match listener {
        Some(listener) => Ok(Arrival::Unix(listener.accept().await?.0)),
        None => pending().await,
    }
}

/// Binds it, in the place of one that nobody answers at any more.
fn bind_socket(path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
        if !metadata.file_type().is_socket() {
            return taken("a file that is no socket has this name");
        }
        match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
            }
            // One that we may not open, or whose queue is full, is somebody's too.
            _ => return taken("another program listens there"),
        }
    }
    let listener = StdUnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another program may have put its own there meanwhile.
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|data| data.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket's name stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_groups_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let bound = Bound::new(None, Some(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let (named, error) = Bound::new(None, Some(&path)).unwrap_err();
        assert_eq!(named, format!("unix:{}", path.display()));
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        // As a program that was killed leaves it.
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = Bound::new(None, Some(&path)).unwrap();
        assert!(StdUnixStream::connect(&path).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(bound);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(Bound::new(None, Some(&path)).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
