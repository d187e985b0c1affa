//! Users and groups by name, looked up in the container's own files as Docker does.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use agent_protocol::messages::StringUser;
use oci_spec::runtime::{Process, UserBuilder};

use crate::error::{Error, Result};
use crate::files::open_beneath;

/// Longest account file that is read.
const FILE_MAX: u64 = 4 << 20;

/// An account found in, or made up without, `/etc/passwd`.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: String,
}

/// Sets the process's user from names or numbers, its supplementary groups, and `HOME`.
pub fn apply(process: &mut Process, user: &StringUser, rootfs: &Path) -> Result<()> {
    let passwd = read(rootfs, "etc/passwd")?;
    let groups = read(rootfs, "etc/group")?;
    let account = find_account(&passwd, &user.uid)?;
    let gid = if user.gid.is_empty() { account.gid } else { find_group(&groups, &user.gid)? };
    let mut additional =
        user.additionalGids.iter().map(|group| find_group(&groups, group)).collect::<Result<Vec<_>>>()?;
    if let Some(name) = &account.name
        && user.gid.is_empty()
    {
        additional.extend(memberships(&groups, name));
    }
    additional.retain(|group| *group != gid);
    additional.sort_unstable();
    additional.dedup();
    let user = UserBuilder::default().uid(account.uid).gid(gid).additional_gids(additional).build();
    process.set_user(user.map_err(|e| Error::Runtime(e.to_string()))?);
    set_home(process, &account.home);
    Ok(())
}

fn set_home(process: &mut Process, home: &str) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
        process.set_env(Some(env));
    }
}

/// The file's text; an image need not have one.
fn read(rootfs: &Path, name: &str) -> Result<String> {
    let file: File = match open_beneath(rootfs, Path::new(name)) {
        Ok(file) => file,
        Err(_) => return Ok(String::new()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(Error::io(format!("read /{name}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find_account(passwd: &str, user: &str) -> Result<Account> {
    let number = user.parse().ok();
    let entries = passwd.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let account = Account {
            name: Some(name.into()),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.into(),
        };
        (name == user || Some(account.uid) == number).then_some(account)
    });
    let found = entries.into_iter().next();
    match (found, number) {
        (Some(account), _) => Ok(account),
        (None, Some(uid)) => Ok(Account { name: None, uid, gid: 0, home: "/".into() }),
        (None, None) => Err(Error::Account { kind: "passwd", name: user.into() }),
    }
}

fn find_group(groups: &str, group: &str) -> Result<u32> {
    let found = group_lines(groups).find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
    found.or_else(|| group.parse().ok()).ok_or_else(|| Error::Account { kind: "group", name: group.into() })
}

fn memberships<'a>(groups: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    group_lines(groups)
        .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
}

fn group_lines(groups: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    groups.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        Some((name, gid.parse().ok()?, members))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33:Web:/srv/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlog:x:4:web,other\nbad:x:y:web\n";

    #[test]
    fn names_and_numbers_are_found() {
        let web = find_account(PASSWD, "web").unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 33, "/srv/www"));
        assert_eq!(find_account(PASSWD, "33").unwrap(), web);
        let stranger = find_account(PASSWD, "1000").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_str()), (1000, 0, "/"));
        assert_eq!((find_group(GROUP, "log").unwrap(), find_group(GROUP, "77").unwrap()), (4, 77));
        assert_eq!(memberships(GROUP, "web").collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = find_account(PASSWD, "nobody").unwrap_err().to_string();
        assert_eq!(error, "unable to find passwd nobody: no matching entries in passwd file");
        assert!(find_group(GROUP, "nogroup").is_err());
    }
}
