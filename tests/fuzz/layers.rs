//! Archives of an image's layers.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use image_work::{Budget, Tree, add_layer};

const BLOCK: usize = 512;
/// Of files that are sparse.
const LIMIT: u64 = 1 << 20;

/// A header whose checksum is right, so that what follows the check is reached.
fn header(fields: &[u8], kind: u8, size: u16) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let length = fields.len().min(257);
    header[..length].copy_from_slice(&fields[..length]);
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn read(archive: &mut File, content: &[u8]) {
    archive.set_len(0).unwrap();
    archive.seek(SeekFrom::Start(0)).unwrap();
    archive.write_all(content).unwrap();
    let mut tree = Tree::default();
    for layer in 0..2 {
        let _ = add_layer(&mut tree, layer, archive, &Budget::new(LIMIT));
    }
    for entry in tree.entries() {
        assert!(tree.path(entry).split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
    }
}

#[test]
fn bytes_that_are_no_archive() {
    let mut archive = tempfile::tempfile().unwrap();
    bolero::check!().for_each(|bytes: &[u8]| read(&mut archive, bytes));
}

#[test]
fn entries_whose_fields_are_anything() {
    let mut archive = tempfile::tempfile().unwrap();
    let entries = bolero::generator::produce::<Vec<(Vec<u8>, u8, u16, Vec<u8>)>>();
    bolero::check!().with_generator(entries).for_each(|entries| {
        let mut content = Vec::new();
        for (fields, kind, size, data) in entries {
            // Mostly of the kinds that there are.
            let kind = b"01234567xgLKS5210xL"[usize::from(*kind) % 19];
            content.extend(header(fields, kind, *size));
            content.extend(data);
            content.resize(content.len().next_multiple_of(BLOCK), 0);
        }
        read(&mut archive, &content);
    });
}
