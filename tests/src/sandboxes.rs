//! Sandboxes of tests: how a host makes them, and a file system from this machine's busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Limits, TreeLimits, WorkerOptions};
use sandbox::{ContainerSpec, ContainerUser, CpuLimit, HostOptions, RateLimit, SeccompProfile, USERS};

use crate::{devstack, top};

/// The first of the users as which shims run; the last is the image workers'.
const FIRST_USER: u32 = 2_000_000_000;

/// MiB that a guest gets above its container's.
pub const OVERHEAD_MIB: u64 = 64;

/// A host whose sandboxes are in `folder`, made of what was built last.
pub fn host_options(folder: &Path, cgroup: &str) -> HostOptions {
    HostOptions {
        folder: folder.join("sandboxes"),
        shim: top().join("target/release/kata-shim"),
        kernel: devstack().join("vmlinux"),
        image: devstack().join("guest.initrd"),
        templates: folder.join("templates"),
        template_bytes: 1 << 30,
        users: folder.join("users"),
        first_user: FIRST_USER,
        cgroup: cgroup.into(),
        memory_overhead_mib: OVERHEAD_MIB,
        vcpus_max: 1,
        memory_max_mib: 4096,
        log_file_bytes: 1 << 20,
        log_files: 1,
        seccomp: SeccompProfile::Default,
        pids_max: 1000,
        cpu_limit: CpuLimit::Quota,
    }
}

/// How images are read, by what was built last. Those of a GiB are.
pub fn workers() -> WorkerOptions {
    WorkerOptions {
        program: top().join("target/release/kata-worker"),
        user: FIRST_USER + USERS,
        memory: 1 << 30,
        seconds: 300,
        limits: Limits { bytes: 1 << 30, tree: TreeLimits::default() },
    }
}

/// A container with these arguments on an image.
pub fn container(id: &str, words: &[&str], image: &Path) -> ContainerSpec {
    ContainerSpec {
        id: id.into(),
        arguments: arguments(words),
        environment: vec!["PATH=/bin".into()],
        directory: "/".into(),
        user: ContainerUser { user: "0".into(), group: String::new() },
        hostname: "guest".into(),
        cpus: 1.0,
        memory_mib: 128,
        terminal: false,
        interactive: false,
        image: image.to_owned(),
        volumes: Vec::new(),
        mounts: Vec::new(),
        disk_limit: RateLimit::default(),
        shares: Vec::new(),
        privileged: false,
        oci: serde_json::Value::Null,
    }
}

/// Words as owned ones.
pub fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Makes a file system in `folder` that holds busybox, and a few users.
pub fn busybox_rootfs(folder: &Path) -> PathBuf {
    busybox_rootfs_with(folder, "")
}

/// The same with what a script adds to the folder `root`.
pub fn busybox_rootfs_with(folder: &Path, script: &str) -> PathBuf {
    let usual = "rm -rf root; mkdir -p root/bin root/etc root/proc root/sys root/dev root/tmp root/var/www
         cp /bin/busybox root/bin
         for applet in $(busybox --list | grep -vx busybox); do ln -sf busybox root/bin/$applet; done
         printf 'root:x:0:0:root:/root:/bin/sh\\nwww:x:33:33:www:/var/www:/bin/false\\n' >root/etc/passwd
         printf 'root:x:0:\\nwww:x:33:\\nlog:x:4:www\\n' >root/etc/group";
    let pack = "tar -C root -c . | tar2sqfs -q -f -c lz4 busybox.squashfs";
    shell(&format!("{usual}\n{script}\n{pack}"), folder);
    folder.join("busybox.squashfs")
}

/// Runs a script that must succeed.
pub fn shell(script: &str, folder: &Path) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}
