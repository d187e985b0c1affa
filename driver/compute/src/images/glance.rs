//! Images of Glance: found by name, fetched as archives.

use std::fs::File;

use cloud::{Glance, GlanceImage};
use image::Progress;
use oslo::RequestContext;
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Result};

/// Before an image's identifier in the names of archives.
const PREFIX: &str = "glance:";
const ACTIVE: &str = "active";

/// How a name is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It is the image's.
    Exact,
    /// It is a part of the image's.
    Part,
}

/// What an image's archive is called among this host's images.
pub fn archive_name(id: Uuid) -> String {
    format!("{PREFIX}{id}")
}

/// The image of which an archive is.
fn id_of(archive_name: &str) -> Option<Uuid> {
    archive_name.strip_prefix(PREFIX)?.parse().ok()
}

/// Who is to see what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer<'a> {
    /// Whose client asks: Glance shows what is for him.
    Client,
    /// A project for which this service asks without a user's token. Glance shows the service more than the project may see:
    /// only the project's own images, and those for all, are kept.
    Project(&'a str),
}

impl<'a> Viewer<'a> {
    /// Who is to see what is found for a request.
    pub fn of(context: &'a RequestContext) -> Self {
        match has_token(context) {
            true => Self::Client,
            false => Self::Project(context.project_id.as_deref().unwrap_or_default()),
        }
    }

    /// Images shared with the project are left out: the list does not say with whom they are shared.
    fn sees(self, image: &GlanceImage) -> bool {
        let says = |field: &str| image.rest.get(field).and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::Client => true,
            Self::Project(project) => {
                matches!(says("visibility"), "public" | "community")
                    || (!project.is_empty() && says("owner") == project)
            }
        }
    }
}

/// Whether somebody asks, and not this service.
pub fn has_token(context: &RequestContext) -> bool {
    context.auth_token.as_deref().is_some_and(|token| !token.is_empty())
}

/// The images that `wanted` names: an identifier, or a name with or without a tag (`zun/image/glance/utils.py`).
pub async fn find(
    glance: &Glance,
    wanted: &str,
    compared: Match,
    viewer: Viewer<'_>,
) -> Result<Vec<GlanceImage>> {
    if let Ok(id) = wanted.parse() {
        return Ok(glance.get(id).await?.into_iter().filter(|image| viewer.sees(image)).collect());
    }
    let mut images = match compared {
        Match::Exact => glance.named(split_tag(wanted).0).await?,
        Match::Part => glance.list().await?,
    };
    images.retain(|image| viewer.sees(image));
    Ok(choose(images, wanted, compared))
}

fn split_tag(wanted: &str) -> (&str, Option<&str>) {
    match wanted.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (wanted, None),
    }
}

fn choose(images: Vec<GlanceImage>, wanted: &str, compared: Match) -> Vec<GlanceImage> {
    let (name, tag) = split_tag(wanted);
    let fits = |image: &GlanceImage| match compared {
        Match::Exact => image.name.as_deref() == Some(name),
        Match::Part => image.name.as_deref().is_some_and(|whole| whole.contains(name)),
    };
    let mut named: Vec<_> = images.into_iter().filter(fits).collect();
    let only = named.len() == 1;
    if let Some(tag) = tag {
        // Upstream looks at no tag of Glance's: the only image of a name is meant whatever the tag. Of several one is.
        named.retain(|image| only || image.tags.iter().any(|own| own == tag));
    }
    named
}

/// The only image that was found for a name.
pub fn the_one(name: &str, mut found: Vec<GlanceImage>) -> Result<GlanceImage> {
    match (found.pop(), found.len()) {
        (Some(image), 0) => Ok(image),
        (None, _) => Err(Error::Image(image::Error::NotFound(name.to_owned()))),
        (Some(_), _) => Err(Error::Conflict(format!(
            "Multiple images exist with same name {name}. Please use the image id instead."
        ))),
    }
}

/// Writes an image's archive, which may have up to `bytes_max` bytes, into `file`.
pub async fn download(
    glance: &Glance,
    image: &GlanceImage,
    file: File,
    bytes_max: u64,
    progress: &Progress,
) -> image::Result<File> {
    let failed = |reason: String| image::Error::Fetch { image: image.id.to_string(), reason: reason.into() };
    if image.status != ACTIVE {
        return Err(failed(format!("its status is {}", image.status)));
    }
    let size = size_within(image, bytes_max).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let receiver = progress.receive(&mut file, size);
    tracing::info!(image = %image.id, bytes = image.size, "fetching an image of Glance");
    glance.download(image, receiver).await.map_err(|e| failed(e.to_string()))?;
    Ok(file.into_std().await)
}

/// The size that Glance has announced; no more is taken.
fn size_within(image: &GlanceImage, bytes_max: u64) -> std::result::Result<u64, String> {
    let size = image.size.unwrap_or(0);
    if size > bytes_max { Err(format!("it has {size} bytes; the limit is {bytes_max}")) } else { Ok(size) }
}

/// Writes the archive of this name, which may have up to `bytes_max` bytes, into `file`.
pub async fn fetch(
    glance: &Glance,
    name: &str,
    file: File,
    bytes_max: u64,
    progress: &Progress,
) -> image::Result<File> {
    let missing = || image::Error::NotFound(name.to_owned());
    let failed =
        |e: cloud::Error| image::Error::Fetch { image: name.to_owned(), reason: e.to_string().into() };
    let id = id_of(name).ok_or_else(missing)?;
    let found = glance.get(id).await.map_err(failed)?.ok_or_else(missing)?;
    download(glance, &found, file, bytes_max, progress).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(name: &str, tags: &[&str]) -> GlanceImage {
        serde_json::from_value(
            json!({ "id": Uuid::new_v4(), "name": name, "status": "active", "tags": tags }),
        )
        .unwrap()
    }

    #[test]
    fn an_archive_has_a_bound() {
        let of_size = |size| GlanceImage { size: Some(size), ..image("app", &[]) };
        assert_eq!(size_within(&of_size(5), 5), Ok(5));
        assert_eq!(size_within(&of_size(6), 5), Err("it has 6 bytes; the limit is 5".into()));
    }

    #[test]
    fn names_are_compared_as_upstream_does() {
        let images = || vec![image("app", &["v1"]), image("app", &["v2"]), image("my/app", &[])];
        let found = |wanted, compared| choose(images(), wanted, compared).len();
        assert_eq!(found("app", Match::Exact), 2);
        assert_eq!(found("app", Match::Part), 3);
        assert_eq!((found("app:v2", Match::Exact), found("app:v3", Match::Exact)), (1, 0));
        assert_eq!(found("my/app:any", Match::Exact), 1, "it is the only one");
        let tagged = || vec![image("app", &["v1"])];
        assert_eq!(choose(tagged(), "app:latest", Match::Exact).len(), 1, "so is this");
        assert_eq!(found("host:5000/app", Match::Exact), 0);
        let error = the_one("app", choose(images(), "app", Match::Exact)).unwrap_err();
        assert!(error.to_string().contains("Multiple images exist with same name app"), "{error}");
        assert!(the_one("x", Vec::new()).unwrap_err().to_string().contains('x'));
    }

    #[test]
    fn a_project_sees_its_own_and_what_is_for_all() {
        let image = |visibility: &str, owner: &str| {
            serde_json::from_value::<GlanceImage>(json!({
                "id": Uuid::new_v4(), "name": "app", "status": "active", "visibility": visibility, "owner": owner,
            }))
            .unwrap()
        };
        let sees = |visibility, owner| Viewer::Project("mine").sees(&image(visibility, owner));
        assert!(sees("private", "mine") && sees("public", "theirs") && sees("community", "theirs"));
        assert!(!sees("private", "theirs") && !sees("shared", "theirs"));
        assert!(!Viewer::Project("").sees(&image("private", "theirs")));
        assert!(Viewer::Client.sees(&image("private", "theirs")), "whom Glance has asked for a token");
    }

    #[test]
    fn an_archives_name_leads_back_to_its_image() {
        let id = Uuid::new_v4();
        assert_eq!(id_of(&archive_name(id)), Some(id));
        assert_eq!(id_of("docker.io/library/glance:latest"), None);
    }
}
