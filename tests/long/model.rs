//! Random operations on a container, against a model of its states.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::random::{self, Random};

const STEPS: usize = 14;

/// What the model knows of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Paused,
    Stopped,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Start,
    Stop,
    Kill,
    Restart,
    Pause,
    Unpause,
    Rebuild,
    Exec,
}

use Operation::{Exec, Kill, Pause, Rebuild, Restart, Start, Stop, Unpause};

const OPERATIONS: [Operation; 8] = [Start, Stop, Kill, Restart, Pause, Unpause, Rebuild, Exec];

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopped => "Stopped",
        }
    }

    /// What comes of an operation; none is that it is refused (`zun/common/utils.py`, `VALID_STATES`).
    fn after(self, operation: Operation) -> Option<Self> {
        match (operation, self) {
            (Start, Self::Created | Self::Stopped) => Some(Self::Running),
            (Stop | Kill, Self::Running) => Some(Self::Stopped),
            (Restart, Self::Created | Self::Running | Self::Stopped) => Some(Self::Running),
            (Pause, Self::Running) => Some(Self::Paused),
            (Unpause, Self::Paused) => Some(Self::Running),
            (Rebuild, Self::Running) => Some(Self::Running),
            (Rebuild, Self::Created | Self::Stopped) => Some(Self::Created),
            (Exec, Self::Running) => Some(Self::Running),
            _ => None,
        }
    }
}

/// Asks for it; gives whether it was taken.
fn perform(cloud: &Cloud, operation: Operation, uuid: &str) -> bool {
    let words: &[&str] = match operation {
        Start => &["start", uuid],
        Stop => &["stop", "--timeout", "2", uuid],
        Kill => &["kill", uuid],
        Restart => &["restart", "--timeout", "2", uuid],
        Pause => &["pause", uuid],
        Unpause => &["unpause", uuid],
        Rebuild => &["rebuild", uuid],
        Exec => &["exec", uuid, "true"],
    };
    let said = cloud.openstack(&[&["appcontainer"], words].concat());
    // Some commands print a refusal and end well.
    said.status == 0 && !format!("{}{}", said.out, said.err).contains("HTTP 409")
}

/// Actions of the container that have not been finished.
fn unfinished(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!(
        "SELECT action FROM zun.container_actions WHERE container_uuid = '{uuid}' AND finish_time IS NULL"
    ))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn random_operations_do_what_a_model_says() {
    let seed = random::seed();
    in_cloud(|cloud| {
        let mut random = Random::of(seed);
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        let mut state = State::Created;
        cloud.wait_for_status(&uuid, state.name());
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            let operation = OPERATIONS[random.below(OPERATIONS.len())];
            steps.push(operation);
            let taken = perform(cloud, operation, &uuid);
            let next = state.after(operation);
            assert_eq!(taken, next.is_some(), "seed {seed}, {state:?}, steps {steps:?}");
            state = next.unwrap_or(state);
            // What was asked for may not have begun: the status alone could be the one before.
            cloud_tests::eventually(180, "nothing is under way", || match unfinished(cloud, &uuid) {
                none if none.is_empty() => Ok(()),
                actions => Err(format!("seed {seed}, steps {steps:?}: {actions}")),
            });
            cloud.wait_for_status(&uuid, state.name());
            let lives = matches!(state, State::Running | State::Paused);
            assert_eq!(cloud.shims_of(&uuid), usize::from(lives), "seed {seed}, steps {steps:?}");
        }
        if state == State::Paused {
            assert!(perform(cloud, Unpause, &uuid));
            cloud.wait_for_status(&uuid, "Running");
        }
        cloud.delete(&uuid);
    });
}
