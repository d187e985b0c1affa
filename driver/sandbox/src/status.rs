//! What has become of sandboxes, as their shims say or as they have left it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shim_control::{ContainerExit, Phase, SandboxState};
use tokio::time::Instant;

/// For so long a shim that has not answered is not asked again by those who only look.
const SILENCE: Duration = Duration::from_secs(10);
/// Docker's status of a container that was killed.
const STATUS_KILLED: i32 = 137;

/// What has become of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxStatus {
    /// Its guest is up.
    Live(SandboxState),
    /// Its guest has ended, and this is what its shim left.
    Over(SandboxState),
    /// Its shim runs and does not answer: what it is doing is not known.
    Unanswered,
    /// It never was started, or its shim was killed before it could say anything.
    Absent,
}

impl SandboxStatus {
    /// Whether the process of `container` has been started and has not ended.
    pub fn runs(&self, container: &str) -> bool {
        matches!(self, Self::Live(state) if state.containers.get(container) == Some(&None))
    }

    /// Whether its guest stands still.
    pub fn is_paused(&self) -> bool {
        matches!(self, Self::Live(state) if state.phase == Phase::Paused)
    }

    /// Whether there may be a guest.
    pub fn may_live(&self) -> bool {
        matches!(self, Self::Live(_) | Self::Unanswered)
    }

    /// What a shim's last word means, by whether it still runs.
    pub(crate) fn written(state: std::io::Result<SandboxState>, shim_runs: bool) -> Self {
        match state {
            Ok(state) if !state.is_live() => Self::Over(state),
            Ok(state) if shim_runs => Self::Live(state),
            // The shim died without a word: its containers ended with it, killed.
            Ok(state) => Self::Over(killed(state)),
            Err(_) if shim_runs => Self::Unanswered,
            Err(_) => Self::Absent,
        }
    }
}

/// Why a sandbox failed, if it did.
pub fn failure(state: &SandboxState) -> Option<String> {
    match &state.phase {
        Phase::Failed { reason } => Some(reason.clone()),
        _ => None,
    }
}

fn killed(state: SandboxState) -> SandboxState {
    let at = time::OffsetDateTime::now_utc();
    let exit = || Some(ContainerExit { status: STATUS_KILLED, oom_killed: false, at });
    SandboxState {
        phase: Phase::Failed { reason: "the sandbox's shim was killed".into() },
        containers: state.containers.into_iter().map(|(id, end)| (id, end.or_else(exit))).collect(),
        ..state
    }
}

/// Shims that have not answered lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Silent(Arc<Mutex<HashMap<String, Instant>>>);

impl Silent {
    /// Whether the shim of sandbox `id` has not answered a moment ago.
    pub fn is(&self, id: &str) -> bool {
        self.all().get(id).is_some_and(|since| since.elapsed() < SILENCE)
    }

    /// It has not answered now.
    pub fn note(&self, id: &str) {
        let mut all = self.all();
        all.retain(|_, since| since.elapsed() < SILENCE);
        all.insert(id.to_owned(), Instant::now());
    }

    /// It has answered.
    pub fn forget(&self, id: &str) {
        self.all().remove(id);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn state(phase: Phase) -> std::io::Result<SandboxState> {
        let containers = BTreeMap::from([("c".to_owned(), None)]);
        Ok(SandboxState { phase, containers, from_template: false, stages: BTreeMap::new() })
    }

    #[test]
    fn a_shims_last_word_counts_with_whether_it_runs() {
        assert!(SandboxStatus::written(state(Phase::Ready), true).runs("c"));
        let died = SandboxStatus::written(state(Phase::Ready), false);
        let SandboxStatus::Over(left) = &died else { panic!("{died:?}") };
        assert_eq!(left.containers["c"].as_ref().unwrap().status, STATUS_KILLED);
        assert!(matches!(SandboxStatus::written(state(Phase::Ended), true), SandboxStatus::Over(_)));
        let nothing = || Err(std::io::ErrorKind::NotFound.into());
        assert_eq!(SandboxStatus::written(nothing(), true), SandboxStatus::Unanswered);
        assert_eq!(SandboxStatus::written(nothing(), false), SandboxStatus::Absent);
        assert!(SandboxStatus::Unanswered.may_live() && !SandboxStatus::Absent.may_live());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_remembered_for_a_while() {
        let silent = Silent::default();
        assert!(!silent.is("a"));
        silent.note("a");
        assert!(silent.is("a") && !silent.is("b"));
        tokio::time::advance(SILENCE).await;
        assert!(!silent.is("a"));
        silent.note("a");
        silent.forget("a");
        assert!(!silent.is("a"));
    }
}
