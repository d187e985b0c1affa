use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Container, ContainerUuid, Image, RequestedNetwork, RequestedVolume, ZunNetwork};
use oslo::{Call, RequestContext};
use sandbox::{LogQuery, WindowSize};
use serde_json::Value;

use super::arguments::Arguments;
use crate::containers::inspect::{since, tail};
use crate::containers::{Lifecycle, Thoroughness, Volume, Wanted};
use crate::error::{Error, Result};
use crate::images::admin::Search;
use crate::lifecycle::SIGKILL;
use crate::zun::commit;
use crate::zun::processes::{Command, words};
use crate::zun::update::Patch;

/// Docker's patience with a container that is asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A message, parsed whole.
#[derive(Debug)]
pub enum Request {
    /// Changes a container, in its turn; nobody waits for an answer.
    Operation(ContainerUuid, Operation),
    /// Looks after images; nobody waits for an answer.
    Images(ImageWork),
    /// Is answered.
    Query(Box<Query>),
}

/// What is done to a container in its turn.
#[derive(Debug)]
pub enum Operation {
    /// A step of its life.
    Lifecycle(Lifecycle),
    /// An interface comes.
    AttachNetwork(RequestedNetwork),
    /// An interface goes.
    DetachNetwork(String),
    /// A security group comes.
    AddGroup(String),
    /// A security group goes.
    RemoveGroup(String),
    /// It may use more, or less.
    Resize(Patch),
}

/// What is done to images of this host.
#[derive(Debug)]
pub enum ImageWork {
    /// One is pulled.
    Pull(Image),
    /// One is deleted.
    Delete(Image),
}

/// What is answered.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Query {
    Show(Container),
    Logs(Container, LogQuery),
    Top(Container, String),
    Stats(Container),
    Update(Container, Patch),
    GetArchive { row: Container, path: String, encode: bool },
    PutArchive { row: Container, path: String, data: Vec<u8> },
    Attach(Container),
    ResizeTerminal(Container, WindowSize),
    ResizeExec(String, WindowSize),
    Exec(Container, Command),
    Commit(Container, commit::Wanted),
    SearchImages(Search),
    CreateNetwork(String),
    DeleteNetwork(ZunNetwork),
}

impl Request {
    /// Reads a message. The error names the argument that is wrong.
    pub fn parse(method: &str, arguments: &Arguments, context: &RequestContext) -> Result<Self> {
        if let Some(operation) = operation(method, arguments, context)? {
            return Ok(Self::Operation(arguments.row()?.uuid, operation));
        }
        match method {
            "image_pull" => Ok(Self::Images(ImageWork::Pull(Image::from_wire(arguments.raw("image"))?))),
            "image_delete" => Ok(Self::Images(ImageWork::Delete(Image::from_wire(arguments.raw("image"))?))),
            _ => match query(method, arguments)? {
                Some(query) => Ok(Self::Query(Box::new(query))),
                None => Err(Error::NotSupported(format!("RPC method {method}"))),
            },
        }
    }
}

fn operation(method: &str, arguments: &Arguments, context: &RequestContext) -> Result<Option<Operation>> {
    let lifecycle = match method {
        "container_create" => create(arguments, context)?,
        "container_start" => Lifecycle::Start,
        "container_stop" => Lifecycle::Stop { grace: grace(arguments)? },
        "container_reboot" => Lifecycle::Reboot { grace: grace(arguments)? },
        "container_kill" => Lifecycle::Kill { signal: signal(arguments)? },
        "container_rebuild" => Lifecycle::Rebuild { run: arguments.get_or("run", false)? },
        "container_delete" => Lifecycle::Delete(thoroughness(arguments)?),
        "container_pause" => Lifecycle::Pause,
        "container_unpause" => Lifecycle::Unpause,
        _ => return change(method, arguments),
    };
    Ok(Some(Operation::Lifecycle(lifecycle)))
}

fn change(method: &str, arguments: &Arguments) -> Result<Option<Operation>> {
    Ok(Some(match method {
        "network_attach" => {
            let network: RequestedNetwork = arguments.get("requested_network")?;
            reject_pci(std::slice::from_ref(&network))?;
            Operation::AttachNetwork(network)
        }
        "network_detach" => Operation::DetachNetwork(arguments.get("network")?),
        "add_security_group" => Operation::AddGroup(arguments.get("security_group")?),
        "remove_security_group" => Operation::RemoveGroup(arguments.get("security_group")?),
        "resize_container" => Operation::Resize(arguments.get("patch")?),
        _ => return Ok(None),
    }))
}

fn query(method: &str, arguments: &Arguments) -> Result<Option<Query>> {
    Ok(Some(match method {
        "container_show" => Query::Show(arguments.row()?),
        "container_logs" => Query::Logs(arguments.row()?, log_query(arguments)?),
        "container_top" => Query::Top(arguments.row()?, arguments.get_or("ps_args", String::new())?),
        "container_stats" => Query::Stats(arguments.row()?),
        "container_update" => Query::Update(arguments.row()?, arguments.get("patch")?),
        "container_get_archive" => Query::GetArchive {
            row: arguments.row()?,
            path: arguments.get("path")?,
            encode: arguments.get_or("encode_data", false)?,
        },
        "container_put_archive" => {
            Query::PutArchive { row: arguments.row()?, path: arguments.get("path")?, data: data(arguments)? }
        }
        "container_attach" => Query::Attach(arguments.row()?),
        "container_resize" => Query::ResizeTerminal(arguments.row()?, window_size(arguments)?),
        "container_exec_resize" => Query::ResizeExec(arguments.get("exec_id")?, window_size(arguments)?),
        "container_exec" => Query::Exec(arguments.row()?, command(arguments)?),
        "container_commit" => {
            let wanted =
                commit::Wanted { repository: arguments.get("repository")?, tag: arguments.get("tag")? };
            Query::Commit(arguments.row()?, wanted)
        }
        "image_search" => Query::SearchImages(search(arguments)?),
        "network_create" => Query::CreateNetwork(arguments.get("neutron_net_id")?),
        "network_delete" => Query::DeleteNetwork(ZunNetwork::from_wire(arguments.raw("network"))?),
        _ => return Ok(None),
    }))
}

fn create(arguments: &Arguments, context: &RequestContext) -> Result<Lifecycle> {
    let networks: Vec<RequestedNetwork> = arguments.get_or("requested_networks", Vec::new())?;
    reject_pci(&networks)?;
    if arguments.raw("pci_requests").pointer("/zun_object.data/requests").is_some_and(is_given) {
        return Err(Error::NotSupported("a PCI device of the host".into()));
    }
    let wanted = Wanted { context: context.clone(), networks, volumes: volumes(arguments)? };
    Ok(Lifecycle::Create {
        row: Box::new(arguments.row()?),
        wanted: Box::new(wanted),
        run: arguments.get_or("run", false)?,
    })
}

fn is_given(requests: &Value) -> bool {
    requests.as_array().is_some_and(|requests| !requests.is_empty())
}

fn reject_pci(networks: &[RequestedNetwork]) -> Result<()> {
    match networks.iter().any(|network| network.pci_request_id.is_some()) {
        true => Err(Error::NotSupported("a PCI device as a network interface".into())),
        false => Ok(()),
    }
}

/// The volumes of each container that the message names.
fn volumes(arguments: &Arguments) -> Result<Vec<Volume>> {
    let mut all = Vec::new();
    for (container, volumes) in arguments.raw("requested_volumes").as_object().into_iter().flatten() {
        let uuid: ContainerUuid = container
            .parse()
            .map_err(|_| Error::invalid("requested_volumes", format!("{container:?} is no container")))?;
        for volume in volumes.as_array().into_iter().flatten() {
            all.push((uuid, RequestedVolume::from_wire(volume)?));
        }
    }
    Ok(all)
}

/// The rows of these volumes, as far as the message can be read.
pub fn volume_rows(arguments: &Arguments) -> Vec<i32> {
    let each = arguments.raw("requested_volumes").as_object().into_iter().flat_map(|all| all.values());
    let each = each.filter_map(Value::as_array).flatten();
    let rows = each.filter_map(|volume| volume.pointer("/zun_object.data/volume_id")?.as_i64());
    rows.filter_map(|row| i32::try_from(row).ok()).collect()
}

fn grace(arguments: &Arguments) -> Result<Duration> {
    Ok(arguments.number("timeout")?.map_or(STOP_TIMEOUT, Duration::from_secs))
}

fn signal(arguments: &Arguments) -> Result<u32> {
    match arguments.raw("signal") {
        Value::Null => Ok(SIGKILL),
        Value::String(text) if matches!(text.as_str(), "" | "None") => Ok(SIGKILL),
        Value::String(name) => Ok(sandbox::signal_number(name)?),
        other => Ok(sandbox::signal_number(&other.to_string())?),
    }
}

fn thoroughness(arguments: &Arguments) -> Result<Thoroughness> {
    match arguments.get_or("force", false)? {
        true => Ok(Thoroughness::Debts),
        false => Ok(Thoroughness::All),
    }
}

fn log_query(arguments: &Arguments) -> Result<LogQuery> {
    Ok(LogQuery {
        stdout: arguments.get_or("stdout", true)?,
        stderr: arguments.get_or("stderr", true)?,
        timestamps: arguments.get_or("timestamps", false)?,
        tail: tail(arguments.raw("tail")),
        since: since(arguments.raw("since"))?,
    })
}

fn data(arguments: &Arguments) -> Result<Vec<u8>> {
    let data: String = arguments.get("data")?;
    match arguments.get_or("decode_data", false)? {
        true => STANDARD.decode(data).map_err(|e| Error::invalid("data", e.to_string())),
        false => Ok(data.into_bytes()),
    }
}

fn window_size(arguments: &Arguments) -> Result<WindowSize> {
    let characters = |name: &'static str| {
        let number = arguments.number(name)?.and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| {
            Error::invalid(name, format!("{} is no number of characters", arguments.raw(name)))
        })
    };
    Ok(WindowSize { rows: characters("height")?, columns: characters("width")? })
}

fn command(arguments: &Arguments) -> Result<Command> {
    Ok(Command {
        words: words(arguments.raw("command"))?,
        run: arguments.get_or("run", true)?,
        is_interactive: arguments.get_or("interactive", false)?,
    })
}

fn search(arguments: &Arguments) -> Result<Search> {
    let registry = arguments.raw("registry").pointer("/zun_object.data/domain").and_then(Value::as_str);
    Ok(Search {
        image: arguments.get("image")?,
        driver: arguments.get("image_driver_name")?,
        is_exact: arguments.get_or("exact_match", false)?,
        registry: registry.map(str::to_owned),
    })
}

/// The action of Zun's tables that a message's method is, for one that cannot be read.
pub fn action_of(method: &str) -> Option<&'static str> {
    let actions = [
        ("container_create", "create"),
        ("container_start", "start"),
        ("container_stop", "stop"),
        ("container_reboot", "reboot"),
        ("container_kill", "kill"),
        ("container_rebuild", "rebuild"),
        ("container_delete", "delete"),
        ("container_pause", "pause"),
        ("container_unpause", "unpause"),
        ("network_attach", "network_attach"),
        ("network_detach", "network_detach"),
        ("add_security_group", "add_security_group"),
        ("remove_security_group", "remove_security_group"),
        ("resize_container", "resize_container"),
    ];
    actions.into_iter().find(|(name, _)| *name == method).map(|(_, action)| action)
}

/// The arguments of a call, and what is to be done for it.
pub fn parse(call: &mut Call) -> (Arguments, Result<Request>) {
    let arguments = Arguments::of(call);
    let request = Request::parse(&call.method, &arguments, &call.context);
    (arguments, request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container() -> Value {
        serde_json::from_str(include_str!("../../../model/tests/container.json")).unwrap()
    }

    fn parsed(method: &str, mut arguments: Value) -> Result<Request> {
        arguments["container"] = container();
        let Value::Object(arguments) = arguments else { unreachable!() };
        let mut call = Call::new(RequestContext::default(), method, arguments);
        parse(&mut call).1
    }

    #[test]
    fn what_changes_a_container_is_queued_and_what_asks_is_answered() {
        for (method, arguments) in [
            ("container_start", json!({})),
            ("container_stop", json!({ "timeout": "4" })),
            ("container_kill", json!({ "signal": "None" })),
            ("container_delete", json!({ "force": true })),
            ("add_security_group", json!({ "security_group": "g" })),
            ("resize_container", json!({ "patch": { "cpu": 0.5 } })),
        ] {
            assert!(matches!(parsed(method, arguments), Ok(Request::Operation(..))), "{method}");
        }
        for method in ["container_show", "container_stats", "container_attach", "container_logs"] {
            assert!(matches!(parsed(method, json!({})), Ok(Request::Query(_))), "{method}");
        }
    }

    #[test]
    fn a_timeout_may_be_text() {
        let grace = |timeout: Value| match parsed("container_stop", json!({ "timeout": timeout })).unwrap() {
            Request::Operation(_, Operation::Lifecycle(Lifecycle::Stop { grace })) => grace,
            other => panic!("{other:?}"),
        };
        assert_eq!(grace(json!(3)), Duration::from_secs(3));
        assert_eq!(grace(json!("4")), Duration::from_secs(4));
        assert_eq!(grace(json!(null)), STOP_TIMEOUT);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (method, arguments, field) in [
            ("container_stop", json!({ "timeout": "soon" }), "timeout"),
            ("container_kill", json!({ "signal": "SIGNONE" }), "SIGNONE"),
            ("network_detach", json!({ "network": 7 }), "network"),
            ("container_update", json!({ "patch": { "disk": 3 } }), "patch"),
            ("container_exec", json!({ "command": "'" }), "command"),
            ("container_fly", json!({}), "container_fly"),
        ] {
            let error = parsed(method, arguments).err().unwrap().to_string();
            assert!(error.contains(field), "{method}: {error}");
        }
        let network = json!({ "network": "n", "port": "", "v4-fixed-ip": "", "v6-fixed-ip": "", "preserve_on_delete": false,
            "pci_request_id": "r" });
        let error = parsed("network_attach", json!({ "requested_network": network })).err().unwrap();
        assert!(matches!(error, Error::NotSupported(_)) && error.to_string().contains("PCI"), "{error}");
    }

    #[test]
    fn pci_devices_are_refused_by_name() {
        let network = json!({ "network": "n", "port": "", "fixed_ip": "", "preserve_on_delete": false,
            "pci_request_id": "r" });
        let requests = json!({ "zun_object.data": { "requests": [{}] } });
        for arguments in [json!({ "requested_networks": [network] }), json!({ "pci_requests": requests })] {
            let error = parsed("container_create", arguments.clone()).err().unwrap();
            assert!(matches!(error, Error::NotSupported(_)), "{arguments}: {error}");
            assert!(error.to_string().contains("PCI"), "{error}");
        }
    }

    #[test]
    fn a_search_may_name_a_registry() {
        let registry = json!({ "zun_object.data": { "domain": "own.example:5000" } });
        let arguments = json!({ "image": "app", "image_driver_name": "docker", "exact_match": true, "registry": registry });
        let Ok(Request::Query(query)) = parsed("image_search", arguments) else { panic!("it is a query") };
        let Query::SearchImages(search) = *query else { panic!("{query:?}") };
        assert_eq!((search.registry.as_deref(), search.is_exact), (Some("own.example:5000"), true));
    }
}
