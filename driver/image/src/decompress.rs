use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use flate2::read::MultiGzDecoder;

use crate::digest::{Digest, DigestReader};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Writes the uncompressed content of `layer` to `out`, `limit` bytes at most, and gives its digest and length.
/// How it is compressed is told from its first bytes: media types of old images are not always right, and the
/// digest of the content is checked in any case.
pub fn decompress(layer: &mut File, out: &mut File, limit: u64) -> io::Result<(Digest, u64)> {
    let mut magic = [0; 4];
    layer.rewind()?;
    let length = read_up_to(layer, &mut magic)?;
    layer.rewind()?;
    let layer = BufReader::new(layer);
    let content: Box<dyn Read> = match &magic[..length] {
        [a, b, ..] if [*a, *b] == GZIP_MAGIC => Box::new(MultiGzDecoder::new(layer)),
        magic if magic == ZSTD_MAGIC => Box::new(zstd::Decoder::with_buffer(layer)?),
        _ => Box::new(layer),
    };
    let mut content = DigestReader::new(content.take(limit.saturating_add(1)));
    let written = io::copy(&mut content, out)?;
    out.flush()?;
    if written > limit {
        return Err(io::Error::other(format!(
            "it has more than the {limit} bytes that are left of the limit"
        )));
    }
    Ok((content.finish(), written))
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn through(bytes: &[u8], limit: u64) -> io::Result<(Digest, u64)> {
        let mut layer = tempfile::tempfile()?;
        layer.write_all(bytes)?;
        decompress(&mut layer, &mut tempfile::tempfile()?, limit)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_forms_give_the_same_content() {
        let content = b"content".repeat(1000);
        let expected = (Digest::of(&content), content.len() as u64);
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        for form in [content.clone(), gzip(&content), zstd] {
            assert_eq!(through(&form, 7000).unwrap(), expected);
        }
        assert_eq!(through(b"", 0).unwrap().1, 0);
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 100_000);
        let error = through(&bomb, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("more than the 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_cut_layer_is_an_error() {
        let whole = gzip(&b"content".repeat(1000));
        assert!(through(&whole[..whole.len() - 10], 1 << 20).is_err());
    }
}
