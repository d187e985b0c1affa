//! The numbers of the signals that end processes (`man 7 signal`).

/// Ends a process, whatever it wants.
pub const SIGKILL: u32 = 9;
/// Asks a process to end.
pub const SIGTERM: u32 = 15;
