//! A template's files, which a compromised shim may have written.

use sha2::{Digest, Sha256};
use vmm::Snapshot;

const MAGIC: &[u8] = b"zunkata1";

fn open(folder: &std::path::Path, state: &[u8], memory: &[u8]) -> bool {
    std::fs::write(folder.join("state"), state).unwrap();
    std::fs::write(folder.join("memory"), memory).unwrap();
    Snapshot::open(folder).is_ok()
}

#[test]
fn a_state_that_is_anything_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    bolero::check!().for_each(|bytes: &[u8]| assert!(!open(folder.path(), bytes, bytes)));
}

#[test]
fn a_state_whose_digest_is_right_is_read_to_its_end_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    bolero::check!().for_each(|bytes: &[u8]| {
        let state = [MAGIC, &Sha256::digest(bytes), bytes].concat();
        open(folder.path(), &state, bytes);
    });
}
