//! The other end: oslo.messaging in a Python process; and what our server does with a call.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oslo::{Answer, Call, Dispatch, RemoteError, Target};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::broker::URL;

/// Remembers what it was told.
#[derive(Default)]
pub struct Recorder {
    notes: Mutex<Vec<Value>>,
}

impl Recorder {
    pub fn forget(&self) {
        self.notes.lock().unwrap().clear();
    }

    pub fn is_empty(&self) -> bool {
        self.notes.lock().unwrap().is_empty()
    }

    /// Waits until at least `count` notes have come.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        for _ in 0..300 {
            let notes = self.notes.lock().unwrap().clone();
            if notes.len() >= count {
                return notes;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{count} notes did not come: {:?}", self.notes.lock().unwrap());
    }
}

impl Dispatch for Recorder {
    type Held = ();

    fn dispatch(self: &Arc<Self>, call: Call) -> impl Future<Output = Answer<()>> + Send + use<> {
        std::future::ready(self.answer(call).into())
    }
}

impl Recorder {
    fn answer(&self, call: Call) -> Result<Value, RemoteError> {
        let Call { context, method, arguments, .. } = call;
        match method.as_str() {
            "echo" => {
                Ok(json!({ "arguments": arguments, "request": context.request_id, "user": context.user_id }))
            }
            "note" => {
                self.notes.lock().unwrap().push(Value::Object(arguments));
                Ok(Value::Null)
            }
            "conflict" => {
                let mut error = RemoteError::new("zun.common.exception", "Conflict", "the room is taken");
                error.kwargs.insert("code".into(), json!(409));
                Err(error)
            }
            _ => Err(RemoteError::no_such_method(&method)),
        }
    }
}

/// A Python process with oslo.messaging.
pub struct Peer {
    pub exchange: String,
    pub topic: String,
    pub server: String,
}

impl Peer {
    pub fn new(target: &Target) -> Self {
        Self { exchange: target.exchange.clone(), topic: target.topic.clone(), server: target.server.clone() }
    }

    fn command(&self, mode: &str) -> Command {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rpc/peer.py");
        let mut command = Command::new(cloud_tests::python());
        command.arg(script).args([mode, URL, &self.exchange, &self.topic, &self.server]).kill_on_drop(true);
        command
    }

    /// Calls our server and gives what came of it.
    pub async fn ask(&self, mode: &str, method: &str, arguments: Value) -> Value {
        let output =
            self.command(mode).arg(method).arg(arguments.to_string()).output().await.expect("run peer.py");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"))
    }

    /// Sends a message that has no answer.
    pub async fn tell(&self, mode: &str, method: &str, arguments: Value) {
        let output =
            self.command(mode).arg(method).arg(arguments.to_string()).output().await.expect("run peer.py");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Serves until the process is dropped.
    pub async fn serve(&self) -> Child {
        let mut child =
            self.command("server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run peer.py");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        assert_eq!(line.expect("peer.py is not ready").unwrap().as_deref(), Some("ready"));
        child
    }
}
