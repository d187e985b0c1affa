//! Which system calls containers may make: a profile in Docker's format, whose rules may depend on a container's
//! capabilities.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The profile of containers for which no other is named: Docker's rules.
const DEFAULT: &str = include_str!("../../../etc/seccomp.json");
/// Most bytes of a profile.
const FILE_MAX: u64 = 1 << 20;
const ARCHITECTURE: &str = "amd64";
/// Version of the guest's kernel.
const KERNEL: (u32, u32) = (6, 1);

/// Which profile containers have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// The one that comes with this crate.
    #[default]
    Default,
    /// The one in this file.
    File(PathBuf),
    /// None: containers may make all system calls.
    Unconfined,
}

/// The rules of a profile.
#[derive(Debug, Clone, Default)]
pub struct SeccompRules(Option<Profile>);

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    syscalls: Vec<Rule>,
    #[serde(default)]
    arch_map: Vec<Architectures>,
    /// What is said of the filter as a whole.
    #[serde(flatten)]
    filter: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Rule {
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
    /// The rule as the OCI runtime specification has it.
    #[serde(flatten)]
    rule: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

impl SeccompRules {
    /// Reads a profile, and makes sure that it is one.
    pub fn read(profile: &SeccompProfile) -> Result<Self> {
        let (name, text) = match profile {
            SeccompProfile::Unconfined => return Ok(Self(None)),
            SeccompProfile::Default => (Path::new("default"), DEFAULT.to_owned()),
            SeccompProfile::File(path) => {
                (path.as_path(), read_bounded(path).map_err(Error::io("read the seccomp profile", path))?)
            }
        };
        let bad = |e: serde_json::Error| Error::io("use the seccomp profile", name)(e.into());
        let rules = Self(Some(serde_json::from_str(&text).map_err(bad)?));
        serde_json::from_value::<LinuxSeccomp>(rules.of(&[])).map_err(bad)?;
        Ok(rules)
    }

    /// `linux.seccomp` of a container with these capabilities in its bounding set; null where all is allowed.
    pub fn of(&self, capabilities: &[&str]) -> Value {
        let Some(profile) = &self.0 else { return Value::Null };
        let own: HashSet<_> = capabilities.iter().copied().collect();
        let rules = profile.syscalls.iter().filter(|rule| rule.applies(&own));
        let mut filter = profile.filter.clone();
        filter.insert("syscalls".into(), rules.map(|rule| Value::Object(rule.oci())).collect());
        if let Some(all) = profile.arch_map.iter().find(|all| all.architecture == "SCMP_ARCH_X86_64") {
            let others = all.sub_architectures.iter().flatten().cloned();
            filter.insert(
                "architectures".into(),
                std::iter::once(all.architecture.clone()).chain(others).collect(),
            );
        }
        filter.into()
    }
}

impl Rule {
    /// As Docker decides it.
    fn applies(&self, own: &HashSet<&str>) -> bool {
        let has = |name: &String| own.contains(name.as_str());
        let is_here = |arches: &[String]| arches.iter().any(|name| name == ARCHITECTURE);
        let (wanted, unwanted) = (&self.includes, &self.excludes);
        wanted.caps.iter().all(has)
            && (wanted.arches.is_empty() || is_here(&wanted.arches))
            && (wanted.min_kernel.is_empty() || reaches(&wanted.min_kernel))
            && !unwanted.caps.iter().any(has)
            && !is_here(&unwanted.arches)
            && (unwanted.min_kernel.is_empty() || !reaches(&unwanted.min_kernel))
    }

    /// Without what says nothing: Docker writes some of it as null.
    fn oci(&self) -> Map<String, Value> {
        let said = self.rule.iter().filter(|(name, value)| !value.is_null() && *name != "comment");
        said.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Whether the guest's kernel has at least this version, `MAJOR.MINOR`.
fn reaches(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
    KERNEL >= (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX { Err(io::Error::other("it is too long")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &SeccompRules, capabilities: &[&str]) -> LinuxSeccomp {
        serde_json::from_value(rules.of(capabilities)).unwrap()
    }

    fn may(filter: &LinuxSeccomp, call: &str) -> bool {
        let rules = filter.syscalls().iter().flatten();
        rules.filter(|rule| rule.args().is_none()).any(|rule| {
            rule.names().iter().any(|name| name == call)
                && rule.action() == oci_spec::runtime::LinuxSeccompAction::ScmpActAllow
        })
    }

    #[test]
    fn what_a_container_may_follows_its_capabilities() {
        let rules = SeccompRules::read(&SeccompProfile::Default).unwrap();
        let (plain, admin) = (filter(&rules, &["CAP_CHOWN"]), filter(&rules, &["CAP_SYS_ADMIN"]));
        for call in ["read", "execve", "futex", "openat2", "socketcall", "mknod"] {
            assert!(may(&plain, call) && may(&admin, call), "{call}");
        }
        for call in ["mount", "unshare", "bpf", "clone", "setns", "open_by_handle_at"] {
            assert!(!may(&plain, call), "{call}");
        }
        assert!(may(&admin, "mount") && may(&admin, "clone") && !may(&admin, "open_by_handle_at"));
        for call in ["keyctl", "userfaultfd", "io_uring_setup", "kexec_load", "pivot_root", "socket"] {
            assert!(!may(&admin, call), "{call}");
        }
    }

    #[test]
    fn families_that_lead_out_of_the_container_are_not_among_those_allowed() {
        let rules = SeccompRules::read(&SeccompProfile::Default).unwrap();
        let all = filter(&rules, &[]);
        let sockets = all.syscalls().iter().flatten().filter(|rule| rule.names() == &["socket".to_owned()]);
        let masks: Vec<_> = sockets
            .flat_map(|rule| rule.args().clone().unwrap())
            .map(|argument| (argument.value(), argument.value_two().unwrap()))
            .collect();
        let is_allowed = |family: u64| masks.iter().any(|(mask, rest)| family & mask == *rest);
        let refused: Vec<_> = (0..48).filter(|family| !is_allowed(*family)).collect();
        assert_eq!(refused, [38, 40]);
        assert!(!is_allowed(40 | 1 << 32) && !is_allowed(38 | 1 << 63), "the kernel looks at 32 bits");
    }

    #[test]
    fn a_profile_of_dockers_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        let text = r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null }],
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": null, "includes": { "minKernel": "4.8" } },
                { "names": ["write"], "action": "SCMP_ACT_ERRNO", "includes": { "minKernel": "6.2" } },
                { "names": ["open"], "action": "SCMP_ACT_ERRNO", "includes": { "arches": ["arm64"] }, "excludes": {} }
            ]
        }"#;
        std::fs::write(&path, text).unwrap();
        let rules = SeccompRules::read(&SeccompProfile::File(path.clone())).unwrap();
        let filter = filter(&rules, &[]);
        assert_eq!(filter.architectures().as_ref().unwrap().len(), 2);
        let names: Vec<_> =
            filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect();
        assert_eq!(names, ["read"]);
        std::fs::write(&path, r#"{ "syscalls": [] }"#).unwrap();
        let error = SeccompRules::read(&SeccompProfile::File(path)).unwrap_err().to_string();
        assert!(error.contains("profile.json") && error.contains("defaultAction"), "{error}");
        assert_eq!(SeccompRules::read(&SeccompProfile::Unconfined).unwrap().of(&[]), Value::Null);
    }
}
