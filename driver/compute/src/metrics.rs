//! What the sandboxes of this host take, for Prometheus: gathered when it is asked for.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::future::join;
use futures::stream::{self, StreamExt};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sandbox::{Host, Sandbox, SandboxState, SandboxStatus, Stage, Usage};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const PATH: &str = "/metrics";
const FORMAT: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// How long a client may take to ask.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one sandbox may take to answer.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all may take together: who asks waits no longer. What those would have said that have not answered is left out.
const ALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Sandboxes that are asked at one time: one that does not answer keeps few others waiting.
const SANDBOXES_AT_ONCE: usize = 32;
/// More devices, and more containers, than a sandbox has: a shim that is somebody else's by now may name any number.
const DEVICES_MAX: usize = 32;
const CONTAINERS_MAX: usize = 32;
/// Most characters of what a shim or a guest calls something.
const NAME_MAX: usize = 64;

type Labels = Vec<(&'static str, String)>;
type Values = Family<Labels, Gauge<f64, AtomicU64>>;

/// Answers at `address` until the service ends.
pub async fn serve(address: SocketAddr, host: Host) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!("metrics are at http://{address}{PATH}");
    let host = Arc::new(host);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: others are about to be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let host = Arc::clone(&host);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, Arc::clone(&host)));
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(error = %e, "a client of the metrics left");
                }
            });
        }
    });
    Ok(())
}

async fn answer<B>(request: Request<B>, host: Arc<Host>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    match (request.uri().path(), text(&host).await) {
        (PATH, Ok(text)) => {
            *response.body_mut() = Full::from(text);
            response.headers_mut().insert(CONTENT_TYPE, FORMAT);
        }
        (PATH, Err(e)) => {
            tracing::warn!(error = %e, "metrics cannot be had");
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

async fn text(host: &Arc<Host>) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let metrics = Metrics::default();
    // In a new order each time: those that do not answer keep others from it, but not always the same.
    let sandboxes: HashSet<String> = host.list()?.into_iter().collect();
    let mut counted = usages(Arc::clone(host), sandboxes.clone());
    let counted = async {
        while let Some((id, usage)) = counted.recv().await {
            metrics.take_usage(&usage, &id);
        }
    };
    if timeout(ALL_TIMEOUT, join(counted, metrics.ask_all(host, sandboxes))).await.is_err() {
        tracing::warn!("metrics leave out what sandboxes would have said that have not answered in time");
    }
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What the host's kernel counts for each sandbox, which is not asked for it. It is read as long as somebody takes it.
fn usages(host: Arc<Host>, sandboxes: HashSet<String>) -> mpsc::UnboundedReceiver<(String, Usage)> {
    let (sender, read) = mpsc::unbounded_channel();
    spawn_blocking(move || {
        for id in sandboxes {
            let Some(usage) = host.sandbox(&id).usage() else { continue };
            if sender.send((id, usage)).is_err() {
                return;
            }
        }
    });
    read
}

/// One family for each thing that is measured.
#[derive(Default)]
struct Metrics {
    boot: Values,
    from_template: Values,
    vcpu: Values,
    vmm: Values,
    resident: Values,
    shared: Values,
    container_cpu: Values,
    container_memory: Values,
    container_pids: Values,
    block: Values,
    network: Values,
    device_bytes: Values,
    device_operations: Values,
}

impl Metrics {
    fn take_usage(&self, usage: &Usage, id: &str) {
        set(&self.vcpu, labels(id, &[]), usage.vcpu_seconds);
        set(&self.vmm, labels(id, &[]), usage.vmm_seconds);
        set(&self.resident, labels(id, &[]), usage.resident_bytes as f64);
        set(&self.shared, labels(id, &[]), usage.shared_bytes as f64);
    }

    async fn ask_all(&self, host: &Host, sandboxes: HashSet<String>) {
        let asked = stream::iter(sandboxes);
        asked
            .for_each_concurrent(SANDBOXES_AT_ONCE, async |id| self.ask(&host.sandbox(&id), &id).await)
            .await;
    }

    async fn ask(&self, sandbox: &Sandbox, id: &str) {
        let answers = async {
            if let SandboxStatus::Live(state) = sandbox.glance().await {
                self.gather_boot(&state, id);
                self.gather_devices(sandbox, id).await;
                let running = state.containers.iter().filter(|(_, exit)| exit.is_none());
                for (container, _) in running.take(CONTAINERS_MAX) {
                    self.gather_container(sandbox, id, container).await;
                }
            }
        };
        if timeout(SANDBOX_TIMEOUT, answers).await.is_err() {
            tracing::debug!(sandbox = id, "a sandbox does not tell what it takes");
        }
    }

    fn gather_boot(&self, state: &SandboxState, id: &str) {
        let Some(began) = state.stages.get(&Stage::ShimStarted) else { return };
        for (stage, at) in &state.stages {
            let seconds = at.saturating_sub(*began) as f64 / 1e6;
            set(&self.boot, labels(id, &[("stage", &stage_name(*stage))]), seconds);
        }
        set(&self.from_template, labels(id, &[]), f64::from(u8::from(state.from_template)));
    }

    async fn gather_devices(&self, sandbox: &Sandbox, id: &str) {
        for device in sandbox.traffic().await.into_iter().flatten().take(DEVICES_MAX) {
            for (direction, flow) in [("to_guest", device.incoming), ("from_guest", device.outgoing)] {
                let labels = labels(id, &[("device", &device.device), ("direction", direction)]);
                set(&self.device_bytes, labels.clone(), flow.bytes as f64);
                set(&self.device_operations, labels, flow.operations as f64);
            }
        }
    }

    async fn gather_container(&self, sandbox: &Sandbox, id: &str, container: &str) {
        let Ok(stats) = sandbox.stats(container).await else { return };
        let own = |more: &[(&'static str, &str)]| labels(id, &[&[("container", container)], more].concat());
        set(&self.container_cpu, own(&[]), stats.cpu_ns as f64 / 1e9);
        set(&self.container_memory, own(&[]), stats.memory_bytes as f64);
        set(&self.container_pids, own(&[]), stats.pids as f64);
        set(&self.block, own(&[("direction", "read")]), stats.block_read_bytes as f64);
        set(&self.block, own(&[("direction", "write")]), stats.block_write_bytes as f64);
        for nic in stats.network.iter().take(DEVICES_MAX) {
            let through = |direction| own(&[("interface", nic.name.as_str()), ("direction", direction)]);
            set(&self.network, through("receive"), nic.received_bytes as f64);
            set(&self.network, through("send"), nic.sent_bytes as f64);
        }
    }

    fn register(self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("zun_kata");
        for (name, help, values) in [
            ("boot_seconds", "From the shim's start to a stage of the sandbox's", self.boot),
            ("from_template", "1 if the guest goes on from a template, 0 if it booted", self.from_template),
            ("vcpu_seconds", "Processor time of the vCPUs", self.vcpu),
            ("vmm_seconds", "Processor time of the shim beside its vCPUs", self.vmm),
            ("resident_bytes", "Memory of the shim and its guest", self.resident),
            ("shared_bytes", "Memory of them that others use too", self.shared),
            ("container_cpu_seconds", "Processor time of a container", self.container_cpu),
            ("container_memory_bytes", "Memory of a container", self.container_memory),
            ("container_pids", "Processes of a container", self.container_pids),
            ("container_block_bytes", "Bytes of disks read and written", self.block),
            ("network_bytes", "Bytes through an interface", self.network),
            ("device_bytes", "Bytes through a disk's or an interface's slot", self.device_bytes),
            ("device_operations", "Requests or packets through it", self.device_operations),
        ] {
            registry.register(name, help, values);
        }
    }
}

fn labels(sandbox: &str, more: &[(&'static str, &str)]) -> Labels {
    let own = [("sandbox", sandbox)];
    let all = own.iter().chain(more);
    all.map(|(name, value)| (*name, value.chars().take(NAME_MAX).collect())).collect()
}

fn set(values: &Values, labels: Labels, value: f64) {
    values.get_or_create(&labels).set(value);
}

/// The stage's name as the sandbox's state has it.
fn stage_name(stage: Stage) -> String {
    let name = serde_json::to_value(stage).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sandbox::Phase;

    use super::*;

    #[test]
    fn a_sandboxes_start_is_told_in_seconds() {
        let metrics = Metrics::default();
        let state = SandboxState {
            phase: Phase::Ready,
            containers: BTreeMap::new(),
            from_template: true,
            stages: BTreeMap::from([(Stage::ShimStarted, 1_000_000), (Stage::AgentReady, 1_250_000)]),
        };
        metrics.gather_boot(&state, "s");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("zun_kata_boot_seconds{sandbox=\"s\",stage=\"agent_ready\"} 0.25\n"), "{text}");
        assert!(text.contains("zun_kata_from_template{sandbox=\"s\"} 1.0\n"), "{text}");
    }

    #[test]
    fn a_name_without_an_end_is_cut() {
        let long = "x".repeat(1 << 20);
        let labels = labels("s", &[("device", &long)]);
        assert_eq!(labels[1].1.len(), NAME_MAX);
    }
}
