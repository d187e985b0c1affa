use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::select_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use serde_json::{Map, Value};
use tokio::sync::{RwLock, Semaphore, watch};
use tracing::Instrument;
use uuid::Uuid;

use super::connection::{Broking, RabbitOptions};
use super::envelope;
use super::error::RemoteError;
use super::topology::{Target, declare_server};
use super::transport_url::TransportUrl;
use crate::context::RequestContext;

/// Calls that are worked on at one time, oslo.messaging's `executor_thread_pool_size`.
const CONCURRENCY: usize = 64;
const DEFAULT_PREFETCH: u16 = 64;
/// Identifiers that are remembered to tell a message that comes twice.
const REMEMBERED: usize = 512;
const REPLY_RETRY: Duration = Duration::from_millis(250);
const RPC_MAJOR_VERSION: &str = "1";

/// What a server does with a call.
#[async_trait]
pub trait Dispatch: Send + Sync + 'static {
    /// Does `method` and gives what the caller is to get. A cast's result goes nowhere.
    async fn dispatch(
        self: Arc<Self>,
        context: RequestContext,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, RemoteError>;
}

/// A server of one target.
pub struct Server {
    broking: Broking,
    target: Target,
}

impl Server {
    /// A server that is not connected yet.
    pub fn new(url: TransportUrl, options: RabbitOptions, target: Target) -> Self {
        let name = target.server_topic();
        Self { broking: Broking { url, options, name }, target }
    }

    /// Serves until `stop` turns true; calls that have begun are finished. A lost connection is made again.
    pub async fn run(&self, dispatch: Arc<impl Dispatch>, mut stop: watch::Receiver<bool>) {
        let worker = Worker {
            dispatch,
            turns: Arc::new(Semaphore::new(CONCURRENCY)),
            replies: Arc::new(RwLock::new(None)),
            patience: Duration::from_secs(self.broking.options.kombu_missing_consumer_retry_timeout),
        };
        let mut seen = Seen::default();
        loop {
            let connection = tokio::select! {
                connection = self.broking.connect() => connection,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let served = tokio::select! {
                served = self.serve(&connection, &worker, &mut seen) => served,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            if let Err(e) = served {
                tracing::warn!("the connection to RabbitMQ is lost: {e}");
            }
            worker.replies.write().await.take();
        }
        // Each call holds a turn until it has been answered.
        let _all = worker.turns.acquire_many(CONCURRENCY as u32).await;
    }

    async fn serve<D: Dispatch>(
        &self,
        connection: &Connection,
        worker: &Worker<D>,
        seen: &mut Seen,
    ) -> lapin::Result<()> {
        let replies = connection.create_channel().await?;
        replies.confirm_select(ConfirmSelectOptions::default()).await?;
        *worker.replies.write().await = Some(replies);

        let channel = connection.create_channel().await?;
        let prefetch = match self.broking.options.rabbit_qos_prefetch_count {
            0 => DEFAULT_PREFETCH,
            count => count,
        };
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let mut consumers = Vec::new();
        for queue in declare_server(&channel, &self.target, &self.broking.options).await? {
            let tag = Uuid::new_v4().to_string();
            let consumer = channel
                .basic_consume(
                    queue.as_str().into(),
                    tag.as_str().into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await?;
            consumers.push(consumer);
        }
        tracing::info!(topic = self.target.topic, server = self.target.server, "serving RPC");
        let mut deliveries = select_all(consumers);
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            let turn = Arc::clone(&worker.turns).acquire_owned().await;
            // As upstream does: a message is acknowledged before it is worked on, so that one that kills its
            // reader is not delivered for ever.
            delivery.ack(BasicAckOptions::default()).await?;
            if let Some(call) = Call::read(&delivery, seen) {
                let worker = worker.clone();
                tokio::spawn(async move {
                    let span = tracing::info_span!(
                        "rpc",
                        method = call.method,
                        request_id = call.context.request_id.as_deref().unwrap_or("-")
                    );
                    worker.work(call).instrument(span).await;
                    drop(turn);
                });
            }
        }
        Ok(())
    }
}

/// Identifiers of the latest messages.
#[derive(Default)]
struct Seen(VecDeque<String>);

impl Seen {
    /// Whether `id` is new; from now on it is not.
    fn is_new(&mut self, id: &str) -> bool {
        if self.0.iter().any(|seen| seen == id) {
            return false;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(id.to_owned());
        true
    }
}

/// A message that asks for something.
#[derive(Debug)]
struct Call {
    context: RequestContext,
    method: String,
    version: String,
    arguments: Map<String, Value>,
    /// Queue and identifier of the reply, unless this is a cast.
    reply: Option<(String, String)>,
}

impl Call {
    /// Reads a delivery; what cannot be read, or has been read before, is logged and left.
    fn read(delivery: &Delivery, seen: &mut Seen) -> Option<Self> {
        let mut message = match envelope::open(&delivery.data) {
            Ok(message) => message,
            Err(e) => {
                tracing::error!(delivery = delivery.delivery_tag, "a message is dropped: {e}");
                return None;
            }
        };
        let id = text(&mut message, "_unique_id").unwrap_or_default();
        if !id.is_empty() && !seen.is_new(&id) {
            tracing::warn!(message = id, "a message that came twice is dropped");
            return None;
        }
        match Self::from_message(message) {
            Ok(call) => Some(call),
            Err(e) => {
                tracing::error!(message = id, "a message is dropped: {e}");
                None
            }
        }
    }

    fn from_message(mut message: Map<String, Value>) -> Result<Self, String> {
        let context = RequestContext::take_from(&mut message).map_err(|e| format!("its context: {e}"))?;
        let method = text(&mut message, "method").ok_or("it names no method")?;
        let arguments = match message.remove("args") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(format!("the arguments of {method} are no object")),
        };
        let reply = text(&mut message, "_reply_q").zip(text(&mut message, "_msg_id"));
        let version = text(&mut message, "version").unwrap_or_else(|| "1.0".into());
        Ok(Self { context, method, version, arguments, reply })
    }
}

fn text(message: &mut Map<String, Value>, name: &str) -> Option<String> {
    match message.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

struct Worker<D> {
    dispatch: Arc<D>,
    turns: Arc<Semaphore>,
    replies: Arc<RwLock<Option<Channel>>>,
    patience: Duration,
}

impl<D> Clone for Worker<D> {
    fn clone(&self) -> Self {
        Self {
            dispatch: Arc::clone(&self.dispatch),
            turns: Arc::clone(&self.turns),
            replies: Arc::clone(&self.replies),
            patience: self.patience,
        }
    }
}

impl<D: Dispatch> Worker<D> {
    async fn work(&self, call: Call) {
        let result = if call.version.split('.').next() == Some(RPC_MAJOR_VERSION) {
            Arc::clone(&self.dispatch).dispatch(call.context, &call.method, call.arguments).await
        } else {
            Err(RemoteError::unsupported_version(&call.version))
        };
        if let Err(e) = &result {
            tracing::warn!("the call failed: {e}");
        }
        if let Some((queue, id)) = call.reply {
            self.reply(&queue, &id, result).await;
        }
    }

    /// Sends a reply until the broker has put it into the caller's queue, or the caller must have given up.
    async fn reply(&self, queue: &str, id: &str, result: Result<Value, RemoteError>) {
        let (result, failure) = match result {
            Ok(value) => (value, Value::Null),
            Err(e) => (Value::Null, Value::String(e.to_wire())),
        };
        let message = Map::from_iter([
            ("result".to_owned(), result),
            ("failure".to_owned(), failure),
            ("ending".to_owned(), Value::Bool(true)),
            ("_msg_id".to_owned(), Value::String(id.to_owned())),
            ("_unique_id".to_owned(), Value::String(Uuid::new_v4().simple().to_string())),
        ]);
        let sealed = match envelope::seal(&message) {
            Ok(sealed) => sealed,
            Err(e) => return tracing::error!("a reply cannot be written: {e}"),
        };
        let delivered = async {
            while !self.publish_reply(queue, &sealed).await {
                tokio::time::sleep(REPLY_RETRY).await;
            }
        };
        if tokio::time::timeout(self.patience, delivered).await.is_err() {
            tracing::error!(queue, "the reply is given up: its queue is missing");
        }
    }

    async fn publish_reply(&self, queue: &str, sealed: &[u8]) -> bool {
        let Some(channel) = self.replies.read().await.clone() else { return false };
        matches!(publish(&channel, "", queue, sealed).await, Ok(Confirmation::Ack(None)))
    }
}

/// Publishes so that the broker says whether anybody gets it.
pub(super) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_priority(0);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(message: Value) -> Result<Call, String> {
        let Value::Object(message) = message else { unreachable!() };
        Call::from_message(message)
    }

    #[test]
    fn calls_and_casts_are_told_apart() {
        let cast =
            call(json!({ "method": "m", "args": { "a": 1 }, "_context_request_id": "req-1" })).unwrap();
        assert_eq!((cast.method.as_str(), cast.version.as_str(), cast.reply.is_none()), ("m", "1.0", true));
        assert_eq!(cast.context.request_id.as_deref(), Some("req-1"));
        let call = call(json!({ "method": "m", "_msg_id": "i", "_reply_q": "q", "version": "1.1" })).unwrap();
        assert_eq!((call.reply, call.version.as_str()), (Some(("q".into(), "i".into())), "1.1"));
    }

    #[test]
    fn malformed_messages_say_why() {
        assert_eq!(call(json!({ "args": {} })).unwrap_err(), "it names no method");
        assert_eq!(
            call(json!({ "method": "m", "args": [] })).unwrap_err(),
            "the arguments of m are no object"
        );
        assert!(call(json!({ "method": "m", "_context_is_admin": "maybe" })).is_err());
    }

    #[test]
    fn a_message_is_new_once() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a"));
        assert!(!seen.is_new("a"));
        for number in 0..REMEMBERED {
            assert!(seen.is_new(&number.to_string()));
        }
        assert!(seen.is_new("a"), "old identifiers are forgotten");
    }
}
