//! What open-iscsi keeps of a target, as far as it is secret. `iscsiadm` takes it as an argument, which every user of this host
//! could read; the record's file is root's.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::connection::IscsiUnit;
use crate::error::{Error, Result};
use crate::sysfs::entries;

/// Where records are: Debian's place, and that of others.
const FOLDERS: [&str; 2] = ["/etc/iscsi/nodes", "/var/lib/iscsi/nodes"];

/// Lets a session with the unit's target begin with CHAP. There must be a record.
pub fn set_chap(unit: &IscsiUnit, name: &str, secret: &str) -> Result<()> {
    let settings = [
        ("node.session.auth.authmethod", "CHAP"),
        ("node.session.auth.username", name),
        ("node.session.auth.password", secret),
    ];
    if settings.iter().any(|(_, value)| value.is_empty() || value.contains(char::is_control)) {
        return Err(Error::Connection("CHAP's name or secret cannot be one".into()));
    }
    let mut records = Vec::new();
    for folder in FOLDERS {
        records.extend(records_of(unit, Path::new(folder)).map_err(Error::io("read", folder))?);
    }
    if records.is_empty() {
        let target = format!("{} at {}", unit.iqn, unit.portal);
        return Err(Error::NoRecord { target, folders: FOLDERS.join(" or ") });
    }
    records.into_iter().try_for_each(|path| change(&path, &settings).map_err(Error::io("change", path)))
}

/// The records of a target at a portal: a file of its address and port, or a folder that names its portal group too and has a file
/// for each interface.
fn records_of(unit: &IscsiUnit, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (address, port) = unit.portal.rsplit_once(':').unwrap_or((&unit.portal, "3260"));
    let place = format!("{},{port}", address.trim_start_matches('[').trim_end_matches(']'));
    let mut records = Vec::new();
    for path in entries(&folder.join(&unit.iqn))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_of_portal =
            name.strip_prefix(&place).is_some_and(|rest| rest.is_empty() || rest.starts_with(','));
        match is_of_portal {
            true if path.is_dir() => records.extend(entries(&path)?),
            true => records.push(path),
            false => {}
        }
    }
    Ok(records)
}

fn change(path: &Path, settings: &[(&str, &str)]) -> io::Result<()> {
    let changed = with(&fs::read_to_string(path)?, settings);
    // Nobody but root may read it (`tempfile` makes it so).
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(changed.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// A record with these settings in place of its own.
fn with(record: &str, settings: &[(&str, &str)]) -> String {
    let is_other = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        settings.iter().all(|(changed, _)| *changed != name)
    };
    let (mut lines, end): (Vec<&str>, Vec<&str>) =
        record.lines().filter(is_other).partition(|line| *line != "# END RECORD");
    let set: Vec<String> = settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    lines.extend(set.iter().map(String::as_str));
    lines.extend(end);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const RECORD: &str = "# BEGIN RECORD 2.1.8\nnode.name = iqn.x:v\nnode.session.auth.authmethod = None\n\
                          node.session.auth.chap_algs = MD5\n# END RECORD\n";
    const CHAP: [(&str, &str); 2] =
        [("node.session.auth.authmethod", "CHAP"), ("node.session.auth.password", "secret = 1")];

    #[test]
    fn settings_take_the_place_of_earlier_ones() {
        let changed = "# BEGIN RECORD 2.1.8\nnode.name = iqn.x:v\nnode.session.auth.chap_algs = MD5\n\
                       node.session.auth.authmethod = CHAP\nnode.session.auth.password = secret = 1\n# END RECORD\n";
        assert_eq!(with(RECORD, &CHAP), changed);
        assert_eq!(with(changed, &CHAP), changed);
    }

    #[test]
    fn the_records_of_a_portal_are_found_in_each_form() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("iqn.x:v");
        let unit = |portal: &str| IscsiUnit {
            portal: portal.into(),
            iqn: "iqn.x:v".into(),
            lun: 0,
            auth_method: None,
            auth_username: None,
            auth_password: None,
        };
        assert!(records_of(&unit("192.0.2.1:3260"), folder.path()).unwrap().is_empty());
        fs::create_dir_all(target.join("192.0.2.1,3260,1")).unwrap();
        for name in ["192.0.2.1,3260,1/default", "192.0.2.1,32600", "::1,3260", "192.0.2.11,3260"] {
            fs::write(target.join(name), RECORD).unwrap();
        }
        let found = |portal| records_of(&unit(portal), folder.path()).unwrap();
        assert_eq!(found("192.0.2.1:3260"), [target.join("192.0.2.1,3260,1/default")]);
        assert_eq!(found("[::1]:3260"), [target.join("::1,3260")]);

        let path = target.join("::1,3260");
        change(&path, &CHAP).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("password = secret = 1"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = set_chap(&unit("192.0.2.1:3260"), "user", "a\nnode.startup = automatic").unwrap_err();
        assert!(!secret.to_string().contains("automatic"), "{secret}");
    }
}
