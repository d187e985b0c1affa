//! Files of which an archive has only the parts that are not zeros: GNU's old form, and its forms 0.1 and 1.0 in PAX headers
//! (the manual of GNU tar, "Storing Sparse Files").

use std::fs::File;
use std::io::{self, Error, ErrorKind, Read};
use std::os::unix::fs::FileExt;

use tar::{Entry, GnuExtSparseHeader, GnuSparseHeader};

const BLOCK: u64 = 512;
/// Files that are unpacked begin at a multiple of this: holes stay holes.
const PAGE: u64 = 4096;
/// Most parts of one file.
const PARTS_MAX: usize = 1 << 20;
/// Most bytes of what says where the parts are.
const MAP_MAX: usize = 32 << 20;
const COPY: usize = 64 * 1024;

/// Where the parts of a file are.
#[derive(Debug, PartialEq, Eq)]
pub struct Sparse {
    size: u64,
    /// Where the parts begin in the archive, one after the other.
    data: u64,
    /// Where each is in the file, and its length.
    parts: Vec<(u64, u64)>,
}

/// What PAX headers say of a sparse file.
#[derive(Debug, Default)]
pub struct PaxSparse {
    name: Option<Vec<u8>>,
    major: Option<u64>,
    size: Option<u64>,
    map: Option<String>,
}

impl PaxSparse {
    /// Takes a header, if it is one of these.
    pub fn take(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let number = || text(value)?.parse().map_err(|_| invalid(format!("{key} is no number")));
        match key {
            "GNU.sparse.name" => self.name = Some(value.to_vec()),
            "GNU.sparse.major" => self.major = Some(number()?),
            "GNU.sparse.size" | "GNU.sparse.realsize" => self.size = Some(number()?),
            "GNU.sparse.map" => self.map = Some(text(value)?.to_owned()),
            "GNU.sparse.offset" => return Err(invalid("sparse files of form 0.0 are not supported")),
            _ => {}
        }
        Ok(())
    }

    /// The file's own name, where its entry has another.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The parts of the file of an entry, if it is sparse.
    pub fn parts(self, entry: &Entry<'_, impl Read>, archive: &File) -> io::Result<Option<Sparse>> {
        let Some(size) = self.size else { return Ok(None) };
        let (start, length) = (entry.raw_file_position(), entry.size());
        let (parts, map_length) = match (&self.map, self.major) {
            (Some(map), _) => (pairs(map.split(','))?, 0),
            (None, Some(1)) => read_map(archive, start, length)?,
            _ => return Err(invalid("a sparse file does not say where its parts are")),
        };
        let sparse = Sparse { size, data: start + map_length, parts };
        sparse.check(length - map_length)?;
        Ok(Some(sparse))
    }
}

impl Sparse {
    /// The parts of an entry of GNU's old form.
    pub fn old_gnu(entry: &Entry<'_, impl Read>, archive: &File) -> io::Result<Self> {
        let header = entry.header().as_gnu().ok_or_else(|| invalid("a sparse file without GNU's header"))?;
        let mut parts = Vec::new();
        take_parts(&header.sparse, &mut parts)?;
        let mut data = entry.raw_header_position() + BLOCK;
        let mut goes_on = header.is_extended();
        while goes_on {
            let mut more = GnuExtSparseHeader::new();
            archive.read_exact_at(more.as_mut_bytes(), data)?;
            take_parts(more.sparse(), &mut parts)?;
            data += BLOCK;
            goes_on = more.is_extended();
        }
        let sparse = Self { size: entry.size(), data, parts };
        sparse.check(entry.header().entry_size()?)?;
        Ok(sparse)
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of memory that it takes to know where the parts are.
    pub fn size_of_map(&self) -> usize {
        size_of_val(self.parts.as_slice())
    }

    /// Writes the file's parts to where they belong in a file that begins at `start` of the same archive.
    pub fn unpack(&self, archive: &File, start: u64) -> io::Result<()> {
        let mut buffer = vec![0; COPY];
        let mut from = self.data;
        for (at, length) in &self.parts {
            let (mut to, end) = (start + at, start + at + length);
            while to < end {
                let most = usize::try_from(end - to).unwrap_or(COPY).min(COPY);
                archive.read_exact_at(&mut buffer[..most], from)?;
                archive.write_all_at(&buffer[..most], to)?;
                to += most as u64;
                from += most as u64;
            }
        }
        Ok(())
    }

    fn check(&self, archived: u64) -> io::Result<()> {
        let mut end = 0;
        let mut total = 0_u64;
        for (at, length) in &self.parts {
            let next = at.checked_add(*length).filter(|next| *at >= end && *next <= self.size);
            end = next.ok_or_else(|| invalid("the parts of a sparse file overlap, or lie beyond its end"))?;
            total += length;
        }
        // The padding after a map of form 1.0 counts as archived.
        if total > archived { Err(invalid("a sparse file has more parts than data")) } else { Ok(()) }
    }
}

/// Where files can be unpacked behind an archive of this length.
pub fn behind(length: u64) -> u64 {
    length.next_multiple_of(PAGE)
}

fn take_parts(headers: &[GnuSparseHeader], parts: &mut Vec<(u64, u64)>) -> io::Result<()> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        parts.push((header.offset()?, header.length()?));
        check_number(parts.len())?;
    }
    Ok(())
}

/// Form 1.0: decimal numbers, one a line, before the data: how many parts, and of each its place and its length.
fn read_map(archive: &File, start: u64, length: u64) -> io::Result<(Vec<(u64, u64)>, u64)> {
    let mut map = Vec::new();
    let mut lines = 0;
    let mut wanted: Option<usize> = None;
    while wanted.is_none_or(|wanted| lines < wanted) {
        let at = map.len() as u64;
        if at + BLOCK > length || map.len() > MAP_MAX {
            return Err(invalid("the map of a sparse file has no end"));
        }
        let mut block = [0; BLOCK as usize];
        archive.read_exact_at(&mut block, start + at)?;
        lines += block.iter().filter(|byte| **byte == b'\n').count();
        map.extend(block);
        if wanted.is_none() && lines > 0 {
            let first = map.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let number = text(first)?.parse().map_err(|_| invalid("a sparse file's map has no beginning"))?;
            check_number(number)?;
            wanted = Some(1 + 2 * number);
        }
    }
    let lines = text(&map)?.lines().skip(1).take(wanted.unwrap_or(1) - 1);
    Ok((pairs(lines)?, map.len() as u64))
}

fn pairs<'a>(numbers: impl Iterator<Item = &'a str>) -> io::Result<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = numbers
        .map(|number| number.parse().map_err(|_| invalid("a sparse file's map has what is no number")))
        .collect::<io::Result<_>>()?;
    check_number(numbers.len() / 2)?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[at, length]| (*at, *length)).collect())
    } else {
        Err(invalid("a sparse file's map ends in the middle of a part"))
    }
}

fn check_number(parts: usize) -> io::Result<()> {
    if parts > PARTS_MAX {
        Err(invalid(format!("a sparse file has more than {PARTS_MAX} parts")))
    } else {
        Ok(())
    }
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| invalid("a header of a sparse file is no text"))
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(parts: &[(u64, u64)]) -> Sparse {
        Sparse { size: 100, data: 0, parts: parts.to_vec() }
    }

    #[test]
    fn parts_lie_in_their_file_one_after_the_other() {
        assert!(sparse(&[(0, 10), (10, 5), (99, 1)]).check(16).is_ok());
        assert!(sparse(&[]).check(0).is_ok());
        for bad in [&[(0, 10), (9, 1)][..], &[(99, 2)], &[(1, u64::MAX)], &[(0, 17)]] {
            assert!(sparse(bad).check(16).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_map_is_pairs_of_numbers() {
        assert_eq!(pairs("1,2,3,4".split(',')).unwrap(), [(1, 2), (3, 4)]);
        for bad in ["1", "1,x", "-1,2"] {
            assert!(pairs(bad.split(',')).is_err(), "{bad}");
        }
    }
}
