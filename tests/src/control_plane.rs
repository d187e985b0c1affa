//! The control plane's services, killed, held still and started again.

use std::process::Command;

use crate::said::Said;
use crate::top;

/// What `devstack/control-service` does to a service.
pub fn control(verb: &str, service: &str) {
    let said: Said =
        Command::new(top().join("devstack/control-service")).args([verb, service]).output().unwrap().into();
    assert_eq!(said.status, 0, "{verb} {service}: {}{}", said.out, said.err);
}
