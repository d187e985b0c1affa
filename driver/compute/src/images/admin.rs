//! Images that an administrator keeps on this host, and the search for those of a registry.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::{Digest, ImageReference, PullPolicy};
use model::Image as ImageRow;
use oslo::RequestContext;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Manager;
use super::dispatch::Arguments;
use super::pull::ImageDriver;
use crate::capsule_record::CapsuleRecord;
use crate::error::{Error, Result};
use crate::glance::{self, Match};
use crate::record::Record;

impl Manager {
    /// What looks like an identifier is one of Glance's, as upstream has it.
    pub(super) async fn image_pull(&self, context: &RequestContext, arguments: &Arguments) -> Result<()> {
        let row = ImageRow::from_wire(arguments.raw("image"))?;
        let is_id = row.repo.parse::<Uuid>().is_ok();
        let driver = if is_id { ImageDriver::Glance } else { self.image_driver(None)? };
        let tag = row.tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(|| "latest".into());
        let name = if is_id { row.repo.clone() } else { format!("{}:{tag}", row.repo) };
        let progress = self.images.progress();
        let image = match driver {
            ImageDriver::Docker => self.registry_image(&name, PullPolicy::Always, None, progress).await?,
            ImageDriver::Glance => self.glance_image(context, &name, PullPolicy::Always, progress).await?,
        };
        row.pulled(&self.database, &tag, &image.id.to_string(), image.size).await?;
        Ok(())
    }

    pub(super) async fn image_search(
        &self,
        context: &RequestContext,
        arguments: &Arguments,
    ) -> Result<Value> {
        let name: String = arguments.get("image")?;
        let driver: Option<String> = arguments.get("image_driver_name")?;
        let exact: Option<bool> = arguments.get("exact_match")?;
        match self.image_driver(driver.as_deref())? {
            ImageDriver::Docker => self.search_docker_hub(&name, exact).await,
            ImageDriver::Glance => {
                let compared = if exact.unwrap_or(false) { Match::Exact } else { Match::Part };
                let found = glance::find(&self.glance_as(context), &name, compared).await?;
                Ok(found.into_iter().filter_map(|image| serde_json::to_value(image).ok()).collect())
            }
        }
    }

    async fn search_docker_hub(&self, name: &str, exact: Option<bool>) -> Result<Value> {
        let reference = ImageReference::parse(name, self.options.docker.default_registry.as_deref())?;
        let found = image::search(&reference).await?;
        let wanted = found.into_iter().filter(|result| !exact.unwrap_or(false) || result.name == name);
        let results = wanted.map(|result| {
            json!({
                "name": result.name,
                "description": result.description,
                "metadata": { "is_official": result.is_official, "star_count": result.star_count },
            })
        });
        Ok(Value::Array(results.collect()))
    }

    /// Upstream removes the row whatever becomes of the image; so does this. What a container has is kept for it.
    pub(super) async fn image_delete(&self, arguments: &Arguments) -> Result<()> {
        let row = ImageRow::from_wire(arguments.raw("image"))?;
        if let Some(id) = row.image_id.as_deref().filter(|id| !id.is_empty()) {
            let id: Digest =
                id.parse().map_err(|_| Error::Invalid(format!("image_id {id:?} is no digest")))?;
            let used = self.file_systems_in_use()?;
            if let Err(e) = self.images.remove(&id, |path| used.contains(path)) {
                tracing::error!(image = %id, "it cannot be removed: {e}");
            }
        }
        Ok(row.destroy(&self.database).await?)
    }

    /// Removes images that nobody has used for long, or that do not fit, as `[kata]` says.
    pub fn collect_images(&self) -> Result<()> {
        let used = self.file_systems_in_use()?;
        let retention = self.options.kata.retention();
        for id in self.images.collect(retention, SystemTime::now(), |path| used.contains(path))? {
            tracing::info!(image = %id, "it was not used for long, or all took too much: it is removed");
        }
        Ok(())
    }

    /// The file systems of all containers of this host, Zun's and the operator's, whether or not they run.
    fn file_systems_in_use(&self) -> Result<HashSet<PathBuf>> {
        let mut used = HashSet::new();
        for host in [self.options.host(), self.options.operators_host()] {
            used.extend(file_systems_in(&host.folder)?);
        }
        Ok(used)
    }
}

/// The file systems of the containers whose sandboxes are in a folder.
fn file_systems_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::Sandboxes)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let sandbox = entry.map_err(Error::Sandboxes)?.path();
        if let Ok(record) = Record::read(&sandbox) {
            found.push(record.container.image);
        } else if let Ok(record) = CapsuleRecord::read(&sandbox) {
            found.extend(record.members().map(|member| member.container.image.clone()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use image::{Image, ImageConfiguration};
    use sandbox::RateLimit;

    use super::*;
    use crate::record::ContainerRequest;

    fn record(id: &str, rootfs: &str) -> Record {
        let asked = ContainerRequest {
            id: id.into(),
            owner: "operator".into(),
            entrypoint: None,
            command: Some(vec!["sh".into()]),
            environment: Vec::new(),
            directory: None,
            hostname: id.into(),
            cpus: 1.0,
            memory_mib: 128,
            terminal: false,
            interactive: false,
            disk_limit: RateLimit::default(),
            privileged: false,
            oci: Value::Null,
        };
        let configuration = json!({ "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [] } });
        let configuration: ImageConfiguration = serde_json::from_value(configuration).unwrap();
        let nothing = Digest::of(b"");
        let source =
            json!({ "reference": "r.io/a:1", "manifest": nothing, "config": nothing, "chain": nothing });
        let source = serde_json::from_value(source).unwrap();
        let image = Image { id: nothing, configuration, rootfs: rootfs.into(), size: 0, source };
        Record::new(asked, &image).unwrap()
    }

    #[test]
    fn what_any_sandbox_has_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        for (id, rootfs) in [("one", "/images/a"), ("two", "/images/b")] {
            let sandbox = folder.path().join(id);
            std::fs::create_dir(&sandbox).unwrap();
            record(id, rootfs).write(&sandbox).unwrap();
        }
        std::fs::create_dir(folder.path().join("without a record")).unwrap();
        let mut found = file_systems_in(folder.path()).unwrap();
        found.sort();
        assert_eq!(found, [PathBuf::from("/images/a"), PathBuf::from("/images/b")]);
        assert!(file_systems_in(&folder.path().join("none")).unwrap().is_empty());
    }
}
