//! Turns: work on one container is done one after another, in the order in which it was asked for; work on different ones
//! side by side.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::ContainerUuid;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

/// Requests that may wait for one container.
pub const WAITING_MAX: usize = 16;
/// Urgent ones that may wait beside them: whoever has filled a line can still end its container.
const URGENT_MAX: usize = 4;

/// Between two looks for work that goes on.
const REST_POLL: Duration = Duration::from_millis(50);

/// How a place in a line is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A request.
    Ordinary,
    /// A request before which patience ends: a kill, a deletion. Whoever has the turn is told to hurry.
    Urgent,
    /// Work of this service's own, of which there is little.
    Internal,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("container {uuid} is busy: {waiting} operations wait for it already")]
pub struct Full {
    /// The container.
    pub uuid: ContainerUuid,
    /// Those that wait.
    pub waiting: usize,
}

/// One line for each container that has work.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<ContainerUuid, Line>>>);

#[derive(Debug)]
struct Line {
    waiting: VecDeque<Waiter>,
    hurry: watch::Sender<bool>,
}

#[derive(Debug)]
struct Waiter {
    urgency: Urgency,
    grant: oneshot::Sender<()>,
}

impl Turns {
    /// Takes the next place in a container's line. It does not wait: places are in the order of the calls.
    pub fn enter(&self, uuid: ContainerUuid, urgency: Urgency) -> Result<Ticket, Full> {
        let mut lines = self.lines();
        let waiting = lines.get(&uuid).map(|line| &line.waiting);
        let of = |urgency| waiting.into_iter().flatten().filter(|waiter| waiter.urgency == urgency).count();
        let is_full = match urgency {
            Urgency::Ordinary => of(Urgency::Ordinary) >= WAITING_MAX,
            Urgency::Urgent => of(Urgency::Urgent) >= URGENT_MAX,
            Urgency::Internal => false,
        };
        if is_full {
            return Err(Full { uuid, waiting: waiting.map_or(0, VecDeque::len) });
        }
        Ok(self.join(&mut lines, uuid, urgency))
    }

    /// Waits for the turn of this service's own work on a container.
    pub async fn internal(&self, uuid: ContainerUuid) -> Turn {
        self.place(uuid).turn().await
    }

    /// A place for this service's own work.
    pub fn place(&self, uuid: ContainerUuid) -> Ticket {
        self.join(&mut self.lines(), uuid, Urgency::Internal)
    }

    fn join(
        &self,
        lines: &mut HashMap<ContainerUuid, Line>,
        uuid: ContainerUuid,
        urgency: Urgency,
    ) -> Ticket {
        let grant = match lines.get_mut(&uuid) {
            None => {
                lines.insert(uuid, Line { waiting: VecDeque::new(), hurry: watch::Sender::new(false) });
                None
            }
            Some(line) => {
                let (grant, granted) = oneshot::channel();
                line.waiting.push_back(Waiter { urgency, grant });
                if urgency == Urgency::Urgent {
                    line.hurry.send_replace(true);
                }
                Some(granted)
            }
        };
        Ticket { turns: Some(self.clone()), uuid, grant }
    }

    /// The turn of a container on which nobody works.
    pub fn if_idle(&self, uuid: ContainerUuid) -> Option<Turn> {
        let ticket = {
            let mut lines = self.lines();
            if lines.contains_key(&uuid) {
                return None;
            }
            self.join(&mut lines, uuid, Urgency::Internal)
        };
        ticket.take()
    }

    /// Waits until nobody works, or the deadline has passed. Gives on how many containers somebody still does.
    pub async fn rest(&self, deadline: Duration) -> usize {
        let rested = async {
            while !self.lines().is_empty() {
                sleep(REST_POLL).await;
            }
        };
        // What is left is counted either way.
        let _ = timeout(deadline, rested).await;
        self.lines().len()
    }

    /// Gives the turn of a container to the next in its line.
    fn pass(&self, uuid: ContainerUuid) {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(&uuid) else { return };
        while let Some(waiter) = line.waiting.pop_front() {
            if waiter.grant.send(()).is_ok() {
                let urgent = line.waiting.iter().any(|waiter| waiter.urgency == Urgency::Urgent);
                line.hurry.send_replace(urgent);
                return;
            }
        }
        lines.remove(&uuid);
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<ContainerUuid, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a container's line. Dropped, it is given up.
#[derive(Debug)]
pub struct Ticket {
    /// None once the turn has been taken.
    turns: Option<Turns>,
    uuid: ContainerUuid,
    /// None where the turn has come already.
    grant: Option<oneshot::Receiver<()>>,
}

impl Ticket {
    /// Waits for the turn.
    pub async fn turn(mut self) -> Turn {
        if let Some(grant) = &mut self.grant {
            // The sender is dropped only when it has sent, or with all lines.
            let _ = grant.await;
            self.grant = None;
        }
        let uuid = self.uuid;
        self.take().unwrap_or(Turn { turns: Turns::default(), uuid, hurry: None })
    }

    fn take(mut self) -> Option<Turn> {
        let turns = self.turns.take()?;
        let hurry = turns.lines().get(&self.uuid).map(|line| line.hurry.subscribe());
        Some(Turn { turns, uuid: self.uuid, hurry })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(turns) = &self.turns else { return };
        let granted = self.grant.as_mut().is_none_or(|grant| {
            grant.close();
            grant.try_recv().is_ok()
        });
        if granted {
            turns.pass(self.uuid);
        }
    }
}

/// The right to work on a container, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    uuid: ContainerUuid,
    hurry: Option<watch::Receiver<bool>>,
}

impl Turn {
    /// Waits until something urgent waits behind this.
    pub async fn hurried(&self) {
        let Some(mut hurry) = self.hurry.clone() else { return std::future::pending().await };
        // The line is there for as long as this turn.
        if hurry.wait_for(|hurry| *hurry).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether something urgent waits behind this.
    pub fn is_hurried(&self) -> bool {
        self.hurry.as_ref().is_some_and(|hurry| *hurry.borrow())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass(self.uuid);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use uuid::Uuid;

    use super::*;

    fn uuid(number: u128) -> ContainerUuid {
        ContainerUuid(Uuid::from_u128(number))
    }

    fn enter(turns: &Turns) -> Ticket {
        turns.enter(uuid(1), Urgency::Ordinary).unwrap()
    }

    #[test]
    fn turns_come_in_the_order_of_their_places() {
        let turns = Turns::default();
        let (first, second, third) = (enter(&turns), enter(&turns), enter(&turns));
        let mut third = Box::pin(third.turn());
        assert!(third.as_mut().now_or_never().is_none());
        let first = first.turn().now_or_never().unwrap();
        let other = turns.enter(uuid(2), Urgency::Ordinary).unwrap();
        assert!(other.turn().now_or_never().is_some(), "another container waits for nobody");
        let mut second = Box::pin(second.turn());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.as_mut().now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.as_mut().now_or_never().is_some());
        drop(third);
        assert!(turns.lines().is_empty(), "a line without work is forgotten");
    }

    #[test]
    fn a_place_that_is_given_up_is_passed_on() {
        let turns = Turns::default();
        let first = enter(&turns).turn().now_or_never().unwrap();
        let (second, third) = (enter(&turns), enter(&turns));
        drop(second);
        drop(first);
        assert!(third.turn().now_or_never().is_some());
        let first = enter(&turns).turn().now_or_never().unwrap();
        let (second, third) = (enter(&turns), enter(&turns));
        drop(first);
        drop(second);
        assert!(third.turn().now_or_never().is_some(), "also where its turn had come");
        assert!(turns.lines().is_empty());
        drop(enter(&turns));
        assert!(turns.lines().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn rest_is_waited_for_until_a_deadline() {
        let turns = Turns::default();
        let turn = enter(&turns).turn().await;
        assert_eq!(turns.rest(Duration::from_secs(5)).await, 1);
        drop(turn);
        assert_eq!(turns.rest(Duration::from_secs(5)).await, 0);
    }

    #[test]
    fn a_line_is_bounded_and_what_is_urgent_hurries_it() {
        let turns = Turns::default();
        let turn = enter(&turns).turn().now_or_never().unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| enter(&turns)).collect();
        let full = turns.enter(uuid(1), Urgency::Ordinary).unwrap_err();
        assert!(full.to_string().contains("16 operations wait"), "{full}");
        assert!(turns.if_idle(uuid(1)).is_none() && turns.if_idle(uuid(2)).is_some());
        assert!(turn.hurried().now_or_never().is_none());
        let kill = turns.enter(uuid(1), Urgency::Urgent).unwrap();
        assert!(turn.hurried().now_or_never().is_some() && turn.is_hurried());
        drop(turn);
        let mut waiting = waiting.into_iter();
        let next = waiting.next().unwrap().turn().now_or_never().unwrap();
        assert!(next.is_hurried(), "it waits still");
        drop(waiting);
        drop(next);
        let kill = kill.turn().now_or_never().unwrap();
        assert!(!kill.is_hurried(), "it is not hurried by itself");
        let many: Vec<_> = (0..=URGENT_MAX).map(|_| turns.enter(uuid(1), Urgency::Urgent)).collect();
        assert!(many[URGENT_MAX].is_err() && many[URGENT_MAX - 1].is_ok());
        assert!(turns.enter(uuid(1), Urgency::Internal).is_ok());
    }
}
