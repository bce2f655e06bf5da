//! TLS on the way in: certificates from files, read again when they change.
//!
//! A renewed certificate needs no restart: before a connection is encrypted, the files' times are
//! looked at, not more often than [`LOOK_AGAIN`]. Where the new ones are not good, the old ones stay.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of one file, at most.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Least time between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The files of an encrypted entrance, PEM all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and what leads from it to its authority.
    pub cert_file: PathBuf,
    /// Its private key, which others may not read.
    pub key_file: PathBuf,
    /// The authorities whose certificates clients must show; `None` asks for none.
    pub client_ca_file: Option<PathBuf>,
}

/// What encrypts, as of the last look at the files.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    states: Vec<FileState>,
    looked: Instant,
}

/// What changes when a file does.
type FileState = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// Errors: a sentence with the file at fault.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, String> {
        // What is written between the two counts as changed.
        let states = files.states();
        let config = files.load()?;
        let current = Mutex::new(Current { config, states, looked: Instant::now() });
        Ok(Self { files, current })
    }

    /// The configuration of a connection that begins now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_AGAIN {
            current.looked = Instant::now();
            self.look(&mut current);
        }
        Arc::clone(&current.config)
    }

    fn look(&self, current: &mut Current) {
        let states = self.files.states();
        if states == current.states {
            return;
        }
        current.states = states;
        match self.files.load() {
            Ok(config) => {
                current.config = config;
                tracing::info!("the TLS certificate was read again");
            }
            // A certificate is often there before its key: the next change is looked at again.
            Err(problem) => tracing::warn!(problem, "the TLS certificate before this one stays"),
        }
    }
}

impl TlsFiles {
    fn states(&self) -> Vec<FileState> {
        let state = |path: &PathBuf| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        let all = [Some(&self.cert_file), Some(&self.key_file), self.client_ca_file.as_ref()];
        all.into_iter().flatten().map(state).collect()
    }

    fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot begin: {error}"))?;
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("http.tls_client_ca_file", path)? {
                    // A bundle may hold certificates of forms that are not read here.
                    let _counted = roots.add(certificate);
                }
                let unusable =
                    |why: String| format!("http.tls_client_ca_file: {}: {why}", path.display());
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| unusable(error.to_string()))?,
                )
            }
        };
        let chain = certificates("http.tls_cert_file", &self.cert_file)?;
        let key = private_key(&self.key_file)?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            format!(
                "http.tls_key_file: {} is not the key of {}: {error}",
                self.key_file.display(),
                self.cert_file.display()
            )
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{key}: {} holds no certificate in PEM", path.display())),
        Err(error) => Err(format!("{key}: {} is not PEM: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let key = "http.tls_key_file";
    let bytes = read(key, path)?;
    check_mode(path).map_err(|problem| format!("{key}: {} {problem}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| format!("{key}: {} holds no private key in PEM", path.display()))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("{key}: cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(cannot)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(format!("{key}: {} is larger than {FILE_BYTES_MAX} bytes", path.display())),
        false => Ok(bytes),
    }
}

/// A group may read it: that is how services share a certificate.
#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|error| format!("has no mode: {error}"))?;
    let mode = metadata.permissions().mode() & 0o7777;
    match mode & 0o027 {
        0 => Ok(()),
        _ => Err(format!("has mode {mode:04o}; others may not read it: chmod 640")),
    }
}

#[cfg(not(unix))]
fn check_mode(_path: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.renew("box");
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            use std::os::unix::fs::PermissionsExt;
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn renew(&self, name: &str) {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
            self.write(&format!("{name}.pem"), &made.cert.pem(), 0o644);
            self.write(&format!("{name}.key"), &made.signing_key.serialize_pem(), 0o640);
        }

        fn files(&self) -> TlsFiles {
            TlsFiles {
                cert_file: self.path("box.pem"),
                key_file: self.path("box.key"),
                client_ca_file: None,
            }
        }

        fn problem(&self, edit: impl Fn(&mut TlsFiles)) -> String {
            let mut files = self.files();
            edit(&mut files);
            let problem = Tls::open(files).expect_err("the files are not good");
            problem.replace(&self.0.path().display().to_string(), "")
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_key() {
        let folder = Folder::new();
        folder.renew("other");
        folder.write("open.key", &fs::read_to_string(folder.path("box.key")).unwrap(), 0o644);
        folder.write("empty", "", 0o600);
        let none = "http.tls_cert_file: cannot read /none: No such file or directory (os error 2)";
        assert_eq!(folder.problem(|f| f.cert_file = folder.path("none")), none);
        let empty = "http.tls_cert_file: /empty holds no certificate in PEM";
        assert_eq!(folder.problem(|f| f.cert_file = folder.path("empty")), empty);
        let open = "http.tls_key_file: /open.key has mode 0644; others may not read it: chmod 640";
        assert_eq!(folder.problem(|f| f.key_file = folder.path("open.key")), open);
        let empty = "http.tls_key_file: /empty holds no private key in PEM";
        assert_eq!(folder.problem(|f| f.key_file = folder.path("empty")), empty);
        let other = folder.problem(|f| f.key_file = folder.path("other.key"));
        assert!(other.starts_with("http.tls_key_file: /other.key is not the key of /box.pem"));
        let ca = folder.problem(|f| f.client_ca_file = Some(folder.path("empty")));
        assert_eq!(ca, "http.tls_client_ca_file: /empty holds no certificate in PEM");
    }

    #[test]
    fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let folder = Folder::new();
        let tls = Tls::open(folder.files()).unwrap();
        let look = || {
            let mut current = tls.current.lock().unwrap();
            tls.look(&mut current);
            Arc::clone(&current.config)
        };
        let first = look();
        assert!(Arc::ptr_eq(&first, &look()), "nothing has changed");
        let (key, pem) = (folder.path("box.key"), folder.path("box.pem"));
        let (old_key, old_pem) = (fs::read(&key).unwrap(), fs::read(&pem).unwrap());
        fs::write(&pem, "half").unwrap();
        assert!(Arc::ptr_eq(&first, &look()), "the broken one is not taken");
        folder.renew("box");
        let second = look();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(fs::read(&key).unwrap() != old_key && fs::read(&pem).unwrap() != old_pem);
        fs::remove_file(&key).unwrap();
        assert!(Arc::ptr_eq(&second, &look()), "nor one that is gone");
    }
}
