//! A container of a sandbox: its program, and what the host keeps of it.

use std::fmt;
use std::path::PathBuf;

use image::{Image, ImageConfiguration, ImageSource};
use sandbox::{ContainerSpec, ContainerUser, RateLimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::lifecycle::{Restarts, SIGTERM};

/// What is asked for of a container, beside its image. What is left out, or empty, is the image's.
pub struct NewMember {
    /// The identifier of the container and of its sandbox.
    pub id: String,
    /// Replaces the image's entry point.
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

/// A container of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// The container.
    pub container: ContainerSpec,
    /// Where its image came from; none is known of one that an older service made.
    pub image_source: Option<ImageSource>,
    /// The signal that asks it to end.
    pub stop_signal: u32,
    /// Whether its image names that signal. Not recorded by earlier versions.
    #[serde(default)]
    pub names_stop_signal: bool,
    /// How often its policy has started it again, while its sandbox went on.
    pub restarts: Restarts,
    /// Files that are put into it before it first runs.
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

impl Member {
    /// The signal that its image names.
    pub fn own_stop_signal(&self) -> Option<u32> {
        (self.names_stop_signal || self.stop_signal != SIGTERM).then_some(self.stop_signal)
    }

    /// What a container of `image` is, before it has networks.
    pub fn new(asked: NewMember, image: &Image) -> Result<Self> {
        let config = image.configuration.config().clone().unwrap_or_default();
        let arguments = program(asked.entrypoint, asked.command, &image.configuration)?;
        let environment = config.env().iter().flatten().cloned().chain(asked.environment);
        let given = |path: &String| !path.is_empty();
        let directory = asked.directory.filter(given).or(config.working_dir().clone().filter(given));
        let user = config.user().clone().unwrap_or_default();
        let (user, group) = user.split_once(':').unwrap_or((&user, ""));
        let signal = config.stop_signal().as_deref().map(sandbox::signal_number).transpose()?;
        Ok(Self {
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
            names_stop_signal: signal.is_some(),
            restarts: Restarts::default(),
            files: Vec::new(),
        })
    }
}

/// Entry point and command. Upstream's rule (`zun/container/docker/driver.py`, `create`): what the container has not is the
/// image's, each for itself. So an entry point of its own gets the image's command, which Docker would leave out.
pub fn entry_and_command(
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    image: &ImageConfiguration,
) -> (Vec<String>, Vec<String>) {
    let config = image.config().clone().unwrap_or_default();
    let own = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    let of_image = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    (
        own(entrypoint).unwrap_or_else(|| of_image(config.entrypoint())),
        own(command).unwrap_or_else(|| of_image(config.cmd())),
    )
}

fn program(
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    image: &ImageConfiguration,
) -> Result<Vec<String>> {
    let (entrypoint, command) = entry_and_command(entrypoint, command, image);
    let arguments = [entrypoint, command].concat();
    if arguments.is_empty() {
        return Err(Error::invalid("command", "none is given, and the image has none"));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_program_is_chosen_as_upstream_does() {
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
        assert_eq!(chosen(words("other"), None), "other image");
        assert_eq!(chosen(words(""), words("own")), "entry own");
        assert!(program(None, None, &image(json!({}))).is_err());
    }
}
