use std::time::Duration;

use process::Program;

use crate::error::{Error, Result};

/// Longest that `ip` and `ovs-vsctl` may take; the latter gives up on Open vSwitch before.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a program, which must succeed, and returns its output.
pub async fn run(program: &'static str, arguments: &[&str]) -> Result<String> {
    let output = Program::new(program, TIMEOUT).output(arguments).await?;
    if output.status().success() {
        return Ok(output.text()?);
    }
    Err(Error::Failed { program, arguments: arguments.join(" "), message: output.failure() })
}
