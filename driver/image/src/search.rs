use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::options::RegistryOptions;
use crate::reference::ImageReference;
use crate::registry;

const DOCKER_HUB: &str = "docker.io";
const SEARCH_URL: &str = "https://index.docker.io/v1/search";
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER_MAX: u64 = 1 << 20;

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

/// What Docker Hub answers.
#[derive(Deserialize)]
struct Found {
    results: Vec<SearchResult>,
}

/// Searches Docker Hub, the only registry that has a search.
pub async fn search(image: &ImageReference) -> Result<Vec<SearchResult>> {
    if image.registry() != DOCKER_HUB {
        return Err(Error::Search(image.registry().to_owned()));
    }
    let name = image.repository().strip_prefix("library/").unwrap_or(image.repository());
    let failed =
        |reason: String| Error::Unreachable { registry: DOCKER_HUB.to_owned(), reason: reason.into() };
    let url = Url::parse_with_params(SEARCH_URL, [("q", name), ("n", "25")]);
    let url = url.map_err(|e| failed(e.to_string()))?;
    let options = RegistryOptions::default();
    let answer = timeout(TIMEOUT, registry::document(url, &options, ANSWER_MAX)).await;
    let answer = answer.map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?;
    let answer = answer.map_err(|e| failed(e.to_string()))?;
    let found: Found = serde_json::from_slice(&answer).map_err(|e| failed(e.to_string()))?;
    Ok(found.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hubs_answer_is_read() {
        let answer = r#"{"num_pages": 1, "num_results": 2, "page": 1, "page_size": 25, "query": "busybox", "results": [
            {"name": "busybox", "description": "Busybox base image.", "is_automated": false, "is_official": true,
             "is_trusted": false, "star_count": 3000},
            {"name": "somebody/busybox"}]}"#;
        let found: Found = serde_json::from_str(answer).unwrap();
        assert_eq!((found.results[0].is_official, found.results[0].star_count), (true, 3000));
        assert_eq!((found.results[1].name.as_str(), found.results[1].star_count), ("somebody/busybox", 0));
    }

    #[tokio::test]
    async fn a_registry_without_a_search_is_named() {
        let image = ImageReference::parse("registry.example/app", None).unwrap();
        assert!(
            matches!(search(&image).await, Err(Error::Search(registry)) if registry == "registry.example")
        );
    }
}
