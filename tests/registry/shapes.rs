//! Layers of unusual shapes: many files, files that are not there, files that must not be.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cloud_tests::registry::{Layout, Registry, noise};
use cloud_tests::sandboxes::workers;
use cloud_tests::trees;
use image::{Limits, RegistryOptions, TreeLimits, WorkerOptions};
use tar::{Builder, Header};

use super::{content, store, store_of, wire};

const MEBIBYTE: u64 = 1 << 20;

fn file(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn layer(folder: &Path, name: &str, write: impl FnOnce(&mut Builder<File>)) -> PathBuf {
    let path = folder.join(name);
    let mut builder = Builder::new(File::create(&path).unwrap());
    write(&mut builder);
    builder.finish().unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_layer_of_a_hundred_thousand_files_is_as_umoci_unpacks_it() {
    let folder = tempfile::tempdir().unwrap();
    let many = layer(folder.path(), "many.tar", |builder| {
        for number in 0..100_000 {
            let text = format!("file {number}");
            let path = format!("many/{}/{number}", number % 100);
            builder.append_data(&mut file(text.len() as u64), path, text.as_bytes()).unwrap();
        }
    });
    let layout = Layout::of_layers(&[many]);
    let registry = Registry::anywhere();
    registry.push(&layout, "many:1", &[]);
    // Directories that no layer names have the times of their making.
    let files = |mut tree: trees::Tree| {
        tree.retain(|_, entry| entry.kind != "directory");
        tree
    };
    let unpacked =
        tokio::task::spawn_blocking(move || files(trees::of_folder(&layout.unpacked(folder.path()))));
    let here = store(&registry.address(), Vec::new());
    let image = here.pull(&format!("{}/many:1", registry.address())).await.unwrap();
    let found = files(trees::of_folder(content(&image).path()));
    let expected = unpacked.await.unwrap();
    assert_eq!(expected.len(), 100_000);
    assert!(expected == found, "{:#?}", &trees::differences(&expected, &found)[..10]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_foreign_layer_is_refused_by_name() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/x", b"x"), "app:1", &["--format", "v2s2"]);
    wire::push_with_foreign_layer(&registry.address(), "app", "1", "foreign").await;
    let here = store(&registry.address(), Vec::new());
    let error = here.pull(&format!("{}/app:foreign", registry.address())).await.unwrap_err().to_string();
    assert!(error.contains("sha256:") && error.contains("foreign"), "{error}");
    here.comes_to_be_empty();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_layer_that_climbs_out_or_swells_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let climbing = layer(folder.path(), "climbing.tar", |builder| {
        let mut header = file(0);
        header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    });
    let bomb = layer(folder.path(), "bomb.tar", |builder| {
        let mut zeros = tempfile::tempfile().unwrap();
        zeros.set_len(64 * MEBIBYTE).unwrap();
        builder.append_data(&mut file(64 * MEBIBYTE), "zeros", &mut zeros).unwrap();
    });
    let holes = folder.path().join("holes");
    let mut sparse = File::create(&holes).unwrap();
    sparse.write_all(b"x").unwrap();
    sparse.set_len(64 * MEBIBYTE).unwrap();
    let swelling = layer(folder.path(), "swelling.tar", |builder| {
        builder.append_path_with_name(&holes, "holes").unwrap();
    });
    let half = |name: &str| {
        let content = noise(20 * MEBIBYTE);
        layer(folder.path(), name, |builder| {
            builder.append_data(&mut file(20 * MEBIBYTE), name, &content[..]).unwrap();
        })
    };
    let halves = vec![half("one.tar"), half("other.tar")];
    let registry = Registry::anywhere();
    let options = RegistryOptions { plain_http: vec![registry.address()], ..RegistryOptions::default() };
    let limits = Limits { bytes: 32 * MEBIBYTE, tree: TreeLimits::default() };
    let here = store_of(options, WorkerOptions { limits, ..workers() });
    let cases = [
        (vec![climbing], "climbs out of the root"),
        (vec![bomb], "more than the 33554432 bytes"),
        (vec![swelling], "more than the 33554432 bytes"),
        (halves, "bytes; the limit is 33554432"),
    ];
    for (number, (layers, reason)) in cases.into_iter().enumerate() {
        registry.push(&Layout::of_layers(&layers), &format!("bad:{number}"), &[]);
        let name = format!("{}/bad:{number}", registry.address());
        let error = here.pull(&name).await.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&name), "{error}");
        here.comes_to_be_empty();
    }
}
