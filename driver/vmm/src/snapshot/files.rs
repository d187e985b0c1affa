use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{MachineState, MachineTopology};
use crate::memory::Memory;
use crate::{Error, Result};

const MEMORY: &str = "memory";
const STATE: &str = "state";
/// First bytes of a state file; the last one is the format's version.
const MAGIC: [u8; 8] = *b"zunkata1";
const DIGEST_SIZE: usize = 32;
/// Most bytes of a state file: 32 vCPUs need less than half a MiB.
const STATE_MAX: u64 = 4 << 20;

const PAGE: usize = 4096;
/// Number of pages examined together.
const PAGES_AT_ONCE: usize = 512;
/// Bits of an entry of `/proc/PID/pagemap`: the page is in memory, or in swap.
const PAGE_EXISTS: u64 = 1 << 63 | 1 << 62;
const ENTRY_SIZE: usize = 8;

/// Open files for a snapshot to be made.
#[derive(Debug)]
pub struct SnapshotFiles {
    memory: File,
    state: File,
    pagemap: File,
}

impl SnapshotFiles {
    /// Creates the files in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let create = |name: &str| {
            let path = folder.join(name);
            File::create_new(&path).map_err(|source| Error::Open { path, source })
        };
        let pagemap = Path::new("/proc/self/pagemap");
        Ok(Self {
            memory: create(MEMORY)?,
            state: create(STATE)?,
            pagemap: File::open(pagemap)
                .map_err(|source| Error::Open { path: pagemap.to_owned(), source })?,
        })
    }

    /// Writes the state and memory of a machine that does not run.
    pub(crate) fn write(&self, state: &MachineState, memory: &Memory) -> Result<()> {
        let mut offset = 0;
        for region in memory.iter() {
            self.write_region(memory, region.start_addr(), region.as_ptr() as usize, region.len(), offset)?;
            offset += region.len();
        }
        self.memory.set_len(offset).map_err(Error::io("size a snapshot of memory"))?;
        let bytes = encode(state)?;
        (&self.state).write_all(&bytes).map_err(Error::io("write a snapshot's state"))
    }

    /// Writes one region of memory. Pages that are untouched or hold zeros stay holes.
    fn write_region(
        &self,
        memory: &Memory,
        start: GuestAddress,
        host: usize,
        length: u64,
        offset: u64,
    ) -> Result<()> {
        let mut entries = vec![0; PAGES_AT_ONCE * ENTRY_SIZE];
        let mut pages = vec![0; PAGES_AT_ONCE * PAGE];
        let block = pages.len() as u64;
        for done in (0..length).step_by(pages.len()) {
            let count = ((length - done).min(block) as usize) / PAGE;
            let entry = ((host + done as usize) / PAGE * ENTRY_SIZE) as u64;
            self.pagemap
                .read_exact_at(&mut entries[..count * ENTRY_SIZE], entry)
                .map_err(Error::io("read which pages exist"))?;
            let exists: Vec<_> = entries[..count * ENTRY_SIZE].chunks(ENTRY_SIZE).map(page_exists).collect();
            for run in exists.chunk_by(|a, b| a == b).scan(0, |at, run| {
                *at += run.len();
                Some((*at - run.len(), run.len(), run[0]))
            }) {
                let (first, count, true) = run else { continue };
                let at = done + (first * PAGE) as u64;
                let content = &mut pages[..count * PAGE];
                memory.read_slice(content, GuestAddress(start.0 + at))?;
                write_sparse(&self.memory, content, offset + at)?;
            }
        }
        Ok(())
    }
}

fn page_exists(entry: &[u8]) -> bool {
    entry.try_into().is_ok_and(|bytes| u64::from_ne_bytes(bytes) & PAGE_EXISTS != 0)
}

/// Writes the pages of `content` that are not zero.
fn write_sparse(file: &File, content: &[u8], offset: u64) -> Result<()> {
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let pages: Vec<_> = content.chunks(PAGE).collect();
    let mut at = 0;
    for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let length = run.iter().map(|page| page.len()).sum::<usize>();
        if !is_zero(run[0]) {
            file.write_all_at(&content[at..at + length], offset + at as u64)
                .map_err(Error::io("write a snapshot of memory"))?;
        }
        at += length;
    }
    Ok(())
}

/// An open snapshot.
#[derive(Debug)]
pub struct Snapshot {
    memory: File,
    state: MachineState,
}

impl Snapshot {
    /// Opens the snapshot in `folder` and checks its digest and the size of its memory.
    pub fn open(folder: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|source| Error::Open { path, source })
        };
        let mut bytes = Vec::new();
        open(STATE)?
            .take(STATE_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read a snapshot's state"))?;
        let state = decode(&bytes)?;
        let memory = open(MEMORY)?;
        let length = memory.metadata().map_err(Error::io("measure a snapshot of memory"))?.len();
        if Some(length) != state.topology.memory_mib.checked_mul(1 << 20) {
            return Err(Error::Snapshot(format!("its memory has {length} bytes")));
        }
        Ok(Self { memory, state })
    }

    pub(crate) fn memory(&self) -> &File {
        &self.memory
    }

    pub(crate) fn state_for(&self, topology: &MachineTopology) -> Result<&MachineState> {
        if self.state.topology == *topology {
            return Ok(&self.state);
        }
        Err(Error::Snapshot("it is of a machine of another topology".into()))
    }
}

fn encode(state: &MachineState) -> Result<Vec<u8>> {
    let body = postcard::to_stdvec(state).map_err(|e| Error::Snapshot(e.to_string()))?;
    Ok([&MAGIC[..], &Sha256::digest(&body), &body].concat())
}

/// Decodes a state file. The digest detects damage, not tampering: the file's owner is trusted.
pub fn decode(bytes: &[u8]) -> Result<MachineState> {
    let damaged = |what: &str| Error::Snapshot(what.into());
    if bytes.len() as u64 > STATE_MAX {
        return Err(damaged("its state is too long"));
    }
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| damaged("its state is of another format"))?;
    let (digest, body) = rest.split_at_checked(DIGEST_SIZE).ok_or_else(|| damaged("its state is cut off"))?;
    if Sha256::digest(body).as_slice() != digest {
        return Err(damaged("its state is damaged"));
    }
    postcard::from_bytes(body).map_err(|e| Error::Snapshot(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Content, GuestRam};

    #[test]
    fn memory_survives_its_file_and_stays_sparse() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::create(folder.path()).unwrap();
        let ram = GuestRam::map(64, None, Content::Zeros).unwrap();
        let memory = ram.memory();
        memory.write_slice(b"first", GuestAddress(5)).unwrap();
        memory.write_slice(b"last", GuestAddress((64 << 20) - 4)).unwrap();
        memory.write_slice(&[0; 8192], GuestAddress(1 << 20)).unwrap();
        let region = memory.iter().next().unwrap();
        files.write_region(memory, GuestAddress(0), region.as_ptr() as usize, region.len(), 0).unwrap();
        let file = File::open(folder.path().join(MEMORY)).unwrap();
        let copy = GuestRam::map(64, None, Content::Copy(&file)).unwrap();
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            copy.memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        assert_eq!((read(5, 5), read((64 << 20) - 4, 4)), (b"first".to_vec(), b"last".to_vec()));
        assert_eq!(file.metadata().unwrap().blocks() * 512, 2 * PAGE as u64);
    }

    #[test]
    fn a_state_that_is_none_is_refused() {
        for bytes in [&b""[..], b"zunkata0", b"zunkata1", &[&MAGIC[..], &[0; 32], b"x"].concat()] {
            assert!(matches!(decode(bytes), Err(Error::Snapshot(_))), "{bytes:?}");
        }
        let body = vec![0xff; 64];
        let whole = [&MAGIC[..], &Sha256::digest(&body), &body].concat();
        assert!(matches!(decode(&whole), Err(Error::Snapshot(_))), "nonsense with a right digest");
    }
}
