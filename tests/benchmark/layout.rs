//! One file an image, as the store has it, beside one file a layer: what each takes of time, disk and page cache.
//!
//! A store of layers is that of images of one layer each, pulled two at a time as this machine has processors for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use cloud_tests::registry::{Layout, Registry};

use crate::median;
use crate::pull::{Host, LAYER_MIB, LAYERS, layers};

const ROUNDS: usize = 5;
/// Of each of two images whose other layers are the same.
const OWN_LAYER: usize = LAYERS - 1;
/// What a container looks at when it starts: all names, and this much of what is in the files.
const READ_MIB: u64 = 50;

/// The figures of one way to keep images, one of each round.
#[derive(Default)]
struct Figures {
    pull: Vec<f64>,
    second: Vec<f64>,
    disk: Vec<f64>,
    start: Vec<f64>,
    cached: Vec<f64>,
}

pub fn run() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let registry = Registry::anywhere();
    let layers = layers(folder.path(), LAYERS + 1);
    let [first, second] =
        [OWN_LAYER, OWN_LAYER + 1].map(|own| [&layers[..OWN_LAYER], &layers[own..=own]].concat());
    registry.push(&Layout::of_layers(&first), "first:1", &[]);
    registry.push(&Layout::of_layers(&second), "second:1", &[]);
    for (number, layer) in layers.iter().enumerate() {
        registry.push(&Layout::of_layers(std::slice::from_ref(layer)), &format!("layer{number}:1"), &[]);
    }
    let (mut by_image, mut by_layer) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        measure_images(&registry, &mut by_image);
        measure_layers(&registry, &mut by_layer);
    }
    println!(
        "Two images of {LAYERS} layers of {LAYER_MIB} MiB, all but one the same, kept as one file an image or one a layer; \
         medians of {ROUNDS} rounds in turn"
    );
    println!("                                       image    layer");
    row("pull, s", by_image.pull, by_layer.pull);
    row("pull of the second image, s", by_image.second, by_layer.second);
    row("disk for both, MiB", by_image.disk, by_layer.disk);
    row("mount and first look, ms", by_image.start, by_layer.start);
    row("page cache when both have looked, MiB", by_image.cached, by_layer.cached);
}

fn row(name: &str, by_image: Vec<f64>, by_layer: Vec<f64>) {
    println!("{name:38} {:7.1}  {:7.1}", median(by_image), median(by_layer));
}

fn measure_images(registry: &Registry, figures: &mut Figures) {
    let host = Host::new(registry);
    let [first, second] = ["first", "second"].map(|name| pull(&host, registry, name));
    figures.pull.push(first.seconds);
    figures.second.push(second.seconds);
    look([&[first.file], &[second.file]], figures);
}

fn measure_layers(registry: &Registry, figures: &mut Figures) {
    let hosts = [Host::new(registry), Host::new(registry)];
    let began = Instant::now();
    let mut files = thread::scope(|scope| {
        let pulls = [(0, &hosts[0]), (1, &hosts[1])].map(|(number, host)| {
            let layers = (number..LAYERS).step_by(2);
            scope
                .spawn(move || layers.map(|layer| pull_layer(host, registry, layer).file).collect::<Vec<_>>())
        });
        pulls.map(|pull| pull.join().unwrap()).concat()
    });
    figures.pull.push(began.elapsed().as_secs_f64());
    let own = pull_layer(&hosts[0], registry, OWN_LAYER + 1);
    figures.second.push(own.seconds);
    // The last is one that the second image has not.
    let first = files.clone();
    files.pop();
    files.push(own.file);
    look([&first, &files], figures);
}

/// A pull, and the file that it made.
struct Pull {
    seconds: f64,
    file: PathBuf,
}

fn pull_layer(host: &Host, registry: &Registry, layer: usize) -> Pull {
    pull(host, registry, &format!("layer{layer}"))
}

fn pull(host: &Host, registry: &Registry, name: &str) -> Pull {
    let before = host.images();
    let taken = host.peak_of(&["images", "pull", &format!("{}/{name}:1", registry.address())]);
    let file = host.images().into_iter().find(|file| !before.contains(file)).unwrap();
    Pull { seconds: taken.seconds, file }
}

/// Looks at two images, each the sum of these files, as containers do that start.
fn look(images: [&[PathBuf]; 2], figures: &mut Figures) {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let milliseconds = images.map(mount_and_look);
    figures.start.push(milliseconds[0]);
    let mut once = images.concat();
    once.sort();
    once.dedup();
    figures.disk.push(mebibytes_on_disk(&once));
    figures.cached.push(mebibytes_cached(&once));
}

fn mount_and_look(files: &[PathBuf]) -> f64 {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let script = format!(
        "cd $0; lower=; number=0
        for file; do
          mkdir $number; mount -o loop,ro $file $number
          lower=$number${{lower:+:$lower}}; number=$((number + 1))
        done
        if [ $number = 1 ]; then root=0; else mkdir root; mount -t overlay -o ro,lowerdir=$lower overlay root; root=root; fi
        find $root -type f | sort | xargs -d '\\n' cat 2>/dev/null | head -c {READ_MIB}M | wc -c >/dev/null"
    );
    let began = Instant::now();
    // What is mounted goes with the namespace.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script]).arg(folder.path()).args(files);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed().as_secs_f64() * 1000.0
}

fn mebibytes_on_disk(files: &[PathBuf]) -> f64 {
    sum_of(Command::new("du").args(["--block-size=1", "--summarize"]).args(files))
}

fn mebibytes_cached(files: &[PathBuf]) -> f64 {
    sum_of(Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES,FILE"]).args(files))
}

/// Adds the numbers of bytes with which a command's lines begin, in MiB.
fn sum_of(command: &mut Command) -> f64 {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let bytes = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    bytes.sum::<f64>() / (1 << 20) as f64
}
