//! HTTP clients. Making one reads all of the system's certificates.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Result};

/// Longest wait for an answer, and for each further piece of it.
pub const READ_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client for all calls but uploads.
pub fn client() -> Result<Client> {
    builder().read_timeout(READ_TIMEOUT).build()
}

/// A client that waits for an answer without a limit: the library's would also bound how long the request takes to send.
pub fn upload_client() -> Result<Client> {
    builder().build()
}

fn builder() -> ClientBuilder {
    Client::builder().connect_timeout(CONNECT_TIMEOUT)
}
