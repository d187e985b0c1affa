//! Properties of decisions, over everything that can come together.

use std::time::Duration;

use bolero::generator::TypeGenerator;
use model::{Status, TaskState};
use sandbox::ContainerExit;
use time::OffsetDateTime;

use super::{Decision, End, Event, Facts, Kind, Observed, RestartPolicy, Restarts, decide};

/// Everything that can come together, in a form that can be generated.
#[derive(Debug, Clone, TypeGenerator)]
struct Case {
    status: u8,
    task: Option<u8>,
    flags: [bool; 6],
    is_capsule: bool,
    policy: u8,
    restarts: u8,
    observed: u8,
    exit: u8,
    event: u8,
}

const STATUSES: [Status; 12] = [
    Status::Error,
    Status::Running,
    Status::Stopped,
    Status::Paused,
    Status::Unknown,
    Status::Creating,
    Status::Created,
    Status::Deleted,
    Status::Deleting,
    Status::Rebuilding,
    Status::Dead,
    Status::Restarting,
];
const TASKS: [TaskState; 14] = [
    TaskState::ImagePulling,
    TaskState::ContainerCreating,
    TaskState::ContainerStarting,
    TaskState::ContainerDeleting,
    TaskState::ContainerStopping,
    TaskState::ContainerRebooting,
    TaskState::ContainerPausing,
    TaskState::ContainerUnpausing,
    TaskState::ContainerKilling,
    TaskState::SgAdding,
    TaskState::SgRemoving,
    TaskState::NetworkAttaching,
    TaskState::NetworkDetaching,
    TaskState::ContainerRebuilding,
];

impl Case {
    fn facts(&self) -> Facts {
        let restarts = Restarts { all: self.restarts.into(), in_a_row: self.restarts.into() };
        Facts {
            kind: if self.is_capsule { Kind::Capsule } else { Kind::Container },
            status: STATUSES[usize::from(self.status) % STATUSES.len()],
            task: self.task.map(|task| TASKS[usize::from(task) % TASKS.len()]),
            is_made: self.flags[0],
            is_made_here: self.flags[1],
            has_started: self.flags[2],
            auto_remove: self.flags[3],
            auto_heal: self.flags[4],
            policy: match self.policy % 3 {
                0 => RestartPolicy::No,
                1 => RestartPolicy::UntilStopped,
                _ => RestartPolicy::OnFailure { most: Some(3) },
            },
            restarts,
            resumes: self.flags[5],
        }
    }

    fn observed(&self) -> Observed {
        match self.observed % 7 {
            0 => Observed::Lost,
            1 => Observed::Unanswered,
            2 => Observed::Idle,
            3 => Observed::Partial,
            4 => Observed::Running { is_paused: true, age: Duration::ZERO },
            5 => Observed::Running { is_paused: false, age: Duration::from_secs(1) },
            _ => {
                let status = (self.exit % 2).into();
                let exit = ContainerExit { status, oom_killed: false, at: OffsetDateTime::UNIX_EPOCH };
                Observed::Ended(End { exit: Some(exit), failure: None, ran: Duration::from_secs(1) })
            }
        }
    }

    fn event(&self) -> Event {
        match self.event % 5 {
            0 => Event::ServiceStarted,
            1 => Event::Looked,
            2 => Event::EndSeen,
            3 => Event::HealthChanged,
            _ => Event::RestartDue(self.restarts.into()),
        }
    }
}

/// Whether a decision throws away, or restarts, what may be running.
fn ends(decision: &Decision) -> bool {
    match decision {
        Decision::AbandonCreate
        | Decision::Start
        | Decision::StartLater(_)
        | Decision::Release
        | Decision::RecordEnd(_)
        | Decision::Heal { .. }
        | Decision::MarkLost
        | Decision::Remove => true,
        Decision::Keep | Decision::Adopt | Decision::Resume(_) => false,
    }
}

#[test]
fn nothing_that_may_run_is_taken_for_dead() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let (facts, observed, event) = (case.facts(), case.observed(), case.event());
        let decision = decide(&facts, &observed, event);
        let wanted = facts.status == Status::Deleted && facts.auto_remove;
        match observed {
            Observed::Unanswered => {
                assert!(!ends(&decision) || wanted, "{facts:?} {event:?}: {decision:?}")
            }
            Observed::Running { .. } => {
                let unmade = decision == Decision::AbandonCreate && !facts.is_made_here;
                assert!(!ends(&decision) || wanted || unmade, "{facts:?} {event:?}: {decision:?}");
            }
            Observed::Lost | Observed::Idle | Observed::Partial | Observed::Ended(_) => {}
        }
    });
}

#[test]
fn what_holds_a_users_data_is_never_thrown_away_unasked() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let facts = Facts { is_made_here: true, auto_remove: false, ..case.facts() };
        let decision = decide(&facts, &case.observed(), case.event());
        let is_there = case.observed() != Observed::Lost;
        let throws = matches!(decision, Decision::AbandonCreate | Decision::Heal { .. } | Decision::Remove);
        assert!(!(is_there && throws), "{facts:?} {:?}: {decision:?}", case.observed());
    });
}
