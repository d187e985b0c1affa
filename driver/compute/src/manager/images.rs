//! Images that an administrator keeps on this host, and the search for those of a registry.

use std::collections::HashSet;
use std::path::PathBuf;

use image::{Digest, ImageReference, PullPolicy};
use model::Image as ImageRow;
use serde_json::{Value, json};

use super::Manager;
use super::dispatch::Arguments;
use crate::capsule_record::CapsuleRecord;
use crate::error::{Error, Result};
use crate::record::Record;

impl Manager {
    pub(super) async fn image_pull(&self, arguments: &Arguments) -> Result<()> {
        let row = ImageRow::from_wire(arguments.raw("image"))?;
        let tag = row.tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(|| "latest".into());
        let image = self.find_image(&format!("{}:{tag}", row.repo), PullPolicy::Always, None).await?;
        row.pulled(&self.database, &tag, &image.id.to_string(), image.size).await?;
        Ok(())
    }

    pub(super) async fn image_search(&self, arguments: &Arguments) -> Result<Value> {
        let name: String = arguments.get("image")?;
        let driver: Option<String> = arguments.get("image_driver_name")?;
        if driver.as_deref() == Some("glance") {
            return Err(Error::NotSupported("image driver glance".into()));
        }
        let exact: Option<bool> = arguments.get("exact_match")?;
        let reference = ImageReference::parse(&name, self.options.docker.default_registry.as_deref())?;
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

    /// The file systems of all containers of this host, whether or not they run.
    fn file_systems_in_use(&self) -> Result<HashSet<PathBuf>> {
        let mut used = HashSet::new();
        for id in self.host.list()? {
            let sandbox = self.host.sandbox(&id);
            if let Ok(record) = Record::read(sandbox.path()) {
                used.insert(record.container.image);
            } else if let Ok(record) = CapsuleRecord::read(sandbox.path()) {
                used.extend(record.members().map(|member| member.container.image.clone()));
            }
        }
        Ok(used)
    }
}
