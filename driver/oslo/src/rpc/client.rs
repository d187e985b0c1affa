use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection};
use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use uuid::Uuid;

use super::connection::{Cluster, RabbitOptions};
use super::envelope;
use super::error::RemoteError;
use super::publish::publish;
use super::topology::{declare_topic_exchange, declare_transient_queue};
use super::transport_url::TransportUrl;
use crate::context::RequestContext;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CallError {
    #[error("no reply to {method} came from {key} within {seconds} s")]
    Timeout { method: String, key: String, seconds: u64 },
    #[error("nobody listens on {0}")]
    NobodyListens(String),
    #[error("the message broker failed: {0}")]
    Broker(#[from] lapin::Error),
    #[error("the message cannot be written: {0}")]
    Message(String),
    #[error(transparent)]
    Remote(RemoteError),
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Result<Value, RemoteError>>>>>;

/// A client of the servers on one exchange. Its connection is made when it is first needed, and again when it is
/// lost.
pub struct Client {
    cluster: Cluster,
    exchange: String,
    reply_queue: String,
    link: AsyncMutex<Option<Link>>,
    waiting: Waiting,
}

struct Link {
    _connection: Connection,
    channel: Channel,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(url: TransportUrl, options: RabbitOptions, exchange: &str) -> Self {
        let reply_queue = format!("reply_{}", Uuid::new_v4().simple());
        Self {
            cluster: Cluster { url, options, name: reply_queue.clone() },
            exchange: exchange.to_owned(),
            reply_queue,
            link: AsyncMutex::new(None),
            waiting: Waiting::default(),
        }
    }

    /// Calls `method` of whoever listens on `key` (a topic, or a topic and a server) and waits for its result.
    pub async fn call(
        &self,
        context: &RequestContext,
        key: &str,
        method: &str,
        arguments: Map<String, Value>,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let id = Uuid::new_v4().simple().to_string();
        let mut message = message(context, method, arguments)?;
        message.insert("_msg_id".into(), Value::String(id.clone()));
        message.insert("_reply_q".into(), Value::String(self.reply_queue.clone()));
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(id.clone(), sender);
        let exchange = async {
            self.send(key, &message).await?;
            receiver.await.map_err(|_| CallError::Message("the reply was dropped".into()))
        };
        let result = tokio::time::timeout(timeout, exchange).await;
        self.waiting().remove(&id);
        match result {
            Ok(reply) => reply?.map_err(CallError::Remote),
            Err(_) => Err(CallError::Timeout {
                method: method.to_owned(),
                key: key.to_owned(),
                seconds: timeout.as_secs(),
            }),
        }
    }

    /// Sends `method` to whoever listens on `key`, and waits for nothing but the broker.
    pub async fn cast(
        &self,
        context: &RequestContext,
        key: &str,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<(), CallError> {
        self.send(key, &message(context, method, arguments)?).await
    }

    async fn send(&self, key: &str, message: &Map<String, Value>) -> Result<(), CallError> {
        let sealed = envelope::seal(message).map_err(|e| CallError::Message(e.to_string()))?;
        let channel = self.channel().await?;
        match publish(&channel, &self.exchange, key, &sealed).await? {
            Confirmation::Ack(None) => Ok(()),
            _ => Err(CallError::NobodyListens(key.to_owned())),
        }
    }

    async fn channel(&self) -> Result<Channel, CallError> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| link.channel.status().connected()) {
            return Ok(link.channel.clone());
        }
        let connection = self.cluster.connect().await;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        declare_topic_exchange(&channel, &self.exchange, &self.cluster.options).await?;
        declare_transient_queue(&channel, &self.reply_queue, &self.cluster.options).await?;
        let mut replies = channel
            .basic_consume(
                self.reply_queue.as_str().into(),
                "".into(),
                BasicConsumeOptions { no_ack: true, ..Default::default() },
                FieldTable::default(),
            )
            .await?;
        let waiting = Arc::clone(&self.waiting);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = replies.next().await {
                hand_over(&waiting, &delivery.data);
            }
        });
        *link = Some(Link { _connection: connection, channel: channel.clone() });
        Ok(channel)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Result<Value, RemoteError>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a reply to the call that waits for it; a heartbeat of a server that still works ends nothing.
fn hand_over(waiting: &Waiting, data: &[u8]) {
    let mut reply = match envelope::open(data) {
        Ok(reply) => reply,
        Err(e) => return tracing::warn!(error = %e, "a reply is dropped"),
    };
    if reply.get("ending") == Some(&Value::Bool(false)) {
        return;
    }
    let id = reply.get("_msg_id").and_then(Value::as_str).unwrap_or_default();
    let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    let Some(sender) = sender else { return tracing::debug!("a reply came that nobody waits for") };
    let result = match reply.get("failure") {
        Some(Value::String(failure)) => Err(RemoteError::from_wire(failure)),
        _ => Ok(reply.remove("result").unwrap_or_default()),
    };
    // The caller may have given up just now.
    let _ = sender.send(result);
}

fn message(
    context: &RequestContext,
    method: &str,
    arguments: Map<String, Value>,
) -> Result<Map<String, Value>, CallError> {
    let mut message = Map::from_iter([
        ("method".to_owned(), Value::String(method.to_owned())),
        ("args".to_owned(), Value::Object(arguments)),
        ("_unique_id".to_owned(), Value::String(Uuid::new_v4().simple().to_string())),
    ]);
    context.put_into(&mut message).map_err(|e| CallError::Message(e.to_string()))?;
    Ok(message)
}
