use oci_spec::image::ImageConfiguration;

/// Reads an image's configuration, and forgets its history: nobody asks for that, and a few bytes of text become hundreds of it in
/// memory, for as long as the image is in use.
pub(crate) fn configuration(text: &[u8]) -> serde_json::Result<ImageConfiguration> {
    let mut configuration: ImageConfiguration = serde_json::from_slice(text)?;
    configuration.set_history(None);
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_of_its_past_is_not_kept() {
        let history = vec!["{}"; 100_000].join(",");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"history":[{history}]}}"#
        );
        let read = configuration(text.as_bytes()).unwrap();
        assert!(read.history().is_none());
        assert_eq!(read.rootfs().typ(), "layers");
    }
}
