use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use flate2::read::MultiGzDecoder;

use crate::budget::Budget;
use crate::digest::{Digest, DigestReader};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const PIECE: usize = 128 * 1024;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    Gzip,
    Zstd,
}

/// Writes the uncompressed content of `layer` to `out`, as far as `budget` lets it, and gives its digest.
/// How it is compressed is told from its first bytes: media types of old images are not always right, and the
/// digest of the content is checked in any case.
pub fn decompress(layer: &mut (impl Read + Seek), out: &mut File, budget: &Budget) -> io::Result<Digest> {
    let form = form(layer)?;
    let layer = BufReader::new(layer);
    let content: Box<dyn Read + '_> = match form {
        Form::Gzip => Box::new(MultiGzDecoder::new(layer)),
        Form::Zstd => Box::new(zstd::Decoder::with_buffer(layer)?),
        Form::Plain => Box::new(layer),
    };
    let mut content = DigestReader::new(content);
    let mut piece = vec![0; PIECE];
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(content.finish()),
            length => {
                budget.take(length as u64)?;
                out.write_all(&piece[..length])?;
            }
        }
    }
}

/// How something is compressed, by its first bytes. Leaves it at its beginning.
pub fn form(content: &mut (impl Read + Seek)) -> io::Result<Form> {
    let mut magic = [0; 4];
    content.rewind()?;
    let length = read_up_to(content, &mut magic)?;
    content.rewind()?;
    Ok(match &magic[..length] {
        [a, b, ..] if [*a, *b] == GZIP_MAGIC => Form::Gzip,
        magic if magic == ZSTD_MAGIC => Form::Zstd,
        _ => Form::Plain,
    })
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

    fn through(bytes: &[u8], limit: u64) -> io::Result<Digest> {
        let mut layer = tempfile::tempfile()?;
        layer.write_all(bytes)?;
        decompress(&mut layer, &mut tempfile::tempfile()?, &Budget::new(limit))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_forms_give_the_same_content() {
        let content = b"content".repeat(1000);
        let expected = Digest::of(&content);
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        for form in [content.clone(), gzip(&content), zstd] {
            assert_eq!(through(&form, 7000).unwrap(), expected);
        }
        assert_eq!(through(b"", 0).unwrap(), Digest::of(b""));
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 1 << 20);
        let error = through(&bomb, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("more than the 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_cut_layer_is_an_error() {
        let whole = gzip(&b"content".repeat(1000));
        assert!(through(&whole[..whole.len() - 10], 1 << 20).is_err());
    }
}
