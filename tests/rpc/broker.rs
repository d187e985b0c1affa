//! RabbitMQ, and what can stand between it and us.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The broker of `devstack`.
pub const URL: &str = "rabbit://guest:guest@127.0.0.1:5672/";
/// Its port.
pub const PORT: u16 = 5672;

async fn connection() -> Connection {
    let properties = ConnectionProperties::default();
    Connection::connect(&format!("amqp://127.0.0.1:{PORT}/%2f"), properties)
        .await
        .expect("RabbitMQ must run: ./tests/run starts it")
}

/// Puts bytes as they are into a queue.
pub async fn publish_raw(queue: &str, bodies: &[&[u8]]) {
    let channel = connection().await.create_channel().await.unwrap();
    for body in bodies {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), queue.into(), options, body, BasicProperties::default());
        sent.await.unwrap().await.unwrap();
    }
}

/// Deletes a queue under whoever reads from it.
pub async fn delete_queue(queue: &str) {
    let channel = connection().await.create_channel().await.unwrap();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// Waits until nobody reads from the queue and counts what is left in it: unacknowledged messages come back.
pub async fn messages_left(queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    for _ in 0..150 {
        let channel = connection().await.create_channel().await.unwrap();
        let state = channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        if state.consumer_count() == 0 {
            return state.message_count();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the server's connection is still there");
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Pass,
    Cut(usize),
    Freeze(usize),
}

/// A way to the broker that can be cut.
pub struct Gate {
    port: u16,
    connections: Arc<AtomicUsize>,
    order: watch::Sender<Order>,
}

impl Gate {
    pub async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (order, orders) = watch::channel(Order::Pass);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(pass(client, number, orders.clone()));
            }
        });
        Self { port, connections, order }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Ends the connections that there are.
    pub fn cut(&self) {
        self.order.send_replace(Order::Cut(self.connections()));
    }

    /// Lets nothing more through the connections that there are.
    pub fn freeze(&self) {
        self.order.send_replace(Order::Freeze(self.connections()));
    }
}

async fn pass(mut client: TcpStream, number: usize, orders: watch::Receiver<Order>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        order = ordered(orders, number) => {
            if matches!(order, Order::Freeze(_)) {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Waits for an order that concerns connection `number`.
async fn ordered(mut orders: watch::Receiver<Order>, number: usize) -> Order {
    let concerns = |order: &Order| matches!(order, Order::Cut(last) | Order::Freeze(last) if number <= *last);
    *orders.wait_for(concerns).await.expect("the gate lives as long as its test")
}
