use std::sync::Arc;
use std::time::Duration;

use lapin::{Channel, Confirmation};
use serde_json::{Map, Value};
use tokio::sync::RwLock;
use uuid::Uuid;

use super::call::ReplyTo;
use super::envelope;
use super::error::RemoteError;
use super::publish::publish;

const RETRY: Duration = Duration::from_millis(250);

/// Sends answers to callers, on whichever channel there is.
#[derive(Clone)]
pub struct Replies {
    channel: Arc<RwLock<Option<Channel>>>,
    /// How long a caller's queue may be missing.
    patience: Duration,
}

impl Replies {
    /// Replies that have no channel yet.
    pub fn new(patience: Duration) -> Self {
        Self { channel: Arc::default(), patience }
    }

    /// From now on they are sent on `channel`; on none they wait for the next.
    pub async fn use_channel(&self, channel: Option<Channel>) {
        *self.channel.write().await = channel;
    }

    /// Sends a reply until the broker has put it into the caller's queue, or the caller must have given up.
    pub async fn send(&self, to: &ReplyTo, result: Result<Value, RemoteError>) {
        let (result, failure) = match result {
            Ok(value) => (value, Value::Null),
            Err(e) => (Value::Null, Value::String(e.to_wire())),
        };
        let message = Map::from_iter([
            ("result".to_owned(), result),
            ("failure".to_owned(), failure),
            ("ending".to_owned(), Value::Bool(true)),
            ("_msg_id".to_owned(), Value::String(to.id.clone())),
            ("_unique_id".to_owned(), Value::String(Uuid::new_v4().simple().to_string())),
        ]);
        let sealed = match envelope::seal(&message) {
            Ok(sealed) => sealed,
            Err(e) => return tracing::error!(queue = to.queue, error = %e, "a reply cannot be written"),
        };
        let delivered = async {
            while !self.publish(&to.queue, &sealed).await {
                tokio::time::sleep(RETRY).await;
            }
        };
        if tokio::time::timeout(self.patience, delivered).await.is_err() {
            tracing::error!(queue = to.queue, "a reply is given up: it could not be delivered in time");
        }
    }

    async fn publish(&self, queue: &str, sealed: &[u8]) -> bool {
        let Some(channel) = self.channel.read().await.clone() else { return false };
        matches!(publish(&channel, "", queue, sealed).await, Ok(Confirmation::Ack(None)))
    }
}
