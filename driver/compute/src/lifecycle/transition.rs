//! What to do next: a pure function of a row, of what is seen of its sandbox, and of what has happened.

use std::time::Duration;

use model::{Status, TaskState};
use sandbox::ContainerExit;

use super::kind::Kind;
use super::observed::{End, Observed};
use super::restarts::{RestartPolicy, Restarts};

/// What a row, and the record beside it, say of a container or a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is a container or a capsule.
    pub kind: Kind,
    /// Its status.
    pub status: Status,
    /// What was being done to it. Whoever decides has its turn, so that nobody is doing it any more.
    pub task: Option<TaskState>,
    /// Whether its row says that it was made.
    pub is_made: bool,
    /// Whether this host's record says that it was made.
    pub is_made_here: bool,
    /// Whether it has run.
    pub has_started: bool,
    /// Whether it goes when it ends.
    pub auto_remove: bool,
    /// Whether it is made anew when this host has lost it.
    pub auto_heal: bool,
    /// What follows its end.
    pub policy: RestartPolicy,
    /// How often its policy has started it again.
    pub restarts: Restarts,
    /// Whether what ran is started again with this service (`[compute] resume_container_state`).
    pub resumes: bool,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// This service has been started.
    ServiceStarted,
    /// Somebody compares rows and sandboxes, as is done from time to time.
    Looked,
    /// The process, or the sandbox, was seen to end.
    EndSeen,
    /// The pause before the restart of this number is over.
    RestartDue(u32),
    /// A check of its health came out otherwise than the one before.
    HealthChanged,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// The row says what is seen, and the end of what runs is watched for.
    Adopt,
    /// A creation that was interrupted counts as failed, and is undone.
    AbandonCreate,
    /// What was being done is done again.
    Resume(TaskState),
    /// It is started.
    Start,
    /// It is started after its pause.
    StartLater(Restarts),
    /// What an interrupted start has left is taken away; the row is right.
    Release,
    /// It has ended: what it held is taken away, and the row says how it ended.
    RecordEnd(AfterEnd),
    /// This host has lost it, and makes it anew.
    Heal {
        /// Whether it is started then.
        run: bool,
    },
    /// This host has lost it: it is in error.
    MarkLost,
    /// It is deleted.
    Remove,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterEnd {
    /// It stays as it is.
    Stay,
    /// It is started again after a pause; so often it will then have been.
    Restart(Restarts),
    /// It is deleted.
    Remove,
}

/// Decides. Whoever asks has the turn of the container, and has read row and sandbox in it.
pub fn decide(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match (facts.task, event) {
        (Some(task), Event::ServiceStarted | Event::Looked) => interrupted(facts, observed, task),
        (Some(_), Event::EndSeen | Event::RestartDue(_) | Event::HealthChanged) => Decision::Keep,
        (None, event) => settled(facts, observed, event),
    }
}

/// Work that was begun and is not going on. A row that says «being created» while this host's record says «made» is older
/// than its sandbox: the database was restored, and nothing of what its user has is thrown away.
fn interrupted(facts: &Facts, observed: &Observed, task: TaskState) -> Decision {
    match task {
        TaskState::ContainerCreating | TaskState::ImagePulling => creating(facts, observed),
        TaskState::ContainerStarting
        | TaskState::ContainerDeleting
        | TaskState::ContainerStopping
        | TaskState::ContainerRebooting
        | TaskState::ContainerPausing
        | TaskState::ContainerUnpausing
        | TaskState::ContainerKilling
        | TaskState::SgAdding
        | TaskState::SgRemoving
        | TaskState::NetworkAttaching
        | TaskState::NetworkDetaching
        | TaskState::ContainerRebuilding => Decision::Resume(task),
    }
}

fn creating(facts: &Facts, observed: &Observed) -> Decision {
    match observed {
        Observed::Unanswered => Decision::Keep,
        Observed::Lost => Decision::AbandonCreate,
        Observed::Idle | Observed::Partial | Observed::Running { .. } | Observed::Ended(_) => {
            if facts.is_made_here { Decision::Adopt } else { Decision::AbandonCreate }
        }
    }
}

fn settled(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match facts.status {
        Status::Creating => match event {
            Event::ServiceStarted => creating(facts, observed),
            Event::Looked | Event::EndSeen | Event::RestartDue(_) | Event::HealthChanged => Decision::Keep,
        },
        Status::Deleting => match event {
            Event::ServiceStarted | Event::Looked => Decision::Resume(TaskState::ContainerDeleting),
            Event::EndSeen | Event::RestartDue(_) | Event::HealthChanged => Decision::Keep,
        },
        Status::Deleted => {
            if facts.auto_remove {
                Decision::Remove
            } else {
                Decision::Keep
            }
        }
        Status::Restarting => restarting(facts, observed, event),
        Status::Rebuilding => rebuilding(facts, observed, event),
        Status::Running | Status::Paused => up(facts, observed, event),
        Status::Created | Status::Stopped | Status::Error | Status::Unknown | Status::Dead => {
            down(facts, observed, event)
        }
    }
}

/// Zun's API writes `Rebuilding` before it sends the request. Where nobody rebuilds, the request was refused or is lost, and the
/// container is as it was.
fn rebuilding(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match (event, observed) {
        (Event::EndSeen | Event::RestartDue(_) | Event::HealthChanged, _) | (_, Observed::Unanswered) => {
            Decision::Keep
        }
        (Event::ServiceStarted | Event::Looked, Observed::Running { .. }) => Decision::Adopt,
        (Event::ServiceStarted | Event::Looked, _) if !facts.is_made => Decision::MarkLost,
        (Event::ServiceStarted | Event::Looked, Observed::Lost) => lost(facts),
        (Event::ServiceStarted | Event::Looked, Observed::Idle | Observed::Partial | Observed::Ended(_)) => {
            Decision::Adopt
        }
    }
}

fn restarting(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match (observed, event) {
        (Observed::Lost, Event::ServiceStarted | Event::Looked | Event::RestartDue(_)) => lost(facts),
        (Observed::Running { .. }, _) => Decision::Adopt,
        (Observed::Unanswered, _) => Decision::Keep,
        (_, Event::ServiceStarted) => Decision::StartLater(facts.restarts),
        (_, Event::RestartDue(number)) => {
            if number == facts.restarts.all {
                Decision::Start
            } else {
                Decision::Keep
            }
        }
        // The pause may have ended while the database was away.
        (_, Event::Looked) => Decision::StartLater(facts.restarts),
        (_, Event::EndSeen | Event::HealthChanged) => Decision::Keep,
    }
}

fn up(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match observed {
        Observed::Lost => lost(facts),
        // Its end is watched for, as far as anybody can.
        Observed::Unanswered => match event {
            Event::ServiceStarted => Decision::Adopt,
            Event::Looked | Event::EndSeen | Event::RestartDue(_) | Event::HealthChanged => Decision::Keep,
        },
        Observed::Running { is_paused, .. } => match event {
            // It was started again between the end that was seen and this turn.
            Event::EndSeen | Event::RestartDue(_) => Decision::Keep,
            Event::Looked if *is_paused == (facts.status == Status::Paused) => Decision::Keep,
            Event::Looked | Event::ServiceStarted | Event::HealthChanged => Decision::Adopt,
        },
        Observed::Idle | Observed::Partial | Observed::Ended(_) => match event {
            Event::ServiceStarted if facts.resumes && facts.status == Status::Running => Decision::Start,
            Event::HealthChanged => Decision::Keep,
            Event::ServiceStarted | Event::Looked | Event::EndSeen | Event::RestartDue(_) => {
                Decision::RecordEnd(after_end(facts, observed))
            }
        },
    }
}

fn down(facts: &Facts, observed: &Observed, event: Event) -> Decision {
    match (observed, event) {
        (Observed::Lost, Event::ServiceStarted | Event::Looked) if facts.is_made => lost(facts),
        // A capsule is in error for what one of its containers did, while its sandbox goes on.
        (Observed::Running { .. }, Event::ServiceStarted | Event::Looked)
            if facts.is_made && !(facts.kind == Kind::Capsule && facts.status == Status::Error) =>
        {
            Decision::Adopt
        }
        (Observed::Partial, Event::ServiceStarted | Event::Looked) => Decision::Release,
        // Its deletion was to follow its end.
        (Observed::Ended(_), Event::ServiceStarted | Event::Looked)
            if facts.auto_remove && facts.status == Status::Stopped =>
        {
            Decision::Remove
        }
        (
            Observed::Lost
            | Observed::Unanswered
            | Observed::Idle
            | Observed::Partial
            | Observed::Running { .. }
            | Observed::Ended(_),
            Event::ServiceStarted
            | Event::Looked
            | Event::EndSeen
            | Event::RestartDue(_)
            | Event::HealthChanged,
        ) => Decision::Keep,
    }
}

/// A capsule is not made anew: what its containers are is only in the messages that made it.
fn lost(facts: &Facts) -> Decision {
    let was_up = matches!(facts.status, Status::Running | Status::Paused | Status::Restarting);
    match facts.kind {
        _ if facts.auto_remove => Decision::Remove,
        Kind::Container if facts.auto_heal => {
            Decision::Heal { run: was_up || (facts.status == Status::Error && facts.has_started) }
        }
        Kind::Container | Kind::Capsule if facts.status == Status::Error => Decision::Keep,
        Kind::Container | Kind::Capsule => Decision::MarkLost,
    }
}

fn after_end(facts: &Facts, observed: &Observed) -> AfterEnd {
    let nothing = End { exit: None, failure: None, ran: Duration::ZERO };
    let end = if let Observed::Ended(end) = observed { end } else { &nothing };
    if facts.policy.wants(end.exit.as_ref(), facts.restarts.all) {
        AfterEnd::Restart(facts.restarts.next(end.ran))
    } else if facts.auto_remove {
        AfterEnd::Remove
    } else {
        AfterEnd::Stay
    }
}

/// What follows the end of a capsule's container, while its sandbox goes on.
pub fn decide_member(
    policy: RestartPolicy,
    restarts: Restarts,
    exit: &ContainerExit,
    ran: Duration,
) -> AfterEnd {
    if policy.wants(Some(exit), restarts.all) {
        AfterEnd::Restart(restarts.next(ran))
    } else {
        AfterEnd::Stay
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn facts(status: Status) -> Facts {
        Facts {
            kind: Kind::Container,
            status,
            task: None,
            is_made: true,
            is_made_here: true,
            has_started: true,
            auto_remove: false,
            auto_heal: false,
            policy: RestartPolicy::No,
            restarts: Restarts::default(),
            resumes: false,
        }
    }

    fn running() -> Observed {
        Observed::Running { is_paused: false, age: Duration::from_secs(1) }
    }

    fn ended(status: i32) -> Observed {
        let exit = ContainerExit { status, oom_killed: false, at: OffsetDateTime::UNIX_EPOCH };
        Observed::Ended(End { exit: Some(exit), failure: None, ran: Duration::from_secs(1) })
    }

    fn looked(facts: &Facts, observed: &Observed) -> Decision {
        decide(facts, observed, Event::Looked)
    }

    #[test]
    fn only_what_differs_is_mended() {
        assert_eq!(looked(&facts(Status::Running), &running()), Decision::Keep);
        assert_eq!(looked(&facts(Status::Stopped), &ended(0)), Decision::Keep);
        assert_eq!(looked(&facts(Status::Running), &ended(0)), Decision::RecordEnd(AfterEnd::Stay));
        assert_eq!(looked(&facts(Status::Error), &running()), Decision::Adopt);
        assert_eq!(looked(&facts(Status::Paused), &running()), Decision::Adopt);
        assert_eq!(
            looked(&Facts { is_made: false, ..facts(Status::Creating) }, &Observed::Lost),
            Decision::Keep
        );
    }

    #[test]
    fn what_is_lost_is_said_once_and_healed_where_that_is_asked_for() {
        let lost = |facts: Facts| looked(&facts, &Observed::Lost);
        assert_eq!(lost(facts(Status::Running)), Decision::MarkLost);
        assert_eq!(lost(facts(Status::Stopped)), Decision::MarkLost);
        assert_eq!(lost(facts(Status::Error)), Decision::Keep);
        assert_eq!(lost(Facts { is_made: false, ..facts(Status::Error) }), Decision::Keep);
        let heals = |status| Facts { auto_heal: true, ..facts(status) };
        assert_eq!(lost(heals(Status::Error)), Decision::Heal { run: true });
        assert_eq!(lost(heals(Status::Stopped)), Decision::Heal { run: false });
        assert_eq!(lost(Facts { auto_remove: true, ..facts(Status::Running) }), Decision::Remove);
        assert_eq!(lost(Facts { kind: Kind::Capsule, ..heals(Status::Running) }), Decision::MarkLost);
    }

    #[test]
    fn an_end_is_followed_by_what_the_container_asks_for() {
        let after = |facts: Facts| decide(&facts, &ended(1), Event::EndSeen);
        let restarts = Facts { policy: RestartPolicy::UntilStopped, ..facts(Status::Running) };
        let next = Restarts::default().next(Duration::from_secs(1));
        assert_eq!(after(restarts), Decision::RecordEnd(AfterEnd::Restart(next)));
        assert_eq!(
            after(Facts { auto_remove: true, ..facts(Status::Running) }),
            Decision::RecordEnd(AfterEnd::Remove)
        );
        let between = Facts { auto_remove: true, ..facts(Status::Stopped) };
        assert_eq!(looked(&between, &ended(0)), Decision::Remove, "the service died after the end");
        assert_eq!(decide(&facts(Status::Running), &running(), Event::EndSeen), Decision::Keep);
    }

    #[test]
    fn a_restart_whose_time_has_passed_otherwise_is_none() {
        let mut facts = facts(Status::Restarting);
        facts.restarts = Restarts { all: 3, in_a_row: 3 };
        assert_eq!(decide(&facts, &ended(1), Event::RestartDue(3)), Decision::Start);
        assert_eq!(decide(&facts, &ended(1), Event::RestartDue(2)), Decision::Keep);
        assert_eq!(decide(&facts, &ended(1), Event::ServiceStarted), Decision::StartLater(facts.restarts));
        facts.status = Status::Stopped;
        assert_eq!(decide(&facts, &ended(1), Event::RestartDue(3)), Decision::Keep);
    }

    #[test]
    fn what_was_interrupted_is_done_again() {
        let facts = Facts { task: Some(TaskState::SgAdding), ..facts(Status::Running) };
        let started = |facts: &Facts, observed: &Observed| decide(facts, observed, Event::ServiceStarted);
        assert_eq!(started(&facts, &running()), Decision::Resume(TaskState::SgAdding));
        let creating = Facts {
            task: Some(TaskState::ContainerCreating),
            status: Status::Creating,
            is_made_here: false,
            ..facts
        };
        assert_eq!(started(&creating, &Observed::Idle), Decision::AbandonCreate);
        let restored = Facts { is_made_here: true, ..creating };
        assert_eq!(started(&restored, &running()), Decision::Adopt, "the database is older than the sandbox");
        let resumes = Facts { resumes: true, task: None, status: Status::Running, ..facts };
        assert_eq!(started(&resumes, &Observed::Idle), Decision::Start);
    }
}
