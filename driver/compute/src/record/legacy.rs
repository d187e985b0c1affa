//! Records as this service wrote them when containers and capsules had each a form of their own.

use std::path::Path;

use image::ImageSource;
use sandbox::{ContainerSpec, CpuPinning};
use serde::Deserialize;

use super::{InjectedFile, Member, SandboxRecord};
use crate::error::Result;
use crate::kept::read_json;
use crate::lifecycle::{Kind, Restarts, SIGTERM};
use crate::networking::Attachment;

const CONTAINER: &str = "container.json";
const CAPSULE: &str = "capsule.json";

#[derive(Deserialize)]
struct ContainerRecord {
    #[serde(default)]
    owner: String,
    container: ContainerSpec,
    #[serde(default)]
    image_source: Option<ImageSource>,
    stop_signal: u32,
    attachments: Vec<Attachment>,
    #[serde(default)]
    restarts: Restarts,
    #[serde(default)]
    pinning: Option<CpuPinning>,
    #[serde(default)]
    files: Vec<InjectedFile>,
}

#[derive(Deserialize)]
struct CapsuleRecord {
    owner: String,
    hostname: String,
    init: Vec<CapsuleMember>,
    containers: Vec<CapsuleMember>,
    attachments: Vec<Attachment>,
    restarts: Restarts,
}

#[derive(Deserialize)]
struct CapsuleMember {
    container: ContainerSpec,
    restarts: Restarts,
}

/// Reads the record of either form that a folder holds, if it holds one.
pub fn read(folder: &Path) -> Option<Result<SandboxRecord>> {
    let holds = |name| folder.join(name).exists();
    if holds(CONTAINER) {
        Some(read_json::<ContainerRecord>(folder, CONTAINER).map(Into::into))
    } else if holds(CAPSULE) {
        Some(read_json::<CapsuleRecord>(folder, CAPSULE).map(Into::into))
    } else {
        None
    }
}

impl From<ContainerRecord> for SandboxRecord {
    fn from(record: ContainerRecord) -> Self {
        let member = Member {
            image_source: record.image_source,
            stop_signal: record.stop_signal,
            names_stop_signal: false,
            restarts: Restarts::default(),
            files: record.files,
            container: record.container,
        };
        Self {
            attachments: record.attachments,
            restarts: record.restarts,
            pinning: record.pinning,
            is_made: true,
            ..Self::of_container(record.owner, member)
        }
    }
}

impl From<CapsuleRecord> for SandboxRecord {
    fn from(record: CapsuleRecord) -> Self {
        let members = |all: Vec<CapsuleMember>| all.into_iter().map(Into::into).collect();
        Self {
            init: members(record.init),
            members: members(record.containers),
            attachments: record.attachments,
            restarts: record.restarts,
            is_made: true,
            ..Self::new(Kind::Capsule, record.owner, record.hostname)
        }
    }
}

impl From<CapsuleMember> for Member {
    fn from(member: CapsuleMember) -> Self {
        Self {
            container: member.container,
            image_source: None,
            stop_signal: SIGTERM,
            names_stop_signal: false,
            restarts: member.restarts,
            files: Vec::new(),
        }
    }
}
