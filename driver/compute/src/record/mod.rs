//! What this host keeps of a sandbox between its starts: which containers are in it, on which networks it is, and how often
//! its policy has started it again. A container is a capsule of one.

mod legacy;
mod member;

use std::collections::BTreeMap;
use std::path::Path;

use model::ContainerUuid;
use sandbox::{CpuPinning, SandboxSpec};
use serde::{Deserialize, Serialize};

pub use member::{InjectedFile, Member, NewMember, entry_and_command};

use crate::error::{Error, Result};
use crate::kept::{find_json, read_json, write_json};
use crate::lifecycle::{Kind, Restarts};
use crate::networking::{self, Attachment};
use crate::options::Kata;

const NAME: &str = "record.json";

/// A sandbox of this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Whether it is a container's or a capsule's.
    pub kind: Kind,
    /// Whose it is: with other owners it shares no template, unless the operator lets all share them.
    pub owner: String,
    /// The host name of all its containers.
    pub hostname: String,
    /// Containers that end, one after the other, before the others begin.
    pub init: Vec<Member>,
    /// Its other containers, which run together.
    pub members: Vec<Member>,
    /// Its networks.
    pub attachments: Vec<Attachment>,
    /// How often its policy has started it again.
    pub restarts: Restarts,
    /// The host's CPUs that it has to itself.
    pub pinning: Option<CpuPinning>,
    /// Whether its creation had come to its end: from then on it may hold what its user has written.
    #[serde(default)]
    pub is_made: bool,
    /// Whether somebody has asked it to end: its restart policy has no say in that end.
    #[serde(default)]
    pub is_stopped: bool,
    /// The signal that was sent last; none for SIGKILL. A kill that was interrupted is repeated with it.
    #[serde(default)]
    pub signal: Option<u32>,
    /// Whether it is being deleted by force.
    #[serde(default)]
    pub is_forced: bool,
    /// The security groups of its ports before a change of them that has not come to its end.
    #[serde(default)]
    pub regrouping: Option<BTreeMap<String, Vec<String>>>,
    /// What the row says of security groups once that change has come to its end.
    #[serde(default)]
    pub regrouped: Option<Vec<String>>,
}

impl SandboxRecord {
    /// The record of one container, before it has networks.
    pub fn of_container(owner: String, member: Member) -> Self {
        let hostname = member.container.hostname.clone();
        Self { members: vec![member], ..Self::new(Kind::Container, owner, hostname) }
    }

    /// The record of a sandbox without containers and networks.
    pub fn new(kind: Kind, owner: String, hostname: String) -> Self {
        Self {
            kind,
            owner,
            hostname,
            init: Vec::new(),
            members: Vec::new(),
            attachments: Vec::new(),
            restarts: Restarts::default(),
            pinning: None,
            is_made: false,
            is_stopped: false,
            signal: None,
            is_forced: false,
            regrouping: None,
            regrouped: None,
        }
    }

    /// Whether this Neutron port is the sandbox's.
    pub fn has_port(&self, port: &str) -> bool {
        self.attachments.iter().any(|attachment| attachment.port == port)
    }

    /// The sandbox that its containers need: as large as those that run together, or as the largest of those before them.
    pub fn sandbox_spec(&self, kata: &Kata) -> SandboxSpec {
        let cpus = |member: &Member| member.container.cpus;
        let memory = |member: &Member| member.container.memory_mib;
        SandboxSpec {
            cpus: self.init.iter().map(cpus).fold(self.members.iter().map(cpus).sum(), f32::max),
            memory_mib: self
                .init
                .iter()
                .map(memory)
                .fold(self.members.iter().map(memory).fold(0, u64::saturating_add), u64::max),
            hostname: self.hostname.clone(),
            containers: u8::try_from(self.members.len().max(1)).unwrap_or(u8::MAX),
            network: networking::guest_network(&self.attachments),
            volumes: Vec::new(),
            ends_with: match self.kind {
                Kind::Container => self.members.first().map(|member| member.container.id.clone()),
                Kind::Capsule => None,
            },
            template_group: kata.template_scope.group(&self.owner),
            nic_limit: kata.nic_limit(),
            pinning: self.pinning.clone(),
        }
    }

    /// All its containers.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.init.iter().chain(&self.members)
    }

    /// The container of this identifier.
    pub fn member(&self, id: &str) -> Result<&Member> {
        self.all().find(|member| member.container.id == id).ok_or_else(|| no_member(id))
    }

    /// The container of this identifier, to be changed.
    pub fn member_mut(&mut self, id: &str) -> Result<&mut Member> {
        let found = self.init.iter_mut().chain(&mut self.members).find(|member| member.container.id == id);
        found.ok_or_else(|| no_member(id))
    }

    /// The process whose end ends the sandbox, if it is one's.
    pub fn main_process(&self) -> Option<&Member> {
        match self.kind {
            Kind::Container => self.members.first(),
            Kind::Capsule => None,
        }
    }

    /// Whether a container of it mounts a volume of Cinder's.
    pub fn has_volumes(&self) -> bool {
        self.all().any(|member| !member.container.mounts.is_empty())
    }

    /// Reads the record in a sandbox's folder, if it holds one. One that cannot be read is an error: it is not taken for none.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        match find_json(folder, NAME)? {
            None => legacy::read(folder).transpose(),
            found => Ok(found),
        }
    }

    /// Reads the record in a sandbox's folder, in the form of an earlier version too.
    pub fn read(folder: &Path) -> Result<Self> {
        match read_json(folder, NAME) {
            Err(e) => legacy::read(folder).unwrap_or(Err(e)),
            read => read,
        }
    }

    /// Writes the record.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(folder, NAME, self)
    }
}

fn no_member(id: &str) -> Error {
    Error::NoMember(id.to_owned())
}

/// The sandbox's name for a container's or a capsule's identifier.
pub fn sandbox_name(uuid: ContainerUuid) -> String {
    uuid.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Records as version 0.1.0 wrote them before a container was a capsule of one.
    fn legacy(name: &str, content: &str) -> SandboxRecord {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        SandboxRecord::read(folder.path()).unwrap()
    }

    #[test]
    fn a_containers_record_of_an_earlier_version_is_read() {
        let record = legacy("container.json", include_str!("../../tests/records/container.json"));
        assert_eq!((record.kind, record.owner.as_str(), record.is_made), (Kind::Container, "p1", true));
        assert_eq!((record.members.len(), record.init.len(), record.restarts.all), (1, 0, 3));
        let main = record.main_process().unwrap();
        assert_eq!((main.stop_signal, main.container.hostname.as_str()), (3, "web"));
        assert_eq!(main.files.len(), 1);
        assert_eq!(record.attachments[0].port, "port-1");
        assert_eq!(record.hostname, "web");
        let folder = tempfile::tempdir().unwrap();
        record.write(folder.path()).unwrap();
        assert_eq!(SandboxRecord::read(folder.path()).unwrap().restarts, record.restarts);
    }

    #[test]
    fn a_capsules_record_of_an_earlier_version_is_read() {
        let record = legacy("capsule.json", include_str!("../../tests/records/capsule.json"));
        assert_eq!((record.kind, record.init.len(), record.members.len()), (Kind::Capsule, 1, 2));
        assert_eq!(record.members[1].restarts.all, 2);
        assert!(record.main_process().is_none());
        let spec = record.sandbox_spec(&Kata::default());
        assert_eq!(
            (spec.cpus, spec.memory_mib, spec.containers),
            (2.0, 640, 2),
            "an init container runs alone"
        );
    }

    /// Every value of a document that has no others within it.
    fn leaves(value: &mut Value) -> Vec<&mut Value> {
        match value {
            Value::Array(values) => values.iter_mut().flat_map(leaves).collect(),
            Value::Object(fields) => fields.values_mut().flat_map(leaves).collect(),
            leaf => vec![leaf],
        }
    }

    #[test]
    fn a_record_whose_values_are_anything_is_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let changes = bolero::generator::produce::<Vec<(u16, (u8, i64, String))>>();
        bolero::check!().with_generator(changes).for_each(|changes| {
            let record = legacy("capsule.json", include_str!("../../tests/records/capsule.json"));
            let mut value = serde_json::to_value(record).unwrap();
            for (place, (kind, number, text)) in changes {
                let mut all = leaves(&mut value);
                let place = usize::from(*place) % all.len();
                *all[place] = match kind % 6 {
                    0 => Value::Null,
                    1 => json!(number),
                    2 => json!(number.unsigned_abs().wrapping_mul(3)),
                    3 => json!(*number as f64 / 3.0),
                    4 => json!(text),
                    _ => json!([number, { "a": text }]),
                };
            }
            std::fs::write(folder.path().join(NAME), value.to_string()).unwrap();
            if let Ok(record) = SandboxRecord::read(folder.path()) {
                record.sandbox_spec(&Kata::default());
                record.write(folder.path()).unwrap();
                SandboxRecord::read(folder.path()).unwrap();
            }
        });
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = SandboxRecord::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        assert!(SandboxRecord::find(folder.path()).unwrap().is_none());
        std::fs::write(folder.path().join(NAME), "{").unwrap();
        assert!(SandboxRecord::find(folder.path()).is_err(), "it is not taken for none");
        let record = legacy("capsule.json", include_str!("../../tests/records/capsule.json"));
        assert!(record.member("x").unwrap_err().to_string().contains('x'));
    }
}
