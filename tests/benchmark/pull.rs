//! From a registry to a file system from which a container can start, beside skopeo and umoci.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cloud_tests::registry::{Layout, Registry};
use cloud_tests::sandboxes::workers;
use cloud_tests::top;
use tempfile::TempDir;

use crate::median;

const ROUNDS: usize = 5;
/// Of an image with many.
pub const LAYERS: usize = 20;
/// The size of each.
pub const LAYER_MIB: u64 = 25;
const MEBIBYTE: u64 = 1 << 20;
const SAMPLE: Duration = Duration::from_millis(5);
/// Whose files the image has.
const SOURCE: &str = "/usr";

pub fn run() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let registry = Registry::anywhere();
    registry.push(&Layout::of_layers(&layers(folder.path(), LAYERS)), "large:1", &[]);
    let image = format!("{}/large:1", registry.address());
    let (mut ours, mut theirs, mut peaks, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let idle = Host::new(&registry).peak_of(&["images", "scrub"]).mebibytes;
    for _ in 0..ROUNDS {
        let host = Host::new(&registry);
        let pulled = host.peak_of(&["images", "pull", &image]);
        ours.push(pulled.seconds);
        peaks.push(pulled.mebibytes - idle);
        let asked = blobs_asked_for(&registry);
        again.push(host.peak_of(&["images", "pull", &image]).seconds);
        assert_eq!(blobs_asked_for(&registry), asked, "what is here is not fetched again");
        theirs.push(skopeo_and_umoci(&image));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "An image of {LAYERS} layers of {LAYER_MIB} MiB from a registry here, medians of {ROUNDS} rounds in turn"
    );
    println!("pull                                 {ours:6.2} s");
    println!("skopeo copy and umoci unpack         {theirs:6.2} s");
    println!("ratio                                {:6.2}     goal 0.5", ours / theirs);
    println!("pull of what is here, no layer read  {:6.2} s", median(again));
    println!("most memory above that of the idle   {:6.1} MiB goal 64", median(peaks));
}

/// Layers of files as this machine has them.
pub fn layers(folder: &Path, number: usize) -> Vec<PathBuf> {
    let script = format!(
        "find {SOURCE}/lib {SOURCE}/share {SOURCE}/bin -xdev -type f -size -2048k -printf '%s %p\\n' | sort -k 2 |
           awk -v size={} -v most={number} '{{
             layer = int(total / size); if (layer >= most) exit
             total += $1; sub(/^[0-9]+ /, \"\"); print >(\"list\" layer) }}'
         for list in list*; do tar --no-recursion -cf layer${{list#list}}.tar -T $list 2>/dev/null; rm $list; done",
        LAYER_MIB * MEBIBYTE
    );
    let made = Command::new("sh").args(["-ec", &script]).current_dir(folder).status().unwrap();
    assert!(made.success());
    let layers: Vec<_> = (0..number).map(|layer| folder.join(format!("layer{layer}.tar"))).collect();
    assert!(layers.iter().all(|layer| layer.exists()), "{SOURCE} has too few files");
    layers
}

fn blobs_asked_for(registry: &Registry) -> usize {
    registry.log().matches("/blobs/").count()
}

/// What a command took.
pub struct Taken {
    pub seconds: f64,
    mebibytes: f64,
}

/// A compute host without a cloud.
pub struct Host {
    folder: TempDir,
}

impl Host {
    pub fn new(registry: &Registry) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let state = folder.path().join("state");
        let configuration = format!(
            "[kata]\nstate_path = {}\nworker = {}\ninsecure_registries = {}\n",
            state.display(),
            workers().program.display(),
            registry.address()
        );
        fs::write(folder.path().join("zun.conf"), configuration).unwrap();
        Self { folder }
    }

    /// The files in which its store has images.
    pub fn images(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("state/images/rootfs")).into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Runs the service's program; its memory and that of whom it calls count together.
    pub fn peak_of(&self, arguments: &[&str]) -> Taken {
        let began = Instant::now();
        let mut child = Command::new(top().join("target/release/zun-kata-compute"))
            .arg("--config-file")
            .arg(self.folder.path().join("zun.conf"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut peak = 0.0_f64;
        let status = loop {
            peak = peak.max(memory_of(&child));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            sleep(SAMPLE);
        };
        assert!(status.success(), "{arguments:?}: {status}");
        Taken { seconds: began.elapsed().as_secs_f64(), mebibytes: peak }
    }
}

/// Memory of a process and its children that is no file's, in MiB.
fn memory_of(child: &Child) -> f64 {
    let pid = child.id();
    let children = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    pids.chain([pid.to_string()]).map(|pid| anonymous_memory(&pid)).sum()
}

fn anonymous_memory(pid: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim_end_matches("kB").trim().parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) / 1024.0
}

fn skopeo_and_umoci(image: &str) -> f64 {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let script = "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://$0 oci:layout:image
        umoci unpack --image layout:image bundle";
    let began = Instant::now();
    let output = Command::new("sh").args(["-ec", script, image]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed().as_secs_f64()
}
