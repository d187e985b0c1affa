//! A connection to one of a cluster's brokers, tried again for ever with growing pauses.

use std::path::PathBuf;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use serde::Deserialize;

use super::transport_url::{Broker, TransportUrl};

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Largest frame in bytes. The library keeps two buffers of 32 frames for each connection: of the broker's own 128 KiB they
/// would take 8 MiB.
const FRAME_MAX: u32 = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// `[oslo_messaging_rabbit]`, as far as this driver honours it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools)]
pub struct RabbitOptions {
    /// Exchanges and queues of topics survive a restart of the broker.
    pub amqp_durable_queues: bool,
    /// Exchanges and queues of topics go with their last user.
    pub amqp_auto_delete: bool,
    /// Queues of topics are quorum queues.
    pub rabbit_quorum_queue: bool,
    /// Reply and fanout queues are quorum queues.
    pub rabbit_transient_quorum_queue: bool,
    /// Seconds after which the broker removes an unused reply or fanout queue.
    pub rabbit_transient_queues_ttl: u32,
    /// Messages that the broker sends ahead; 0 leaves the choice to this driver.
    pub rabbit_qos_prefetch_count: u16,
    /// Seconds of silence after which the connection counts as dead.
    pub heartbeat_timeout_threshold: u16,
    /// Seconds for which a reply is retried while its queue is missing.
    pub kombu_missing_consumer_retry_timeout: u64,
    /// TLS.
    pub ssl: bool,
    /// Certificates of the authorities that are trusted.
    pub ssl_ca_file: Option<PathBuf>,
    /// The client's certificate.
    pub ssl_cert_file: Option<PathBuf>,
    /// The client's key.
    pub ssl_key_file: Option<PathBuf>,
}

impl Default for RabbitOptions {
    fn default() -> Self {
        Self {
            amqp_durable_queues: false,
            amqp_auto_delete: false,
            rabbit_quorum_queue: false,
            rabbit_transient_quorum_queue: false,
            rabbit_transient_queues_ttl: 1800,
            rabbit_qos_prefetch_count: 0,
            heartbeat_timeout_threshold: 60,
            kombu_missing_consumer_retry_timeout: 60,
            ssl: false,
            ssl_ca_file: None,
            ssl_cert_file: None,
            ssl_key_file: None,
        }
    }
}

impl RabbitOptions {
    /// A quorum queue is durable whatever else is said.
    pub fn durable(&self) -> bool {
        self.amqp_durable_queues || self.rabbit_quorum_queue
    }
}

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The cluster.
    pub url: TransportUrl,
    /// The options.
    pub options: RabbitOptions,
    /// The name under which the broker lists the connection.
    pub name: String,
}

impl Cluster {
    /// Connects to the first broker that answers, however long that takes.
    pub async fn connect(&self) -> Connection {
        let mut pause = RETRY_MIN;
        loop {
            for broker in &self.url.brokers {
                match tokio::time::timeout(CONNECT_TIMEOUT, self.try_connect(broker)).await {
                    Ok(Ok(connection)) => {
                        tracing::info!(?broker, "connected to RabbitMQ");
                        return connection;
                    }
                    Ok(Err(e)) => tracing::warn!(?broker, error = %e, "waiting for RabbitMQ"),
                    Err(_) => tracing::warn!(?broker, "waiting for RabbitMQ: it does not answer"),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Tries each broker once, and gives the first that answers, or why none does.
    async fn try_once(&self) -> Result<String, String> {
        let mut reasons = Vec::new();
        for broker in &self.url.brokers {
            match tokio::time::timeout(CONNECT_TIMEOUT, self.try_connect(broker)).await {
                Ok(Ok(connection)) => {
                    // That it is closed in order is a courtesy.
                    let _ = connection.close(200, "checked".into()).await;
                    return Ok(format!("{broker:?}"));
                }
                Ok(Err(e)) => reasons.push(format!("{broker:?}: {e}")),
                Err(_) => reasons.push(format!("{broker:?}: it does not answer")),
            }
        }
        Err(reasons.join("; "))
    }

    async fn try_connect(
        &self,
        broker: &Broker,
    ) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let tls = self.url.tls || self.options.ssl;
        let uri = AMQPUri {
            scheme: if tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: broker.username.clone(),
                    password: broker.password.clone(),
                },
                host: broker.host.clone(),
                port: broker.port,
            },
            vhost: self.url.virtual_host.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.options.heartbeat_timeout_threshold),
                frame_max: Some(FRAME_MAX),
                ..Default::default()
            },
        };
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let runtime = async_rs::Runtime::tokio_current();
        Ok(Connection::connect_uri_with_config(uri, properties, self.tls_config().await?, runtime).await?)
    }

    async fn tls_config(&self) -> std::io::Result<OwnedTLSConfig> {
        let cert_chain = match &self.options.ssl_ca_file {
            Some(path) => Some(tokio::fs::read_to_string(path).await?),
            None => None,
        };
        let identity = match (&self.options.ssl_cert_file, &self.options.ssl_key_file) {
            (Some(certificate), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: tokio::fs::read(certificate).await?,
                key: tokio::fs::read(key).await?,
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

/// Says which broker of a cluster takes a connection, or why none does.
pub async fn try_broker(url: TransportUrl, options: RabbitOptions) -> Result<String, String> {
    Cluster { url, options, name: "check".into() }.try_once().await
}
