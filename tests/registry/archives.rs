//! Images that come as archives, from tools that others use.

use std::fs::File;
use std::io;

use cloud_tests::registry::{Layout, corrupt};
use image::{Error, Finding, PullPolicy};

use super::{content, store};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo and umoci; tests/run installs them"]
async fn archives_of_each_kind_hold_the_same_image() {
    let image = Layout::busybox().with_file("/new", b"new").with_file("/old", b"old").without("/old");
    let here = store("127.0.0.1:1", Vec::new());
    let mut seen = Vec::new();
    for kind in ["docker-archive", "oci-archive"] {
        let archive = image.archive(kind);
        let fetch = async |mut file: File| {
            io::copy(&mut File::open(&archive).unwrap(), &mut file).unwrap();
            Ok(file)
        };
        let made = image::archived(&here.store, kind, PullPolicy::Always, fetch).await.unwrap();
        let unpacked = content(&made);
        assert_eq!(std::fs::read(unpacked.path().join("new")).unwrap(), b"new");
        assert!(!unpacked.path().join("old").exists() && unpacked.path().join("bin/busybox").exists());
        seen.push(made.rootfs);
    }
    assert_eq!(seen[0], seen[1], "the same layers make the same file system");
    let known = async |_| -> Result<File, Error> { panic!("it is here") };
    let again = image::archived(&here.store, "oci-archive", PullPolicy::Never, known).await.unwrap();
    assert_eq!(again.rootfs, seen[0]);
    let unknown = image::archived(&here.store, "other", PullPolicy::Never, known).await.unwrap_err();
    assert!(matches!(unknown, Error::NotPresent(_)), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo and umoci; tests/run installs them"]
async fn an_archive_that_cannot_be_had_leaves_nothing() {
    let here = store("127.0.0.1:1", Vec::new());
    let broken = async |_| Err(Error::Fetch { image: "a".into(), reason: "the line is cut".into() });
    let error = image::archived(&here.store, "a", PullPolicy::Always, broken).await.unwrap_err();
    assert!(error.to_string().contains("the line is cut"), "{error}");
    let image = Layout::busybox();
    let archive = image.archive("docker-archive");
    corrupt(&archive);
    let fetch = async |mut file: File| {
        io::copy(&mut File::open(&archive).unwrap(), &mut file).unwrap();
        Ok(file)
    };
    let error = image::archived(&here.store, "a", PullPolicy::Always, fetch).await.unwrap_err();
    assert!(matches!(error, Error::Layer { .. }), "{error}");
    here.comes_to_be_empty();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo and umoci; tests/run installs them"]
async fn an_archive_opens_no_layers_that_it_only_names() {
    let here = store("127.0.0.1:1", Vec::new());
    let image = Layout::busybox();
    let archive = image.archive("docker-archive");
    let fetch = async |mut file: File| {
        io::copy(&mut File::open(&archive).unwrap(), &mut file).unwrap();
        Ok(file)
    };
    let made = image::archived(&here.store, "somebody's", PullPolicy::Always, fetch).await.unwrap();
    corrupt(&archive);
    let error = image::archived(&here.store, "another's", PullPolicy::Always, fetch).await.unwrap_err();
    assert!(matches!(error, Error::Layer { .. }), "{error}");
    assert!(made.rootfs.exists());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo and umoci; tests/run installs them"]
async fn a_damaged_file_system_of_an_archive_is_made_again_from_it() {
    let here = store("127.0.0.1:1", Vec::new());
    let image = Layout::busybox();
    let archive = image.archive("oci-archive");
    let fetch = async |_: &str, mut file: File| {
        io::copy(&mut File::open(&archive).unwrap(), &mut file).unwrap();
        Ok(file)
    };
    let image =
        image::archived(&here.store, "a", PullPolicy::Always, async |file| fetch("a", file).await).await;
    corrupt(&image.unwrap().rootfs);
    for expected in ["Healed", "Whole"] {
        let mut findings = Vec::new();
        image::scrub(&here.store, fetch, |scrubbed| findings.push(scrubbed.finding)).await.unwrap();
        assert!(matches!(
            (&findings[..], expected),
            ([Finding::Healed], "Healed") | ([Finding::Whole], "Whole")
        ));
    }
}
