use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Where a volume is, as Cinder's drivers say it (`driver_volume_type` and `data`). It may hold a password: it is not for
/// logs.
#[derive(Clone, PartialEq, Eq)]
pub enum Connection {
    /// A unit of an iSCSI target.
    Iscsi(IscsiUnit),
    /// A file of an NFS export.
    Nfs(NfsFile),
    /// An image in a Ceph cluster.
    Rbd(RbdImage),
    /// A block device of this host.
    Local(LocalDevice),
}

/// A logical unit of an iSCSI target.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiUnit {
    /// The target's address and port.
    #[serde(rename = "target_portal")]
    pub portal: String,
    /// The target's name.
    #[serde(rename = "target_iqn")]
    pub iqn: String,
    /// The unit's number.
    #[serde(rename = "target_lun")]
    pub lun: u32,
    /// How the initiator authenticates: with CHAP, or not at all.
    #[serde(default)]
    pub auth_method: Option<String>,
    /// CHAP's name.
    #[serde(default)]
    pub auth_username: Option<String>,
    /// CHAP's secret.
    #[serde(default)]
    pub auth_password: Option<String>,
}

/// A file of an NFS export.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct NfsFile {
    /// `HOST:/PATH`.
    pub export: String,
    /// The file in it.
    pub name: String,
    /// What is in the file; only `raw` can be used.
    #[serde(default)]
    pub format: Option<String>,
    /// Mount options, which may begin with `-o`.
    #[serde(default)]
    pub options: Option<String>,
}

/// An image in a Ceph cluster.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct RbdImage {
    /// `POOL/IMAGE`.
    pub name: String,
    /// Addresses of the monitors.
    pub hosts: Vec<String>,
    /// Their ports, in the same order.
    pub ports: Vec<String>,
    /// Who reads it: `client.` and this name.
    #[serde(default)]
    pub auth_username: Option<String>,
    /// A keyring with the user's key.
    #[serde(default)]
    pub keyring: Option<String>,
}

/// A block device of this host.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct LocalDevice {
    /// Its path.
    pub device_path: PathBuf,
}

impl Connection {
    /// Reads what Cinder says.
    pub fn parse(info: &Value) -> Result<Self> {
        let protocol = info["driver_volume_type"].as_str().unwrap_or_default();
        let data = &info["data"];
        if data["encrypted"].as_bool().unwrap_or(false) {
            return Err(Error::Feature("an encrypted volume"));
        }
        if data["access_mode"].as_str().is_some_and(|mode| mode != "rw") {
            return Err(Error::Feature("a volume that is read-only"));
        }
        let unreadable = |e: serde_json::Error| Error::Connection(e.to_string());
        match protocol {
            "iscsi" => IscsiUnit::deserialize(data).map_err(unreadable)?.checked().map(Self::Iscsi),
            "nfs" => NfsFile::deserialize(data).map_err(unreadable)?.checked().map(Self::Nfs),
            "rbd" => RbdImage::deserialize(data).map_err(unreadable)?.checked().map(Self::Rbd),
            "local" => LocalDevice::deserialize(data).map_err(unreadable)?.checked().map(Self::Local),
            other => Err(Error::Protocol(other.to_owned())),
        }
    }
}

impl IscsiUnit {
    fn checked(self) -> Result<Self> {
        word("target_portal", &self.portal, ".-:[]")?;
        word("target_iqn", &self.iqn, ".-:_+")?;
        match self.auth_method.as_deref() {
            None | Some("CHAP") => Ok(self),
            Some(other) => Err(Error::Connection(format!("auth_method {other:?} is not CHAP"))),
        }
    }
}

impl NfsFile {
    fn checked(self) -> Result<Self> {
        word("export", &self.export, ".-:[]/_")?;
        word("name", &self.name, ".-_")?;
        if self.name.starts_with('.') || !self.export.contains(":/") {
            return Err(Error::Connection(format!("file {:?} of export {:?}", self.name, self.export)));
        }
        match self.format.as_deref() {
            None | Some("raw") => Ok(self),
            Some(_) => Err(Error::Feature("a volume whose file is not raw")),
        }
    }

    /// Where the export is mounted, below `mounts`. Each volume has a folder of its own, so that none unmounts another's.
    pub fn folder(&self, mounts: &std::path::Path) -> PathBuf {
        mounts.join(&self.name)
    }

    /// The mount options that Cinder wants.
    pub fn mount_options(&self) -> &str {
        let options = self.options.as_deref().unwrap_or_default().trim();
        options.strip_prefix("-o").unwrap_or(options).trim()
    }
}

impl RbdImage {
    fn checked(self) -> Result<Self> {
        word("name", &self.name, ".-_/")?;
        if self.name.matches('/').count() != 1 || self.name.starts_with('/') || self.name.ends_with('/') {
            return Err(Error::Connection(format!("name {:?} is no POOL/IMAGE", self.name)));
        }
        if self.hosts.is_empty() || self.hosts.len() != self.ports.len() {
            let (hosts, ports) = (self.hosts.len(), self.ports.len());
            return Err(Error::Connection(format!("{hosts} hosts with {ports} ports")));
        }
        self.hosts.iter().try_for_each(|host| word("hosts", host, ".-:[]"))?;
        self.ports.iter().try_for_each(|port| word("ports", port, ""))?;
        self.auth_username.iter().try_for_each(|user| word("auth_username", user, ".-_"))?;
        Ok(self)
    }

    /// The monitors, as Ceph's option `mon_host` has them.
    pub fn monitors(&self) -> String {
        let one = |(host, port): (&String, &String)| {
            let bare = host.contains(':') && !host.starts_with('[');
            if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        self.hosts.iter().zip(&self.ports).map(one).collect::<Vec<_>>().join(",")
    }
}

impl LocalDevice {
    fn checked(self) -> Result<Self> {
        let path = self.device_path.to_str().unwrap_or_default();
        word("device_path", path, ".-_/:+")?;
        if path.starts_with("/dev/") {
            return Ok(self);
        }
        Err(Error::Connection(format!("device_path {path:?} is not below /dev")))
    }
}

/// Checks a text of Cinder's that becomes an argument of a program: it must not be read as an option or lead to another path.
fn word(name: &str, text: &str, marks: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if text.is_empty() || text.starts_with('-') || text.contains("..") || !text.chars().all(plain) {
        return Err(Error::Connection(format!("{name} {text:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Cinder's LVM driver answers, CHAP's secret apart.
    fn iscsi() -> Value {
        json!({ "driver_volume_type": "iscsi", "data": { "target_discovered": false, "target_portal": "192.0.2.1:3260",
            "target_iqn": "iqn.2010-10.org.openstack:volume-5a2f", "target_lun": 1, "volume_id": "5a2f",
            "auth_method": "CHAP", "auth_username": "u", "auth_password": "p", "encrypted": false,
            "qos_specs": null, "access_mode": "rw", "cacheable": false } })
    }

    fn nfs() -> Value {
        json!({ "driver_volume_type": "nfs", "data": { "export": "192.0.2.1:/srv/nfs", "name": "volume-5a2f",
            "options": "-o vers=4.1", "format": "raw", "qos_specs": null, "access_mode": "rw", "encrypted": false } })
    }

    /// As Cinder's RBD driver answers.
    fn rbd() -> Value {
        json!({ "driver_volume_type": "rbd", "data": { "name": "volumes/volume-5a2f",
            "hosts": ["192.0.2.1", "2001:db8::1", "[2001:db8::2]"], "ports": ["6789", "6789", "6790"],
            "cluster_name": "ceph", "auth_enabled": true, "auth_username": "cinder", "secret_type": "ceph",
            "secret_uuid": null, "volume_id": "5a2f", "discard": true, "qos_specs": null, "access_mode": "rw",
            "encrypted": false } })
    }

    fn local() -> Value {
        json!({ "driver_volume_type": "local", "data": { "device_path": "/dev/vg/volume-5a2f" } })
    }

    fn with(mut info: Value, name: &str, value: Value) -> String {
        info["data"][name] = value;
        match Connection::parse(&info) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("{info} is taken"),
        }
    }

    #[test]
    fn what_cinder_says_is_understood() {
        let Ok(Connection::Iscsi(unit)) = Connection::parse(&iscsi()) else { panic!() };
        assert_eq!((unit.portal.as_str(), unit.lun), ("192.0.2.1:3260", 1));
        assert_eq!(unit.auth_password.as_deref(), Some("p"));
        let Ok(Connection::Nfs(file)) = Connection::parse(&nfs()) else { panic!() };
        assert_eq!((file.name.as_str(), file.mount_options()), ("volume-5a2f", "vers=4.1"));
        let Ok(Connection::Rbd(image)) = Connection::parse(&rbd()) else { panic!() };
        assert_eq!(
            (image.name.as_str(), image.auth_username.as_deref()),
            ("volumes/volume-5a2f", Some("cinder"))
        );
        assert_eq!(image.monitors(), "192.0.2.1:6789,[2001:db8::1]:6789,[2001:db8::2]:6790");
        let Ok(Connection::Local(device)) = Connection::parse(&local()) else { panic!() };
        assert_eq!(device.device_path, std::path::Path::new("/dev/vg/volume-5a2f"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(with(iscsi(), "encrypted", json!(true)), "an encrypted volume");
        assert_eq!(with(iscsi(), "access_mode", json!("ro")), "a volume that is read-only");
        assert_eq!(with(nfs(), "format", json!("qcow2")), "a volume whose file is not raw");
        assert!(with(iscsi(), "auth_method", json!("X")).contains("auth_method"));
        assert!(with(rbd(), "ports", json!(["6789"])).contains("3 hosts with 1 ports"));
        let error = Connection::parse(&json!({ "driver_volume_type": "fibre_channel", "data": {} }));
        assert!(error.is_err_and(|e| e.to_string().contains("fibre_channel")));
    }

    #[test]
    fn no_text_becomes_an_option_or_leads_elsewhere() {
        for bad in ["", "-x", "a b", "a\nb", "$(x)"] {
            assert!(with(iscsi(), "target_iqn", json!(bad)).contains("target_iqn"));
            assert!(with(iscsi(), "target_portal", json!(bad)).contains("target_portal"));
            assert!(with(nfs(), "export", json!(bad)).contains("export"));
            assert!(with(rbd(), "hosts", json!([bad, bad, bad])).contains("hosts"));
            assert!(with(rbd(), "auth_username", json!(bad)).contains("auth_username"));
            assert!(with(local(), "device_path", json!(bad)).contains("device_path"));
        }
        for bad in ["", "volume-1", "/volume-1", "volumes/", "a/b/c", "../x", "-a/b", "a/b c", "a/b@c"] {
            assert!(with(rbd(), "name", json!(bad)).contains("name"), "{bad}");
        }
        for bad in ["/etc/shadow", "/dev/../etc/shadow", "dev/vda"] {
            assert!(with(local(), "device_path", json!(bad)).contains("device_path"), "{bad}");
        }
        for bad in ["../x", "a/b", ".", "..", "a/../../b"] {
            assert!(with(nfs(), "name", json!(bad)).contains("name") || bad == ".", "{bad}");
        }
    }
}
