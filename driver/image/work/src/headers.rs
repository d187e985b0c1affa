//! Bounds extension headers (PAX, GNU long names), which the library that reads archives takes into memory whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Most bytes of a name that has a header of its own, with its end.
const NAME_MAX: u64 = 4096 + 1;
/// Most bytes of an entry's PAX headers, in which its extended attributes are.
pub const PAX_MAX: u64 = 2 << 20;
/// Where the flag of a block of GNU's sparse map is that more follow.
const GOES_ON: usize = 504;

/// Fails if an extension header exceeds its limit, in the archive of `length` bytes that begins at `start` of `file`. Headers are
/// found as the library finds them (`Archive::next_entry` of `tar`). Data that are no archive are left to the reader.
pub fn check(file: &File, start: u64, length: u64) -> io::Result<()> {
    let mut place = 0;
    let mut size_of_next = None;
    while place + BLOCK <= length {
        let mut header = Header::new_old();
        file.read_exact_at(header.as_mut_bytes(), start + place)?;
        let is_end = header.as_bytes().iter().all(|byte| *byte == 0);
        let (false, Ok(own_size)) = (is_end, header.entry_size()) else { return Ok(()) };
        place += BLOCK;
        let is_known = header.as_gnu().is_some() || header.as_ustar().is_some();
        let size = match header.entry_type() {
            EntryType::GNULongName | EntryType::GNULongLink if is_known => bounded(own_size, NAME_MAX)?,
            EntryType::XHeader if is_known => {
                let mut text = vec![0; usize::try_from(bounded(own_size, PAX_MAX)?).unwrap_or(0)];
                if place + own_size <= length {
                    file.read_exact_at(&mut text, start + place)?;
                }
                size_of_next = stated_size(&text);
                own_size
            }
            // What is announced is of an entry, and this is the next one, whatever it is; but its size is its own.
            EntryType::XGlobalHeader => {
                size_of_next = None;
                bounded(own_size, PAX_MAX)?
            }
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader => {
                size_of_next = None;
                own_size
            }
            EntryType::GNUSparse => {
                place = end_of_map(file, start, place, length, &header)?;
                size_of_next.take().unwrap_or(own_size)
            }
            _ => size_of_next.take().unwrap_or(own_size),
        };
        let next = size.checked_next_multiple_of(BLOCK).and_then(|size| place.checked_add(size));
        let Some(next) = next else { return Ok(()) };
        place = next;
    }
    Ok(())
}

/// Where GNU's map of a sparse file ends that begins in `header` and goes on at `place`.
fn end_of_map(file: &File, start: u64, mut place: u64, length: u64, header: &Header) -> io::Result<u64> {
    let mut goes_on = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
    while goes_on && place + BLOCK <= length {
        let mut more = [0; BLOCK as usize];
        file.read_exact_at(&mut more, start + place)?;
        goes_on = more[GOES_ON] == 1;
        place += BLOCK;
    }
    Ok(place)
}

fn bounded(size: u64, most: u64) -> io::Result<u64> {
    if size <= most {
        return Ok(size);
    }
    let reason = format!("a header has {size} bytes; the limit is {most}");
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// The size of the next entry, if PAX headers say it: the first of them that does, and none after one that is broken.
fn stated_size(text: &[u8]) -> Option<u64> {
    let mut records = tar::PaxExtensions::new(text).map_while(Result::ok);
    records.find(|record| record.key_bytes() == b"size")?.value().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tar::Builder;

    use super::*;

    fn archive(build: impl FnOnce(&mut Builder<&mut File>)) -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let mut builder = Builder::new(&mut file);
        build(&mut builder);
        builder.finish().unwrap();
        drop(builder);
        let length = file.metadata().unwrap().len();
        (file, length)
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_path("x").unwrap();
        header.set_cksum();
        header
    }

    #[test]
    fn a_header_that_is_too_long_is_found_wherever_it_is() {
        for (kind, most) in [
            (EntryType::GNULongName, NAME_MAX),
            (EntryType::GNULongLink, NAME_MAX),
            (EntryType::XHeader, PAX_MAX),
            (EntryType::XGlobalHeader, PAX_MAX),
        ] {
            let with = |size: u64| {
                archive(|builder| {
                    builder.append_data(&mut header(EntryType::Regular, 3), "a", &b"abc"[..]).unwrap();
                    builder.append(&header(kind, size), io::repeat(b'x').take(size)).unwrap();
                })
            };
            let (file, length) = with(most);
            check(&file, 0, length).unwrap();
            let (file, length) = with(most + 1);
            let error = check(&file, 0, length).unwrap_err().to_string();
            assert!(error.contains(&format!("{} bytes; the limit is {most}", most + 1)), "{error}");
            // Its announced size counts, not what is there.
            check(&file, 0, 1024).unwrap();
            assert!(check(&file, 0, 2048).is_err());
        }
    }

    #[test]
    fn what_is_no_header_is_not_taken_for_one() {
        let long = header(EntryType::XHeader, PAX_MAX + 1);
        let (file, length) = archive(|builder| {
            builder.append_data(&mut header(EntryType::Regular, 512), "a", &long.as_bytes()[..]).unwrap();
            // The header's own size is none, as that of a file which is too large for it.
            builder.append_pax_extensions([("size", &b"512"[..])]).unwrap();
            builder.get_mut().write_all(header(EntryType::Regular, 0).as_bytes()).unwrap();
            builder.get_mut().write_all(long.as_bytes()).unwrap();
        });
        check(&file, 0, length).unwrap();
        check(&file, 0, 0).unwrap();
    }

    /// Each hides a header that is too long from who takes the last size, or keeps it for too long.
    #[test]
    fn a_header_is_found_where_the_library_finds_it() {
        let sizes = |sizes: &[&str]| -> Vec<u8> {
            sizes.iter().flat_map(|size| format!("{} size={size}\n", size.len() + 9).into_bytes()).collect()
        };
        let mut broken = b"nonsense\n".to_vec();
        broken.extend(sizes(&["1024"]));
        let one_after_a_global_header: &[(EntryType, &[u8])] =
            &[(EntryType::XHeader, &sizes(&["1024"])), (EntryType::XGlobalHeader, b"")];
        for before in [
            &[(EntryType::XHeader, &sizes(&["512", "2048"])[..])][..],
            &[(EntryType::XHeader, &broken[..])],
            one_after_a_global_header,
        ] {
            let (file, length) = archive(|builder| {
                for (kind, content) in before {
                    builder.append(&header(*kind, content.len() as u64), *content).unwrap();
                }
                builder.append(&header(EntryType::Regular, 512), &[b'x'; 512][..]).unwrap();
                let long = header(EntryType::GNULongName, NAME_MAX + 1);
                builder.append(&long, io::repeat(b'x').take(NAME_MAX + 1)).unwrap();
            });
            let error = check(&file, 0, length).unwrap_err().to_string();
            assert!(error.contains("a header has"), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_archive_are_left_alone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xff; 4096]).unwrap();
        check(&file, 0, 4096).unwrap();
    }
}
