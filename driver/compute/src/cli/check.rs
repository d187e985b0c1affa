//! `zun-kata-compute check`: what the service needs, tried one by one, with a verdict a line.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cloud::{Keystone, Neutron, Placement};
use oslo::{TransportUrl, try_broker};
use sandbox::{Host, prove_kvm};

use crate::host_facts;
use crate::options::Options;
use crate::rows::OWNERS;

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(30);
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Below which hardly an image has room.
const DISK_MIN_GIB: u64 = 1;

type Verdict = Result<String, String>;

/// Tries all, KVM last: that takes longest.
pub async fn check(options: &Options) -> ExitCode {
    let mut good = true;
    let mut say = |what: &str, verdict: Verdict| match verdict {
        Ok(text) => println!("{what}: {text}"),
        Err(reason) => {
            good = false;
            println!("{what}: FAILED: {reason}");
        }
    };
    say("configuration", configuration(options));
    say("broker", in_time(broker(options)).await);
    say("database", in_time(database(options)).await);
    let keystone = in_time(async { Keystone::connect(&options.keystone_auth).await.map_err(text) }).await;
    match keystone {
        Ok(keystone) => {
            say("keystone", Ok(format!("authenticated at {}", options.keystone_auth.auth_url)));
            say("placement", in_time(placement(options, keystone.clone())).await);
            say("neutron", in_time(neutron(options, keystone)).await);
        }
        Err(reason) => {
            say("keystone", Err(format!("{}: {reason}", options.keystone_auth.auth_url)));
            say("placement", Err("not tried without Keystone".into()));
            say("neutron", Err("not tried without Keystone".into()));
        }
    }
    say("consoles", consoles(options));
    say("images", images(options));
    say("cgroups", cgroups());
    say("kvm", kvm(options).await);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let tried = tokio::time::timeout(PATIENCE, work).await;
    tried.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn configuration(options: &Options) -> Verdict {
    for line in &options.ignored_options {
        println!("configuration: {line}");
    }
    Ok(format!("host {}, topic {}", options.default.host, options.compute.topic))
}

async fn broker(options: &Options) -> Verdict {
    let url: TransportUrl = options.transport_url().map_err(text)?;
    let found = try_broker(url, options.oslo_messaging_rabbit.clone()).await?;
    Ok(format!("connected to {found}"))
}

async fn database(options: &Options) -> Verdict {
    let pool = options.database_url().map_err(text)?.pool(1);
    let count =
        model::Container::list_by_host(&pool, &OWNERS, &options.default.host).await.map_err(text)?.len();
    Ok(format!("Zun's tables are there, with {count} containers of this host"))
}

async fn placement(options: &Options, keystone: Keystone) -> Verdict {
    let placement = Placement::new(keystone, options.placement_client.clone());
    Ok(format!("version {}", placement.version().await.map_err(text)?))
}

async fn neutron(options: &Options, keystone: Keystone) -> Verdict {
    let neutron = Neutron::new(keystone, options.neutron_client.clone());
    let agents = neutron.live_agents(&options.default.host).await.map_err(text)?;
    match agents.as_slice() {
        [] => Err(format!("no agent of it is alive on host {}", options.default.host)),
        agents => Ok(agents.join(", ")),
    }
}

fn consoles(options: &Options) -> Verdict {
    let docker = &options.docker;
    let with = match docker.tls().map_err(text)? {
        Some(_) => "with TLS",
        None => "without TLS: whoever sees that network's traffic sees what passes",
    };
    Ok(format!("at {}, {with}", docker.remote_api_address()))
}

fn images(options: &Options) -> Verdict {
    options.image_store().map_err(text)?;
    let (path, free) = (&options.kata.state_path, host_facts::free_disk_gib(&options.kata.state_path));
    if free < DISK_MIN_GIB {
        return Err(format!("{} has {free} GiB left", path.display()));
    }
    Ok(format!("kept below {}, which has {free} GiB left", path.display()))
}

fn cgroups() -> Verdict {
    let path = Path::new("/sys/fs/cgroup/cgroup.controllers");
    let there =
        std::fs::read_to_string(path).map_err(|e| format!("no cgroup v2: {}: {e}", path.display()))?;
    let missing: Vec<_> =
        CONTROLLERS.into_iter().filter(|name| there.split_whitespace().all(|found| found != *name)).collect();
    if missing.is_empty() {
        Ok(format!("v2 with {}", there.trim()))
    } else {
        Err(format!("v2 lacks {}", missing.join(", ")))
    }
}

async fn kvm(options: &Options) -> Verdict {
    let host = Host::new(options.host()).map_err(text)?;
    let took = prove_kvm(&host).await.map_err(text)?;
    Ok(format!("a guest was ready after {} ms", took.as_millis()))
}
