//! What this host keeps of a container between its starts: which image, which program, which ports.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use image::{Image, ImageConfiguration, ImageSource};
use sandbox::{ContainerSpec, ContainerUser, CpuPinning, RateLimit, SandboxSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::manager::Restarts;
use crate::networking::{self, Attachment};
use crate::options::Kata;

const NAME: &str = "container.json";
const SIGTERM: u32 = 15;

/// What is asked for of a container, beside its image. What is left out, or empty, is the image's.
pub struct ContainerRequest {
    /// The identifier of the container and of its sandbox.
    pub id: String,
    /// Whose it is: with other owners it shares no template, unless the operator lets all share them.
    pub owner: String,
    /// Replaces the image's entry point, and with it the image's command.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment, `NAME=value`.
    pub environment: Vec<String>,
    /// The directory in which the program starts.
    pub directory: Option<String>,
    /// The host name.
    pub hostname: String,
    /// CPUs that it may use.
    pub cpus: f32,
    /// Memory that it may use, in MiB.
    pub memory_mib: u64,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether its input stays open.
    pub interactive: bool,
    /// What it may move through each of its disks.
    pub disk_limit: RateLimit,
    /// Whether it may do all to its sandbox's guest.
    pub privileged: bool,
    /// What its OCI runtime specification has instead, a JSON merge patch.
    pub oci: Value,
}

/// A container on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Whose the container is.
    #[serde(default)]
    pub owner: String,
    /// The container.
    pub container: ContainerSpec,
    /// Where its image came from; none is known of one that an older service made.
    #[serde(default)]
    pub image_source: Option<ImageSource>,
    /// The signal that asks it to end.
    pub stop_signal: u32,
    /// Its networks.
    pub attachments: Vec<Attachment>,
    /// How often its policy has started it again.
    #[serde(default)]
    pub restarts: Restarts,
    /// The host's CPUs that it has to itself.
    #[serde(default)]
    pub pinning: Option<CpuPinning>,
    /// Files that are put into it before it first runs.
    #[serde(default)]
    pub files: Vec<InjectedFile>,
}

/// A file of its user's that a container is given. What is in it may be secret: it is not for logs.
#[derive(Clone, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Where the container finds it, from its root.
    pub path: PathBuf,
    /// What is in it, in base64.
    pub contents: String,
}

impl fmt::Debug for InjectedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InjectedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Record {
    /// What a container of `image` is, before it has networks.
    pub fn new(asked: ContainerRequest, image: &Image) -> Result<Self> {
        let config = image.configuration.config().clone().unwrap_or_default();
        let arguments = program(asked.entrypoint, asked.command, &image.configuration)?;
        let environment = config.env().iter().flatten().cloned().chain(asked.environment);
        let given = |path: &String| !path.is_empty();
        let directory = asked.directory.filter(given).or(config.working_dir().clone().filter(given));
        let user = config.user().clone().unwrap_or_default();
        let (user, group) = user.split_once(':').unwrap_or((&user, ""));
        let signal = config.stop_signal().as_deref().map(sandbox::signal_number).transpose()?;
        Ok(Self {
            owner: asked.owner,
            container: ContainerSpec {
                id: asked.id,
                arguments,
                environment: environment.collect(),
                directory: directory.map_or_else(|| "/".into(), PathBuf::from),
                user: ContainerUser {
                    user: if user.is_empty() { "0".into() } else { user.to_owned() },
                    group: group.to_owned(),
                },
                hostname: asked.hostname,
                cpus: asked.cpus,
                memory_mib: asked.memory_mib,
                terminal: asked.terminal,
                interactive: asked.interactive,
                image: image.rootfs.clone(),
                volumes: config.volumes().iter().flatten().map(PathBuf::from).collect(),
                mounts: Vec::new(),
                disk_limit: asked.disk_limit,
                shares: Vec::new(),
                privileged: asked.privileged,
                oci: asked.oci,
            },
            image_source: Some(image.source.clone()),
            stop_signal: signal.unwrap_or(SIGTERM),
            attachments: Vec::new(),
            restarts: Restarts::default(),
            pinning: None,
            files: Vec::new(),
        })
    }

    /// The sandbox that the container needs.
    pub fn sandbox_spec(&self, kata: &Kata) -> SandboxSpec {
        SandboxSpec {
            cpus: self.container.cpus,
            memory_mib: self.container.memory_mib,
            hostname: self.container.hostname.clone(),
            containers: 1,
            network: networking::guest_network(&self.attachments),
            volumes: Vec::new(),
            ends_with: Some(self.container.id.clone()),
            template_group: kata.template_scope.group(&self.owner),
            nic_limit: kata.nic_limit(),
            pinning: self.pinning.clone(),
        }
    }

    /// Reads the record in a sandbox's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        read_json(folder, NAME)
    }

    /// Writes the record.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(folder, NAME, self)
    }
}

/// Reads a file of a sandbox's folder.
pub fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let read = || -> std::io::Result<T> { Ok(serde_json::from_slice(&std::fs::read(folder.join(name))?)?) };
    read().map_err(|e| failure(folder, "read", &e))
}

/// Writes one: whatever happens, there is the old one or the new.
pub fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let temporary = folder.join(format!("{name}.new"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_data()?;
        std::fs::rename(&temporary, folder.join(name))
    };
    write().map_err(|e| failure(folder, "written", &e))
}

/// A sandbox's folder has its container's identifier for a name.
fn failure(folder: &Path, what: &'static str, error: &std::io::Error) -> Error {
    let container = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::Record { container, what, reason: error.to_string() }
}

/// Docker's rule: an entry point of the container's own replaces the image's, and its command with it.
fn program(
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    image: &ImageConfiguration,
) -> Result<Vec<String>> {
    let config = image.config().clone().unwrap_or_default();
    let (entrypoint, command) = (entrypoint.filter(|e| !e.is_empty()), command.filter(|c| !c.is_empty()));
    let image_command = if entrypoint.is_some() { None } else { config.cmd().clone() };
    let entrypoint = entrypoint.or(config.entrypoint().clone()).unwrap_or_default();
    let arguments = [entrypoint, command.or(image_command).unwrap_or_default()].concat();
    if arguments.is_empty() {
        return Err(Error::Invalid("no command is given, and the image has none".into()));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_program_is_chosen_as_docker_does() {
        let image = |config| {
            let value = json!({ "architecture": "amd64", "os": "linux", "config": config,
                "rootfs": { "type": "layers", "diff_ids": [] } });
            serde_json::from_value::<ImageConfiguration>(value).unwrap()
        };
        let words = |text: &str| Some(text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let both = image(json!({ "Entrypoint": ["entry"], "Cmd": ["image"] }));
        let chosen = |entrypoint, command| program(entrypoint, command, &both).unwrap().join(" ");
        assert_eq!(chosen(None, None), "entry image");
        assert_eq!(chosen(None, words("own")), "entry own");
        assert_eq!(chosen(words("other"), None), "other");
        assert_eq!(chosen(words(""), words("own")), "entry own");
        assert!(program(None, None, &image(json!({}))).is_err());
    }
}
