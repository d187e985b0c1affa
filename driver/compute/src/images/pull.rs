//! Images for containers: where each is looked for, in whose name, and how far it has come.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cloud::{Glance, UserToken};
use image::{Credentials, CredentialsOwner, Image, ImageReference, Progress, PullPolicy, Store};
use model::{Changes, Container, Database, Registry};
use oslo::RequestContext;
use shares::Shares;
use tokio::time::{Instant, interval_at};

use super::glance;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::options::Options;
use crate::rows::ZunRows;
use crate::turns::Turn;

/// Between two words on how far a pull has come.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// Pulls of one project that are under way: what reads images shares the host's processors, disk and memory.
const PULLS_MAX: usize = 8;
const MEBIBYTE: u64 = 1 << 20;

/// Where an image comes from (`zun/image`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageDriver {
    /// A registry.
    Docker,
    /// Glance.
    Glance,
}

impl FromStr for ImageDriver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "docker" => Ok(Self::Docker),
            "glance" => Ok(Self::Glance),
            other => Err(Error::NotSupported(format!("image driver {other}"))),
        }
    }
}

impl fmt::Display for ImageDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Glance => "glance",
        })
    }
}

/// The images of this host, and whom it asks for more.
#[derive(Clone)]
pub struct Images {
    options: Arc<Options>,
    database: Database,
    store: Arc<Store>,
    glance: Glance,
    executor: Executor<ZunRows>,
    pulls: Shares,
}

impl Images {
    /// Images in `store`.
    pub fn new(
        options: Arc<Options>,
        database: Database,
        store: Arc<Store>,
        glance: Glance,
        executor: Executor<ZunRows>,
    ) -> Self {
        Self { options, database, store, glance, executor, pulls: Shares::new(PULLS_MAX) }
    }

    /// What this host keeps.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Zun's database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The image of a container, and what its row says of it. The row tells meanwhile how far it has come. It is given up once
    /// `turn` is hurried.
    pub async fn of_container(
        &self,
        context: &RequestContext,
        row: &mut Container,
        turn: &Turn,
    ) -> Result<(Image, Changes)> {
        let driver = self.driver(row.image_driver.as_deref())?;
        let progress = self.store.progress().of_one();
        let asked = row.clone();
        let mut pull = Box::pin(self.pull(context, &asked, driver, &progress));
        let mut ticks = interval_at(Instant::now() + TELL_INTERVAL, TELL_INTERVAL);
        let image = loop {
            tokio::select! {
                pulled = &mut pull => break pulled?,
                () = turn.hurried() => return Err(Error::GivenUp { subject: "the pull of an image" }),
                _ = ticks.tick() => {
                    let detail = told(&progress);
                    tracing::info!(image = row.image, "{detail}");
                    self.executor.tell_progress(row, detail).await;
                }
            }
        };
        let changes = Changes {
            image_driver: Some(driver.to_string()),
            status_detail: Some(asked.status_detail.clone()),
            ..Changes::default()
        };
        Ok((image, changes))
    }

    /// The driver of this name, or the default one, if this host may use it.
    pub fn driver(&self, name: Option<&str>) -> Result<ImageDriver> {
        let default = &self.options.default;
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&default.default_image_driver);
        if !default.image_drivers().any(|known| known == name) {
            let reason = format!("{name} is not in [DEFAULT] image_driver_list of this host");
            return Err(Error::invalid("image_driver", reason));
        }
        name.parse()
    }

    async fn pull(
        &self,
        context: &RequestContext,
        container: &Container,
        driver: ImageDriver,
        progress: &Progress,
    ) -> Result<Image> {
        let name = container.image.as_deref().unwrap_or_default();
        let policy =
            container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()).unwrap_or("always");
        let policy =
            PullPolicy::from_str(policy).map_err(|e| Error::invalid("image_pull_policy", e.to_string()))?;
        let _place = self.pulls.place(container.project_id.as_deref().unwrap_or_default()).await;
        match driver {
            ImageDriver::Glance => self.of_glance(context, name, policy, progress).await,
            ImageDriver::Docker => {
                let registry = self.registry_of(container).await?;
                self.of_registry(name, policy, registry, progress).await
            }
        }
    }

    /// The registry of the user's that a container's image is in, if it is in one.
    pub async fn registry_of(&self, container: &Container) -> Result<Option<Registry>> {
        let Some(id) = container.registry_id else { return Ok(None) };
        Ok(Some(Registry::get(&self.database, id, &self.options.default.auth_encryption_key).await?))
    }

    /// The image `name`, from a registry of the user's if there is one.
    pub async fn of_registry(
        &self,
        name: &str,
        policy: PullPolicy,
        registry: Option<Registry>,
        progress: &Progress,
    ) -> Result<Image> {
        let docker = &self.options.docker;
        let domain = registry.as_ref().map(|registry| registry.domain.as_str());
        let domain = domain.or(docker.default_registry.as_deref());
        let reference = ImageReference::parse(name, domain)?;
        let credentials = self.credentials(Some(reference.registry()), registry);
        Ok(self.store.image(&reference, policy, credentials.as_ref(), progress).await?)
    }

    /// Who asks the registry `asked`: whoever the user's own registry names, or `[docker]` for the default one.
    pub fn credentials(&self, asked: Option<&str>, own: Option<Registry>) -> Option<Credentials> {
        let docker = &self.options.docker;
        let own_user = own.and_then(|registry| {
            let password = registry.password.unwrap_or_default();
            registry.username.map(|username| Credentials {
                username,
                password,
                owner: CredentialsOwner::User,
            })
        });
        let is_default = asked.is_some() && docker.default_registry.as_deref() == asked;
        let default_user = docker.default_registry_username.clone().filter(|_| is_default);
        let password = || docker.default_registry_password.clone();
        own_user.or_else(|| {
            let owner = CredentialsOwner::Operator;
            default_user.map(|username| Credentials { username, password: password(), owner })
        })
    }

    /// The image `name` of Glance, as its user sees it; where nobody asks, as all users of the project do. A cached image is not
    /// given to users to whom Glance does not show it.
    pub async fn of_glance(
        &self,
        context: &RequestContext,
        name: &str,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Image> {
        let client = self.glance_as(context);
        let viewer = glance::Viewer::of(context);
        let found = glance::find(&client, name, glance::Match::Exact, viewer).await?;
        let found = glance::the_one(name, found)?;
        let bytes_max = self.store.bytes_max();
        let fetch = async |file| glance::download(&client, &found, file, bytes_max, progress).await;
        Ok(image::archived(&self.store, &glance::archive_name(found.id), policy, fetch).await?)
    }

    /// Glance, in the name of whoever asks; in our own where nobody does.
    pub fn glance_as(&self, context: &RequestContext) -> Glance {
        match context.auth_token.as_deref() {
            Some(token) if glance::has_token(context) => self.glance.as_user(UserToken::new(token)),
            _ => self.glance.clone(),
        }
    }
}

/// How far a pull has come, in words that fit where users look.
fn told(progress: &Progress) -> String {
    match progress.announced() {
        0 => "Pulling the image".into(),
        bytes => {
            let mebibytes = |bytes: u64| bytes.div_ceil(MEBIBYTE);
            format!("Pulling the image: {} of {} MiB", mebibytes(progress.fetched()), mebibytes(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_have_zuns_names() {
        for driver in [ImageDriver::Docker, ImageDriver::Glance] {
            assert_eq!(driver.to_string().parse::<ImageDriver>().unwrap(), driver);
        }
        assert!("ftp".parse::<ImageDriver>().unwrap_err().to_string().starts_with("image driver ftp"));
    }

    #[test]
    fn progress_is_told_in_mebibytes() {
        assert_eq!(told(&Progress::default()), "Pulling the image");
    }
}
