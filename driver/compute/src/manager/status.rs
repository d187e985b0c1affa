//! A container's status as its sandbox has it.

use model::{Changes, Container, Status};
use sandbox::{ContainerExit, Phase, SandboxState, Situation, Stage};
use time::{Duration, OffsetDateTime};

use super::health::Health;

/// Why a container ended that took more memory than it may.
const OUT_OF_MEMORY: &str =
    "a process of the container was killed: it needed more memory than the container may use";

/// What the row should say, or nothing where the sandbox says nothing new.
pub fn observed(container: &Container, situation: &Situation, health: Option<Health>) -> Option<Changes> {
    let id = container.uuid.to_string();
    match situation {
        Situation::Live(state) if state.containers.get(&id) == Some(&None) => Some(live(state, health)),
        Situation::Live(_) => None,
        // It is about to be started again.
        _ if container.status == Status::Restarting => None,
        Situation::Over(state) => Some(over(state, &id)),
        // Nothing is known of a container that never ran, which is no news.
        Situation::Unknown if container.is_up() => {
            Some(Changes { status_detail: Some(None), ..Changes::status(Status::Stopped) })
        }
        Situation::Unknown => None,
    }
}

fn live(state: &SandboxState, health: Option<Health>) -> Changes {
    let age = up(state);
    let (status, detail) = match (&state.phase, health) {
        (Phase::Paused, _) => (Status::Paused, format!("{age} (paused)")),
        (_, Some(health)) => (Status::Running, format!("{age} ({health})")),
        (_, None) => (Status::Running, age),
    };
    Changes { status_detail: Some(Some(detail)), ..Changes::status(status) }
}

fn over(state: &SandboxState, id: &str) -> Changes {
    match state.containers.get(id) {
        Some(Some(exit)) => stopped(exit, &state.phase),
        _ => match &state.phase {
            Phase::Failed { reason } => Changes::error(reason.clone()),
            _ => Changes::status(Status::Stopped),
        },
    }
}

/// The row of a container whose process has ended.
pub fn stopped(exit: &ContainerExit, phase: &Phase) -> Changes {
    let reason = match phase {
        Phase::Failed { reason } => Some(reason.clone()),
        _ if exit.oom_killed => Some(OUT_OF_MEMORY.to_owned()),
        _ => None,
    };
    let ago = age(OffsetDateTime::now_utc() - exit.at);
    let detail = format!("Exited({}) {ago} ago ", exit.status);
    Changes {
        status: Some(Status::Stopped),
        status_reason: Some(reason),
        status_detail: Some(Some(detail)),
        ..Changes::default()
    }
}

fn up(state: &SandboxState) -> String {
    let since = state.stages.get(&Stage::ProcessRunning).copied().unwrap_or(0);
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(0);
    let microseconds = i64::try_from(now.saturating_sub(since)).unwrap_or(i64::MAX);
    format!("Up {}", age(Duration::microseconds(microseconds)))
}

/// An age as upstream's Docker driver writes it.
fn age(age: Duration) -> String {
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
    use super::*;

    #[test]
    fn ages_are_upstreams() {
        for (seconds, text) in
            [(0, "0 seconds"), (59, "59 seconds"), (60, "1 mins"), (7200, "2 hours"), (90000, "1 days")]
        {
            assert_eq!(age(Duration::seconds(seconds)), text);
        }
    }

    #[test]
    fn an_exit_has_its_code_and_a_failure_its_reason() {
        let exit = ContainerExit { status: 3, oom_killed: false, at: OffsetDateTime::now_utc() };
        let changes = stopped(&exit, &Phase::Ended);
        assert_eq!(changes.status_detail, Some(Some("Exited(3) 0 seconds ago ".into())));
        assert_eq!(changes.status_reason, Some(None));
        let changes = stopped(&exit, &Phase::Failed { reason: "the guest kernel panicked".into() });
        assert_eq!(changes.status_reason, Some(Some("the guest kernel panicked".into())));
        let changes = stopped(&ContainerExit { oom_killed: true, ..exit }, &Phase::Ended);
        assert_eq!(changes.status_reason, Some(Some(OUT_OF_MEMORY.into())));
    }
}
