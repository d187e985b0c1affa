//! Exchanges and queues, declared exactly as oslo.messaging declares them: RabbitMQ refuses a second declaration
//! that differs.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind, Result};
use uuid::Uuid;

use super::connection::RabbitOptions;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The control exchange, the project's name.
    pub exchange: String,
    /// The topic.
    pub topic: String,
    /// This server among those of the topic.
    pub server: String,
}

impl Target {
    /// The routing key of this one server.
    pub fn server_topic(&self) -> String {
        format!("{}.{}", self.topic, self.server)
    }
}

/// Declares the three queues of a server and gives their names.
pub async fn declare_server(
    channel: &Channel,
    target: &Target,
    options: &RabbitOptions,
) -> Result<Vec<String>> {
    let mut queues = Vec::new();
    for topic in [target.topic.clone(), target.server_topic()] {
        declare_topic_exchange(channel, &target.exchange, options).await?;
        let queue_options = QueueDeclareOptions {
            durable: options.durable(),
            auto_delete: options.amqp_auto_delete,
            ..Default::default()
        };
        channel
            .queue_declare(topic.as_str().into(), queue_options, arguments(options.rabbit_quorum_queue, 0))
            .await?;
        bind(channel, &topic, &target.exchange, &topic).await?;
        queues.push(topic);
    }
    queues.push(declare_fanout(channel, &target.topic, options).await?);
    Ok(queues)
}

async fn declare_fanout(channel: &Channel, topic: &str, options: &RabbitOptions) -> Result<String> {
    let exchange = format!("{topic}_fanout");
    let queue = format!("{exchange}_{}", Uuid::new_v4().simple());
    let exchange_options = ExchangeDeclareOptions {
        durable: options.rabbit_transient_quorum_queue,
        auto_delete: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Fanout,
            exchange_options,
            FieldTable::default(),
        )
        .await?;
    declare_transient_queue(channel, &queue, options).await?;
    bind(channel, &queue, &exchange, topic).await?;
    Ok(queue)
}

/// Declares a queue that the broker removes when nobody has used it for a while.
pub async fn declare_transient_queue(channel: &Channel, name: &str, options: &RabbitOptions) -> Result<()> {
    let queue_options =
        QueueDeclareOptions { durable: options.rabbit_transient_quorum_queue, ..Default::default() };
    let arguments = arguments(options.rabbit_transient_quorum_queue, options.rabbit_transient_queues_ttl);
    channel.queue_declare(name.into(), queue_options, arguments).await?;
    Ok(())
}

/// Declares the exchange that topics are sent to.
pub async fn declare_topic_exchange(channel: &Channel, name: &str, options: &RabbitOptions) -> Result<()> {
    let exchange_options = ExchangeDeclareOptions {
        durable: options.durable(),
        auto_delete: options.amqp_auto_delete,
        ..Default::default()
    };
    channel.exchange_declare(name.into(), ExchangeKind::Topic, exchange_options, FieldTable::default()).await
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

fn arguments(quorum: bool, ttl_seconds: u32) -> FieldTable {
    let mut arguments = FieldTable::default();
    if quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
    if ttl_seconds > 0 {
        let milliseconds = i64::from(ttl_seconds) * 1000;
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(milliseconds));
    }
    arguments
}
