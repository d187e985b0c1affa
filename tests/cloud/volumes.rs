//! A container's own disk, and files that a user hands over as volumes.

use std::fs;
use std::path::Path;

use cloud_tests::cloud::{BUSYBOX, in_cloud};
use cloud_tests::eventually;

const LONG: &str = "sleep 100000";

/// The words that ask for a file at this place.
fn mount(file: &Path, destination: &str) -> String {
    format!("type=bind,source={},destination={destination}", file.display())
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_file_is_there_before_the_container_runs_and_what_is_written_to_it_stays() {
    in_cloud(|cloud| {
        let folder = tempfile::tempdir().unwrap();
        let (text, bytes) = (folder.path().join("text"), folder.path().join("bytes"));
        fs::write(&text, "as given\n").unwrap();
        let any: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(&bytes, &any).unwrap();
        let mounts = [mount(&text, "/etc/app.conf"), mount(&bytes, "/opt/made/for/it/data")];
        let command = format!("cat /etc/app.conf; exec {LONG}");
        let uuid = cloud.make_mounting("create", &[&mounts[0], &mounts[1]], &command);
        cloud.wait_for_status(&uuid, "Created");

        // Whoever looks before it first runs finds what it will find.
        let back = folder.path().join("back");
        fs::create_dir(&back).unwrap();
        let there = format!("{uuid}:/opt/made/for/it/data");
        cloud.openstack(&["appcontainer", "cp", &there, back.to_str().unwrap()]).ok();
        assert_eq!(fs::read(back.join("data")).unwrap(), any);

        cloud.act(&["start"], &uuid, "Running");
        eventually(30, "the process has read it", || {
            let log = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
            if log.contains("as given") { Ok(()) } else { Err(log) }
        });
        assert_eq!(cloud.exec(&uuid, "stat -c '%a %u %g' /etc/app.conf"), "644 0 0");
        cloud.exec(&uuid, "echo changed >/etc/app.conf; sync");
        cloud.act(&["restart"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /etc/app.conf"), "changed");
        cloud.act(&["rebuild"], &uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "cat /etc/app.conf; wc -c </opt/made/for/it/data"), "as given\n300000");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_place_where_no_file_can_be_is_named() {
    in_cloud(|cloud| {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "text").unwrap();
        let refused = cloud.make_mounting("run", &[&mount(&text, "etc/../app.conf")], LONG);
        let reason = cloud.wait_for_error(&refused);
        assert!(reason.contains("\"etc/../app.conf\""), "{reason}");
        cloud.delete(&refused);
        // That a directory is there is only known in the guest.
        let taken = cloud.make_mounting("run", &[&mount(&text, "/etc")], LONG);
        let reason = cloud.wait_for_error(&taken);
        assert!(reason.contains("/etc"), "{reason}");
        cloud.delete(&taken);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn the_disk_is_as_large_as_was_asked_for() {
    in_cloud(|cloud| {
        let words = ["--disk", "2", "busybox", "sh", "-c", LONG];
        let uuid = cloud.make("run", &[&BUSYBOX[..], &words].concat());
        cloud.wait_for_status(&uuid, "Running");
        let said = cloud.exec(
            &uuid,
            "fallocate -l 1500m /most && echo fits; fallocate -l 1g /more 2>&1; df -m / | tail -n 1",
        );
        assert!(said.starts_with("fits\n") && said.contains("No space left on device"), "{said}");
        let size: u64 = said.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((1900..=2048).contains(&size), "{said}");
        let taken = "SELECT disk_used FROM zun.compute_node WHERE hostname = (SELECT host FROM zun.container WHERE uuid = ";
        eventually(60, "the host has told of it", || {
            let taken = cloud.sql(&format!("{taken}'{uuid}')"));
            if taken.parse::<u64>().unwrap() >= 2 { Ok(()) } else { Err(taken) }
        });
        // It is thin: what nobody wrote to takes nothing of the host's.
        let used = cloud.shell(&format!("du -sm /var/lib/zun-kata/sandboxes/{uuid} | cut -f 1"));
        assert!(used.trim().parse::<u64>().unwrap() < 200, "{used}");
        cloud.delete(&uuid);
    });
}
