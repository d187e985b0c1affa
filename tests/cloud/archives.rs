//! Files copied from and to containers.

use std::fs;
use std::path::Path;
use std::process::Command;

use cloud_tests::cloud::{BUSYBOX, Cloud, Said, in_cloud};

const LONG: &str = "sleep 100000";

fn copy(cloud: &Cloud, from: &str, to: &str) -> Said {
    cloud.openstack(&["appcontainer", "cp", from, to])
}

/// Makes a tree with all that is awkward in one.
fn make_tree(folder: &Path) {
    let script = "mkdir -p tree/below; echo text >tree/below/file; chmod 640 tree/below/file; \
        head -c 3000000 /dev/urandom >tree/large; ln -s /etc/passwd tree/link; printf '' >tree/empty";
    assert!(Command::new("bash").args(["-ec", script]).current_dir(folder).status().unwrap().success());
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_tree_goes_in_and_comes_out_as_it_was() {
    in_cloud(|cloud| {
        let folder = tempfile::tempdir().unwrap();
        make_tree(folder.path());
        let (tree, back) = (folder.path().join("tree"), folder.path().join("back"));
        fs::create_dir(&back).unwrap();
        let uuid = cloud.run_busybox(LONG);
        copy(cloud, tree.to_str().unwrap(), &format!("{uuid}:/tmp")).ok();
        assert_eq!(
            cloud.exec(&uuid, "stat -c %a /tmp/tree/below/file; cat /tmp/tree/below/file"),
            "640\ntext"
        );
        assert_eq!(cloud.exec(&uuid, "readlink /tmp/tree/link"), "/etc/passwd");
        let same = |back: &Path| {
            let diff =
                Command::new("diff").args(["-r", "--no-dereference"]).arg(&tree).arg(back).output().unwrap();
            assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        };
        copy(cloud, &format!("{uuid}:/tmp/tree"), back.to_str().unwrap()).ok();
        same(&back.join("tree"));

        // Of one that does not run, too; and how it ended stays known.
        cloud.exec(&uuid, "sync");
        cloud.openstack(&["appcontainer", "kill", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Stopped");
        fs::remove_dir_all(back.join("tree")).unwrap();
        copy(cloud, &format!("{uuid}:/tmp/tree"), back.to_str().unwrap()).ok();
        same(&back.join("tree"));
        fs::write(folder.path().join("more"), "more").unwrap();
        copy(cloud, folder.path().join("more").to_str().unwrap(), &format!("{uuid}:/")).ok();
        let shown = cloud.show(&uuid);
        assert_eq!(shown["status"], "Stopped", "{shown}");
        assert!(shown["status_detail"].as_str().unwrap().starts_with("Exited(137)"), "{shown}");
        cloud.openstack(&["appcontainer", "start", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /more"), "more");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn no_path_leads_out_of_a_container_and_what_is_wrong_is_said() {
    in_cloud(|cloud| {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        // Made, never started.
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        copy(cloud, &format!("{uuid}:/../../../etc/hostname"), here).ok();
        let name = fs::read_to_string(folder.path().join("hostname")).unwrap();
        assert!(uuid.replace('-', "").starts_with(name.trim()), "{name}");
        assert_eq!(cloud.show(&uuid)["status"], "Created");

        let missing = copy(cloud, &format!("{uuid}:/not-there"), here);
        assert!(format!("{missing:?}").contains("/not-there"), "{missing:?}");
        fs::write(folder.path().join("file"), "text").unwrap();
        let file = folder.path().join("file");
        let into_file = copy(cloud, file.to_str().unwrap(), &format!("{uuid}:/etc/passwd"));
        assert!(format!("{into_file:?}").contains("is no directory"), "{into_file:?}");
        cloud.openstack(&["appcontainer", "start", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        cloud.exec(
            &uuid,
            "ln -s / /tmp/up; ln -s ../../../../../etc /tmp/out; head -c 70000000 /dev/zero >/large",
        );
        copy(cloud, file.to_str().unwrap(), &format!("{uuid}:/tmp/out")).ok();
        assert_eq!(
            cloud.exec(&uuid, "cat /etc/file"),
            "text",
            "a link leads where the container has it lead"
        );
        let large = copy(cloud, &format!("{uuid}:/large"), here);
        assert!(format!("{large:?}").contains("larger than"), "{large:?}");
        let big = folder.path().join("big");
        fs::write(&big, vec![0; 66 << 20]).unwrap();
        let refused = copy(cloud, big.to_str().unwrap(), &format!("{uuid}:/tmp"));
        assert!(format!("{refused:?}").contains("larger than"), "{refused:?}");
        cloud.delete(&uuid);
    });
}
