//! `zun.conf` as this service reads it. Options of upstream keep their names, groups and defaults; those in
//! `[kata]` are ours.

mod docker;
mod error;
mod kata;
mod upstream;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use ::volume::Connector;
use cloud::{AuthOptions, ClientOptions};
use config::Config;
use image::{RegistryOptions, Store};
use model::DatabaseUrl;
use oslo::{ConfigFiles, RabbitOptions, TransportUrl};
use sandbox::{CpuLimit, HostOptions};
use serde::Deserialize;

pub use self::volume::VolumeOptions;
use crate::host_facts;
pub use docker::{Docker, TlsFiles};
pub use error::ConfigError;
pub use kata::Kata;

const MEBIBYTE: u64 = 1 << 20;

/// All options, by group.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Options {
    #[serde(rename = "DEFAULT")]
    pub default: Defaults,
    pub compute: Compute,
    pub database: DatabaseOptions,
    pub docker: Docker,
    pub kata: Kata,
    pub keystone_auth: AuthOptions,
    pub cinder_client: ClientOptions,
    pub glance_client: ClientOptions,
    pub neutron_client: ClientOptions,
    pub placement_client: ClientOptions,
    pub oslo_messaging_rabbit: RabbitOptions,
    pub volume: VolumeOptions,
    /// A line for each option that is set and means nothing to this service.
    #[serde(skip)]
    pub ignored_options: Vec<String>,
}

/// `[DEFAULT]`
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Defaults {
    pub debug: bool,
    pub host: String,
    pub transport_url: String,
    pub control_exchange: String,
    pub default_availability_zone: String,
    pub periodic_interval_max: u64,
    pub sync_container_state_interval: i64,
    pub default_cpu: f32,
    pub default_memory: u64,
    pub default_disk: i32,
    pub default_image_driver: String,
    pub image_driver_list: String,
    pub auth_encryption_key: String,
    pub floating_cpu_set: String,
    pub my_ip: String,
    pub my_block_storage_ip: Option<String>,
}

/// `[compute]`
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Compute {
    pub topic: String,
    pub resume_container_state: bool,
    pub enable_cpu_pinning: bool,
    pub reserved_host_cpus: u64,
    pub reserved_host_memory_mb: u64,
    pub reserved_host_disk_mb: u64,
    pub reserve_disk_for_image: f64,
    pub cpu_allocation_ratio: Option<f32>,
    pub ram_allocation_ratio: Option<f32>,
    pub disk_allocation_ratio: Option<f32>,
    pub initial_cpu_allocation_ratio: f32,
    pub initial_ram_allocation_ratio: f32,
    pub initial_disk_allocation_ratio: f32,
}

/// `[database]`
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct DatabaseOptions {
    pub connection: String,
    pub max_pool_size: u32,
}

impl Defaults {
    /// How often states are compared, as upstream has it: 0 is as often as other things are done, and less is never.
    pub fn sync_interval(&self, default: Duration) -> Option<Duration> {
        match u64::try_from(self.sync_container_state_interval) {
            Ok(0) => Some(default),
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => None,
        }
    }

    /// The image drivers that this host may use.
    pub fn image_drivers(&self) -> impl Iterator<Item = &str> {
        list(&self.image_driver_list)
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            debug: false,
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            transport_url: "rabbit://guest:guest@localhost:5672/".into(),
            control_exchange: "zun".into(),
            default_availability_zone: "nova".into(),
            periodic_interval_max: 60,
            sync_container_state_interval: 60,
            default_cpu: 1.0,
            default_memory: 512,
            default_disk: 10,
            default_image_driver: "docker".into(),
            image_driver_list: "glance,docker".into(),
            auth_encryption_key: "notgood but just long enough i t".into(),
            floating_cpu_set: String::new(),
            my_ip: host_facts::my_ip().to_string(),
            my_block_storage_ip: None,
        }
    }
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            topic: "zun-compute".into(),
            resume_container_state: false,
            enable_cpu_pinning: false,
            reserved_host_cpus: 0,
            reserved_host_memory_mb: 512,
            reserved_host_disk_mb: 0,
            reserve_disk_for_image: 0.2,
            cpu_allocation_ratio: None,
            ram_allocation_ratio: None,
            disk_allocation_ratio: None,
            initial_cpu_allocation_ratio: 16.0,
            initial_ram_allocation_ratio: 1.5,
            initial_disk_allocation_ratio: 1.0,
        }
    }
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self { connection: String::new(), max_pool_size: 5 }
    }
}

impl Options {
    /// Reads the options.
    pub fn read(files: ConfigFiles) -> Result<Self, ConfigError> {
        let config = Config::builder().add_source(files).build()?;
        let given: upstream::Given = config.clone().try_deserialize()?;
        let mut options: Self = config.try_deserialize()?;
        options.docker.complete(&options.default.my_ip);
        options.ignored_options = upstream::review(&given)?;
        Ok(options)
    }

    /// Says which option keeps the service from starting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.transport_url()?;
        self.database_url()?;
        self.keystone_auth.validate("keystone_auth")?;
        self.docker.tls()?;
        self.volume.validate()?;
        self.kata.validate()?;
        if self.default.host.is_empty() {
            return Err(ConfigError::of("[DEFAULT] host", "it is not set, and this machine has no name"));
        }
        Ok(())
    }

    /// How this host makes the sandboxes of Zun's containers.
    pub fn host(&self) -> HostOptions {
        self.host_with("sandboxes", self.kata.cgroup.clone())
    }

    /// How it makes those of its operator.
    pub fn operators_host(&self) -> HostOptions {
        self.host_with("operator", self.kata.cgroup.join("operator"))
    }

    fn host_with(&self, folder: &str, cgroup: PathBuf) -> HostOptions {
        let kata = &self.kata;
        HostOptions {
            folder: kata.state_path.join(folder),
            shim: kata.shim.clone(),
            kernel: kata.kernel.clone(),
            image: kata.image.clone(),
            templates: kata.state_path.join("templates"),
            template_bytes: kata.template_cache_size * MEBIBYTE,
            users: kata.state_path.join("users"),
            first_user: kata.first_user,
            cgroup,
            memory_overhead_mib: kata.memory_overhead,
            vcpus_max: kata.vcpus_max(),
            memory_max_mib: kata.memory_max_mib(),
            log_file_bytes: kata.log_file_size * MEBIBYTE,
            log_files: kata.log_files,
            seccomp: kata.seccomp(),
            pids_max: kata.pids_limit,
            cpu_limit: if kata.cpu_quota { CpuLimit::Quota } else { CpuLimit::Weight },
        }
    }

    /// The images of this host.
    pub fn image_store(&self) -> Result<Store, ConfigError> {
        let kata = &self.kata;
        let hosts = |option, text| {
            list(text)
                .map(|host| host.parse().map_err(|e| ConfigError::of(option, e)))
                .collect::<Result<_, ConfigError>>()
        };
        let read = |path: &PathBuf| {
            let failed = |e| ConfigError::of("[kata] registry_ca_file", format!("{}: {e}", path.display()));
            std::fs::read(path).map_err(failed)
        };
        let options = RegistryOptions {
            plain_http: list(&kata.insecure_registries).map(str::to_owned).collect(),
            mirrors: hosts("[kata] registry_mirrors", &kata.registry_mirrors)?,
            auth_hosts: hosts("[kata] registry_auth_hosts", &kata.registry_auth_hosts)?,
            certificates: kata.registry_ca_file.iter().map(read).collect::<Result<_, _>>()?,
        };
        Ok(Store::open(kata.state_path.join("images"), options, kata.workers())?)
    }

    /// This host, as storage back ends know it.
    pub fn connector(&self) -> Result<Connector, ::volume::Error> {
        let default = &self.default;
        let ip = default.my_block_storage_ip.as_ref().unwrap_or(&default.my_ip);
        Connector::open(&default.host, ip, &self.kata.state_path.join("volumes"))
    }

    /// The broker's address.
    pub fn transport_url(&self) -> Result<TransportUrl, ConfigError> {
        self.default.transport_url.parse().map_err(|e| ConfigError::of("[DEFAULT] transport_url", e))
    }

    /// The database's address.
    pub fn database_url(&self) -> Result<DatabaseUrl, ConfigError> {
        Ok(self.database.connection.parse::<DatabaseUrl>()?)
    }
}

/// The parts of a text that commas separate.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::kata::TemplateScope;
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let options = Options::read(ConfigFiles::new(vec![file.path().to_owned()], Vec::new()));
        options.and_then(|options| options.validate().map(|()| options)).map_err(|e| e.to_string())
    }

    const GOOD: &str = "[DEFAULT]\nhost = h\ndebug = true\n[database]\nconnection = mysql+pymysql://u:p@h/zun\n\
        [keystone_auth]\nauth_url = http://h/v3\nusername = zun\nproject_name = service\n\
        [compute]\ncpu_allocation_ratio = 4.0\n[kata]\nlog_files = 7\ntemplate_scope = host\n";

    #[test]
    fn an_operators_file_is_read() {
        let options = read(GOOD).unwrap();
        assert!(options.default.debug);
        assert_eq!((options.default.host.as_str(), options.compute.topic.as_str()), ("h", "zun-compute"));
        assert_eq!((options.compute.cpu_allocation_ratio, options.kata.log_files), (Some(4.0), 7));
        assert_eq!(options.kata.template_scope, TemplateScope::Host);
        assert_eq!(options.docker.remote_api_address(), format!("{}:2375", options.default.my_ip));
    }

    #[test]
    fn cpus_are_a_weight_unless_the_operator_bounds_them() {
        assert_eq!(read(GOOD).unwrap().host().cpu_limit, CpuLimit::Weight);
        let bounded = GOOD.to_owned() + "cpu_quota = true\n";
        assert_eq!(read(&bounded).unwrap().host().cpu_limit, CpuLimit::Quota);
    }

    #[test]
    fn states_are_compared_as_often_as_upstream_would() {
        let every = |seconds: i64| {
            let defaults = Defaults { sync_container_state_interval: seconds, ..Defaults::default() };
            defaults.sync_interval(Duration::from_secs(60))
        };
        assert_eq!(every(7), Some(Duration::from_secs(7)));
        assert_eq!(every(0), Some(Duration::from_secs(60)));
        assert_eq!(every(-1), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |from: &str, to: &str| read(&GOOD.replace(from, to)).err().unwrap();
        assert!(error("mysql+pymysql", "sqlite").contains("sqlite:// is not supported"));
        assert_eq!(error("username = zun", ""), "[keystone_auth] username is missing");
        assert!(error("template_scope = host", "template_scope = all").contains("template_scope"));
        assert!(error("log_files = 7", "log_fils = 7").contains("log_fils"));
        assert!(error("log_files = 7", "log_files = many").contains("log_files"));
        assert!(error("log_files = 7", "image_time_max = 0").contains("image_time_max"));
        assert!(error("[kata]", "[docker]\nca_file = /x\n[kata]").contains("cert_file"));
        assert!(error("host = h", "transport_url = kafka://h").contains("only rabbit:// is supported"));
    }

    #[test]
    fn the_sample_has_every_option_of_ours() {
        let sample = include_str!("../../../../etc/zun-kata.conf");
        read(&format!("{}{sample}", GOOD.split_once("[kata]").unwrap().0)).unwrap();
        // The error about one that is not known names those that are.
        let error = read(&GOOD.replace("log_files = 7", "none_such = 7")).err().unwrap();
        let known = error.split(" for key ").next().unwrap();
        let names: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
        assert!(names.len() > 20, "{error}");
        for name in names {
            let given = |line: &str| line.trim_start_matches('#').starts_with(&format!("{name} ="));
            assert!(sample.lines().any(given), "{name} is not in etc/zun-kata.conf");
        }
    }
}
