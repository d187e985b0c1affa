//! From a message's method to what is done for it.

use std::sync::Arc;

use async_trait::async_trait;
use model::Container;
use oslo::{Dispatch, RemoteError, RequestContext};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::{Instrument, Span};

use super::Manager;
use crate::error::{Error, Result};

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

    fn is_capsule(&self) -> bool {
        Container::is_capsule_on_wire(self.raw("container"))
    }

    fn capsule(&self) -> Result<Container> {
        Ok(Container::capsule_from_wire(self.raw("container"))?)
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
        let arguments = Arguments(arguments);
        let span = arguments.span();
        Ok(self.call(&context, method, arguments).instrument(span).await?)
    }
}

impl Manager {
    async fn call(
        self: &Arc<Self>,
        context: &RequestContext,
        method: &str,
        arguments: Arguments,
    ) -> Result<Value> {
        let request = context.request();
        match method {
            "container_create" if arguments.is_capsule() => {
                self.capsule_create(context, arguments.capsule()?, &arguments).await?;
            }
            "container_delete" if arguments.is_capsule() => self.capsule_delete(arguments.capsule()?).await?,
            "container_create" => self.container_create(context, arguments.container()?, &arguments).await?,
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
                self.container_rebuild(context, arguments.container()?, run.unwrap_or(false)).await?;
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
            "image_pull" => self.image_pull(context, &arguments).await?,
            "image_search" => return self.image_search(context, &arguments).await,
            "image_delete" => self.image_delete(&arguments).await?,
            "network_create" => return self.network_create(context, &arguments).await,
            "network_delete" => self.network_delete(&arguments).await?,
            "container_commit" => {
                return self.container_commit(context, arguments.container()?, &arguments).await;
            }
            other => return Err(Error::NotSupported(format!("RPC method {other}"))),
        }
        Ok(Value::Null)
    }
}
