//! Collects every child of PID 1 and tells whoever waits for one.
//!
//! A process that a helper started becomes a child of PID 1 only when the helper ends, and it may be dead before
//! anybody asked for it. While a [`Launch`] is held, statuses that nobody asked for are therefore kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// An exit status as a shell shows it: 0 to 255, or 128 and the signal's number.
pub type ExitStatus = i32;

/// Where a status will appear.
pub type Exit = watch::Receiver<Option<ExitStatus>>;

#[derive(Default)]
struct State {
    waiting: HashMap<i32, watch::Sender<Option<ExitStatus>>>,
    unclaimed: HashMap<i32, ExitStatus>,
    launches: usize,
}

/// The collector; clones share it.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<State>>);

/// Keeps unclaimed statuses while processes are being started.
pub struct Launch(Reaper);

impl Reaper {
    /// Starts collecting, on the current tokio runtime.
    pub fn start() -> Result<Self> {
        let reaper = Self::default();
        let mut children = signal(SignalKind::child()).map_err(Error::io("listen for SIGCHLD"))?;
        let collector = reaper.clone();
        tokio::spawn(async move {
            loop {
                collector.collect();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// To be held from before a process is started until [`Self::exit_of`] was asked.
    pub fn launch(&self) -> Launch {
        self.state().launches += 1;
        Launch(self.clone())
    }

    /// Where the status of `pid` appears when it ends.
    pub fn exit_of(&self, pid: i32) -> Exit {
        let mut state = self.state();
        if let Some(status) = state.unclaimed.remove(&pid) {
            return watch::channel(Some(status)).1;
        }
        state.waiting.entry(pid).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    fn collect(&self) {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.ended(pid, status);
        }
    }

    fn ended(&self, pid: Pid, status: ExitStatus) {
        let mut state = self.state();
        if let Some(sender) = state.waiting.remove(&pid.as_raw()) {
            sender.send_replace(Some(status));
        } else if state.launches > 0 {
            state.unclaimed.insert(pid.as_raw(), status);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.launches -= 1;
        if state.launches == 0 {
            state.unclaimed.clear();
        }
    }
}

/// Waits for a status.
pub async fn wait(mut exit: Exit) -> Result<ExitStatus> {
    match exit.wait_for(Option::is_some).await {
        Ok(status) => Ok(status.unwrap_or_default()),
        Err(_) => Err(Error::Runtime("the process was forgotten before it ended".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_status_may_come_before_or_after_the_question() {
        let reaper = Reaper::default();
        let launch = reaper.launch();
        reaper.ended(Pid::from_raw(10), 3);
        assert_eq!(wait(reaper.exit_of(10)).await.unwrap(), 3);
        let late = reaper.exit_of(11);
        reaper.ended(Pid::from_raw(11), 137);
        assert_eq!(wait(late).await.unwrap(), 137);
        reaper.ended(Pid::from_raw(12), 1);
        drop(launch);
        assert!(reaper.state().unclaimed.is_empty());
        reaper.ended(Pid::from_raw(13), 1);
        assert!(reaper.state().unclaimed.is_empty(), "an orphan's status is not kept");
    }
}
