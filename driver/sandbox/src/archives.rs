//! Files of a container as archives, and sandboxes that are only there to look into them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};

use nix::errno::Errno;
use shim_control::{FileStat, Pack, Packed, Unpack};

use crate::error::{Error, Result};
use crate::file_size;
use crate::files;
use crate::oci::ContainerSpec;
use crate::sandbox::Sandbox;
use crate::spec::SandboxSpec;

impl Sandbox {
    /// Packs what a container has at `path`. The archive has no name on this host, and goes when it is closed.
    pub async fn pack(&self, container: &str, path: &str, bytes_max: u64) -> Result<(FileStat, File)> {
        let mut archive = self.archive(bytes_max)?;
        let what = Packed::Path(path.to_owned());
        let pack = Pack { container: container.to_owned(), what, bytes_max };
        let stat = self.client().pack(pack, &archive).await?;
        archive.seek(SeekFrom::Start(0)).map_err(Error::io("read the archive in", self.path()))?;
        Ok((stat, archive))
    }

    /// Packs what a container has changed in its image, as a layer.
    pub async fn pack_changes(&self, container: &str, bytes_max: u64) -> Result<File> {
        let mut layer = self.archive(bytes_max)?;
        let pack = Pack { container: container.to_owned(), what: Packed::Changes, bytes_max };
        self.client().pack_changes(pack, &layer).await?;
        layer.seek(SeekFrom::Start(0)).map_err(Error::io("read the layer in", self.path()))?;
        Ok(layer)
    }

    /// Unpacks an archive, from where it is read next, into the directory that a container has at `path`.
    pub async fn unpack(&self, container: &str, path: &str, archive: &File) -> Result<()> {
        let unpack = Unpack { container: container.to_owned(), path: path.to_owned() };
        Ok(self.client().unpack(unpack, archive).await?)
    }

    /// A file into which the shim may write so many bytes.
    fn archive(&self, bytes_max: u64) -> Result<File> {
        if let Some(shim) = self.shim_pid() {
            // One that has ended meanwhile writes nothing.
            match file_size::allow(shim, bytes_max) {
                Err(e) if e.raw_os_error() != Some(Errno::ESRCH as i32) => {
                    return Err(Error::io("let its shim write", self.path())(e));
                }
                _ => {}
            }
        }
        self.nameless_file()
    }

    /// A file in the sandbox's folder that goes when it is closed.
    pub fn nameless_file(&self) -> Result<File> {
        tempfile::tempfile_in(self.path()).map_err(Error::io("make a file in", self.path()))
    }

    /// Brings a guest up for `work` on the files of a container that does not run, and ends it. What is known of the
    /// container's last run stays.
    pub async fn visit<T, E: From<Error>>(
        &self,
        spec: &SandboxSpec,
        container: &ContainerSpec,
        work: impl AsyncFnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let kept = self.path().join("last-run.json");
        let state = self.folder().run().state();
        let known = fs::rename(&state, &kept).is_ok();
        let visited = async {
            self.start(spec).await?;
            self.make_container(container).await?;
            work().await
        };
        let result = visited.await;
        let ended = self.shut_down().await;
        if known {
            fs::rename(&kept, &state).map_err(Error::io("bring back", state))?;
        } else {
            files::remove(&state)?;
        }
        let result = result?;
        ended?;
        Ok(result)
    }
}
