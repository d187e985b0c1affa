//! `container_commit`: what a container has changed in its image becomes a layer of a new image in Glance.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use cloud::Glance;
use image::{Addition, ImageSource};
use model::{Container, ContainerUuid};
use oslo::RequestContext;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::Instrument;
use uuid::Uuid;

use super::files::Files;
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::executor::{Executor, require_created};
use crate::images::{Images, glance};
use crate::kept::{read_json, write_json};
use crate::record::{Member, sandbox_name};
use crate::rows::ZunRows;

const DEFAULT_TAG: &str = "latest";
const GIBIBYTE: u64 = 1 << 30;

const EVENT: &str = "compute__do_container_commit";
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
        let read = own.map(|name| {
            read_json(folder, &name)
                .inspect_err(|e| tracing::error!(error = %e, "a commit is not taken back"))
        });
        read.filter_map(Result::ok).collect()
    }

    /// The folder may be gone, with its container.
    fn forget(&self, folder: &Path) {
        if let Err(e) = fs::remove_file(folder.join(self.file_name()))
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(image = %self.image, error = %e, "that its commit has ended is not recorded");
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

/// What a commit is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The image's name.
    pub repository: String,
    /// Its tag.
    pub tag: Option<String>,
}

/// Makes images of containers.
#[derive(Clone)]
pub struct Commits {
    engine: HostEngine,
    executor: Executor<ZunRows>,
    images: Images,
    files: Files,
}

impl Commits {
    /// Commits of the containers of `engine`.
    pub fn new(engine: HostEngine, executor: Executor<ZunRows>, images: Images, files: Files) -> Self {
        Self { engine, executor, images, files }
    }

    /// Answers with the image's identifier; it gets its data in the background. `held` is dropped once that has ended.
    pub async fn commit(
        &self,
        context: &RequestContext,
        row: Container,
        wanted: Wanted,
        held: impl Send + 'static,
    ) -> Result<Value> {
        let begun = self.begin(context, &row, wanted).await;
        let commit = match begun {
            Ok(commit) => commit,
            Err(e) => {
                let failed = Err::<(), _>(e);
                self.executor.finish(context.request(), row.uuid, ACTION, &failed);
                return failed.map(|()| Value::Null);
            }
        };
        let answer = json!({ "uuid": commit.begun.image });
        let (commits, request) = (self.clone(), context.request().to_owned());
        let work = async move {
            commits.carry_through(&request, &row, &commit).await;
            drop(held);
        };
        tokio::spawn(work.in_current_span());
        Ok(answer)
    }

    async fn carry_through(&self, request: &str, row: &Container, commit: &Commit) {
        let image = commit.begun.image;
        self.executor.event_started(request, row.uuid, EVENT);
        let result = self.make(row, commit).await;
        let mut left = None;
        if let Err(e) = &result {
            tracing::error!(%image, error = %e, "a container was not committed");
            left = commit.glance.delete(image).await.err();
        }
        self.executor.event_finished(request, row.uuid, EVENT, &result);
        self.executor.finish(request, row.uuid, ACTION, &result);
        match left {
            // The next start of this service tries it again.
            Some(e) => tracing::error!(%image, error = %e, "an image is left behind in Glance"),
            None => commit.begun.forget(self.engine.sandbox(row.uuid).path()),
        }
    }

    async fn begin(&self, context: &RequestContext, row: &Container, wanted: Wanted) -> Result<Commit> {
        require_created(row)?;
        let Wanted { repository, tag } = wanted;
        let glance = self.images.glance_as(context);
        let begun = BegunCommit { image: Uuid::new_v4(), request: context.request().to_owned() };
        let sandbox = self.engine.sandbox(row.uuid);
        begun.write(sandbox.path())?;
        if let Err(e) = glance.create(begun.image, &repository).await {
            // It may be there though its answer was lost.
            match glance.delete(begun.image).await {
                Ok(()) => begun.forget(sandbox.path()),
                Err(e) => {
                    tracing::error!(image = %begun.image, error = %e, "an image may be left behind in Glance")
                }
            }
            return Err(e.into());
        }
        Ok(Commit { glance, begun, repository, tag: tag.unwrap_or_else(|| DEFAULT_TAG.into()) })
    }

    /// Commits of a container that had not ended when this service did. To be asked before RPC is served,
    /// or of containers that are still another host's.
    pub fn interrupted(&self, uuid: ContainerUuid) -> Vec<BegunCommit> {
        BegunCommit::list(self.engine.sandbox(uuid).path())
    }

    /// Takes an interrupted commit back. One whose image had all its data had come to its end.
    pub async fn abandon(&self, uuid: ContainerUuid, begun: &BegunCommit) -> Result<()> {
        let glance = self.images.glance_as(&RequestContext::default());
        let ended = match glance.is_active(begun.image).await? {
            true => Ok(()),
            false => {
                glance.delete(begun.image).await?;
                tracing::warn!(image = %begun.image, "a commit was interrupted and is taken back");
                Err(Error::Conflict("the commit was interrupted".into()))
            }
        };
        self.executor.event_finished(&begun.request, uuid, EVENT, &ended);
        self.executor.finish(&begun.request, uuid, ACTION, &ended);
        begun.forget(self.engine.sandbox(uuid).path());
        Ok(())
    }

    async fn make(&self, row: &Container, commit: &Commit) -> Result<()> {
        let record = self.engine.record(row.uuid)?;
        let main = record.member(&sandbox_name(row.uuid))?;
        let parent = main.image_source.as_ref().ok_or_else(|| {
            Error::Conflict(
                "it is not recorded where the container's image came from: rebuild it first".into(),
            )
        })?;
        let layer = self.changes_of(row).await?;
        tracing::info!(image = %commit.begun.image, "what was changed is packed");
        let addition = addition(row, main, commit, layer);
        let archive = self.save_image(row, parent, &commit.glance, addition).await?;
        commit.glance.describe(commit.begun.image, &[&commit.tag]).await?;
        commit.glance.upload(commit.begun.image, archive).await?;
        tracing::info!(image = %commit.begun.image, "committed");
        Ok(())
    }

    /// What a container has changed, as a layer.
    async fn changes_of(&self, row: &Container) -> Result<File> {
        let id = sandbox_name(row.uuid);
        let bytes_max = self.images.options().kata.image_size_max * GIBIBYTE;
        let pack = async |sandbox: &sandbox::Sandbox| Ok(sandbox.pack_changes(&id, bytes_max).await?);
        self.files.with(row, pack).await
    }

    async fn save_image(
        &self,
        row: &Container,
        parent: &ImageSource,
        glance: &Glance,
        addition: Addition,
    ) -> Result<File> {
        let registry = self.images.registry_of(row).await?;
        let credentials = self.images.credentials(parent.registry().as_deref(), registry);
        let progress = self.images.store().progress().of_one();
        let store = self.images.store();
        let fetch =
            async |file| glance::fetch(glance, parent.name(), file, store.bytes_max(), &progress).await;
        Ok(image::save(store, parent, credentials.as_ref(), fetch, addition).await?)
    }
}

/// What the new image says of itself, as Docker has it: it runs as its container does.
fn addition(row: &Container, main: &Member, commit: &Commit, layer: File) -> Addition {
    let command = row.command.as_ref().map(|list| list.0.clone());
    let entrypoint = row.entrypoint.as_ref().map(|list| list.0.clone());
    let config = Map::from_iter([
        ("Env".to_owned(), json!(main.container.environment)),
        ("Cmd".to_owned(), json!(command)),
        ("Entrypoint".to_owned(), json!(entrypoint)),
        ("WorkingDir".to_owned(), json!(main.container.directory)),
    ]);
    let created = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let created_by = main.container.arguments.join(" ");
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
