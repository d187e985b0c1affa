use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device's configuration space (virtio 1.2 §2.5), which only the device changes. Clones share it.
#[derive(Debug, Clone)]
pub struct ConfigSpace(Arc<Mutex<Vec<u8>>>);

impl ConfigSpace {
    /// A space that holds `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(bytes.to_vec())))
    }

    /// Reads from `start` on. A read that exceeds the space gives zeros.
    pub fn read(&self, start: u64, data: &mut [u8]) {
        let bytes = self.bytes();
        let range = usize::try_from(start).ok().and_then(|start| Some(start..start.checked_add(data.len())?));
        match range.and_then(|range| bytes.get(range)) {
            Some(found) => data.copy_from_slice(found),
            None => data.fill(0),
        }
    }

    /// Replaces the number at `start`. Without effect if it exceeds the space.
    pub fn set(&self, start: usize, number: u64) {
        let value = number.to_le_bytes();
        if let Some(bytes) = self.bytes().get_mut(start..start + value.len()) {
            bytes.copy_from_slice(&value);
        }
    }

    /// The number at `start`; zero if it exceeds the space.
    pub fn get(&self, start: usize) -> u64 {
        let mut value = [0; 8];
        self.read(start as u64, &mut value);
        u64::from_le_bytes(value)
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_all_and_nothing_is_read_beyond_the_end() {
        let space = ConfigSpace::new(&[1, 2, 3, 4, 0, 0, 0, 0, 9]);
        let other = space.clone();
        other.set(0, 0x0605);
        assert_eq!(space.get(0), 0x0605);
        other.set(2, u64::MAX);
        assert_eq!(space.get(2), 0, "a number that does not fit is neither written nor read");
        let mut bytes = [7; 2];
        space.read(8, &mut bytes);
        assert_eq!(bytes, [0, 0]);
        space.read(u64::MAX, &mut bytes);
        assert_eq!(bytes, [0, 0]);
        space.read(7, &mut bytes);
        assert_eq!(bytes, [0, 9]);
    }
}
