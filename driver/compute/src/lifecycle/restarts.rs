//! Docker's restart policies, and the pauses between restarts.

use std::time::Duration;

use model::Container;
use sandbox::ContainerExit;

use crate::error::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A container that ran so long counts as having come up well: the next pause is the first again.
const SETTLED: Duration = Duration::from_secs(10);

/// Docker's restart policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It stays as it is.
    No,
    /// It is started again until a user stops it. Docker's `always` differs from `unless-stopped` only where its daemon
    /// starts: containers that a user has stopped stay so here.
    UntilStopped,
    /// It is started again if it failed, at most so many times.
    OnFailure { most: Option<u32> },
}

impl RestartPolicy {
    /// The policy of a container's row.
    pub fn of(container: &Container) -> Result<Self> {
        let Some(policy) = &container.restart_policy else { return Ok(Self::No) };
        let count = policy.get("MaximumRetryCount").filter(|count| !count.is_empty());
        let most = match count.map(|count| (count, count.parse::<u32>())) {
            None | Some((_, Ok(0))) => None,
            Some((_, Ok(most))) => Some(most),
            Some((count, Err(_))) => {
                return Err(Error::invalid(
                    "restart_policy",
                    format!("MaximumRetryCount {count:?} is no number"),
                ));
            }
        };
        match policy.get("Name").map(String::as_str) {
            None | Some("" | "no") => Ok(Self::No),
            Some("always" | "unless-stopped") => Ok(Self::UntilStopped),
            Some("on-failure") => Ok(Self::OnFailure { most }),
            Some(other) => Err(Error::invalid("restart_policy", format!("{other:?} is not known"))),
        }
    }

    /// Whether a container that ended so, after so many restarts, is started again. Nothing known of its end is a failure.
    pub fn wants(self, exit: Option<&ContainerExit>, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::UntilStopped => true,
            Self::OnFailure { most } => {
                exit.is_none_or(|exit| exit.status != 0) && most.is_none_or(|most| restarts < most)
            }
        }
    }
}

/// How often a container was started again by its policy, kept with its record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Restarts {
    /// All times since a user started it.
    pub all: u32,
    /// Times since it last ran for a while.
    pub in_a_row: u32,
}

impl Restarts {
    /// How long to wait before the next start.
    pub fn pause(self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.in_a_row.min(16));
        doubled.min(LONGEST_PAUSE)
    }

    /// After one more start, of a container that ran so long before it.
    pub fn next(self, ran: Duration) -> Self {
        let in_a_row = if ran >= SETTLED { 0 } else { self.in_a_row.saturating_add(1) };
        Self { all: self.all.saturating_add(1), in_a_row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(status: i32) -> ContainerExit {
        ContainerExit { status, oom_killed: false, at: time::OffsetDateTime::now_utc() }
    }

    #[test]
    fn a_policy_knows_what_it_wants() {
        assert!(!RestartPolicy::No.wants(Some(&exit(1)), 0));
        assert!(RestartPolicy::UntilStopped.wants(Some(&exit(0)), 1000));
        let twice = RestartPolicy::OnFailure { most: Some(2) };
        assert!(!twice.wants(Some(&exit(0)), 0));
        assert!(twice.wants(Some(&exit(1)), 1) && twice.wants(None, 0));
        assert!(!twice.wants(Some(&exit(1)), 2));
        assert!(RestartPolicy::OnFailure { most: None }.wants(Some(&exit(137)), 1000));
    }

    #[test]
    fn pauses_grow_until_it_has_run_for_a_while() {
        let (short, long) = (Duration::from_secs(1), SETTLED);
        let mut restarts = Restarts::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            restarts = restarts.next(short);
            pauses.push(restarts.pause());
        }
        assert_eq!(pauses[0], Duration::from_millis(200));
        assert_eq!(pauses[1], Duration::from_millis(400));
        assert_eq!(pauses[11], LONGEST_PAUSE);
        assert_eq!(restarts.next(long), Restarts { all: 13, in_a_row: 0 });
        assert_eq!(restarts.next(long).pause(), FIRST_PAUSE);
    }
}
