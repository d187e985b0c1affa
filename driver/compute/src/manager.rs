//! Notifies the service manager (systemd) of readiness, liveness and shutdown (`sd_notify(3)`).

use std::time::Duration;

use sd_notify::NotifyState;

/// However often it is asked for, a sign of life is given no more often.
const OFTEN: Duration = Duration::from_millis(10);

/// Tells that the service serves, and from then on that it goes on. The task ends with the service.
pub fn serving() {
    tell(NotifyState::Ready);
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut often = tokio::time::interval((within / 2).max(OFTEN));
        loop {
            often.tick().await;
            tell(NotifyState::Watchdog);
        }
    });
}

/// Tells that the service is about to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!(error = %e, "the service manager cannot be told");
    }
}
