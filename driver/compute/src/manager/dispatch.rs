//! From a message's method to what is done for it.

use std::sync::Arc;

use async_trait::async_trait;
use model::{ActionLog, Container, Outcome};
use oslo::{Dispatch, RemoteError, RequestContext};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::{Instrument, Span};

use super::Manager;
use crate::error::{Error, Result};

/// Methods of upstream's that are not built; with the action that the API has begun for each.
const NOT_BUILT: [(&str, Option<&str>); 4] = [
    ("capsule_create", None),
    ("capsule_delete", None),
    ("container_commit", Some("commit")),
    ("image_delete", None),
];
/// The same, of methods that concern no container.
const NOT_BUILT_ELSEWHERE: [&str; 2] = ["network_create", "network_delete"];

/// A message's arguments by name.
pub struct Arguments(Map<String, Value>);

impl Arguments {
    /// The argument `name`; one that is missing counts as null.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.0.get(name).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| Error::Invalid(format!("argument {name}: {e}")))
    }

    /// The argument as it came.
    pub fn raw(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn container(&self) -> Result<Container> {
        Ok(Container::from_wire(self.raw("container"))?)
    }

    /// Carries the container's identifier, if the message is about one, to what is logged of the call.
    fn span(&self) -> Span {
        match self.raw("container").pointer("/zun_object.data/uuid").and_then(Value::as_str) {
            Some(uuid) => tracing::info_span!("container", uuid),
            None => Span::none(),
        }
    }
}

/// Passes the receiver as the shared pointer that background work needs.
#[async_trait]
impl Dispatch for Manager {
    async fn dispatch(
        self: Arc<Self>,
        context: RequestContext,
        method: &str,
        arguments: Map<String, Value>,
    ) -> std::result::Result<Value, RemoteError> {
        let request = context.request_id.clone().unwrap_or_default();
        let arguments = Arguments(arguments);
        let span = arguments.span();
        Ok(self.call(&request, method, arguments).instrument(span).await?)
    }
}

impl Manager {
    async fn call(self: &Arc<Self>, request: &str, method: &str, arguments: Arguments) -> Result<Value> {
        match method {
            "container_create" => self.container_create(request, arguments.container()?, &arguments).await?,
            "container_start" => self.container_start(request, arguments.container()?).await?,
            "container_stop" => {
                self.container_stop(request, arguments.container()?, arguments.get("timeout")?).await?;
            }
            "container_kill" => {
                self.container_kill(request, arguments.container()?, arguments.get("signal")?).await?;
            }
            "container_reboot" => {
                self.container_reboot(request, arguments.container()?, arguments.get("timeout")?).await?;
            }
            "container_rebuild" => {
                let run: Option<bool> = arguments.get("run")?;
                self.container_rebuild(request, arguments.container()?, run.unwrap_or(false)).await?;
            }
            "container_delete" => {
                self.container_delete(arguments.container()?, arguments.get("force")?).await?
            }
            "container_pause" => self.container_pause(request, arguments.container()?).await?,
            "container_unpause" => self.container_unpause(request, arguments.container()?).await?,
            "resize_container" => {
                self.container_update(arguments.container()?, &arguments).await?;
            }
            "network_attach" => {
                let network = arguments.get("requested_network")?;
                self.network_attach(request, arguments.container()?, &network).await?;
            }
            "network_detach" => {
                let network: String = arguments.get("network")?;
                self.network_detach(request, arguments.container()?, &network).await?;
            }
            "add_security_group" => {
                let group: String = arguments.get("security_group")?;
                self.add_security_group(request, arguments.container()?, &group).await?;
            }
            "remove_security_group" => {
                let group: String = arguments.get("security_group")?;
                self.remove_security_group(request, arguments.container()?, &group).await?;
            }
            "container_show" => return self.container_show(arguments.container()?).await,
            "container_logs" => return self.container_logs(arguments.container()?, &arguments),
            "container_top" => return self.container_top(arguments.container()?, &arguments).await,
            "container_stats" => return self.container_stats(arguments.container()?).await,
            "container_update" => return self.container_update(arguments.container()?, &arguments).await,
            "container_get_archive" => {
                return self.container_get_archive(arguments.container()?, &arguments).await;
            }
            "container_put_archive" => self.container_put_archive(arguments.container()?, &arguments).await?,
            "container_attach" => return self.container_attach(arguments.container()?).await,
            "container_resize" => return self.container_resize(arguments.container()?, &arguments).await,
            "container_exec_resize" => self.container_exec_resize(&arguments).await?,
            "container_exec" => return self.container_exec(arguments.container()?, &arguments).await,
            "image_pull" => self.image_pull(&arguments).await?,
            "image_search" => return self.image_search(&arguments).await,
            other => return self.not_built(request, other, &arguments).await,
        }
        Ok(Value::Null)
    }

    /// Says that a method is not supported: to the caller, and, where it only cast, in the action that it began.
    async fn not_built(&self, request: &str, method: &str, arguments: &Arguments) -> Result<Value> {
        let Some((_, action)) = NOT_BUILT.iter().find(|(name, _)| *name == method) else {
            let known = NOT_BUILT_ELSEWHERE.contains(&method);
            let what = if known { method.to_owned() } else { format!("RPC method {method}") };
            return Err(Error::NotSupported(what));
        };
        let error = Error::NotSupported(method.to_owned());
        if let (Some(action), Ok(container)) = (action, arguments.container()) {
            let log = ActionLog::new(&self.database, container.uuid, request);
            log.finish(action, &Outcome::Error(error.to_string())).await?;
        }
        Err(error)
    }
}
