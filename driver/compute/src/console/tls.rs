//! TLS with client certificates, as `[docker]`'s files ask for.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::options::{ConfigError, TlsFiles};

/// What lets only those in whose certificate an authority of the file has signed.
pub fn acceptor(files: &TlsFiles<'_>) -> Result<TlsAcceptor, ConfigError> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates("ca_file", files.authorities)? {
        authorities.add(certificate).map_err(failure("ca_file", files.authorities))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(authorities)).build();
    let key = PrivateKeyDer::from_pem_file(files.key).map_err(failure("key_file", files.key))?;
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier.map_err(failure("ca_file", files.authorities))?)
        .with_single_cert(certificates("cert_file", files.certificate)?, key)
        .map_err(failure("cert_file", files.certificate))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let failure = failure::<String>(option, path);
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(failure("it holds no certificate".into())),
        Err(e) => Err(failure(e.to_string())),
    }
}

fn failure<E: std::fmt::Display>(option: &'static str, path: &Path) -> impl Fn(E) -> ConfigError {
    move |e| ConfigError::of(format!("[docker] {option}"), format!("{}: {e}", path.display()))
}
