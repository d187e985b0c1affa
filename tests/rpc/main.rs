//! `oslo` against real oslo.messaging at the other end, over a real RabbitMQ.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broker;
mod cluster;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use broker::{Gate, PORT, URL};
use cloud_tests::tls::Front;
use cluster::Pair;
use oslo::{
    CallError, Client, Endpoint, RabbitOptions, RequestContext, Served, Server, Target, TransportUrl, Version,
};
use peer::{Peer, Recorder};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

const TIMEOUT: Duration = Duration::from_secs(30);

fn url(text: &str) -> TransportUrl {
    text.parse().unwrap()
}

fn target() -> Target {
    let id = uuid::Uuid::new_v4().simple();
    Target { exchange: format!("test-{id}"), topic: format!("topic-{id}"), server: "host1.example".into() }
}

fn arguments(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Our server, serving until it is dropped.
struct Serving {
    target: Target,
    recorder: Arc<Recorder>,
    _stop: watch::Sender<bool>,
}

async fn serve(at: &str, options: RabbitOptions) -> Serving {
    serve_as(target(), at, options, URL).await
}

/// Asked at the broker `probed`.
async fn serve_as(target: Target, at: &str, options: RabbitOptions, probed: &str) -> Serving {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (stop, stopped) = watch::channel(false);
    let recorder = Arc::new(Recorder::default());
    let endpoints = vec![Endpoint { namespace: None, version: Version { major: 1, minor: 1 } }];
    let server = Server::new(url(at), options, vec![Served { target: target.clone(), endpoints }]);
    let dispatch = Arc::clone(&recorder);
    tokio::spawn(async move { server.run(dispatch, stopped).await });
    let serving = Serving { target, recorder, _stop: stop };
    let probe = client(&serving.target, probed);
    for _ in 0..150 {
        if call(&probe, &serving.target.server_topic(), "echo", json!({})).await.is_ok() {
            serving.recorder.forget();
            return serving;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("our server does not serve at {at}");
}

fn client(target: &Target, at: &str) -> Client {
    Client::new(url(at), RabbitOptions::default(), &target.exchange)
}

async fn call(client: &Client, key: &str, method: &str, value: Value) -> Result<Value, CallError> {
    let mut context = RequestContext::default();
    context.request_id = Some("req-1".into());
    client.call(&context, key, method, arguments(value), TIMEOUT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn oslo_messaging_calls_our_server() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let peer = Peer::new(&serving.target);
    let answer = peer.ask("call", "echo", json!({ "text": "grüß", "list": [1, null] })).await;
    assert_eq!(answer["result"]["arguments"], json!({ "text": "grüß", "list": [1, null] }));
    assert_eq!((&answer["result"]["request"], &answer["result"]["user"]), (&json!("req-7"), &json!("ada")));
    let by_topic = Peer { server: "-".into(), ..peer };
    assert_eq!(by_topic.ask("call", "echo", json!({})).await["result"]["arguments"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn our_failures_are_exceptions_of_their_class() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let peer = Peer::new(&serving.target);
    let answer = peer.ask("call", "conflict", json!({})).await;
    assert_eq!(answer["class"], "Conflict_Remote", "{answer}");
    assert_eq!(answer["module"], "zun.common.exception_Remote");
    assert_eq!(answer["code"], 409);
    assert!(answer["text"].as_str().unwrap().contains("the room is taken"), "{answer}");
    let answer = peer.ask("call", "missing", json!({})).await;
    assert!(answer["text"].as_str().unwrap().contains("does not support RPC method missing"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn casts_and_fanouts_reach_our_server() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let peer = Peer::new(&serving.target);
    peer.tell("cast", "note", json!({ "number": 1 })).await;
    Peer { server: "-".into(), ..peer }.tell("fanout", "note", json!({ "number": 2 })).await;
    assert_eq!(serving.recorder.wait_for(2).await, [json!({ "number": 1 }), json!({ "number": 2 })]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn we_call_oslo_messagings_server() {
    let target = target();
    let peer = Peer::new(&target);
    let _serving = peer.serve().await;
    let client = client(&target, URL);
    let answer = call(&client, &target.server_topic(), "echo", json!({ "a": 1 })).await.unwrap();
    assert_eq!(answer, json!({ "arguments": { "a": 1 }, "request_id": "req-1", "user": null }));
    let Err(CallError::Remote(error)) =
        call(&client, &target.topic, "fail", json!({ "text": "too bad" })).await
    else {
        panic!("no failure")
    };
    assert_eq!((error.class.as_str(), error.message.as_str()), ("ValueError", "too bad"));
    let Err(CallError::Remote(error)) = call(&client, &target.topic, "expected", json!({})).await else {
        panic!("no failure")
    };
    assert_eq!(error.class, "KeyError");
    let Err(CallError::Remote(error)) = call(&client, &target.topic, "absent", json!({})).await else {
        panic!("no failure")
    };
    assert!(["NoSuchMethod", "UnsupportedVersion"].contains(&error.class.as_str()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn silence_and_absence_are_told_apart() {
    let target = target();
    let peer = Peer::new(&target);
    let _serving = peer.serve().await;
    let client = client(&target, URL);
    let short = Duration::from_secs(1);
    let context = RequestContext::default();
    let seconds = arguments(json!({ "seconds": 4 }));
    let slow = client.call(&context, &target.topic, "silent", seconds, short);
    assert!(matches!(slow.await, Err(CallError::Timeout { .. })));
    let nobody = call(&client, "no-such-topic", "echo", json!({})).await;
    assert!(matches!(nobody, Err(CallError::NobodyListens(key)) if key == "no-such-topic"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn a_message_is_worked_on_once_and_a_malformed_one_never() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let queue = serving.target.server_topic();
    let inner =
        json!({ "method": "note", "args": { "number": 5 }, "_unique_id": "one-and-only" }).to_string();
    let good = json!({ "oslo.version": "2.0", "oslo.message": inner }).to_string();
    let deep = "[".repeat(100_000);
    let no_method = json!({ "oslo.version": "2.0", "oslo.message": "{\"args\":{}}" }).to_string();
    let future = json!({ "oslo.version": "9.0", "oslo.message": "{}" }).to_string();
    let bodies: [&[u8]; 8] = [
        good.as_bytes(),
        b"\xff\xfe",
        b"{}",
        deep.as_bytes(),
        no_method.as_bytes(),
        future.as_bytes(),
        b"",
        good.as_bytes(),
    ];
    broker::publish_raw(&queue, &bodies).await;
    let client = client(&serving.target, URL);
    assert!(call(&client, &queue, "echo", json!({})).await.is_ok(), "the next message is served");
    assert_eq!(serving.recorder.wait_for(1).await, [json!({ "number": 5 })]);
    drop(serving);
    assert_eq!(broker::messages_left(&queue).await, 0, "a message that cannot be read was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn many_calls_are_served_side_by_side() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let client = Arc::new(client(&serving.target, URL));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..300 {
        let (client, key) = (Arc::clone(&client), serving.target.server_topic());
        calls.spawn(async move {
            let answer = call(&client, &key, "echo", json!({ "number": number })).await.unwrap();
            assert_eq!(answer["arguments"]["number"], number);
        });
    }
    assert_eq!(calls.join_all().await.len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn a_server_finds_a_living_broker_and_comes_back_when_its_connection_is_cut() {
    let gate = Gate::open().await;
    let hosts = format!("rabbit://guest:guest@127.0.0.1:1,guest:guest@127.0.0.1:{}/", gate.port());
    let serving = serve(&hosts, RabbitOptions::default()).await;
    gate.cut();
    let client = client(&serving.target, URL);
    let answer = call(&client, &serving.target.server_topic(), "echo", json!({ "after": "cut" })).await;
    assert_eq!(answer.unwrap()["arguments"], json!({ "after": "cut" }));
    assert!(gate.connections() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn a_queue_that_is_deleted_is_declared_anew() {
    let serving = serve(URL, RabbitOptions::default()).await;
    let queue = serving.target.server_topic();
    broker::delete_queue(&queue).await;
    let client = client(&serving.target, URL);
    let ask = || call(&client, &queue, "echo", json!({ "after": "deletion" }));
    let mut answer = ask().await;
    for _ in 0..150 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        answer = ask().await;
    }
    assert_eq!(answer.unwrap()["arguments"], json!({ "after": "deletion" }));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn a_broker_that_falls_silent_is_left() {
    let gate = Gate::open().await;
    let options = RabbitOptions { heartbeat_timeout_threshold: 2, ..Default::default() };
    let at = format!("rabbit://guest:guest@127.0.0.1:{}/", gate.port());
    let serving = serve(&at, options).await;
    gate.freeze();
    let client = client(&serving.target, URL);
    let answer = call(&client, &serving.target.server_topic(), "echo", json!({ "after": "silence" })).await;
    assert_eq!(answer.unwrap()["arguments"], json!({ "after": "silence" }));
}

/// Both servers read from the same queues, which are on the node that dies: one loses its connection, the other its queues.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ; tests/run installs it"]
async fn a_node_of_a_cluster_dies_and_whoever_used_it_is_served_by_the_other() {
    let mut pair = Pair::start();
    let second = pair.second.url();
    let connected = serve_as(target(), &pair.url(), RabbitOptions::default(), &second).await;
    let elsewhere = serve_as(connected.target.clone(), &second, RabbitOptions::default(), &second).await;
    let client = client(&connected.target, &second);
    for server in [&connected, &elsewhere] {
        await_its_turn(server, &client).await;
    }
    pair.first.die();
    for server in [&connected, &elsewhere] {
        await_its_turn(server, &client).await;
    }
}

/// Calls until this one of the servers of a queue has been given a call.
async fn await_its_turn(server: &Serving, client: &Client) {
    server.recorder.forget();
    let key = server.target.server_topic();
    let asking = async {
        while server.recorder.is_empty() {
            let context = RequestContext::default();
            let _ = client.call(&context, &key, "note", Map::new(), Duration::from_secs(2)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, asking).await.expect("a server is given no call");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs RabbitMQ and oslo.messaging; tests/run starts them"]
async fn tls_is_verified() {
    let front = Front::before(&format!("127.0.0.1:{PORT}"));
    let at = format!("rabbit://guest:guest@{}/?ssl=1", front.address());
    let options = RabbitOptions { ssl_ca_file: Some(front.authority()), ..Default::default() };
    let serving = serve(&at, options).await;
    let answer =
        call(&client(&serving.target, URL), &serving.target.server_topic(), "echo", json!({ "a": 1 })).await;
    assert_eq!(answer.unwrap()["arguments"], json!({ "a": 1 }));

    let trusts_nobody = client(&serving.target, &at);
    let context = RequestContext::default();
    let key = serving.target.server_topic();
    let refused = trusts_nobody.call(&context, &key, "echo", Map::new(), Duration::from_secs(3)).await;
    assert!(refused.is_err(), "a certificate of an unknown authority was taken");
}
