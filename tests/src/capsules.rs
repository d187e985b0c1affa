//! Capsules, through `openstack capsule`.

use std::fs;

use serde_json::Value;

use crate::cloud::Cloud;
use crate::eventually;

/// A capsule of these containers, each a name for its image and a shell's script.
pub fn template(name: &str, restart_policy: &str, init: &[&str], containers: &[&str]) -> String {
    let list = |scripts: &[&str]| -> String {
        let one = |script: &&str| {
            format!(
                "    - image: busybox\n      imagePullPolicy: ifnotpresent\n      command: [sh, -c]\n      args: ['{script}']\n      \
                 resources: {{ requests: {{ cpu: 0.1, memory: 64 }} }}\n"
            )
        };
        scripts.iter().map(one).collect()
    };
    let init = if init.is_empty() { String::new() } else { format!("  initContainers:\n{}", list(init)) };
    format!(
        "capsuleVersion: beta\nkind: capsule\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: {restart_policy}\n{init}  \
         containers:\n{}",
        list(containers)
    )
}

/// Asks for a capsule, and gives its identifier.
pub fn create(cloud: &Cloud, template: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capsule.yaml");
    fs::write(&path, template).unwrap();
    let said = cloud.openstack(&["capsule", "create", "--file", path.to_str().unwrap()]).ok();
    let uuid = said.split_whitespace().find(|word| word.len() == 36 && word.matches('-').count() == 4);
    uuid.unwrap_or_else(|| panic!("no identifier in {said}")).to_owned()
}

/// What the API says of it.
pub fn show(cloud: &Cloud, uuid: &str) -> Value {
    cloud.api(&format!("capsules/{uuid}"))
}

/// Waits until the API says that it is so.
pub fn wait_for_status(cloud: &Cloud, uuid: &str, wanted: &str) {
    eventually(240, &format!("capsule {uuid} is {wanted}"), || {
        let shown = show(cloud, uuid);
        if shown["status"] == wanted { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// Deletes it, and waits until it is gone.
pub fn delete(cloud: &Cloud, uuid: &str) {
    cloud.openstack(&["capsule", "delete", uuid]).ok();
    cloud.wait_until_gone(uuid);
}
