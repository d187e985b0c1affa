use std::sync::Arc;

use model::{Changes, Container, ContainerUuid, RequestedNetwork};
use oslo::{Answer, Call, Dispatch, RequestContext};
use serde_json::Value;
use tracing::{Instrument, Span};

use super::admission::{Admission, Admitted, Kind};
use super::arguments::Arguments;
use super::request::{ImageWork, Operation, Query, Request, action_of, parse, volume_rows};
use crate::containers::{self, Core, Lifecycle, Wanted, begin_change, inspect};
use crate::creations::{Creations, Taken};
use crate::engine::HostEngine;
use crate::error::{Error, Result};
use crate::images::{Images, admin};
use crate::interfaces::{self, GroupChange, Interfaces};
use crate::lifecycle::Event;
use crate::operation::{ADD_GROUP, ATTACH, DETACH, REMOVE_GROUP};
use crate::turns::{Ticket, Turn, Urgency};
use crate::zun::commit::{self, Commits};
use crate::zun::files::Files;
use crate::zun::processes::Processes;
use crate::zun::provisioner::port_owner;
use crate::zun::update::Updates;
use crate::zun::{Zun, call_turn, networks, stats, top};

/// The action that makes a container.
const CREATE: &str = "create";
/// The action that makes an image of one.
const COMMIT: &str = "commit";
/// The action that makes one anew.
const REBUILD: &str = "rebuild";

/// Whom requests are for.
pub struct Server {
    /// The lives of containers.
    pub core: Arc<Core<Zun>>,
    /// Their interfaces.
    pub interfaces: Interfaces,
    /// Their processes.
    pub processes: Processes,
    /// Their files.
    pub files: Files,
    /// Their size.
    pub updates: Updates,
    /// Images made of them.
    pub commits: Commits,
    /// Images.
    pub images: Images,
    /// What projects have under way.
    pub admission: Admission,
    /// Creations that are taken.
    pub creations: Creations,
}

impl Dispatch for Server {
    type Held = Admitted;

    fn dispatch(self: &Arc<Self>, mut call: Call) -> impl Future<Output = Answer<Admitted>> + Send + use<> {
        let (arguments, request) = parse(&mut call);
        let span = arguments.uuid().map_or_else(Span::none, |uuid| tracing::info_span!("container", %uuid));
        let started = span.in_scope(|| self.start(&call, &arguments, request));
        let server = Arc::clone(self);
        let answer = async move {
            match started {
                Err(e) => Err(e.into()).into(),
                Ok(Started::Done) => Ok(Value::Null).into(),
                Ok(Started::Query(query, admitted)) => {
                    let result = Box::pin(server.answer(call.context, *query)).await.map_err(Into::into);
                    Answer { result, held: Some(admitted) }
                }
            }
        };
        answer.instrument(span)
    }
}

/// What changes of a container's interfaces.
enum Change {
    Attach(RequestedNetwork),
    Detach(String),
    Groups(GroupChange),
}

/// What is left to do once a message has its place.
enum Started {
    /// Nothing: it is queued.
    Done,
    /// An answer.
    Query(Box<Query>, Admitted),
}

impl Server {
    /// Gives a message its place: an operation that of its container's line.
    fn start(
        self: &Arc<Self>,
        call: &Call,
        arguments: &Arguments,
        request: Result<Request>,
    ) -> Result<Started> {
        let placed = request.and_then(|request| self.place(&call.context, request));
        if let (Err(e), Some(uuid), Some(action)) = (&placed, arguments.uuid(), action_of(&call.method)) {
            self.core.executor.refuse(call.context.request(), uuid, action, e);
            match action {
                CREATE => {
                    let taken = taken(&call.context, uuid, volume_rows(arguments));
                    self.refuse_creation(taken, e.to_string());
                }
                // The API has said already that it is being rebuilt.
                REBUILD => self.core.tell(uuid, Event::Looked),
                _ => {}
            }
        }
        placed
    }

    /// A container whose creation is refused is in error, and what others have made for it is given back.
    fn refuse_creation(self: &Arc<Self>, taken: Taken, reason: String) {
        let server = Arc::clone(self);
        let work = async move {
            server.creations.remember(taken.clone()).await;
            Box::pin(containers::refuse_creation(&server.core, &server.creations, &taken, &reason)).await;
        };
        tokio::spawn(work.in_current_span());
    }

    fn place(self: &Arc<Self>, context: &RequestContext, request: Request) -> Result<Started> {
        let project = context.project_id.as_deref().unwrap_or_default();
        match request {
            Request::Query(query) => {
                let admitted = self.admission.admit(project, query.kind())?;
                Ok(Started::Query(query, admitted))
            }
            Request::Images(work) => {
                let admitted = self.admission.admit(project, Kind::Operation)?;
                let (server, context) = (Arc::clone(self), context.clone());
                let work = async move {
                    if let Err(e) = server.look_after(&context, work).await {
                        tracing::error!(error = %e, "an image could not be looked after");
                    }
                    drop(admitted);
                };
                tokio::spawn(work.in_current_span());
                Ok(Started::Done)
            }
            Request::Operation(uuid, operation) => {
                let urgency = operation.urgency();
                // What ends things is never refused for the number of those that wait.
                let admitted = match urgency {
                    Urgency::Urgent => None,
                    _ => Some(self.admission.admit(project, Kind::Operation)?),
                };
                let ticket = self.core.turns.enter(uuid, urgency)?;
                let (server, context) = (Arc::clone(self), context.clone());
                let work = async move {
                    server.operate(context, uuid, operation, ticket).await;
                    drop(admitted);
                };
                tokio::spawn(work.in_current_span());
                Ok(Started::Done)
            }
        }
    }

    async fn operate(
        &self,
        context: RequestContext,
        uuid: ContainerUuid,
        operation: Operation,
        ticket: Ticket,
    ) {
        let (request, action) = (context.request().to_owned(), operation.action());
        let done = match operation.creation() {
            None => Box::pin(self.perform(context, uuid, operation, ticket.turn().await)).await,
            Some(wanted) => {
                self.creations.remember(taken(&wanted.context, uuid, wanted.volume_rows())).await;
                let done = Box::pin(self.perform(context, uuid, operation, ticket.turn().await)).await;
                self.creations.forget(uuid);
                done
            }
        };
        if let Err(e) = done {
            tracing::warn!(action, error = %e, "an operation failed");
            if let Error::Database(model::Error::NoContainer(_)) = e {
                return;
            }
            self.core.executor.finish::<()>(&request, uuid, action, &Err(e));
        }
    }

    async fn perform(
        &self,
        context: RequestContext,
        uuid: ContainerUuid,
        operation: Operation,
        turn: Turn,
    ) -> Result<()> {
        let request = context.request().to_owned();
        let core = &self.core;
        let (operation, change) = match operation {
            Operation::Lifecycle(what) => {
                return Box::pin(containers::Request { context, uuid, what }.perform(core, turn)).await;
            }
            Operation::Resize(patch) => {
                self.updates.update(core.row(uuid).await?, patch).await?;
                core.executor.finish(&request, uuid, "resize_container", &Ok(()));
                return Ok(());
            }
            Operation::AttachNetwork(network) => (&ATTACH, Change::Attach(network)),
            Operation::DetachNetwork(network) => (&DETACH, Change::Detach(network)),
            Operation::AddGroup(group) => (&ADD_GROUP, Change::Groups(GroupChange::Add(group))),
            Operation::RemoveGroup(group) => (&REMOVE_GROUP, Change::Groups(GroupChange::Remove(group))),
        };
        let (begun, mut row) = begin_change(core, &request, uuid, operation).await?;
        let changed = self.change_interfaces(&row, &change).await;
        core.executor.settle(begun, &mut row, changed).await
    }

    async fn change_interfaces(&self, row: &Container, change: &Change) -> Result<Changes> {
        match change {
            Change::Attach(network) => {
                interfaces::attach(&self.interfaces, row, &port_owner(row), network).await
            }
            Change::Detach(network) => interfaces::detach(&self.interfaces, row, network).await,
            Change::Groups(change) => interfaces::change_groups(&self.interfaces, row, change).await,
        }
    }

    async fn look_after(&self, context: &RequestContext, work: ImageWork) -> Result<()> {
        match work {
            ImageWork::Pull(row) => admin::pull(&self.images, context, &row).await,
            ImageWork::Delete(row) => admin::delete(&self.images, &row).await,
        }
    }

    async fn commit(
        &self,
        context: &RequestContext,
        row: Container,
        wanted: commit::Wanted,
    ) -> Result<Value> {
        let project = context.project_id.as_deref().unwrap_or_default();
        match self.admission.admit(project, Kind::Commit) {
            Ok(admitted) => self.commits.commit(context, row, wanted, admitted).await,
            Err(e) => {
                self.core.executor.refuse(context.request(), row.uuid, COMMIT, &e);
                Err(e)
            }
        }
    }

    async fn answer(&self, context: RequestContext, query: Query) -> Result<Value> {
        let engine: &HostEngine = &self.core.engine;
        match query {
            Query::Show(row) => wire(&inspect::show(&self.core, row).await?),
            Query::Logs(row, query) => Ok(Value::String(inspect::logs(engine, &row, query).await?)),
            Query::Top(row, arguments) => top::top(engine, &row, &arguments).await,
            Query::Stats(row) => stats::stats(engine, &row).await,
            Query::Update(row, patch) => {
                let _turn = call_turn(&self.core.turns, row.uuid).await?;
                let row = self.core.row(row.uuid).await?;
                wire(&self.updates.update(row, patch).await?)
            }
            Query::GetArchive { row, path, encode } => self.files.get(&row, &path, encode).await,
            Query::PutArchive { row, path, data } => {
                self.files.put(&row, &path, data).await?;
                Ok(Value::Null)
            }
            Query::Attach(row) => self.processes.attach(row).await,
            Query::ResizeTerminal(row, size) => {
                self.processes.resize(&row, size).await?;
                wire(&row)
            }
            Query::ResizeExec(id, size) => {
                self.processes.resize_exec(&id, size).await?;
                Ok(Value::Null)
            }
            Query::Exec(row, command) => self.processes.exec(&row, &command).await,
            Query::Commit(row, wanted) => self.commit(&context, row, wanted).await,
            Query::SearchImages(wanted) => admin::search(&self.images, &context, &wanted).await,
            Query::CreateNetwork(id) => {
                let rows = self.core.executor.rows();
                networks::create(&self.interfaces.neutron, rows, engine.hostname(), &context, &id).await
            }
            Query::DeleteNetwork(network) => {
                networks::delete(self.core.executor.rows(), network).await?;
                Ok(Value::Null)
            }
        }
    }
}

impl Operation {
    /// What is asked for, if it makes a container or a capsule.
    fn creation(&self) -> Option<&Wanted> {
        match self {
            Self::Lifecycle(Lifecycle::Create { wanted, .. }) => Some(wanted),
            _ => None,
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Lifecycle(what) => what.action(),
            Self::AttachNetwork(_) => "network_attach",
            Self::DetachNetwork(_) => "network_detach",
            Self::AddGroup(_) => "add_security_group",
            Self::RemoveGroup(_) => "remove_security_group",
            Self::Resize(_) => "resize_container",
        }
    }

    fn urgency(&self) -> Urgency {
        match self {
            Self::Lifecycle(what) => what.urgency(),
            Self::AttachNetwork(_)
            | Self::DetachNetwork(_)
            | Self::AddGroup(_)
            | Self::RemoveGroup(_)
            | Self::Resize(_) => Urgency::Ordinary,
        }
    }
}

impl Query {
    fn kind(&self) -> Kind {
        match self {
            Self::GetArchive { .. } | Self::PutArchive { .. } => Kind::Archive,
            Self::Show(_)
            | Self::Logs(..)
            | Self::Top(..)
            | Self::Stats(_)
            | Self::Update(..)
            | Self::Attach(_)
            | Self::ResizeTerminal(..)
            | Self::ResizeExec(..)
            | Self::Exec(..)
            | Self::Commit(..)
            | Self::SearchImages(_)
            | Self::CreateNetwork(_)
            | Self::DeleteNetwork(_) => Kind::Call,
        }
    }
}

fn taken(context: &RequestContext, uuid: ContainerUuid, volumes: Vec<i32>) -> Taken {
    Taken { uuid, project: context.project_id.clone().unwrap_or_default(), volumes }
}

fn wire(row: &Container) -> Result<Value> {
    row.to_wire().map_err(Error::from_json)
}
