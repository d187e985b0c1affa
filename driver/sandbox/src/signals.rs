use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::error::{Error, Result};

/// A signal's number on x86-64, from its number or its name with or without `SIG`.
pub fn signal_number(text: &str) -> Result<u32> {
    let unknown = || Error::Signal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        let real_time = (nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()).contains(&number);
        let known = real_time || Signal::try_from(number).is_ok();
        return if known { u32::try_from(number).map_err(|_| unknown()) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let signal = Signal::from_str(&full).map_err(|_| unknown())?;
    u32::try_from(signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_taken() {
        for text in ["9", "KILL", "SIGKILL", "sigkill"] {
            assert_eq!(signal_number(text).unwrap(), 9);
        }
        for bad in ["0", "-9", "99", "", "SIGMOON"] {
            assert_eq!(signal_number(bad).unwrap_err().to_string(), format!("signal {bad:?} is not known"));
        }
    }
}
