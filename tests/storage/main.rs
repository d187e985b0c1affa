//! Cinder's volumes in containers, with Cinder, LVM, an iSCSI target and an NFS server of `devstack/storage`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failures;

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use cloud_tests::cloud::{BUSYBOX, Cloud, Said, in_cloud};
use cloud_tests::{eventually, top};

const LONG: &str = "sleep 100000";

/// The cloud with Cinder, which is started where it does not run.
fn with_cinder(test: impl Fn(&Cloud)) {
    static UP: OnceLock<()> = OnceLock::new();
    UP.get_or_init(|| {
        let said: Said = Command::new(top().join("devstack/storage")).arg("up").output().unwrap().into();
        assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    });
    in_cloud(|cloud| {
        let before = things_of_storage(cloud);
        test(cloud);
        eventually(60, "no volume and no connection is left", || {
            let now = things_of_storage(cloud);
            if now == before { Ok(()) } else { Err(format!("{before}\n{now}")) }
        });
    });
}

/// What a volume could leave behind that containers without volumes never have.
fn things_of_storage(cloud: &Cloud) -> String {
    let host = cloud.shell(
        "ls /sys/class/iscsi_session /var/lib/zun-kata/volumes /sys/block | grep -v '^loop\\|^dm-'; iscsiadm -m node || true",
    );
    let volumes = cloud.sql(
        "SELECT id, status FROM cinder.volumes WHERE deleted = 0;
         SELECT id, attach_status FROM cinder.volume_attachment WHERE deleted = 0",
    );
    host + &volumes
}

/// A volume of the user's, which is deleted with this.
struct Volume<'a> {
    cloud: &'a Cloud,
    id: String,
}

impl<'a> Volume<'a> {
    fn new(cloud: &'a Cloud, kind: &str) -> Self {
        let words = ["volume", "create", "--size", "1", "--type", kind, "-f", "value", "-c", "id", "mine"];
        let volume = Self { cloud, id: cloud.openstack(&words).ok().trim().to_owned() };
        volume.becomes("available");
        volume
    }

    fn becomes(&self, wanted: &str) {
        eventually(120, &format!("the volume is {wanted}"), || {
            let status =
                self.cloud.sql(&format!("SELECT status FROM cinder.volumes WHERE id = '{}'", self.id));
            if status == wanted { Ok(()) } else { Err(status) }
        });
    }

    /// The words that mount it.
    fn at(&self, destination: &str) -> String {
        format!("source={},destination={destination}", self.id)
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        self.cloud.openstack(&["volume", "delete", &self.id]);
    }
}

fn make(cloud: &Cloud, verb: &str, mounts: &[&str], command: &str) -> String {
    let mounts = mounts.iter().flat_map(|mount| ["--mount", mount]);
    let words: Vec<&str> =
        BUSYBOX.into_iter().chain(mounts).chain(["busybox", "sh", "-c", command]).collect();
    cloud.make(verb, &words)
}

fn run(cloud: &Cloud, mounts: &[&str]) -> String {
    let uuid = make(cloud, "run", mounts, LONG);
    cloud.wait_for_status(&uuid, "Running");
    uuid
}

fn act(cloud: &Cloud, words: &[&str], uuid: &str, status: &str) {
    cloud.openstack(&[&["appcontainer"], words, &[uuid]].concat()).ok();
    cloud.wait_for_status(uuid, status);
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_volume_is_made_for_a_container_and_goes_with_it() {
    with_cinder(|cloud| {
        let uuid = run(cloud, &["size=1,destination=/data"]);
        let mounted = cloud.exec(&uuid, "grep ' /data ' /proc/mounts; df -m /data | tail -n 1");
        assert!(mounted.starts_with("/dev/vd") && mounted.contains(" ext4 rw"), "{mounted}");
        cloud.exec(&uuid, "echo kept >/data/file; sync");
        // What is written outlasts the container's own disk.
        act(cloud, &["restart"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /data/file"), "kept");
        act(cloud, &["rebuild"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /data/file"), "kept");
        // The host has its device, and nothing of it mounted.
        assert!(!cloud.shell("cat /proc/mounts").contains("/dev/sd"), "the host mounts it");
        let kind = "SELECT COUNT(*) FROM cinder.volumes WHERE deleted = 0 AND status = 'in-use'";
        assert_eq!(cloud.sql(kind), "1");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn volumes_of_both_kinds_keep_what_is_on_them() {
    with_cinder(|cloud| {
        let (lvm, nfs) = (Volume::new(cloud, "lvm"), Volume::new(cloud, "nfs"));
        let mounts = [lvm.at("/lvm"), nfs.at("/deep/nfs")];
        let mounts = mounts.each_ref().map(String::as_str);
        let first = run(cloud, &mounts);
        cloud.exec(&first, "echo one >/lvm/file; echo two >/deep/nfs/file; sync");
        lvm.becomes("in-use");

        let refused = make(cloud, "create", &mounts[..1], LONG);
        let reason = cloud.wait_for_error(&refused);
        assert!(reason.contains(&lvm.id) && reason.contains("in use"), "{reason}");
        cloud.delete(&refused);
        assert_eq!(cloud.exec(&first, "cat /lvm/file /deep/nfs/file"), "one\ntwo");
        // What is not on the disk yet when the container is deleted under way gets there.
        cloud.exec(&first, "echo two >/deep/nfs/file; echo late >/lvm/late");
        cloud.delete(&first);
        lvm.becomes("available");
        nfs.becomes("available");

        let second = make(cloud, "create", &mounts, LONG);
        cloud.wait_for_status(&second, "Created");
        // A container that does not run shows its volumes' files, too.
        let folder = tempfile::tempdir().unwrap();
        let there = format!("{second}:/lvm/file");
        cloud.openstack(&["appcontainer", "cp", &there, folder.path().to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "one\n");
        act(cloud, &["start"], &second, "Running");
        assert_eq!(cloud.exec(&second, "cat /lvm/file /deep/nfs/file /lvm/late"), "one\ntwo\nlate");
        cloud.delete(&second);
        lvm.becomes("available");
        nfs.becomes("available");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_a_capsule_share_a_volume() {
    with_cinder(|cloud| {
        let one = |script: &str| {
            format!(
                "    - image: busybox\n      imagePullPolicy: ifnotpresent\n      command: [sh, -c]\n      args: ['{script}']\n      \
                 resources: {{ requests: {{ cpu: 0.1, memory: 64 }} }}\n      volumeMounts:\n      - name: shared\n        \
                 mountPath: /shared\n"
            )
        };
        let template = format!(
            "capsuleVersion: beta\nkind: capsule\nmetadata:\n  name: shares\nspec:\n  restartPolicy: Never\n  containers:\n{}{}  \
             volumes:\n  - name: shared\n    cinder:\n      size: 1\n      autoRemove: True\n",
            one("until [ -e /shared/a ]; do sleep 1; done; echo seen it; sleep 100000"),
            one("echo x >/shared/a; sleep 100000"),
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capsule.yaml");
        fs::write(&path, template).unwrap();
        cloud.openstack(&["capsule", "create", "--file", path.to_str().unwrap()]).ok();
        let uuid = cloud.sql("SELECT uuid FROM zun.container WHERE name = 'shares'");
        eventually(300, "one sees what the other has written", || {
            let logs =
                cloud.shell(&format!("cat /var/lib/zun-kata/sandboxes/{uuid}/run/container-*.log || true"));
            let status =
                cloud.sql(&format!("SELECT status, status_reason FROM zun.container WHERE uuid = '{uuid}'"));
            if logs.contains("seen it") { Ok(()) } else { Err(status + &logs) }
        });
        let volumes = cloud.sql("SELECT status FROM cinder.volumes WHERE deleted = 0");
        assert_eq!(volumes, "in-use", "it is one volume, made for both");
        cloud.openstack(&["capsule", "delete", &uuid]).ok();
        cloud.wait_until_gone(&uuid);
    });
}
