use std::time::Duration;

use image::{Image, ImageReference, PullPolicy, Result, Store};
use indicatif::{ProgressBar, ProgressStyle};

/// Between two looks at how far a pull has come.
const INTERVAL: Duration = Duration::from_millis(100);

/// Asks for an image, and shows on a terminal how far its pull has come.
pub async fn pull(store: &Store, reference: &ImageReference, policy: PullPolicy) -> Result<Image> {
    let style = ProgressStyle::with_template("pulling {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let progress = store.progress();
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut pull = std::pin::pin!(store.image(reference, policy, None, progress));
    loop {
        tokio::select! {
            done = &mut pull => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                if progress.announced() > 0 {
                    bar.set_length(progress.announced());
                    bar.set_position(progress.fetched());
                }
            }
        }
    }
}
