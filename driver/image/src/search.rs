use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::reference::ImageReference;

const DOCKER_HUB: &str = "docker.io";
const SEARCH_URL: &str = "https://index.docker.io/v1/search";
const TIMEOUT: Duration = Duration::from_secs(30);

/// A repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchResult {
    /// Its name.
    pub name: String,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// Whether Docker maintains it.
    #[serde(default)]
    pub is_official: bool,
    /// How many users like it.
    #[serde(default)]
    pub star_count: u64,
}

/// Searches Docker Hub, the only registry that has a search.
pub async fn search(image: &ImageReference) -> Result<Vec<SearchResult>> {
    #[derive(Deserialize)]
    struct Found {
        results: Vec<SearchResult>,
    }
    if image.registry() != DOCKER_HUB {
        return Err(Error::Search(image.registry().to_owned()));
    }
    let name = image.repository().strip_prefix("library/").unwrap_or(image.repository());
    let failed =
        |e: reqwest::Error| Error::Unreachable { registry: DOCKER_HUB.to_owned(), reason: innermost(&e) };
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(failed)?;
    let request = client.get(SEARCH_URL).query(&[("q", name), ("n", "25")]);
    let found: Found = request
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(failed)?
        .json()
        .await
        .map_err(failed)?;
    Ok(found.results)
}

/// The cause at the bottom of an error, which says what went wrong.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
