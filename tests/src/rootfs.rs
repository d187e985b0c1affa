//! A file system for containers of tests, made from this machine's busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes a file system in `folder` that holds busybox, and a few users.
pub fn busybox_rootfs(folder: &Path) -> PathBuf {
    shell(
        "mkdir -p root/bin root/etc root/proc root/sys root/dev root/tmp root/var/www
         cp /bin/busybox root/bin
         for applet in $(busybox --list | grep -vx busybox); do ln -sf busybox root/bin/$applet; done
         printf 'root:x:0:0:root:/root:/bin/sh\\nwww:x:33:33:www:/var/www:/bin/false\\n' >root/etc/passwd
         printf 'root:x:0:\\nwww:x:33:\\nlog:x:4:www\\n' >root/etc/group
         tar -C root -c . | tar2sqfs -q -f -c lz4 busybox.squashfs",
        folder,
    );
    folder.join("busybox.squashfs")
}

/// Runs a script that must succeed.
pub fn shell(script: &str, folder: &Path) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}
