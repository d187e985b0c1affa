//! What a container sees of its image, entry by entry, beside what umoci makes of the same image.

use std::fs::File;
use std::io;
use std::path::Path;

use cloud_tests::registry::Layout;
use cloud_tests::sandboxes::{shell, workers};
use cloud_tests::{oddities, trees};
use image::{PullPolicy, RegistryOptions, Store};
use sandbox::ContainerSpec;

use crate::fixture::Fixture;

const ARCHIVE_MAX: u64 = 1 << 30;

/// The tree below `odd` in the guest.
async fn seen(fixture: &Fixture, folder: &Path, image: &Layout, kind: &str) -> trees::Tree {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let store = Store::open(folder.path().to_owned(), RegistryOptions::default(), workers()).unwrap();
    let archive = image.archive(kind);
    let fetch = async |mut file: File| {
        io::copy(&mut File::open(&archive).unwrap(), &mut file).unwrap();
        Ok(file)
    };
    let made = image::archived(&store, kind, PullPolicy::Always, fetch).await.unwrap();
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let container = ContainerSpec { image: made.rootfs, ..fixture.container("c", &["sleep", "100000"]) };
    sandbox.run(&container).await.unwrap();
    let (_, packed) = sandbox.pack("c", "/odd", ARCHIVE_MAX).await.unwrap();
    sandbox.delete().await.unwrap();
    trees::of_archive(packed, "odd")
}

fn assert_same(who: &str, expected: &trees::Tree, found: &trees::Tree) {
    let differences = trees::differences(expected, found);
    assert!(differences.is_empty(), "{who}: {differences:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_container_sees_what_three_builders_put_into_its_image() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir_in(fixture.path()).unwrap();
    let busybox = fixture.path().join("busybox.tar");
    shell("tar -C root -cf busybox.tar .", fixture.path());
    let layers = [vec![busybox], oddities::layers(folder.path())].concat();

    let umoci = Layout::of_layers(&layers);
    let unpacked = umoci.unpacked(folder.path());
    let expected = trees::of_folder(&unpacked.join("odd"));
    assert!(expected.len() > 40, "{} entries", expected.len());
    assert_same("umoci", &expected, &seen(&fixture, folder.path(), &umoci, "oci-archive").await);
    assert_same("skopeo", &expected, &seen(&fixture, folder.path(), &umoci, "docker-archive").await);
    let buildah = Layout::built_by_buildah(&unpacked);
    let expected = trees::of_folder(&buildah.unpacked(&folder.path().join("again")).join("odd"));
    assert!(expected.len() > 40, "{} entries", expected.len());
    assert_same("buildah", &expected, &seen(&fixture, folder.path(), &buildah, "oci-archive").await);
    fixture.assert_clean();
}
