//! Registries of a test's own, and images to put there.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::said::Said;
use crate::{Process, devstack, python, wait_for_port};

/// A registry process on loopback.
pub struct Registry {
    port: u16,
    folder: TempDir,
    _process: Process,
}

/// The one user of a registry that asks for credentials.
pub struct User {
    /// The name.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
}

impl Registry {
    /// Starts a registry on a port; where there is a user, only that user may read.
    pub fn start(port: u16, user: Option<&User>) -> Self {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "port {port} is taken");
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let auth = user.map_or(String::new(), |user| {
            let script = "import bcrypt, sys; print(sys.argv[1] + ':' + bcrypt.hashpw(sys.argv[2].encode(), bcrypt.gensalt(4)).decode())";
            let line = run(Command::new(python()).args(["-c", script, user.name, user.password]));
            fs::write(at.join("htpasswd"), line).unwrap();
            format!("auth:\n  htpasswd: {{ realm: test, path: {}/htpasswd }}\n", at.display())
        });
        let configuration = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {}/data }}\n\
             http: {{ addr: '127.0.0.1:{port}' }}\n\
             validation: {{ manifests: {{ urls: {{ allow: ['^https://'] }} }} }}\n{auth}",
            at.display()
        );
        fs::write(at.join("registry.yml"), configuration).unwrap();
        let log = File::create(at.join("log")).unwrap();
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(at.join("registry.yml")).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Process::start(&mut registry);
        wait_for_port(port);
        Self { port, folder, _process: process }
    }

    /// A registry on a free port.
    pub fn anywhere() -> Self {
        Self::start(free_port(), None)
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it wrote, its access log included.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Puts an image there.
    pub fn push(&self, image: &Layout, name: &str, options: &[&str]) {
        image.push(&format!("{}/{name}", self.address()), options);
    }

    /// The digest of what a tag names.
    pub fn digest(&self, repository: &str, tag: &str) -> String {
        let tags = "data/docker/registry/v2/repositories";
        let link = format!("{tags}/{repository}/_manifests/tags/{tag}/current/link");
        fs::read_to_string(self.folder.path().join(link)).unwrap()
    }

    /// Removes a repository.
    pub fn forget(&self, repository: &str) {
        let repositories = self.folder.path().join("data/docker/registry/v2/repositories");
        fs::remove_dir_all(repositories.join(repository)).unwrap();
    }

    /// The files of all blobs.
    pub fn blobs(&self) -> Vec<PathBuf> {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        let list = run(Command::new("find").arg(blobs).args(["-name", "data"]));
        list.lines().map(PathBuf::from).collect()
    }
}

/// A port of loopback on which nobody listens, below those that the kernel gives to outgoing connections: one of
/// them could take the port before its service does.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(100).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(number % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = Said::from(output);
    assert_eq!(said.status, 0, "{command:?}: {}", said.err);
    said.out
}

/// An image on disk: devstack's busybox and what a test adds to it.
pub struct Layout {
    folder: TempDir,
}

impl Layout {
    /// The image as devstack made it.
    pub fn busybox() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = devstack().join("images");
        assert!(made.exists(), "there is no {}: ./tests/run makes it", made.display());
        run(Command::new("cp").arg("-r").arg(made).arg(folder.path().join("layout")));
        Self { folder }
    }

    fn reference(&self) -> String {
        format!("{}:busybox", self.folder.path().join("layout").display())
    }

    /// Adds a layer with one file.
    pub fn with_file(self, path: &str, content: &[u8]) -> Self {
        let source = self.folder.path().join("file");
        fs::write(&source, content).unwrap();
        run(Command::new("umoci").args(["insert", "--image", &self.reference()]).arg(&source).arg(path));
        self
    }

    /// Adds a layer that deletes a path.
    pub fn without(self, path: &str) -> Self {
        run(Command::new("umoci").args(["insert", "--image", &self.reference(), "--whiteout", path]));
        self
    }

    /// Changes the configuration with options of `umoci config`.
    pub fn configured(self, options: &[&str]) -> Self {
        run(Command::new("umoci").args(["config", "--image", &self.reference()]).args(options));
        self
    }

    /// An image that has only these layers, archives as they are.
    pub fn of_layers(layers: &[PathBuf]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Self { folder };
        let (path, reference) = (layout.folder.path().join("layout"), layout.reference());
        run(Command::new("umoci").arg("init").arg("--layout").arg(path));
        run(Command::new("umoci").args(["new", "--image", &reference]));
        for layer in layers {
            run(Command::new("umoci").args(["raw", "add-layer", "--image", &reference]).arg(layer));
        }
        layout.configured(&["--architecture", "amd64", "--os", "linux", "--config.cmd", "sh"])
    }

    /// An image of one layer that buildah makes of what is in a folder.
    pub fn built_by_buildah(tree: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Self { folder };
        // Beside what is copied: not every file system holds all extended attributes.
        let storage = tree.with_file_name("storage");
        let buildah = |arguments: &[&str]| {
            let mut command = Command::new("buildah");
            command.args(["--storage-driver", "vfs", "--root"]).arg(&storage);
            command.arg("--runroot").arg(storage.with_extension("run")).args(arguments);
            run(&mut command)
        };
        let container = buildah(&["from", "scratch"]);
        buildah(&["copy", container.trim(), tree.to_str().unwrap(), "/"]);
        buildah(&["config", "--cmd", "sh", container.trim()]);
        buildah(&["commit", "--quiet", container.trim(), &format!("oci:{}", layout.reference())]);
        buildah(&["rm", container.trim()]);
        layout
    }

    /// What umoci unpacks of it, below `folder`.
    pub fn unpacked(&self, folder: &Path) -> PathBuf {
        let bundle = folder.join("bundle");
        run(Command::new("umoci").args(["unpack", "--image", &self.reference()]).arg(&bundle));
        bundle.join("rootfs")
    }

    /// The image in one file, of one of skopeo's kinds: `docker-archive` or `oci-archive`.
    pub fn archive(&self, kind: &str) -> PathBuf {
        let path = self.folder.path().join(kind);
        run(Command::new("skopeo")
            .args(["copy", "--insecure-policy"])
            .arg(format!("oci:{}", self.reference()))
            .arg(format!("{kind}:{}", path.display())));
        path
    }

    fn push(&self, destination: &str, options: &[&str]) {
        run(Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci:{}", self.reference()))
            .arg(format!("docker://{destination}")));
    }
}

/// The configuration of an image, as skopeo reads it.
pub fn inspect(image: &str) -> Value {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--config", "--raw", "--tls-verify=false", image]);
    serde_json::from_str(&run(&mut skopeo)).unwrap()
}

/// Bytes that nothing compresses.
pub fn noise(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open("/dev/urandom").unwrap().take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Changes one byte in the middle of a file.
pub fn corrupt(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
