//! Cinder's volumes in containers, with Cinder, LVM, an iSCSI target, an NFS server and a Ceph cluster of `devstack/storage`.

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
        "find -H /sys/class/iscsi_session /sys/bus/rbd/devices /var/lib/zun-kata/volumes /sys/block -mindepth 1 -maxdepth 1 \
           2>/dev/null | grep -v '/loop\\|/dm-'; iscsiadm -m node || true",
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

/// The states in Cinder of the volumes of a container, or of the containers of a capsule.
fn states_of_volumes(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!(
        "SELECT MIN(v.status) FROM zun.volume_mapping m JOIN zun.volume z ON z.id = m.volume_id
         JOIN cinder.volumes v ON v.id = z.cinder_volume_id JOIN zun.container c ON c.uuid = m.container_uuid
         LEFT JOIN zun.container capsule ON capsule.id = c.capsule_id WHERE '{uuid}' IN (c.uuid, capsule.uuid)
         GROUP BY v.id"
    ))
}

fn run(cloud: &Cloud, mounts: &[&str]) -> String {
    let uuid = cloud.make_mounting("run", mounts, LONG);
    cloud.wait_for_status(&uuid, "Running");
    uuid
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
        cloud.act(&["restart"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /data/file"), "kept");
        cloud.act(&["rebuild"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /data/file"), "kept");
        // The host has its device, and nothing of it mounted.
        assert!(!cloud.shell("cat /proc/mounts").contains("/dev/sd"), "the host mounts it");
        assert_eq!(states_of_volumes(cloud, &uuid), "in-use");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn volumes_of_all_kinds_keep_what_is_on_them() {
    with_cinder(|cloud| {
        let volumes = ["lvm", "nfs", "rbd"].map(|kind| Volume::new(cloud, kind));
        let [lvm, nfs, rbd] = &volumes;
        let mounts = [lvm.at("/lvm"), nfs.at("/deep/nfs"), rbd.at("/rbd")];
        let mounts = mounts.each_ref().map(String::as_str);
        let first = run(cloud, &mounts);
        cloud.exec(&first, "echo one >/lvm/file; echo two >/deep/nfs/file; echo three >/rbd/file; sync");
        lvm.becomes("in-use");

        // Zun's API sees to it before any host does.
        let words = ["appcontainer", "create", "--name", "refused", "--mount", mounts[0]];
        let refused = cloud.openstack(&[&words[..], &BUSYBOX[..], &["busybox"]].concat());
        assert!(refused.err.contains(&lvm.id) && refused.err.contains("in use"), "{refused:?}");
        // It leaves the container's row, though.
        cloud.openstack(&["appcontainer", "delete", "--force", "refused"]).ok();
        assert_eq!(cloud.exec(&first, "cat /lvm/file /deep/nfs/file /rbd/file"), "one\ntwo\nthree");
        // What is not on the disk yet when the container is deleted under way gets there.
        cloud.exec(&first, "for at in /lvm /deep/nfs /rbd; do echo late >$at/late; done");
        cloud.delete(&first);
        volumes.iter().for_each(|volume| volume.becomes("available"));

        let second = cloud.make_mounting("create", &mounts, LONG);
        cloud.wait_for_status(&second, "Created");
        // A container that does not run shows its volumes' files, too.
        let folder = tempfile::tempdir().unwrap();
        let there = format!("{second}:/lvm/file");
        cloud.openstack(&["appcontainer", "cp", &there, folder.path().to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "one\n");
        cloud.act(&["start"], &second, "Running");
        let all = "cat /lvm/file /deep/nfs/file /rbd/file /lvm/late /deep/nfs/late /rbd/late";
        assert_eq!(cloud.exec(&second, all), "one\ntwo\nthree\nlate\nlate\nlate");
        cloud.delete(&second);
        volumes.iter().for_each(|volume| volume.becomes("available"));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_volume_that_goes_disturbs_no_other_of_its_export() {
    with_cinder(|cloud| {
        let volumes = ["nfs", "nfs"].map(|kind| Volume::new(cloud, kind));
        let [one, other] = volumes.each_ref().map(|volume| run(cloud, &[&volume.at("/data")]));
        let write = "while dd if=/dev/zero of=/data/file bs=1M count=8 conv=fsync; do echo >>/times; done; echo failed >/failed";
        cloud.exec(&other, &format!("({write}) >/dev/null 2>&1 &"));
        let writes_more_than = |before: u64| {
            eventually(60, "it writes", || {
                let said = cloud.exec(&other, "wc -l </times; [ ! -e /failed ] || cat /failed");
                said.parse().ok().filter(|times: &u64| *times > before).ok_or(said)
            })
        };
        writes_more_than(0);
        cloud.delete(&one);
        writes_more_than(writes_more_than(0));
        cloud.delete(&other);
        volumes.iter().for_each(|volume| volume.becomes("available"));
    });
}

/// Makes a capsule of containers with these scripts, all of which see one volume at `/shared`.
fn make_capsule(cloud: &Cloud, volume: &str, scripts: &[&str]) -> String {
    let one = |script: &&str| {
        format!(
            "    - image: busybox\n      imagePullPolicy: ifnotpresent\n      command: [sh, -c]\n      args: ['{script}']\n      \
             resources: {{ requests: {{ cpu: 0.1, memory: 64 }} }}\n      volumeMounts:\n      - name: shared\n        \
             mountPath: /shared\n"
        )
    };
    let containers: String = scripts.iter().map(one).collect();
    let template = format!(
        "capsuleVersion: beta\nkind: capsule\nmetadata:\n  name: shares\nspec:\n  restartPolicy: Never\n  \
         containers:\n{containers}  volumes:\n  - name: shared\n    cinder: {{ {volume}, autoRemove: True }}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capsule.yaml");
    fs::write(&path, template).unwrap();
    cloud.openstack(&["capsule", "create", "--file", path.to_str().unwrap()]).ok();
    cloud.sql("SELECT uuid FROM zun.container WHERE name = 'shares'")
}

fn wait_for_log(cloud: &Cloud, uuid: &str, wanted: &str) {
    eventually(300, &format!("a container of the capsule says {wanted:?}"), || {
        let status =
            cloud.sql(&format!("SELECT status, status_reason FROM zun.container WHERE uuid = '{uuid}'"));
        assert!(!status.starts_with("Error"), "{status}");
        let logs =
            cloud.shell(&format!("cat /var/lib/zun-kata/sandboxes/{uuid}/run/container-*.log || true"));
        if logs.contains(wanted) { Ok(()) } else { Err(status + &logs) }
    });
}

fn delete_capsule(cloud: &Cloud, uuid: &str) {
    cloud.openstack(&["capsule", "delete", uuid]).ok();
    cloud.wait_until_gone(uuid);
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_a_capsule_share_a_volume() {
    with_cinder(|cloud| {
        let scripts = [
            "until [ -e /shared/a ]; do sleep 1; done; echo seen it; sleep 100000",
            "echo x >/shared/a; sleep 100000",
        ];
        let uuid = make_capsule(cloud, "size: 1", &scripts);
        wait_for_log(cloud, &uuid, "seen it");
        assert_eq!(states_of_volumes(cloud, &uuid), "in-use", "it is one volume, made for both");
        delete_capsule(cloud, &uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_volume_that_a_capsule_names_keeps_what_is_on_it_and_stays() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        let first = run(cloud, &[&volume.at("/data")]);
        cloud.exec(&first, "echo kept it >/data/file; sync");
        cloud.delete(&first);
        volume.becomes("available");
        let script = "cat /shared/file; sleep 100000";
        let capsule = make_capsule(cloud, &format!("volumeID: {}", volume.id), &[script]);
        wait_for_log(cloud, &capsule, "kept it");
        delete_capsule(cloud, &capsule);
        // Zun's API heeds `autoRemove` only of volumes that it makes.
        volume.becomes("available");
    });
}
