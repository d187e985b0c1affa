//! Images of Glance.

use std::path::Path;

use cloud_tests::cloud::{Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::registry::{Layout, Registry, noise};
use cloud_tests::tenant::Tenant;
use cloud_tests::throttled::Throttled;
use serde_json::Value;

use crate::images::PORT;

const SMALL: [&str; 6] = ["--cpu", "1", "--memory", "128", "--net", "network=net"];

/// An image of Glance that goes with its test.
struct GlanceImage<'a> {
    cloud: &'a Cloud,
    id: String,
}

impl<'a> GlanceImage<'a> {
    fn upload(cloud: &'a Cloud, name: &str, archive: &Path) -> Self {
        let file = archive.to_str().unwrap();
        let format = ["--container-format", "docker", "--disk-format", "raw"];
        let made = [&["image", "create", "-f", "json"], &format[..], &["--file", file, name]].concat();
        let made: Value = serde_json::from_str(&cloud.openstack(&made).ok()).unwrap();
        Self { cloud, id: made["id"].as_str().unwrap().to_owned() }
    }
}

impl Drop for GlanceImage<'_> {
    fn drop(&mut self) {
        self.cloud.openstack(&["image", "delete", &self.id]);
    }
}

fn run(cloud: &Cloud, image: &str, options: &[&str], command: &[&str]) -> String {
    cloud.make("run", &[&SMALL[..], &["--image-driver", "glance"], options, &[image], command].concat())
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_image_of_glance_is_run_by_name_and_by_identifier() {
    in_cloud(|cloud| {
        let name = format!("glance-{}", std::process::id());
        let layout = Layout::busybox().with_file("/from-glance", b"there");
        let image = GlanceImage::upload(cloud, &name, &layout.archive("docker-archive"));
        let read = ["cat", "/from-glance"];
        let by_name = run(cloud, &name, &[], &read);
        cloud.wait_for_status(&by_name, "Stopped");
        assert_eq!(cloud.openstack(&["appcontainer", "logs", &by_name]).ok().trim(), "there");
        assert_eq!(cloud.show(&by_name)["image_driver"], "glance");
        let by_id = run(cloud, &image.id, &["--image-pull-policy", "never"], &read);
        cloud.wait_for_status(&by_id, "Stopped");

        let search = |words: &[&str]| {
            let words = [&["appcontainer", "image", "search", "--image-driver", "glance"], words].concat();
            cloud.openstack(&words).ok()
        };
        assert!(search(&[&name[..9]]).contains(&name), "a part is enough");
        assert!(!search(&["--exact-match", &name[..9]]).contains(&name));
        drop(image);
        let late = run(cloud, &name, &["--image-pull-policy", "never"], &read);
        let reason = cloud.wait_for_error(&late);
        assert!(reason.contains(&name), "what is here is of no use: {reason}");
        cloud.delete(&late);
        cloud.delete(&by_name);
        cloud.delete(&by_id);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_image_of_another_project_or_that_is_none_is_not_run() {
    in_cloud(|cloud| {
        let shared = cloud.network("10.88.0.0/24");
        cloud.openstack(&["network", "set", "--share", &shared.name]).ok();
        let tenant = Tenant::new(cloud, "tenant");
        let name = format!("private-{}", std::process::id());
        let layout = Layout::busybox();
        let _image = GlanceImage::upload(cloud, &name, &layout.archive("oci-archive"));
        let net = format!("network={}", shared.name);
        let image = ["--net", &net, "--image-driver", "glance", &name];
        let asked = [&["appcontainer", "run", "-f", "json"], &SMALL[..4], &image];
        let made: Value = serde_json::from_str(&tenant.openstack(&asked.concat()).ok()).unwrap();
        let uuid = made["uuid"].as_str().unwrap();
        cloud.wait_for_status(uuid, "Error");
        let reason = cloud.sql(&format!("SELECT status_reason FROM zun.container WHERE uuid = '{uuid}'"));
        assert!(reason.contains(&name), "{reason}");
        tenant.openstack(&["appcontainer", "delete", uuid]).ok();
        cloud.wait_until_gone(uuid);

        let folder = tempfile::tempdir().unwrap();
        let nonsense = folder.path().join("nonsense");
        std::fs::write(&nonsense, noise(10_000)).unwrap();
        let image = GlanceImage::upload(cloud, "nonsense", &nonsense);
        let broken = run(cloud, &image.id, &[], &["true"]);
        let reason = cloud.wait_for_error(&broken);
        assert!(reason.contains(&image.id), "{reason}");
        cloud.delete(&broken);
    });
}

fn detail(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!("SELECT status_detail FROM zun.container WHERE uuid = '{uuid}'"))
}

pub fn wait_until_it_pulls(cloud: &Cloud, uuid: &str) {
    eventually(60, "its row says how far its image has come", || match detail(cloud, uuid) {
        now if now.starts_with("Pulling the image: ") && now.ends_with(" MiB") => Ok(()),
        now => Err(now),
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn how_far_a_pull_has_come_is_shown() {
    in_cloud(|cloud| {
        let registry = Registry::anywhere();
        // A name that no earlier run has left on the host.
        let name = format!("large-{}:1", std::process::id());
        registry.push(&Layout::busybox().with_file("/noise", &noise(8 << 20)), &name, &[]);
        let _slow = Throttled::start(PORT, &registry.address(), 1 << 20);
        let uuid = cloud.make("run", &[&SMALL[..], &[&format!("127.0.0.1:{PORT}/{name}"), "true"]].concat());
        wait_until_it_pulls(cloud, &uuid);
        cloud.wait_for_status(&uuid, "Stopped");
        let detail = detail(cloud, &uuid);
        assert!(!detail.contains("Pulling"), "{detail}");
        cloud.delete(&uuid);
    });
}
