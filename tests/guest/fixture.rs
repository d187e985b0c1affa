//! A host with sandboxes in a folder of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cloud_tests::sandboxes::{arguments, busybox_rootfs, container, host_options, shell};
use sandbox::{
    ContainerSpec, ContainerUser, Exec, GuestNetwork, Host, HostOptions, RateLimit, Sandbox, SandboxSpec,
};
use tempfile::TempDir;

/// Bytes of one log file; the kernel's own and the agent's lines are not in it.
pub const LOG_FILE_BYTES: u64 = 200_000;
const CGROUPS: &str = "/sys/fs/cgroup/zun-kata-tests";
const STATE: &str = "/var/lib/zun-kata";
/// `ud2`, and two bytes that are never reached.
const UNDEFINED_INSTRUCTION: [u8; 4] = [0x0f, 0x0b, 0x90, 0x90];

pub struct Fixture {
    folder: TempDir,
    options: HostOptions,
    rootfs: PathBuf,
}

impl Fixture {
    pub fn new() -> Self {
        fs::create_dir_all(STATE).unwrap();
        let folder = tempfile::tempdir_in(STATE).unwrap();
        let options = HostOptions {
            log_file_bytes: LOG_FILE_BYTES,
            log_files: 3,
            ..host_options(folder.path(), "zun-kata-tests")
        };
        let rootfs = busybox_rootfs(folder.path());
        Self { folder, options, rootfs }
    }

    pub fn host(&self) -> Host {
        Host::new(self.options.clone()).unwrap()
    }

    /// The folder of all that this fixture has.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn spec(&self, cpus: f32) -> SandboxSpec {
        SandboxSpec {
            cpus,
            memory_mib: 128,
            hostname: "guest".into(),
            containers: 1,
            network: GuestNetwork::default(),
            volumes: Vec::new(),
            ends_with: Some("c".into()),
            template_group: None,
            nic_limit: RateLimit::default(),
            pinning: None,
        }
    }

    /// Where templates are.
    pub fn templates(&self) -> PathBuf {
        self.options.templates.clone()
    }

    /// One that goes on from a template of its group.
    pub fn spec_of_group(&self, group: &str) -> SandboxSpec {
        SandboxSpec { template_group: Some(group.into()), ..self.spec(1.0) }
    }

    /// A sandbox whose guest is ready.
    pub async fn start(&self, id: &str, cpus: f32) -> Sandbox {
        let sandbox = self.host().sandbox(id);
        sandbox.create().unwrap();
        sandbox.start(&self.spec(cpus)).await.unwrap();
        sandbox
    }

    /// A container with these arguments, on this fixture's image.
    pub fn container(&self, id: &str, words: &[&str]) -> ContainerSpec {
        container(id, words, &self.rootfs)
    }

    /// Runs a container with these arguments.
    pub async fn run(&self, sandbox: &Sandbox, id: &str, words: &[&str]) {
        sandbox.make_disk(id, 1).await.unwrap();
        sandbox.run(&self.container(id, words)).await.unwrap();
    }

    /// Replaces the guest image by one whose first process does nothing.
    pub fn guest_whose_init_ends(&mut self) {
        self.guest_of(
            "mkdir bin && cp /bin/busybox bin && printf '#!/bin/busybox true\\n' >init && chmod +x init",
        );
    }

    /// Replaces the guest image by one that has nothing but this program, which a shell makes as `init`.
    pub fn guest_of(&mut self, make: &str) {
        shell(
            &format!(
                "mkdir -p only && cd only && {make} && find . | cpio -o -H newc --quiet >../only.initrd"
            ),
            self.folder.path(),
        );
        self.options.image = self.folder.path().join("only.initrd");
    }

    /// Lets sandboxes grow to two CPUs and 1 GiB.
    pub fn sandboxes_that_grow(&mut self) {
        self.options.vcpus_max = 2;
        self.options.memory_max_mib = 1024;
    }

    /// Replaces the kernel by nonsense.
    pub fn kernel_of_zeros(&mut self) {
        self.options.kernel = self.folder.path().join("zeros");
        fs::write(&self.options.kernel, vec![0; 1 << 20]).unwrap();
    }

    /// Replaces the kernel by one whose only instruction is not defined: with no handler the processor shuts down.
    pub fn kernel_that_faults(&mut self) {
        self.kernel(&UNDEFINED_INSTRUCTION);
    }

    /// Replaces the kernel by this code, which is entered at its beginning.
    pub fn kernel(&mut self, code: &[u8]) {
        self.options.kernel = self.folder.path().join("kernel");
        fs::write(&self.options.kernel, elf_with_pvh_entry(code)).unwrap();
    }

    /// No process of a sandbox is left, and no folder.
    pub fn assert_clean(&self) {
        let folder = self.options.folder.display().to_string();
        let left = Command::new("pgrep").args(["-f", &folder]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
        assert_eq!(self.host().list().unwrap(), Vec::<String>::new());
        let users = fs::read_dir(self.folder.path().join("users")).unwrap();
        assert_eq!(users.count(), 0, "users are given up");
        let groups = fs::read_dir(CGROUPS).unwrap();
        assert_eq!(groups.filter(|group| group.as_ref().unwrap().path().is_dir()).count(), 0, "and groups");
    }
}

impl Drop for Fixture {
    /// A test that failed leaves nothing to the next.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let script = format!(
                "for group in {CGROUPS}/*/; do
                   [ ! -d $group ] || {{ echo 1 >$group/cgroup.kill; until rmdir $group; do sleep 0.1; done; }}
                 done"
            );
            let _ = Command::new("timeout").args(["20", "sh", "-c", &script]).status();
        }
    }
}

/// An ELF file that holds `code`, and a note that names it as the PVH entry point.
fn elf_with_pvh_entry(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u64 = 0x100_0000;
    const HEADERS: u64 = 64 + 2 * 56;
    const PVH_ENTRY: u32 = 18;
    let words = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let halves = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let program_header = |kind: u32, offset: u64, address: u64, size: u64| {
        [halves(&[kind, 7]), words(&[offset, address, address, size, size, 4])].concat()
    };
    let note = [halves(&[4, 8, PVH_ENTRY]), b"Xen\0".to_vec(), words(&[ADDRESS])].concat();
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec(),
        words(&[ADDRESS, 64, 0]),
        // Flags, header sizes and counts: two program headers, no sections.
        halves(&[0, 64 | 56 << 16, 2, 0]),
        program_header(1, HEADERS, ADDRESS, code.len() as u64),
        program_header(4, HEADERS + code.len() as u64, 0, note.len() as u64),
        code.to_vec(),
        note,
    ]
    .concat()
}

/// A process in a container.
pub fn exec(container: &str, words: &[&str]) -> Exec {
    let process = sandbox::process(&arguments(words), &["PATH=/bin".into()], Path::new("/"), false).unwrap();
    Exec {
        container: container.into(),
        process,
        user: ContainerUser { user: "0".into(), group: String::new() },
        time_limit: None,
    }
}

/// What a script prints in a container, which it must end well.
pub async fn output(sandbox: &Sandbox, id: &str, script: &str) -> String {
    let result = sandbox.exec(exec(id, &["sh", "-c", script])).await.unwrap();
    assert_eq!(result.status, 0, "{script}: {}", result.output);
    result.output.trim().to_owned()
}
