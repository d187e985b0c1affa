//! Whether this host's KVM works, proven by a guest: an open `/dev/kvm` proves nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use shim_control::RateLimit;

use crate::error::{Error, Result};
use crate::guest_network::GuestNetwork;
use crate::host::Host;
use crate::spec::SandboxSpec;

/// A paravirtual KVM takes guests and then fails on instructions of an ordinary kernel.
const PARAVIRTUAL_KVM: &str = "/sys/module/kvm_pvm";
const MEMORY_MIB: u64 = 64;

/// Boots a guest until its agent answers, ends it, and tells how long it took.
pub async fn prove_kvm(host: &Host) -> Result<Duration> {
    if Path::new(PARAVIRTUAL_KVM).exists() {
        return Err(Error::Start(
            "this host's KVM is a paravirtual one (kvm_pvm), which runs no ordinary kernel".into(),
        ));
    }
    let sandbox = host.sandbox(&format!("probe-{}", std::process::id()));
    sandbox.delete().await?;
    sandbox.create()?;
    let spec = SandboxSpec {
        cpus: 1.0,
        memory_mib: MEMORY_MIB,
        hostname: "probe".into(),
        containers: 0,
        network: GuestNetwork::default(),
        volumes: Vec::new(),
        ends_with: None,
        template_group: None,
        nic_limit: RateLimit::default(),
        pinning: None,
    };
    let began = Instant::now();
    let started = sandbox.start(&spec).await;
    let took = began.elapsed();
    sandbox.delete().await?;
    started.map(|_| took)
}
