//! TLS with client certificates, as `[docker]`'s files ask for.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::options::TlsFiles;

/// What lets only those in whose certificate an authority of the file has signed.
pub fn acceptor(files: &TlsFiles<'_>) -> Result<TlsAcceptor, String> {
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

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failure = failure(option, path);
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("[docker] {option} {}: it holds no certificate", path.display())),
        Err(e) => Err(failure(e)),
    }
}

fn failure<E: std::fmt::Display>(option: &'static str, path: &Path) -> impl Fn(E) -> String {
    move |e| format!("[docker] {option} {}: {e}", path.display())
}
