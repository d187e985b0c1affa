//! Processes in a container that runs, and who is connected to them.

use std::time::Duration;

use model::{Changes, Container, ExecInstance};
use sandbox::{Exec, Interact, ProcessInput, WindowSize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Manager;
use super::dispatch::Arguments;
use super::steps::require_created;
use crate::console::{ExecId, Resized};
use crate::error::{Error, Result};

/// What upstream asks of Docker's attach, before our token.
const ATTACH: &str = "/attach/ws?logs=0&stream=1&stdin=1&stdout=1&stderr=1";

impl Manager {
    pub(super) async fn container_exec(&self, container: Container, arguments: &Arguments) -> Result<Value> {
        require_created(&container)?;
        let interactive = arguments.get::<Option<bool>>("interactive")?.unwrap_or(false);
        let command = words(arguments.raw("command"))?;
        self.require_running("execute", &container).await?;
        let spec = self.record(container.uuid)?.container;
        let exec = Exec {
            container: spec.id.clone(),
            process: spec.process(&command, interactive)?,
            user: spec.user,
            time_limit: None,
        };
        match arguments.get::<Option<bool>>("run")? {
            Some(false) => self.prepare_exec(&container, exec, interactive).await,
            _ => self.run_to_end(&container, exec, &command.join(" ")).await,
        }
    }

    async fn run_to_end(&self, container: &Container, mut exec: Exec, command: &str) -> Result<Value> {
        // Nobody is at the terminal of a process that is only waited for.
        exec.process.set_terminal(Some(false));
        let limit = Duration::from_secs(self.options.docker.execute_timeout);
        let run = tokio::time::timeout(limit, self.sandbox(container.uuid).exec(exec)).await;
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
    async fn prepare_exec(&self, container: &Container, exec: Exec, interactive: bool) -> Result<Value> {
        let id = ExecId::random();
        let input = if interactive { ProcessInput::Open } else { ProcessInput::Closed };
        let secret = self.sessions.expect_exec(Interact { id: id.to_string(), exec, input, size: None });
        let token = Uuid::new_v4().to_string();
        let instance = ExecInstance {
            container_id: container.id,
            exec_id: id.to_string(),
            token: token.clone(),
            url: format!("{}/{secret}", self.options.docker.remote_api_url()),
        };
        instance.create(&self.database).await?;
        Ok(json!({ "output": null, "exit_code": null, "exec_id": instance.exec_id, "token": token }))
    }

    pub(super) async fn container_attach(&self, mut container: Container) -> Result<Value> {
        require_created(&container)?;
        self.require_running("attach", &container).await?;
        let secret = self.sessions.expect_attach(container.uuid);
        let docker = &self.options.docker;
        let scheme = if docker.tls().is_ok_and(|tls| tls.is_some()) { "wss" } else { "ws" };
        let url = format!(
            "{scheme}://{}/v{}/containers/{}{ATTACH}&token={secret}",
            docker.remote_api_address(),
            docker.docker_remote_api_version,
            container.uuid
        );
        let token = Uuid::new_v4().to_string();
        let changes =
            Changes { websocket_url: Some(url), websocket_token: Some(token.clone()), ..Changes::default() };
        self.save(&mut container, changes).await?;
        Ok(Value::String(token))
    }

    pub(super) async fn container_resize(
        &self,
        container: Container,
        arguments: &Arguments,
    ) -> Result<Value> {
        require_created(&container)?;
        let size = window_size(arguments)?;
        self.require_running("resize", &container).await?;
        self.sandbox(container.uuid).resize_terminal(&container.uuid.to_string(), None, size).await?;
        container.to_wire().map_err(|e| Error::Invalid(e.to_string()))
    }

    pub(super) async fn container_exec_resize(&self, arguments: &Arguments) -> Result<()> {
        let id: String = arguments.get("exec_id")?;
        let size = window_size(arguments)?;
        match self.sessions.resize(&ExecId::named(&id), size)? {
            Resized::Remembered => Ok(()),
            Resized::Runs(uuid) => {
                Ok(self.sandbox(uuid).resize_terminal(&uuid.to_string(), Some(id), size).await?)
            }
        }
    }
}

/// The API passes on what came in its query: texts.
fn window_size(arguments: &Arguments) -> Result<WindowSize> {
    let characters = |name: &str| {
        let value = arguments.raw(name);
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let number = number.and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| Error::Invalid(format!("{name}: {value} is no number of characters")))
    };
    Ok(WindowSize { rows: characters("height")?, columns: characters("width")? })
}

/// A command as a list, or as one text that a shell's rules split.
fn words(command: &Value) -> Result<Vec<String>> {
    let words = match command {
        Value::String(text) => {
            shell_words::split(text).map_err(|e| Error::Invalid(format!("command {text:?}: {e}")))?
        }
        list => serde_json::from_value(list.clone()).map_err(|e| Error::Invalid(format!("command: {e}")))?,
    };
    if words.is_empty() { Err(Error::Invalid("no command is given".into())) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_would() {
        assert_eq!(words(&json!("sh -c 'echo a b'")).unwrap(), ["sh", "-c", "echo a b"]);
        assert_eq!(words(&json!(["a", "b c"])).unwrap(), ["a", "b c"]);
        for bad in [json!("'"), json!(""), json!(7), json!(null)] {
            assert!(words(&bad).is_err(), "{bad} was taken");
        }
    }
}
