//! What a sandbox says of a container, and the row that follows from it.

use std::fmt;
use std::time::Duration as StdDuration;

use model::{Changes, Status};
use sandbox::{ContainerExit, Phase, SandboxState, SandboxStatus, Stage, failure};
use time::{Duration, OffsetDateTime};

/// Why a container ended that took more memory than it may.
const OUT_OF_MEMORY: &str =
    "a process of the container was killed: it needed more memory than the container may use";

/// What is seen of a container, or of a capsule as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// This host has nothing of it.
    Lost,
    /// Its sandbox cannot be asked: it may run.
    Unanswered,
    /// It has not run since it was made, or nothing is known of its last run.
    Idle,
    /// Its guest runs without its process: a start was interrupted.
    Partial,
    /// Its process runs; of a capsule, its guest.
    Running {
        /// Whether its processors stand still.
        is_paused: bool,
        /// How long it has run.
        age: StdDuration,
    },
    /// Its process ran, and has ended. Its guest may be about to end.
    Ended(End),
}

/// How a container's last run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How its process ended, if it ever ran.
    pub exit: Option<ContainerExit>,
    /// Why its sandbox failed, if it did.
    pub failure: Option<String>,
    /// How long it ran.
    pub ran: StdDuration,
}

impl Observed {
    /// What `status` says of the sandbox's main process, or, where it has none, of the sandbox itself.
    pub fn of(
        status: &SandboxStatus,
        has_record: bool,
        main_process: Option<&str>,
        now: OffsetDateTime,
    ) -> Self {
        match status {
            SandboxStatus::Unanswered => Self::Unanswered,
            SandboxStatus::Live(_) | SandboxStatus::Over(_) | SandboxStatus::Absent if !has_record => {
                Self::Lost
            }
            SandboxStatus::Absent => Self::Idle,
            SandboxStatus::Live(state) => match main_process.map(|id| state.containers.get(id)) {
                Some(None) => Self::Partial,
                Some(Some(None)) | None => {
                    Self::Running { is_paused: state.phase == Phase::Paused, age: age_of(state, now) }
                }
                // Its guest ends with it, a little later.
                Some(Some(exit)) => Self::Ended(end(state, exit.clone())),
            },
            SandboxStatus::Over(state) => {
                let exit = main_process.and_then(|id| state.containers.get(id).cloned().flatten());
                Self::Ended(end(state, exit))
            }
        }
    }

    /// Whether a process of it may be running.
    pub fn may_run(&self) -> bool {
        match self {
            Self::Unanswered | Self::Partial | Self::Running { .. } => true,
            Self::Lost | Self::Idle | Self::Ended(_) => false,
        }
    }
}

fn age_of(state: &SandboxState, now: OffsetDateTime) -> StdDuration {
    let since = state.stages.get(&Stage::ProcessRunning).copied().unwrap_or(0);
    let now = u64::try_from(now.unix_timestamp_nanos() / 1000).unwrap_or(0);
    StdDuration::from_micros(now.saturating_sub(since))
}

fn end(state: &SandboxState, exit: Option<ContainerExit>) -> End {
    let ran = exit.as_ref().map(|exit| ran(state, exit)).unwrap_or_default();
    End { exit, failure: failure(state), ran }
}

fn ran(state: &SandboxState, exit: &ContainerExit) -> StdDuration {
    let began = state.stages.get(&Stage::ProcessRunning).copied();
    let ended = u64::try_from(exit.at.unix_timestamp_nanos() / 1000).ok();
    let ran = ended.zip(began).map(|(ended, began)| ended.saturating_sub(began));
    StdDuration::from_micros(ran.unwrap_or_default())
}

/// What the row of a container that was seen so should say; nothing where that says nothing new.
pub fn view(observed: &Observed, health: Option<&dyn fmt::Display>, now: OffsetDateTime) -> Option<Changes> {
    match observed {
        Observed::Running { is_paused, age } => Some(running(*is_paused, *age, health)),
        Observed::Ended(end) => Some(ended(end, now)),
        Observed::Idle => Some(Changes { status_detail: Some(None), ..Changes::status(Status::Stopped) }),
        Observed::Lost | Observed::Unanswered | Observed::Partial => None,
    }
}

fn running(is_paused: bool, age: StdDuration, health: Option<&dyn fmt::Display>) -> Changes {
    let up = format!("Up {}", text(Duration::try_from(age).unwrap_or(Duration::MAX)));
    let (status, detail) = match (is_paused, health) {
        (true, _) => (Status::Paused, format!("{up} (paused)")),
        (false, Some(health)) => (Status::Running, format!("{up} ({health})")),
        (false, None) => (Status::Running, up),
    };
    Changes { status_detail: Some(Some(detail)), ..Changes::status(status) }
}

fn ended(end: &End, now: OffsetDateTime) -> Changes {
    let Some(exit) = &end.exit else {
        return match &end.failure {
            Some(reason) => Changes::error(reason.clone()),
            None => Changes::status(Status::Stopped),
        };
    };
    let reason = match &end.failure {
        Some(reason) => Some(reason.clone()),
        None if exit.oom_killed => Some(OUT_OF_MEMORY.to_owned()),
        None => None,
    };
    let detail = format!("Exited({}) {} ago ", exit.status, text(now - exit.at));
    Changes {
        status: Some(Status::Stopped),
        status_reason: Some(reason),
        status_detail: Some(Some(detail)),
        ..Changes::default()
    }
}

/// An age as upstream's Docker driver writes it.
fn text(age: Duration) -> String {
    let seconds = age.whole_seconds().max(0);
    match (seconds / 86400, seconds / 3600, seconds / 60) {
        (days, ..) if days > 0 => format!("{days} days"),
        (_, hours, _) if hours > 0 => format!("{hours} hours"),
        (.., minutes) if minutes > 0 => format!("{minutes} mins"),
        _ => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn end(exit: Option<ContainerExit>, failure: Option<&str>) -> Observed {
        Observed::Ended(End { exit, failure: failure.map(str::to_owned), ran: StdDuration::ZERO })
    }

    #[test]
    fn ages_are_upstreams() {
        for (seconds, expected) in
            [(0, "0 seconds"), (59, "59 seconds"), (60, "1 mins"), (7200, "2 hours"), (90000, "1 days")]
        {
            assert_eq!(text(Duration::seconds(seconds)), expected);
        }
    }

    #[test]
    fn an_exit_has_its_code_and_a_failure_its_reason() {
        let now = OffsetDateTime::now_utc();
        let exit = ContainerExit { status: 3, oom_killed: false, at: now };
        let seen = |observed: Observed| view(&observed, None, now).unwrap();
        let changes = seen(end(Some(exit.clone()), None));
        assert_eq!(changes.status_detail, Some(Some("Exited(3) 0 seconds ago ".into())));
        assert_eq!(changes.status_reason, Some(None));
        let changes = seen(end(Some(exit.clone()), Some("the guest kernel panicked")));
        assert_eq!(changes.status_reason, Some(Some("the guest kernel panicked".into())));
        let killed = ContainerExit { oom_killed: true, ..exit };
        assert_eq!(seen(end(Some(killed), None)).status_reason, Some(Some(OUT_OF_MEMORY.into())));
        assert_eq!(seen(end(None, Some("no guest"))).status, Some(Status::Error));
    }

    #[test]
    fn a_process_that_runs_shows_its_age_and_its_health() {
        let age = StdDuration::from_secs(61);
        let seen = |is_paused, health: Option<&str>| {
            let health = health.as_ref().map(|health| health as &dyn fmt::Display);
            let changes = view(&Observed::Running { is_paused, age }, health, OffsetDateTime::now_utc());
            changes.unwrap().status_detail.unwrap().unwrap()
        };
        assert_eq!(seen(false, None), "Up 1 mins");
        assert_eq!(seen(false, Some("healthy")), "Up 1 mins (healthy)");
        assert_eq!(seen(true, Some("healthy")), "Up 1 mins (paused)");
    }

    #[test]
    fn a_sandbox_is_seen_by_its_process() {
        let now = OffsetDateTime::now_utc();
        let state = |phase, containers: &[(&str, Option<ContainerExit>)]| SandboxState {
            phase,
            containers: containers.iter().map(|(id, exit)| ((*id).to_owned(), exit.clone())).collect(),
            from_template: false,
            stages: BTreeMap::new(),
        };
        let of = |status: SandboxStatus, process| Observed::of(&status, true, process, now);
        let live = SandboxStatus::Live(state(Phase::Ready, &[]));
        assert_eq!(of(live.clone(), Some("c")), Observed::Partial);
        assert!(matches!(of(live.clone(), None), Observed::Running { is_paused: false, .. }));
        let paused = SandboxStatus::Live(state(Phase::Paused, &[("c", None)]));
        assert!(matches!(of(paused, Some("c")), Observed::Running { is_paused: true, .. }));
        assert_eq!(of(SandboxStatus::Unanswered, Some("c")), Observed::Unanswered);
        assert_eq!(of(SandboxStatus::Absent, Some("c")), Observed::Idle);
        assert_eq!(Observed::of(&live, false, Some("c"), now), Observed::Lost);
        let exit = ContainerExit { status: 1, oom_killed: false, at: now };
        let ended = [("c", Some(exit.clone()))];
        let over = SandboxStatus::Over(state(Phase::Ended, &ended));
        let ending = SandboxStatus::Live(state(Phase::Ready, &ended));
        for status in [over, ending] {
            let Observed::Ended(end) = of(status, Some("c")) else { panic!() };
            assert_eq!(end.exit.as_ref(), Some(&exit));
        }
    }
}
