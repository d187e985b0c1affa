use oci_spec::image::ImageConfiguration;

/// Most bytes of an image's configuration. One that builders of images write has some thousand, with their cache some hundred
/// thousand.
pub const CONFIG_MAX: u64 = 2 << 20;
/// Most layers of an image, as Docker has it.
pub const LAYERS_MAX: usize = 127;

/// Says why an image cannot have so many layers.
pub fn check_number(layers: usize, configuration: &ImageConfiguration) -> Result<(), String> {
    let known = configuration.rootfs().diff_ids().len();
    match layers {
        0 => Err("it has no layers".into()),
        1..=LAYERS_MAX if known == layers => Ok(()),
        1..=LAYERS_MAX => Err(format!("it has {layers} layers and {known} diff_ids")),
        more => Err(format!("it has {more} layers; the limit is {LAYERS_MAX}")),
    }
}

/// Whether a layer of this media type is kept elsewhere than its image.
pub fn is_foreign(media_type: &str) -> bool {
    ["foreign", "nondistributable"].iter().any(|word| media_type.contains(word))
}
