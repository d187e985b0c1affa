//! `zun-kata-compute images`: a look at what this host keeps of images.

use std::fs::File;
use std::process::ExitCode;

use clap::Subcommand;
use cloud::{Glance, Keystone};
use image::{Finding, ImageReference, PullPolicy, Scrubbed, Store};

use super::progress_bar;
use crate::error::Result;
use crate::images::glance;
use crate::options::Options;

/// What to do.
#[derive(Subcommand)]
pub enum ImagesCommand {
    /// Read the file systems of all images, and make those again that are damaged; print a verdict a line, and fail if one
    /// stays damaged. A container that runs keeps what it has until it is started again.
    Scrub,
    /// Pull an image from its registry, whether it is here or not, and print its identifier.
    Pull {
        /// A reference to it.
        image: String,
    },
}

/// Does it.
pub async fn run(options: &Options, command: ImagesCommand) -> ExitCode {
    let done = match command {
        ImagesCommand::Scrub => scrub(options).await.map(|damaged| damaged == 0),
        ImagesCommand::Pull { image } => pull(options, &image).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("zun-kata-compute: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn pull(options: &Options, name: &str) -> Result<()> {
    let reference = ImageReference::parse(name, options.docker.default_registry.as_deref())?;
    let store = options.image_store()?;
    let image = progress_bar::pull(&store, &reference, PullPolicy::Always).await?;
    println!("{}", image.id);
    Ok(())
}

/// Gives the number of those that stay damaged.
async fn scrub(options: &Options) -> Result<usize> {
    let mut damaged = 0;
    let tell = |Scrubbed { layers, images, finding }: Scrubbed| {
        let verdict = match finding {
            Finding::Whole => "whole".into(),
            Finding::Healed => "was damaged and is made again".into(),
            Finding::Damaged(e) => {
                damaged += 1;
                format!("DAMAGED: it cannot be made again: {e}")
            }
        };
        println!("{layers} ({}): {verdict}", images.join(", "));
    };
    let store = options.image_store()?;
    let fetch = async |name: &str, file| fetch_archive(options, &store, name, file).await;
    image::scrub(&store, fetch, tell).await?;
    Ok(damaged)
}

/// Fetches an archive again, as the service's user: no other is here.
async fn fetch_archive(options: &Options, store: &Store, name: &str, file: File) -> image::Result<File> {
    let failed = |reason: String| image::Error::Fetch { image: name.to_owned(), reason: reason.into() };
    let keystone = Keystone::connect(&options.keystone_auth).await.map_err(|e| failed(e.to_string()))?;
    let client = Glance::new(keystone, options.glance_client.clone());
    glance::fetch(&client, name, file, store.bytes_max(), store.progress()).await
}
