//! `container_commit`: what a container has changed in its image becomes a layer of a new image in Glance.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use cloud::Glance;
use image::{Addition, ImageSource};
use model::{Container, ContainerUuid, Status};
use oslo::RequestContext;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::Instrument;
use uuid::Uuid;

use super::Manager;
use super::dispatch::Arguments;
use super::steps::require_created;
use crate::error::{Error, Result};
use crate::glance;
use crate::record::{Record, read_json, write_json};

const DEFAULT_TAG: &str = "latest";
const GIBIBYTE: u64 = 1 << 30;

const EVENT: &str = "_do_container_commit";
const ACTION: &str = "commit";

/// What a container's folder holds while it is committed: if this service ends before that, its image shall not stay.
#[derive(Debug, Serialize, Deserialize)]
pub struct BegunCommit {
    image: Uuid,
    request: String,
}

impl BegunCommit {
    const PREFIX: &str = "commit-";
    const SUFFIX: &str = ".json";

    fn write(&self, folder: &Path) -> Result<()> {
        write_json(folder, &self.file_name(), self)
    }

    /// All that a folder holds.
    fn list(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let own = names.filter(|name| name.starts_with(Self::PREFIX) && name.ends_with(Self::SUFFIX));
        let read = own.map(|name| read_json(folder, &name).inspect_err(|e| tracing::error!("{e}")));
        read.filter_map(Result::ok).collect()
    }

    /// The folder may be gone, with its container.
    fn forget(&self, folder: &Path) {
        if let Err(e) = fs::remove_file(folder.join(self.file_name()))
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(image = %self.image, "that its commit has ended is not recorded: {e}");
        }
    }

    fn file_name(&self) -> String {
        format!("{}{}{}", Self::PREFIX, self.image, Self::SUFFIX)
    }
}

/// An image that is to be.
struct Commit {
    glance: Glance,
    begun: BegunCommit,
    repository: String,
    tag: String,
}

impl Manager {
    /// Answers with the image's identifier; it gets its data in the background.
    pub(super) async fn container_commit(
        self: &Arc<Self>,
        context: &RequestContext,
        container: Container,
        arguments: &Arguments,
    ) -> Result<Value> {
        let begun = self.begin_commit(context, &container, arguments).await;
        let commit = match begun {
            Ok(commit) => commit,
            Err(e) => {
                let failed = Err::<(), _>(e);
                self.finish(context.request(), &container, ACTION, &failed).await;
                return failed.map(|()| Value::Null);
            }
        };
        let answer = json!({ "uuid": commit.begun.image });
        let (manager, request) = (Arc::clone(self), context.request().to_owned());
        let work = async move {
            let committing = manager.commit(&container, &commit);
            let result = manager.event(&request, &container, EVENT, committing).await;
            let mut left = None;
            if let Err(e) = &result {
                tracing::error!(image = %commit.begun.image, "it was not committed: {e}");
                left = commit.glance.delete(commit.begun.image).await.err();
            }
            manager.finish(&request, &container, ACTION, &result).await;
            match left {
                // The next start of this service tries it again.
                Some(e) => tracing::error!(image = %commit.begun.image, "it is left behind in Glance: {e}"),
                None => commit.begun.forget(manager.sandbox(container.uuid).path()),
            }
        };
        tokio::spawn(work.in_current_span());
        Ok(answer)
    }

    async fn begin_commit(
        &self,
        context: &RequestContext,
        container: &Container,
        arguments: &Arguments,
    ) -> Result<Commit> {
        require_created(container)?;
        let repository: String = arguments.get("repository")?;
        let tag: Option<String> = arguments.get("tag")?;
        let glance = self.glance_as(context);
        let begun = BegunCommit { image: Uuid::new_v4(), request: context.request().to_owned() };
        let sandbox = self.sandbox(container.uuid);
        begun.write(sandbox.path())?;
        if let Err(e) = glance.create(begun.image, &repository).await {
            // It may be there though its answer was lost.
            match glance.delete(begun.image).await {
                Ok(()) => begun.forget(sandbox.path()),
                Err(e) => tracing::error!(image = %begun.image, "it may be left behind in Glance: {e}"),
            }
            return Err(e.into());
        }
        Ok(Commit { glance, begun, repository, tag: tag.unwrap_or_else(|| DEFAULT_TAG.into()) })
    }

    /// Commits of a container that had not ended when this service did.
    pub fn interrupted_commits(&self, uuid: ContainerUuid) -> Vec<BegunCommit> {
        BegunCommit::list(self.sandbox(uuid).path())
    }

    /// Takes back commits that were interrupted. One whose image had all its data had come to its end.
    pub async fn abandon_commits(&self, container: &Container, commits: &[BegunCommit]) -> Result<()> {
        for begun in commits {
            let ended = match self.glance.is_active(begun.image).await? {
                true => Ok(()),
                false => {
                    self.glance.delete(begun.image).await?;
                    tracing::warn!(image = %begun.image, "its commit was interrupted and is taken back");
                    Err(Error::Conflict("the commit was interrupted".into()))
                }
            };
            self.finish_event(&begun.request, container, EVENT, &ended).await;
            self.finish(&begun.request, container, ACTION, &ended).await;
            begun.forget(self.sandbox(container.uuid).path());
        }
        Ok(())
    }

    async fn commit(&self, container: &Container, commit: &Commit) -> Result<()> {
        let record = self.record(container.uuid)?;
        let parent = record.image_source.as_ref().ok_or_else(|| {
            Error::Invalid(
                "it is not recorded where the container's image came from: rebuild it first".into(),
            )
        })?;
        let layer = self.changes_of(container).await?;
        tracing::info!(image = %commit.begun.image, "what was changed is packed");
        let addition = addition(container, &record, commit, layer);
        let archive = self.save_image(container, parent, &commit.glance, addition).await?;
        commit.glance.describe(commit.begun.image, &[&commit.tag]).await?;
        commit.glance.upload(commit.begun.image, archive).await?;
        tracing::info!(image = %commit.begun.image, "committed");
        Ok(())
    }

    /// What a container has changed, as a layer. One that is paused goes on for the moment that it takes to stop its
    /// processes, and is paused again.
    async fn changes_of(&self, container: &Container) -> Result<File> {
        let id = container.uuid.to_string();
        let bytes_max = self.options.kata.image_size_max * GIBIBYTE;
        if self.fresh(container.clone()).await?.status != Status::Paused {
            let pack = async |sandbox: &sandbox::Sandbox| Ok(sandbox.pack_changes(&id, bytes_max).await?);
            return self.with_files(container.clone(), pack).await;
        }
        let _turn = self.locks.lock(container.uuid).await;
        let sandbox = self.sandbox(container.uuid);
        sandbox.resume().await?;
        let packed = sandbox.pack_changes(&id, bytes_max).await;
        sandbox.pause().await?;
        Ok(packed?)
    }

    async fn save_image(
        &self,
        container: &Container,
        parent: &ImageSource,
        glance: &Glance,
        addition: Addition,
    ) -> Result<File> {
        let registry = self.registry_of(container).await?;
        let credentials = self.credentials(parent.registry().as_deref(), registry);
        let progress = self.images.progress().of_one();
        let fetch = async |file| glance::fetch(glance, parent.name(), file, &progress).await;
        Ok(self.images.save(parent, credentials.as_ref(), fetch, addition).await?)
    }
}

/// What the new image says of itself, as Docker has it: it runs as its container does.
fn addition(container: &Container, record: &Record, commit: &Commit, layer: File) -> Addition {
    let command = container.command.as_ref().map(|list| list.0.clone());
    let entrypoint = container.entrypoint.as_ref().map(|list| list.0.clone());
    let config = Map::from_iter([
        ("Env".to_owned(), json!(record.container.environment)),
        ("Cmd".to_owned(), json!(command)),
        ("Entrypoint".to_owned(), json!(entrypoint)),
        ("WorkingDir".to_owned(), json!(record.container.directory)),
    ]);
    let created = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let created_by = record.container.arguments.join(" ");
    let name = format!("{}:{}", commit.repository, commit.tag);
    Addition { layer, config, created, created_by, name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_found_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert!(BegunCommit::list(&folder.path().join("none")).is_empty());
        let begun = BegunCommit { image: Uuid::new_v4(), request: "req-1".into() };
        begun.write(folder.path()).unwrap();
        fs::write(folder.path().join("container.json"), "{}").unwrap();
        fs::write(folder.path().join("commit-torn.json"), "{").unwrap();
        let found = BegunCommit::list(folder.path());
        assert_eq!(
            found.iter().map(|one| (one.image, one.request.as_str())).collect::<Vec<_>>(),
            [(begun.image, "req-1")]
        );
        begun.forget(folder.path());
        begun.forget(folder.path());
        assert!(BegunCommit::list(folder.path()).is_empty());
    }
}
