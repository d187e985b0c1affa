//! The `openstack` command, without the second that it takes to load its code each time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::said::Said;
use crate::{python, top};

/// The program that runs commands.
struct Server {
    _child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start() -> Self {
        let script = "source devstack/openrc; exec \"$0\" tests/src/cli.py";
        let mut child = Command::new("bash")
            .args(["-ec", script])
            .arg(python())
            .current_dir(top())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, questions, answers: BufReader::new(answers) }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("tests/src/cli.py ended: {e}"))
    }
}

/// What `openstack` says to these arguments, in the name of a user in the project of the same name.
pub fn openstack(user: &str, arguments: &[&str]) -> Said {
    static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());
    let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = idle().pop();
    let mut server = known.unwrap_or_else(Server::start);
    let environment = json!({ "OS_USERNAME": user, "OS_PROJECT_NAME": user });
    let question = json!({ "arguments": arguments, "environment": environment });
    let answer = server.ask(&question);
    idle().push(server);
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    let status = answer["status"].as_i64().unwrap().try_into().unwrap();
    Said { status, out: text("out"), err: text("err") }
}
