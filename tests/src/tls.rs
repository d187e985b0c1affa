//! A certificate for `localhost`, and the authority that signed it.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// An authority that nobody knows but the test.
pub struct Authority {
    folder: TempDir,
}

const MAKE: &str = "
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \
  -subj /CN=test-authority
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
echo subjectAltName=DNS:localhost >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem
";

impl Authority {
    /// Makes one, and a certificate of `localhost`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-ec", MAKE]).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { folder }
    }

    /// The authority's own certificate.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// socat's address of a TLS listener that shows the certificate.
    pub fn listen(&self, port: u16) -> String {
        let at = self.folder.path().display();
        format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={at}/cert.pem,key={at}/key.pem")
    }
}
