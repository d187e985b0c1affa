use std::fmt;

use image_work::Digest;
use oci_spec::distribution::Reference;

use crate::error::{Error, Result};

/// What names an image: registry, repository, and a tag or digest, with Docker's defaults for what is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(Reference);

impl ImageReference {
    /// Reads `text`. One that names no registry is looked for in `default_registry`, if there is one.
    pub fn parse(text: &str, default_registry: Option<&str>) -> Result<Self> {
        let full = match default_registry.filter(|registry| !registry.is_empty()) {
            Some(registry) if !names_registry(text) => format!("{registry}/{text}"),
            _ => text.to_owned(),
        };
        let bad = |why: String| Error::Reference(text.into(), why.into());
        let parsed: Reference = full.parse().map_err(|e| bad(format!("{e}")))?;
        if let Some(digest) = parsed.digest() {
            // What has another digest could not be compared with it.
            digest.parse::<Digest>().map_err(|e| bad(e.to_string()))?;
        }
        Ok(Self(parsed))
    }

    /// The registry, as it is named.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The tag, if the image is named by one.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// What has this digest, whatever its tag names by now.
    pub(crate) fn pinned(&self, manifest: &Digest) -> Self {
        Self(self.0.clone_with_digest(manifest.to_string()))
    }

    /// The same image, asked for at `mirror`, which is told whose it is.
    pub(crate) fn at(&self, mirror: &str) -> Self {
        let mut reference = self.0.clone();
        reference.set_mirror_registry(mirror.to_owned());
        Self(reference)
    }

    /// Who is asked: a mirror, or the registry.
    pub(crate) fn asked(&self) -> &str {
        if self.0.namespace().is_some() { self.0.resolve_registry() } else { self.registry() }
    }

    /// The host, and the port if one is named, that answers for who is asked.
    pub(crate) fn host(&self) -> &str {
        self.0.resolve_registry()
    }

    /// Whose images a mirror is asked for.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.0.namespace()
    }

    /// How a registry calls the image in its repository.
    pub(crate) fn name(&self) -> &str {
        self.0.digest().or(self.0.tag()).unwrap_or("latest")
    }
}

/// As Docker tells: the first part is a registry if it looks like a host.
fn names_registry(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_dockers() {
        let text = |image, default| ImageReference::parse(image, default).unwrap().to_string();
        assert_eq!(text("busybox", None), "docker.io/library/busybox:latest");
        assert_eq!(text("busybox", Some("127.0.0.1:5001")), "127.0.0.1:5001/busybox:latest");
        assert_eq!(text("team/app:1", Some("r.example")), "r.example/team/app:1");
        assert_eq!(text("r.example/app:1", Some("other")), "r.example/app:1");
        assert_eq!(text("localhost/app", Some("other")), "localhost/app:latest");
    }

    #[test]
    fn a_mirror_is_asked_for_the_same_image() {
        let image = ImageReference::parse("quay.io/a/b:1", None).unwrap();
        let mirrored = image.at("mirror.example:5000");
        assert_eq!((image.asked(), mirrored.asked()), ("quay.io", "mirror.example:5000"));
        assert_eq!(mirrored.to_string(), image.to_string());
        assert_eq!(ImageReference::parse("busybox", None).unwrap().asked(), "docker.io");
    }

    #[test]
    fn nonsense_is_named() {
        let other_digest = format!("x@sha512:{}", "0".repeat(128));
        for bad in ["", "UPPER", "a b", "x:", "r.example/../etc", &other_digest] {
            assert!(ImageReference::parse(bad, None).unwrap_err().to_string().contains(&format!("{bad:?}")));
        }
    }
}
