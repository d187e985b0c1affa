//! A container's life, written down once: what a row, what its sandbox says of it and what has just happened add up to.
//!
//! ```text
//!              create                     start                       stop, kill, its own end
//!   Creating ─────────► Created ─────────────────────► Running ─────────────────────────────► Stopped
//!      │                   │  ▲                        │  ▲  │ ▲                               │  │
//!      │ it fails          │  └── rebuild ──┐    pause │  │  │ │ start, after a pause          │  │ start
//!      ▼                   │               │          ▼  │  ▼ │                               │  ▼
//!    Error ◄───────────────┴── a start     │       Paused   Restarting ◄── its own end, with  │ Running
//!      │        that fails, a lost sandbox │                                a restart policy  │
//!      │                                   │                                                  │
//!      └───────────────────────────────────┴──────────── delete ──► Deleting ──► no row ◄─────┘
//! ```
//!
//! Requests move a container along these arrows (`operation.rs` frames each of them). What nobody asked for is decided
//! here, by one pure function, [`decide`]: the end of a process, the start of this service, a look at what differs. A capsule
//! has the same life; its containers have lives of their own within it ([`decide_member`]).

#[cfg(test)]
mod cases;
mod kind;
mod observed;
mod restarts;
mod signal;
mod transition;

pub use kind::Kind;
pub use observed::{End, Observed, view};
pub use restarts::{RestartPolicy, Restarts};
pub use signal::{SIGKILL, SIGTERM};
pub use transition::{AfterEnd, Decision, Event, Facts, decide, decide_member};
