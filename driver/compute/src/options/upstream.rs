//! Options of Zun 18.0.0 that its compute service reads, and what becomes of those that this one does not honour: none is
//! passed over in silence. `etc/options.md` is the same for operators.

use std::collections::HashMap;

use config::Value;

use super::error::ConfigError;

/// What this service makes of one of upstream's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The same as upstream.
    Honoured,
    /// It is about something that is not here; that it is set is said at start.
    Ignored(&'static str),
    /// To pass it over would give an operator something else than was asked for: with it, the service does not start. It
    /// may be set to what stands for nothing.
    Refused(&'static str),
}

use Meaning::{Honoured, Ignored, Refused};

const NO_DOCKER: &str = "there is no Docker";
const KATA_ONLY: &str = "every container runs in a sandbox of its own";
const NO_CLIENT_CERTIFICATES: &str = "certificates of clients are not supported";
const ONE_REGION: &str = "[keystone_auth] region_name counts for all services";
const SYSTEM_AUTHORITIES: &str = "add the authority to the system's own certificates";

/// Group, name and meaning of each.
pub const OPTIONS: &[(&str, &str, Meaning)] = &[
    ("DEFAULT", "auth_encryption_key", Honoured),
    ("DEFAULT", "bindir", Ignored("no program of upstream's is run")),
    ("DEFAULT", "capsule_driver", Ignored(KATA_ONLY)),
    ("DEFAULT", "container_driver", Ignored(KATA_ONLY)),
    ("DEFAULT", "container_runtime", Ignored(KATA_ONLY)),
    ("DEFAULT", "control_exchange", Honoured),
    ("DEFAULT", "debug", Honoured),
    ("DEFAULT", "default_availability_zone", Honoured),
    ("DEFAULT", "default_cpu", Honoured),
    ("DEFAULT", "default_disk", Honoured),
    ("DEFAULT", "default_image_driver", Honoured),
    ("DEFAULT", "default_memory", Honoured),
    ("DEFAULT", "default_memory_swap", Ignored("a guest has no swap")),
    ("DEFAULT", "default_sleep_time", Ignored(NO_DOCKER)),
    ("DEFAULT", "default_timeout", Ignored(NO_DOCKER)),
    ("DEFAULT", "floating_cpu_set", Honoured),
    ("DEFAULT", "host", Honoured),
    ("DEFAULT", "image_driver_list", Honoured),
    ("DEFAULT", "my_block_storage_ip", Honoured),
    ("DEFAULT", "my_ip", Honoured),
    ("DEFAULT", "periodic_interval_max", Honoured),
    ("DEFAULT", "rootwrap_config", Ignored("the service runs no command through rootwrap")),
    ("DEFAULT", "sandbox_image", Ignored("a capsule's sandbox needs no image")),
    ("DEFAULT", "sandbox_image_driver", Ignored("a capsule's sandbox needs no image")),
    ("DEFAULT", "sandbox_image_pull_policy", Ignored("a capsule's sandbox needs no image")),
    ("DEFAULT", "state_path", Ignored("[kata] state_path is where this service keeps what it has")),
    ("DEFAULT", "sync_container_state_interval", Honoured),
    ("DEFAULT", "transport_url", Honoured),
    ("cinder_client", "api_version", Ignored("version 3 of its API is spoken")),
    ("cinder_client", "ca_file", Refused(SYSTEM_AUTHORITIES)),
    ("cinder_client", "endpoint_type", Honoured),
    ("cinder_client", "insecure", Refused(SYSTEM_AUTHORITIES)),
    ("cinder_client", "region_name", Ignored(ONE_REGION)),
    ("cni_daemon", "*", Ignored("interfaces are plugged without CNI")),
    ("compute", "cpu_allocation_ratio", Honoured),
    ("compute", "disk_allocation_ratio", Honoured),
    ("compute", "enable_cpu_pinning", Honoured),
    ("compute", "host_shared_with_nova", Refused("a host that Nova uses too is not supported")),
    ("compute", "initial_cpu_allocation_ratio", Honoured),
    ("compute", "initial_disk_allocation_ratio", Honoured),
    ("compute", "initial_ram_allocation_ratio", Honoured),
    ("compute", "ram_allocation_ratio", Honoured),
    ("compute", "remount_container_volume", Ignored("a volume is connected whenever its container starts")),
    ("compute", "reserve_disk_for_image", Honoured),
    ("compute", "reserved_host_cpus", Honoured),
    ("compute", "reserved_host_disk_mb", Honoured),
    ("compute", "reserved_host_memory_mb", Honoured),
    ("compute", "resource_provider_association_refresh", Ignored("Placement is told at each report")),
    ("compute", "resume_container_state", Honoured),
    ("compute", "topic", Honoured),
    ("compute", "unique_container_name_scope", Ignored("the API sees to names")),
    ("database", "connection", Honoured),
    ("database", "max_pool_size", Honoured),
    ("docker", "api_insecure", Honoured),
    ("docker", "api_url", Ignored(NO_DOCKER)),
    ("docker", "ca_file", Honoured),
    ("docker", "cert_file", Honoured),
    ("docker", "default_registry", Honoured),
    ("docker", "default_registry_password", Honoured),
    ("docker", "default_registry_username", Honoured),
    ("docker", "default_timeout", Honoured),
    ("docker", "docker_data_root", Ignored("[kata] state_path is where containers are")),
    ("docker", "docker_remote_api_host", Honoured),
    ("docker", "docker_remote_api_port", Honoured),
    ("docker", "docker_remote_api_url", Honoured),
    ("docker", "docker_remote_api_version", Honoured),
    ("docker", "execute_timeout", Honoured),
    ("docker", "key_file", Honoured),
    ("glance", "images_directory", Ignored("[kata] state_path is where images are kept")),
    ("glance_client", "api_version", Ignored("version 2 of its API is spoken")),
    ("glance_client", "ca_file", Refused(SYSTEM_AUTHORITIES)),
    ("glance_client", "cert_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("glance_client", "endpoint_override", Honoured),
    ("glance_client", "endpoint_type", Honoured),
    ("glance_client", "insecure", Refused(SYSTEM_AUTHORITIES)),
    ("glance_client", "key_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("glance_client", "region_name", Ignored(ONE_REGION)),
    ("glance_client", "valid_interfaces", Honoured),
    ("keystone_auth", "auth_type", Honoured),
    ("keystone_auth", "auth_url", Honoured),
    ("keystone_auth", "cafile", Refused(SYSTEM_AUTHORITIES)),
    ("keystone_auth", "certfile", Refused(NO_CLIENT_CERTIFICATES)),
    ("keystone_auth", "insecure", Refused(SYSTEM_AUTHORITIES)),
    ("keystone_auth", "keyfile", Refused(NO_CLIENT_CERTIFICATES)),
    ("keystone_auth", "password", Honoured),
    ("keystone_auth", "project_domain_id", Honoured),
    ("keystone_auth", "project_domain_name", Honoured),
    ("keystone_auth", "project_name", Honoured),
    ("keystone_auth", "region_name", Honoured),
    ("keystone_auth", "user_domain_id", Honoured),
    ("keystone_auth", "user_domain_name", Honoured),
    ("keystone_auth", "username", Honoured),
    ("network", "driver", Ignored("interfaces are plugged without kuryr")),
    ("network", "driver_name", Ignored("interfaces are plugged without kuryr")),
    ("neutron", "ovs_bridge", Ignored("Neutron says with each port to which bridge it goes")),
    ("neutron_client", "ca_file", Refused(SYSTEM_AUTHORITIES)),
    ("neutron_client", "cert_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("neutron_client", "endpoint_override", Honoured),
    ("neutron_client", "endpoint_type", Honoured),
    ("neutron_client", "insecure", Refused(SYSTEM_AUTHORITIES)),
    ("neutron_client", "key_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("neutron_client", "region_name", Ignored(ONE_REGION)),
    ("neutron_client", "valid_interfaces", Honoured),
    ("oslo_messaging_rabbit", "amqp_auto_delete", Honoured),
    ("oslo_messaging_rabbit", "amqp_durable_queues", Honoured),
    ("oslo_messaging_rabbit", "heartbeat_timeout_threshold", Honoured),
    ("oslo_messaging_rabbit", "kombu_missing_consumer_retry_timeout", Honoured),
    ("oslo_messaging_rabbit", "rabbit_qos_prefetch_count", Honoured),
    ("oslo_messaging_rabbit", "rabbit_quorum_queue", Honoured),
    ("oslo_messaging_rabbit", "rabbit_transient_queues_ttl", Honoured),
    ("oslo_messaging_rabbit", "rabbit_transient_quorum_queue", Honoured),
    ("oslo_messaging_rabbit", "ssl", Honoured),
    ("oslo_messaging_rabbit", "ssl_ca_file", Honoured),
    ("oslo_messaging_rabbit", "ssl_cert_file", Honoured),
    ("oslo_messaging_rabbit", "ssl_key_file", Honoured),
    ("pci", "alias", Refused("PCI devices are not supported")),
    ("pci", "passthrough_whitelist", Refused("PCI devices are not supported")),
    ("placement_client", "ca_file", Refused(SYSTEM_AUTHORITIES)),
    ("placement_client", "cert_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("placement_client", "endpoint_override", Honoured),
    ("placement_client", "endpoint_type", Honoured),
    ("placement_client", "insecure", Refused(SYSTEM_AUTHORITIES)),
    ("placement_client", "key_file", Refused(NO_CLIENT_CERTIFICATES)),
    ("placement_client", "region_name", Ignored(ONE_REGION)),
    ("placement_client", "valid_interfaces", Honoured),
    ("volume", "driver", Ignored("all volume drivers are there")),
    ("volume", "driver_list", Ignored("all volume drivers are there")),
    ("volume", "fstype", Honoured),
    ("volume", "timeout_wait_volume_available", Honoured),
    ("volume", "timeout_wait_volume_deleted", Honoured),
    ("volume", "use_multipath", Refused("several paths to a volume are not supported")),
    ("volume", "volume_dir", Ignored("this host mounts no volume")),
];

/// Options as the files have them, by group and name.
pub type Given = HashMap<String, HashMap<String, Value>>;

/// Looks through what is set. Gives a line for each option that means nothing here; the first that cannot be passed over is
/// an error.
pub fn review(given: &Given) -> Result<Vec<String>, ConfigError> {
    let mut lines = Vec::new();
    let mut all: Vec<_> = given
        .iter()
        .flat_map(|(group, names)| names.iter().map(move |(name, value)| (group, name, value)))
        .collect();
    all.sort_by_key(|(group, name, _)| (*group, *name));
    for (group, name, value) in all {
        match meaning(group, name) {
            Some(Ignored(why)) => lines.push(format!("[{group}] {name} means nothing here: {why}")),
            Some(Refused(why)) if stands_for_something(value) => {
                let reason = format!("it is not supported: {why}");
                return Err(ConfigError::of(format!("[{group}] {name}"), reason));
            }
            _ => {}
        }
    }
    Ok(lines)
}

/// What an option means; `None` for one that upstream's compute service does not read.
fn meaning(group: &str, name: &str) -> Option<Meaning> {
    let fits = |known: &&(&str, &str, Meaning)| known.0 == group && (known.1 == name || known.1 == "*");
    OPTIONS.iter().find(fits).map(|known| known.2)
}

fn stands_for_something(value: &Value) -> bool {
    let text = value.clone().into_string().unwrap_or_else(|_| "a list".into()).to_lowercase();
    !matches!(text.as_str(), "" | "false" | "no" | "off" | "0" | "[]" | "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(options: &[(&str, &str, &str)]) -> Given {
        let mut all = Given::new();
        for (group, name, value) in options {
            let value = Value::new(None, config::ValueKind::String((*value).to_owned()));
            all.entry((*group).to_owned()).or_default().insert((*name).to_owned(), value);
        }
        all
    }

    #[test]
    fn what_means_nothing_is_said_and_what_cannot_be_passed_over_is_an_error() {
        let usual = [
            ("docker", "api_url", "unix:///x"),
            ("docker", "execute_timeout", "7"),
            ("volume", "volume_dir", "/mnt"),
            ("compute", "host_shared_with_nova", "False"),
            ("scheduler", "driver", "x"),
        ];
        let lines = review(&given(&usual)).unwrap();
        let expected = [
            "[docker] api_url means nothing here: there is no Docker",
            "[volume] volume_dir means nothing here: this host mounts no volume",
        ];
        assert_eq!(lines, expected);
        let error = review(&given(&[("compute", "host_shared_with_nova", "True")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "[compute] host_shared_with_nova: it is not supported: a host that Nova uses too is not supported"
        );
    }

    #[test]
    fn the_operators_table_says_the_same() {
        let row = |(group, name, meaning): &(&str, &str, Meaning)| {
            let text = match meaning {
                Honoured => "as upstream".to_owned(),
                Ignored(why) => format!("means nothing here: {why}"),
                Refused(why) => format!("not supported: {why}"),
            };
            format!("| `[{group}] {name}` | {text} |")
        };
        let expected: Vec<String> = OPTIONS.iter().map(row).collect();
        let table = include_str!("../../../../etc/options.md");
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `[")).collect();
        for (expected, found) in expected.iter().zip(&rows) {
            assert_eq!(found, expected);
        }
        assert_eq!(rows.len(), expected.len());
    }
}
