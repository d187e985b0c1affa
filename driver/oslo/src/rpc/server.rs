use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, select_all};
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::call::{Call, Endpoint, Seen, Unreadable};
use super::connection::{Cluster, RabbitOptions};
use super::error::RemoteError;
use super::replies::Replies;
use super::topology::{Target, declare_server};
use super::transport_url::TransportUrl;

/// Calls that are under way at one time; while there are so many, none is taken from the broker. It bounds memory: whoever
/// dispatches sees to it that no caller has them all.
const UNDER_WAY_MAX: usize = 4096;
const DEFAULT_PREFETCH: u16 = 64;
/// How long calls that are under way may take when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a server does with calls.
pub trait Dispatch: Send + Sync + 'static {
    /// What an answer holds until it is delivered: it takes memory so long.
    type Held: Send;

    /// Takes a call, and gives what becomes of it. What is done before the future is returned is done in the order of
    /// messages, and must not wait. A cast's result goes nowhere.
    fn dispatch(self: &Arc<Self>, call: Call) -> impl Future<Output = Answer<Self::Held>> + Send + use<Self>;
}

/// What becomes of a call.
#[derive(Debug)]
pub struct Answer<H> {
    /// The answer.
    pub result: Result<Value, RemoteError>,
    /// Dropped once the answer is delivered, or nobody waits for it any more.
    pub held: Option<H>,
}

impl<H> From<Result<Value, RemoteError>> for Answer<H> {
    fn from(result: Result<Value, RemoteError>) -> Self {
        Self { result, held: None }
    }
}

/// Where a server listens, and for what.
#[derive(Debug, Clone)]
pub struct Served {
    /// The queues.
    pub target: Target,
    /// The interfaces.
    pub endpoints: Vec<Endpoint>,
}

/// A server of some targets.
pub struct Server {
    cluster: Cluster,
    served: Vec<Served>,
}

impl Server {
    /// A server that is not connected yet.
    pub fn new(url: TransportUrl, options: RabbitOptions, served: Vec<Served>) -> Self {
        let names: Vec<_> = served.iter().map(|one| one.target.server_topic()).collect();
        Self { cluster: Cluster { url, options, name: names.join(",") }, served }
    }

    /// Serves until `stop` turns true; calls that have begun are then given some time to be finished. A lost connection is
    /// made again.
    pub async fn run(&self, dispatch: Arc<impl Dispatch>, mut stop: watch::Receiver<bool>) {
        let patience = Duration::from_secs(self.cluster.options.kombu_missing_consumer_retry_timeout);
        let worker = Worker {
            dispatch,
            places: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            replies: Replies::new(patience),
        };
        let mut seen = Seen::default();
        loop {
            let connection = tokio::select! {
                connection = self.cluster.connect() => connection,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let served = tokio::select! {
                served = self.serve(&connection, &worker, &mut seen) => served,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            if let Err(e) = served {
                tracing::warn!(error = %e, "the connection to RabbitMQ is lost");
            }
            worker.replies.use_channel(None).await;
        }
        let all = worker.places.acquire_many(UNDER_WAY_MAX as u32);
        if tokio::time::timeout(DRAIN_TIMEOUT, all).await.is_err() {
            let left = UNDER_WAY_MAX - worker.places.available_permits();
            tracing::warn!(calls = left, "calls are left unanswered");
        }
    }

    async fn serve<D: Dispatch>(
        &self,
        connection: &Connection,
        worker: &Worker<D>,
        seen: &mut Seen,
    ) -> lapin::Result<()> {
        let replies = connection.create_channel().await?;
        replies.confirm_select(ConfirmSelectOptions::default()).await?;
        worker.replies.use_channel(Some(replies)).await;

        let channel = connection.create_channel().await?;
        let prefetch = match self.cluster.options.rabbit_qos_prefetch_count {
            0 => DEFAULT_PREFETCH,
            count => count,
        };
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let mut consumers = Vec::new();
        for Served { target, endpoints } in &self.served {
            for queue in declare_server(&channel, target, &self.cluster.options).await? {
                let tag = Uuid::new_v4().to_string();
                let (options, fields) = (BasicConsumeOptions::default(), FieldTable::default());
                let consumer = channel
                    .basic_consume(queue.as_str().into(), tag.as_str().into(), options, fields)
                    .await?;
                let deliveries = consumer.map(move |delivery| Some((delivery, endpoints)));
                consumers.push(deliveries.chain(stream::once(async { None })).boxed());
            }
            tracing::info!(topic = target.topic, server = target.server, "serving RPC");
        }
        let mut deliveries = select_all(consumers);
        while let Some(Some((delivery, endpoints))) = deliveries.next().await {
            worker.take(delivery?, endpoints, seen).await?;
        }
        tracing::warn!("RabbitMQ has ended a queue that is served: all are declared anew");
        // That it is closed in order is a courtesy.
        let _ = connection.close(200, "a queue was ended".into()).await;
        Ok(())
    }
}

struct Worker<D> {
    dispatch: Arc<D>,
    places: Arc<Semaphore>,
    replies: Replies,
}

impl<D: Dispatch> Worker<D> {
    async fn take(&self, delivery: Delivery, endpoints: &[Endpoint], seen: &mut Seen) -> lapin::Result<()> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        // As upstream does: a message is acknowledged before it is worked on, so that one that kills its reader is not
        // delivered for ever.
        delivery.ack(BasicAckOptions::default()).await?;
        let call = match Call::read(&delivery.data, seen) {
            Ok(call) => call,
            Err(e @ Unreadable::Twice(_)) => {
                tracing::warn!(error = %e, "a message is dropped");
                return Ok(());
            }
            Err(e) => {
                tracing::error!(delivery = delivery.delivery_tag, error = %e, "a message is dropped");
                return Ok(());
            }
        };
        let span = span_of(&call);
        let (reply, replies) = (call.reply.clone(), self.replies.clone());
        let result = span.in_scope(|| self.start(call, endpoints));
        let answer = async move {
            let Answer { result, held } = match result {
                Ok(working) => working.await,
                Err(e) => Err(e).into(),
            };
            if let Err(e) = &result {
                tracing::warn!(error = %e, "the call failed");
            }
            if let Some(to) = reply {
                replies.send(&to, result).await;
            }
            drop((place, held));
        };
        tokio::spawn(answer.instrument(span));
        Ok(())
    }

    fn start(
        &self,
        call: Call,
        endpoints: &[Endpoint],
    ) -> Result<impl Future<Output = Answer<D::Held>> + Send + use<D>, RemoteError> {
        if endpoints.iter().any(|endpoint| endpoint.serves(&call)) {
            Ok(self.dispatch.dispatch(call))
        } else {
            Err(RemoteError::unsupported_version(&call.version.to_string()))
        }
    }
}

fn span_of(call: &Call) -> Span {
    let request_id = call.context.request_id.as_deref().unwrap_or("-");
    tracing::info_span!("rpc", method = call.method, request_id)
}
