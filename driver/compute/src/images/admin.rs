//! Images that an administrator keeps on this host, and the search for those of a registry.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::{Digest, ImageReference, PullPolicy};
use model::Image as ImageRow;
use oslo::RequestContext;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::glance::{self, Match};
use super::pull::{ImageDriver, Images};
use crate::error::{Error, Result};
use crate::record::SandboxRecord;

/// What is searched for.
#[derive(Debug)]
pub struct Search {
    /// A part of a name, or the name.
    pub image: String,
    /// Where.
    pub driver: Option<String>,
    /// Whether the whole name must be it.
    pub is_exact: bool,
    /// The registry of a user's own, if it is in one.
    pub registry: Option<String>,
}

/// Pulls an image that an administrator asked for. What looks like an identifier is one of Glance's, as upstream has it.
pub async fn pull(images: &Images, context: &RequestContext, row: &ImageRow) -> Result<()> {
    let is_id = row.repo.parse::<Uuid>().is_ok();
    let driver = if is_id { ImageDriver::Glance } else { images.driver(None)? };
    let tag = row.tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(|| "latest".into());
    let name = if is_id { row.repo.clone() } else { format!("{}:{tag}", row.repo) };
    let progress = images.store().progress();
    let image = match driver {
        ImageDriver::Docker => images.of_registry(&name, PullPolicy::Always, None, progress).await?,
        ImageDriver::Glance => images.of_glance(context, &name, PullPolicy::Always, progress).await?,
    };
    row.pulled(images.database(), &tag, &image.id.to_string(), image.size).await?;
    Ok(())
}

/// Searches for images.
pub async fn search(images: &Images, context: &RequestContext, wanted: &Search) -> Result<Value> {
    match images.driver(wanted.driver.as_deref())? {
        ImageDriver::Docker => search_docker_hub(images, wanted).await,
        ImageDriver::Glance => {
            let compared = if wanted.is_exact { Match::Exact } else { Match::Part };
            let found = glance::find(
                &images.glance_as(context),
                &wanted.image,
                compared,
                glance::Viewer::of(context),
            )
            .await?;
            Ok(found.into_iter().filter_map(|image| serde_json::to_value(image).ok()).collect())
        }
    }
}

/// A name in a registry of its user's is looked for there, and never on Docker Hub.
async fn search_docker_hub(images: &Images, wanted: &Search) -> Result<Value> {
    let default = images.options().docker.default_registry.as_deref();
    let reference = searched(wanted, default)?;
    let found = image::search(&reference).await?;
    let name = bare_name(&reference);
    let wanted = found.into_iter().filter(|result| !wanted.is_exact || result.name == name);
    let results = wanted.map(|result| {
        json!({
            "name": result.name,
            "description": result.description,
            "metadata": { "is_official": result.is_official, "star_count": result.star_count },
        })
    });
    Ok(Value::Array(results.collect()))
}

/// What is searched for: a name without a registry is in the user's, or else in the default one.
fn searched(wanted: &Search, default_registry: Option<&str>) -> Result<ImageReference> {
    Ok(ImageReference::parse(&wanted.image, wanted.registry.as_deref().or(default_registry))?)
}

/// The name as Docker Hub lists it, without registry and tag.
fn bare_name(reference: &ImageReference) -> &str {
    reference.repository().strip_prefix("library/").unwrap_or(reference.repository())
}

/// Upstream removes the row whatever becomes of the image; so does this. One that cannot be removed now stays until it is
/// collected, and what a container has is kept for it.
pub async fn delete(images: &Images, row: &ImageRow) -> Result<()> {
    if let Some(id) = row.image_id.as_deref().filter(|id| !id.is_empty()) {
        let digest: Digest =
            id.parse().map_err(|_| Error::invalid("image_id", format!("{id:?} is no digest")))?;
        let (images, id) = (images.clone(), digest.clone());
        let removed = spawn_blocking(move || remove(&images, &id)).await;
        if let Err(e) = removed.map_err(|e| Error::Conflict(e.to_string())).flatten() {
            tracing::error!(image = %digest, error = %e, "an image cannot be removed");
        }
    }
    Ok(row.destroy(images.database()).await?)
}

fn remove(images: &Images, id: &Digest) -> Result<()> {
    let in_use = images.store().in_use(|| file_systems_of_containers(images))?;
    Ok(images.store().remove(id, in_use)?)
}

/// Removes images that nobody has used for long, or that do not fit, as `[kata]` says.
pub fn collect(images: &Images) -> Result<()> {
    let store = images.store();
    let in_use = store.in_use(|| file_systems_of_containers(images))?;
    let retention = images.options().kata.retention();
    for id in store.collect(retention, SystemTime::now(), in_use)? {
        tracing::info!(image = %id, "an image that was not used for long, or did not fit, is removed");
    }
    Ok(())
}

/// The file systems of all containers of this host, Zun's and the operator's, whether or not they run.
fn file_systems_of_containers(images: &Images) -> Result<HashSet<PathBuf>> {
    let mut used = HashSet::new();
    for host in [images.options().host(), images.options().operators_host()] {
        used.extend(file_systems_in(&host.folder)?);
    }
    Ok(used)
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
        // The image of one that cannot be read may be in use: none is removed then.
        if let Some(record) = SandboxRecord::find(&sandbox)? {
            found.extend(record.all().map(|member| member.container.image.clone()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use image::{Hold, Image, ImageConfiguration};
    use sandbox::RateLimit;

    use super::*;
    use crate::record::{Member, NewMember};

    #[test]
    fn a_name_is_searched_for_in_its_users_registry_before_the_default_one() {
        let search = |image: &str, registry: Option<&str>| Search {
            image: image.into(),
            driver: None,
            is_exact: false,
            registry: registry.map(str::to_owned),
        };
        let asked = |wanted: &Search, default| searched(wanted, default).unwrap().registry().to_owned();
        let own = search("app", Some("own.example:5000"));
        assert_eq!(asked(&own, None), "own.example:5000");
        assert_eq!(asked(&own, Some("default.example")), "own.example:5000");
        assert_eq!(asked(&search("app", None), Some("default.example")), "default.example");
        assert_eq!(asked(&search("other.example/app", Some("own.example")), None), "other.example");
        assert_eq!(asked(&search("app", None), None), "docker.io");
    }

    fn record(id: &str, rootfs: &str) -> SandboxRecord {
        let asked = NewMember {
            id: id.into(),
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
        let image = Image {
            id: nothing,
            configuration,
            rootfs: rootfs.into(),
            size: 0,
            source,
            hold: Hold::default(),
        };
        SandboxRecord::of_container("operator".into(), Member::new(asked, &image).unwrap())
    }

    #[test]
    fn a_name_is_compared_without_its_registry_and_its_tag() {
        for (text, name) in
            [("nginx:latest", "nginx"), ("nginx", "nginx"), ("a/b:1", "a/b"), ("docker.io/nginx", "nginx")]
        {
            assert_eq!(bare_name(&ImageReference::parse(text, None).unwrap()), name, "{text}");
        }
        let own = ImageReference::parse("app", Some("registry.example:5000")).unwrap();
        assert_eq!(own.registry(), "registry.example:5000");
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
