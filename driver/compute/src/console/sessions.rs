//! Who may connect, and to what.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::ContainerUuid;
use sandbox::{Interact, WindowSize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Execs of one container that may be prepared and not started at one time; another takes the place of the oldest.
const WAITING_EXECS: usize = 16;

/// What lets its holder connect once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token(String);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// An exec's identifier, in the form of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecId(String);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ExecId {
    /// One that nothing else has.
    pub fn random() -> Self {
        Self(format!("{}{}", random(), random()))
    }

    /// The one that a request names.
    pub fn named(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A version 4 UUID has 122 bits of the system's random numbers.
fn random() -> String {
    Uuid::new_v4().simple().to_string()
}

enum Target {
    Container(ContainerUuid),
    Exec(Box<Interact>),
}

impl Target {
    /// Whether both stand in the same line. A container's row has one address to attach to: the last that was asked for.
    fn in_line_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Container(one), Self::Container(other)) => one == other,
            (Self::Exec(one), Self::Exec(other)) => one.exec.container == other.exec.container,
            _ => false,
        }
    }

    fn most_in_line(&self) -> usize {
        match self {
            Self::Container(_) => 1,
            Self::Exec(_) => WAITING_EXECS,
        }
    }
}

struct Waiting {
    target: Target,
    until: Instant,
}

struct Running {
    container: ContainerUuid,
    token: Token,
}

/// Connections that are prepared, and execs that run.
pub struct Sessions {
    patience: Duration,
    waiting: Mutex<HashMap<Token, Waiting>>,
    running: Mutex<HashMap<ExecId, Running>>,
}

/// How a terminal learns its size.
#[derive(Debug, PartialEq, Eq)]
pub enum Resized {
    /// The exec has not begun; it begins with this size.
    Remembered,
    /// The exec runs in this container, whose sandbox must be told.
    Runs(ContainerUuid),
}

impl Sessions {
    /// None yet. Who is let in must come within `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { patience, waiting: Mutex::default(), running: Mutex::default() }
    }

    /// Lets somebody attach to a container.
    pub fn expect_attach(&self, container: ContainerUuid) -> Token {
        self.expect(Target::Container(container))
    }

    /// Lets somebody start an exec.
    pub fn expect_exec(&self, interact: Interact) -> Token {
        self.expect(Target::Exec(Box::new(interact)))
    }

    fn expect(&self, target: Target) -> Token {
        let mut waiting = lock(&self.waiting);
        let now = Instant::now();
        waiting.retain(|_, one| one.until > now);
        let mut line: Vec<_> = waiting
            .iter()
            .filter(|(_, one)| one.target.in_line_with(&target))
            .map(|(token, one)| (one.until, token.clone()))
            .collect();
        line.sort_by_key(|(until, _)| *until);
        let surplus = (line.len() + 1).saturating_sub(target.most_in_line());
        for (_, token) in line.into_iter().take(surplus) {
            waiting.remove(&token);
        }
        let token = Token(random());
        waiting.insert(token.clone(), Waiting { target, until: now + self.patience });
        token
    }

    /// Whether a token has not been used yet.
    pub fn expects(&self, token: &Token) -> bool {
        lock(&self.waiting).get(token).is_some_and(|one| one.until > Instant::now())
    }

    /// Whether a token is that of the exec `id`, be it started or not.
    pub fn owns(&self, token: &Token, id: &ExecId) -> bool {
        let waits = lock(&self.waiting)
            .get(token)
            .is_some_and(|one| matches!(&one.target, Target::Exec(exec) if exec.id == id.0));
        waits || lock(&self.running).get(id).is_some_and(|running| running.token == *token)
    }

    /// Uses a token for `container`.
    pub fn attach(&self, token: &Token, container: ContainerUuid) -> bool {
        self.redeem(token, |target| matches!(target, Target::Container(other) if *other == container))
            .is_some()
    }

    /// Uses a token for the exec `id`, which counts as running from now on.
    pub fn start(&self, token: &Token, id: &ExecId) -> Option<Box<Interact>> {
        let target = self.redeem(token, |target| matches!(target, Target::Exec(exec) if exec.id == id.0))?;
        let Target::Exec(exec) = target else { return None };
        let container = exec.exec.container.parse().ok()?;
        lock(&self.running).insert(id.clone(), Running { container, token: token.clone() });
        Some(exec)
    }

    /// An exec has ended.
    pub fn end(&self, id: &ExecId) {
        lock(&self.running).remove(id);
    }

    /// Finds out who is to be told of a terminal's new size.
    pub fn resize(&self, id: &ExecId, size: WindowSize) -> Result<Resized> {
        for one in lock(&self.waiting).values_mut() {
            if let Target::Exec(exec) = &mut one.target
                && exec.id == id.0
            {
                exec.size = Some(size);
                return Ok(Resized::Remembered);
            }
        }
        let container = lock(&self.running).get(id).map(|running| running.container);
        container.map(Resized::Runs).ok_or_else(|| Error::NoExec(id.to_string()))
    }

    fn redeem(&self, token: &Token, fits: impl FnOnce(&Target) -> bool) -> Option<Target> {
        let mut waiting = lock(&self.waiting);
        let one = waiting.get(token)?;
        if one.until <= Instant::now() || !fits(&one.target) {
            return None;
        }
        waiting.remove(token).map(|one| one.target)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sandbox::{ContainerUser, Exec, ProcessInput};

    use super::*;

    const SIZE: WindowSize = WindowSize { rows: 40, columns: 100 };

    fn interact(id: &ExecId, container: ContainerUuid) -> Interact {
        let process = sandbox::process(&["sh".into()], &[], Path::new("/"), true).unwrap();
        let user = ContainerUser::default();
        let exec = Exec { container: container.to_string(), process, user, time_limit: None };
        Interact { id: id.to_string(), exec, input: ProcessInput::Open, size: None }
    }

    #[test]
    fn a_token_serves_once_and_for_what_it_was_made() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let (one, other) = (ContainerUuid(Uuid::new_v4()), ContainerUuid(Uuid::new_v4()));
        let token = sessions.expect_attach(one);
        assert!(!sessions.attach(&token, other), "another container's");
        assert!(!sessions.attach(&Token("guessed".into()), one));
        assert!(sessions.expects(&token) && sessions.attach(&token, one));
        assert!(!sessions.attach(&token, one), "it was used");
        assert!(!sessions.expects(&token));
    }

    #[test]
    fn who_asks_again_and_again_takes_no_other_containers_place() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let (one, other) = (ContainerUuid(Uuid::new_v4()), ContainerUuid(Uuid::new_v4()));
        let waits = sessions.expect_attach(other);
        let (first, last) = (sessions.expect_attach(one), sessions.expect_attach(one));
        assert!(!sessions.expects(&first) && sessions.expects(&last) && sessions.expects(&waits));
        let execs: Vec<Token> =
            (0..=WAITING_EXECS).map(|_| sessions.expect_exec(interact(&ExecId::random(), one))).collect();
        assert_eq!(execs.iter().filter(|token| sessions.expects(token)).count(), WAITING_EXECS);
        assert!(sessions.expects(&last));
    }

    #[test]
    fn a_token_that_came_too_late_is_none() {
        let sessions = Sessions::new(Duration::ZERO);
        let container = ContainerUuid(Uuid::new_v4());
        let token = sessions.expect_attach(container);
        assert!(!sessions.attach(&token, container));
    }

    #[test]
    fn an_exec_learns_its_size_before_and_while_it_runs() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let (id, container) = (ExecId::random(), ContainerUuid(Uuid::new_v4()));
        let token = sessions.expect_exec(interact(&id, container));
        assert!(!sessions.attach(&token, container), "it is for an exec");
        assert!(matches!(sessions.resize(&id, SIZE), Ok(Resized::Remembered)));
        let other = sessions.expect_exec(interact(&ExecId::random(), container));
        assert!(sessions.owns(&token, &id) && !sessions.owns(&other, &id), "each has its own");
        assert_eq!(sessions.start(&token, &id).unwrap().size, Some(SIZE));
        assert!(sessions.owns(&token, &id) && !sessions.owns(&other, &id), "while it runs too");
        assert_eq!(sessions.resize(&id, SIZE).unwrap(), Resized::Runs(container));
        assert!(sessions.start(&token, &id).is_none());
        sessions.end(&id);
        let error = sessions.resize(&id, SIZE).unwrap_err().to_string();
        assert_eq!(error, format!("no such exec instance: {id}"));
    }
}
