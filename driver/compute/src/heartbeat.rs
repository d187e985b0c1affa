use model::{Database, heartbeat};

use crate::options::Options;
use crate::rows::BINARY;

/// Says that this service is alive.
pub async fn beat(database: &Database, options: &Options) -> model::Result<()> {
    let default = &options.default;
    heartbeat(database, &default.host, BINARY, &default.default_availability_zone).await
}
