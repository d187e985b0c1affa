//! Processes in a container that runs, and who is connected to them.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ExecInstance};
use sandbox::{Exec, Interact, ProcessInput, WindowSize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::require_running;
use crate::console::{ExecId, Resized, Sessions};
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::options::Options;
use crate::record::sandbox_name;
use crate::rows::{Rows, ZunRows};

/// What upstream asks of Docker's attach, before our token.
const ATTACH: &str = "/attach/ws?logs=0&stream=1&stdin=1&stdout=1&stderr=1";

/// A process that somebody wants in a container.
#[derive(Debug)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Whether it is run to its end at once; otherwise its user connects to it.
    pub run: bool,
    /// Whether it has a terminal.
    pub is_interactive: bool,
}

/// Runs processes in containers, and lets their users connect.
pub struct Processes {
    options: Arc<Options>,
    rows: ZunRows,
    engine: HostEngine,
    sessions: Arc<Sessions>,
}

impl Processes {
    /// Processes in the sandboxes of `engine`.
    pub fn new(options: Arc<Options>, rows: ZunRows, engine: HostEngine, sessions: Arc<Sessions>) -> Self {
        Self { options, rows, engine, sessions }
    }

    /// `container_exec`.
    pub async fn exec(&self, row: &Container, command: &Command) -> Result<Value> {
        require_created(row)?;
        require_running(&self.engine, row, "execute").await?;
        let record = self.engine.record(row.uuid)?;
        let spec = &record.member(&sandbox_name(row.uuid))?.container;
        let exec = Exec {
            container: spec.id.clone(),
            process: spec.process(&command.words, command.is_interactive)?,
            user: spec.user.clone(),
            time_limit: None,
        };
        if command.run {
            self.run_to_end(row, exec, &command.words.join(" ")).await
        } else {
            self.prepare(row, exec, command.is_interactive).await
        }
    }

    async fn run_to_end(&self, row: &Container, mut exec: Exec, command: &str) -> Result<Value> {
        // Nobody is at the terminal of a process that is only waited for.
        exec.process.set_terminal(Some(false));
        let limit = Duration::from_secs(self.options.docker.execute_timeout);
        let run = tokio::time::timeout(limit, self.engine.sandbox(row.uuid).exec(exec)).await;
        let result =
            run.map_err(|_| Error::Conflict(format!("Timeout on executing command: {command}")))??;
        Ok(json!({
            "output": result.output,
            "exit_code": result.status,
            "exec_id": null,
            "token": null,
        }))
    }

    /// The process is made when its user connects through the proxy.
    async fn prepare(&self, row: &Container, exec: Exec, is_interactive: bool) -> Result<Value> {
        let id = ExecId::random();
        let input = if is_interactive { ProcessInput::Open } else { ProcessInput::Closed };
        let secret = self.sessions.expect_exec(Interact { id: id.to_string(), exec, input, size: None });
        let token = Uuid::new_v4().to_string();
        let instance = ExecInstance {
            container_id: row.id,
            exec_id: id.to_string(),
            token: token.clone(),
            url: format!("{}/{secret}", self.options.docker.remote_api_url()),
        };
        instance.create(self.rows.database()).await?;
        Ok(json!({ "output": null, "exit_code": null, "exec_id": instance.exec_id, "token": token }))
    }

    /// `container_attach`.
    pub async fn attach(&self, mut row: Container) -> Result<Value> {
        require_created(&row)?;
        require_running(&self.engine, &row, "attach").await?;
        let secret = self.sessions.expect_attach(row.uuid);
        let docker = &self.options.docker;
        let scheme = if docker.tls().is_ok_and(|tls| tls.is_some()) { "wss" } else { "ws" };
        let url = format!(
            "{scheme}://{}/v{}/containers/{}{ATTACH}&token={secret}",
            docker.remote_api_address(),
            docker.docker_remote_api_version,
            row.uuid
        );
        let token = Uuid::new_v4().to_string();
        let changes =
            Changes { websocket_url: Some(url), websocket_token: Some(token.clone()), ..Changes::default() };
        self.rows.save(&mut row, changes).await?;
        Ok(Value::String(token))
    }

    /// `container_resize`.
    pub async fn resize(&self, row: &Container, size: WindowSize) -> Result<()> {
        require_created(row)?;
        require_running(&self.engine, row, "resize").await?;
        Ok(self.engine.sandbox(row.uuid).resize_terminal(&sandbox_name(row.uuid), None, size).await?)
    }

    /// `container_exec_resize`.
    pub async fn resize_exec(&self, id: &str, size: WindowSize) -> Result<()> {
        match self.sessions.resize(&ExecId::named(id), size)? {
            Resized::Remembered => Ok(()),
            Resized::Runs(uuid) => {
                let sandbox = self.engine.sandbox(uuid);
                Ok(sandbox.resize_terminal(&sandbox_name(uuid), Some(id.to_owned()), size).await?)
            }
        }
    }
}

/// A command as a list, or as one text that a shell's rules split. No comment is one: `#` is a word like others, as with
/// Python's `shlex.split`, which docker-py uses.
pub fn words(command: &Value) -> Result<Vec<String>> {
    let words = match command {
        Value::String(text) => {
            split(text).map_err(|e| Error::invalid("command", format!("{text:?}: {e}")))?
        }
        list => serde_json::from_value(list.clone()).map_err(|e| Error::invalid("command", e.to_string()))?,
    };
    if words.is_empty() { Err(Error::invalid("command", "none is given")) } else { Ok(words) }
}

/// Splits as Python's `shlex.split` does: blanks part words; within single quotes every character stands for itself; within double
/// quotes a backslash does but before `"` and itself; elsewhere it makes the next character stand for itself.
fn split(text: &str) -> std::result::Result<Vec<String>, &'static str> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => quoted(&mut characters, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut characters, '"', word.get_or_insert_default())?,
            '\\' => {
                let next = characters.next().ok_or("no character follows the backslash")?;
                word.get_or_insert_default().push(next);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Adds what is quoted to `word`.
fn quoted(
    characters: &mut std::str::Chars<'_>,
    quote: char,
    word: &mut String,
) -> std::result::Result<(), &'static str> {
    const OPEN: &str = "a quotation mark is missing";
    loop {
        match characters.next().ok_or(OPEN)? {
            end if end == quote => return Ok(()),
            '\\' if quote == '"' => {
                let next = characters.next().ok_or(OPEN)?;
                if !matches!(next, '"' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            other => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_would() {
        assert_eq!(words(&json!("sh -c 'echo a b'")).unwrap(), ["sh", "-c", "echo a b"]);
        assert_eq!(words(&json!(["a", "b c"])).unwrap(), ["a", "b c"]);
        assert_eq!(words(&json!("grep '#' file # x")).unwrap(), ["grep", "#", "file", "#", "x"]);
        // What Python 3.11 gives.
        for (text, split) in [
            (r#"grep "\$" f"#, vec!["grep", r"\$", "f"]),
            (r#"echo "\`" "a\"b" "c\\d""#, vec!["echo", r"\`", "a\"b", r"c\d"]),
            ("a\\\nb", vec!["a\nb"]),
            ("a\rb\tc\nd", vec!["a", "b", "c", "d"]),
            (r"'a\' \'b a#b #", vec![r"a\", "'b", "a#b", "#"]),
            (r#"'' x"" "y"z'w'"#, vec!["", "x", "yzw"]),
        ] {
            assert_eq!(words(&json!(text)).unwrap(), split, "{text}");
        }
        for bad in [json!("'"), json!("a\\"), json!("\"a\\"), json!(""), json!(7), json!(null)] {
            assert!(words(&bad).is_err(), "{bad} was taken");
        }
    }
}
