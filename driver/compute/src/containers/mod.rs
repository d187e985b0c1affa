//! The lives of containers and capsules: what requests do to them, and what happens without being asked for. The world is behind
//! seams: rows, sandboxes, and what provides for them.

mod capsule;
mod core;
mod create;
mod delete;
mod events;
pub mod inspect;
mod patience;
mod provision;
mod rebuild;
mod recovery;
mod refusal;
mod requests;
mod start;
mod stop;
mod sync;
mod undo;

pub use self::core::{Core, CorePolicy, World, background_span};
pub use events::handle_all;
pub use patience::until_answered;
pub use provision::{Provision, Thoroughness, Volume, Wanted};
pub use recovery::{Recovery, outlived_names, recover};
pub use refusal::refuse_creation;
pub use requests::{Lifecycle, Request, begin_change};
pub use sync::synchronise;
