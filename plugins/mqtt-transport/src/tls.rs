//! TLS to the broker: certificates from files, and what went wrong in words for the operator.
//!
//! Only what the configuration names is trusted: the certificates of the platform are taken where
//! `ca_file` names their bundle.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// Bytes of one file, at most: the bundles of platforms have a few hundred KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files of a connection over TLS, PEM all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whose signature makes a broker's certificate good. TLS does not begin without it.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and what leads from it to its CA, for brokers that want one.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`; only its owner may read it.
    pub key_file: Option<PathBuf>,
}

/// What is wrong with a file, in one sentence.
#[derive(Debug)]
pub(crate) struct TlsTrouble(String);

impl fmt::Display for TlsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TlsFiles {
    /// Whether any file is named.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the files anew: they may have been renewed since the last connection.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, TlsTrouble> {
        let Some(ca_file) = &self.ca_file else {
            return trouble(
                "mqtts:// needs mqtt.ca_file, the CA that signed the broker's certificate; the \
                 platform's own are in a bundle such as /etc/ssl/certs/ca-certificates.crt",
            );
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates("mqtt.ca_file", ca_file)? {
            // A bundle may hold certificates of forms that are not read here; the rest counts.
            let _counted = roots.add(certificate);
        }
        if roots.is_empty() {
            return trouble(format!("mqtt.ca_file: {} holds no readable CA", ca_file.display()));
        }
        let roots = Arc::new(roots);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsTrouble(format!("TLS cannot begin: {error}")))?
            .with_root_certificates(Arc::clone(&roots));
        let config = match (&self.cert_file, &self.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert_file), Some(key_file)) => {
                let chain = certificates("mqtt.cert_file", cert_file)?;
                refuse_expired(cert_file, &chain, roots, provider)?;
                let key = private_key(key_file)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    TlsTrouble(format!(
                        "mqtt.key_file: {} is not the key of {}: {error}",
                        key_file.display(),
                        cert_file.display(),
                    ))
                })?
            }
            _ => return trouble("mqtt.cert_file and mqtt.key_file belong together: name both"),
        };
        Ok(Arc::new(config))
    }
}

/// What a broken connection has to say about TLS; `None` when it broke for another reason.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::Error as Tls;
    let text = match tls_error(error)? {
        Tls::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "the broker's certificate is not signed by a CA of mqtt.ca_file".into()
            }
            CertificateError::NotValidForName => {
                "the broker's certificate is for another name than the host of mqtt.url".into()
            }
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "the broker's certificate is not for the host of mqtt.url: it is for {}",
                presented.join(", "),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the broker's certificate has expired, or this box's clock is wrong".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the broker's certificate is not valid yet: is this box's clock right?".into()
            }
            other => format!("the broker's certificate is not good: {other}"),
        },
        Tls::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure),
        ) => format!(
            "the broker does not take our certificate ({alert:?}): check mqtt.cert_file and \
             mqtt.key_file",
        ),
        Tls::InvalidMessage(_) => "the broker speaks no TLS on this port".into(),
        other => format!("TLS: {other}"),
    };
    Some(text)
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error tells the source of what it wraps, and not the thing itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| wrapped.and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>()));
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsTrouble> {
    let text = read(key, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => trouble(format!(
            "{key}: {} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
            path.display(),
        )),
        Err(error) => trouble(format!("{key}: {} is damaged: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsTrouble> {
    const KEY: &str = "mqtt.key_file";
    refuse_foreign_readers(path)?;
    let text = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        TlsTrouble(match error {
            pem::Error::NoItemsFound => format!(
                "{KEY}: {} holds no private key in PEM; an encrypted one cannot be read",
                path.display(),
            ),
            error => format!("{KEY}: {} is damaged: {error}", path.display()),
        })
    })
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, TlsTrouble> {
    let unreadable =
        |error: io::Error| TlsTrouble(format!("{key}: cannot read {}: {error}", path.display()));
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return trouble(format!(
            "{key}: {} has {bytes} bytes, the limit is {FILE_BYTES_MAX}",
            path.display(),
        ));
    }
    std::fs::read(path).map_err(unreadable)
}

#[cfg(unix)]
fn refuse_foreign_readers(path: &Path) -> Result<(), TlsTrouble> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        return trouble(format!(
            "mqtt.key_file: {} has mode {mode:04o}; only its owner may read it: chmod 600",
            path.display(),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_foreign_readers(_: &Path) -> Result<(), TlsTrouble> {
    Ok(())
}

/// A certificate that no broker takes any more is told at the start. One that is not valid yet is
/// left to the broker: a box without a clock of its own begins in 1970.
fn refuse_expired(
    path: &Path,
    chain: &[CertificateDer<'static>],
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<(), TlsTrouble> {
    let Ok(judge) = WebPkiClientVerifier::builder_with_provider(roots, provider).build() else {
        return Ok(());
    };
    let Some((own, between)) = chain.split_first() else { return Ok(()) };
    // Its CA may well be another than the broker's; dates are judged before that.
    match judge.verify_client_cert(own, between, UnixTime::now()) {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => trouble(format!("mqtt.cert_file: {} has expired: renew it", path.display())),
        _ => Ok(()),
    }
}

fn trouble<T>(text: impl Into<String>) -> Result<T, TlsTrouble> {
    Err(TlsTrouble(text.into()))
}
