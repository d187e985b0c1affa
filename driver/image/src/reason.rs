//! What somebody else says of a fault.

use std::fmt;

/// Most characters of it that are repeated.
const LENGTH_MAX: usize = 500;
/// Stands for the rest.
const CUT: char = '…';

/// Why something is not as it should be, as an image, a worker or a registry says it. Whoever made the image may have chosen
/// its words: what is longer than an error should be is cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// As short as it has to be.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        match text.char_indices().nth(LENGTH_MAX) {
            None => Self(text),
            Some((end, _)) => Self(format!("{}{CUT}", &text[..end])),
        }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_without_an_end_is_cut() {
        let long = "ä".repeat(25 << 20);
        let reason = Reason::from(long);
        assert_eq!(reason.as_str().chars().count(), LENGTH_MAX + 1);
        assert!(reason.as_str().ends_with(CUT));
        let whole = "ä".repeat(LENGTH_MAX);
        assert_eq!(Reason::from(whole.as_str()).as_str(), whole);
    }
}
