use std::io::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that all layers of an image may have together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    left: AtomicU64,
}

impl Budget {
    /// So many bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, left: AtomicU64::new(limit) }
    }

    /// Takes some of them; those that are not there are an error.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match taken {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Error::other(format!("it has more than the {} bytes that are its limit", self.limit)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone() {
        let budget = Budget::new(10);
        budget.take(4).unwrap();
        assert!(budget.take(7).unwrap_err().to_string().contains("more than the 10 bytes"));
        budget.take(6).unwrap();
        assert!(budget.take(1).is_err());
    }
}
