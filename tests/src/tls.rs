//! TLS before a service that has none, with a certificate for `localhost` from an authority of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::registry::free_port;
use crate::{Process, wait_for_port};

const MAKE: &str = "
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \
  -subj /CN=test-authority
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
echo subjectAltName=DNS:localhost >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem
";

/// A TLS listener that passes on to a service.
pub struct Front {
    port: u16,
    folder: TempDir,
    _process: Process,
}

impl Front {
    /// Starts one before the service at `address`.
    pub fn before(address: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-ec", MAKE]).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let listen =
            format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert=cert.pem,key=key.pem");
        let mut socat = Command::new("socat");
        socat.arg(listen).arg(format!("TCP:{address}")).current_dir(folder.path()).stderr(Stdio::null());
        let process = Process::start(&mut socat);
        wait_for_port(port);
        Self { port, folder, _process: process }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The certificate of its authority.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}
