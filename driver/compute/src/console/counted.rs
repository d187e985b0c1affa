//! How many connections each peer has, and each container: who has many must not keep all others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of each key.
#[derive(Debug)]
pub struct Counted<K> {
    most: usize,
    all: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K> Clone for Counted<K> {
    fn clone(&self) -> Self {
        Self { most: self.most, all: Arc::clone(&self.all) }
    }
}

/// One of a key's connections.
#[derive(Debug)]
pub struct Connected<K: Eq + Hash> {
    counted: Counted<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Counted<K> {
    /// At most so many for each key.
    pub fn new(most: usize) -> Self {
        Self { most, all: Arc::default() }
    }

    /// Takes one more connection of a key, unless it has too many.
    pub fn enter(&self, key: K) -> Option<Connected<K>> {
        let mut all = self.lock();
        let count = all.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Connected { counted: self.clone(), key })
    }
}

impl<K> Counted<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a peer counts as: its address, or for IPv6 the first one of its network of 64 bits, since each host has all of one.
pub fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            bytes[8..].fill(0);
            IpAddr::V6(bytes.into())
        }
        v4 => v4,
    }
}

impl<K: Eq + Hash> Drop for Connected<K> {
    fn drop(&mut self) {
        let mut all = self.counted.lock();
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_many_connections_keeps_no_other_out() {
        let (peers, one, other) =
            (Counted::new(3), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut held: Vec<_> = (0..3).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(one).is_none() && peers.enter(other).is_some());
        held.pop();
        assert!(peers.enter(one).is_some());
        drop(held);
        assert!(peers.lock().is_empty(), "who is gone is forgotten");
    }

    #[test]
    fn hosts_of_one_network_count_together() {
        let counted = |text: &str| peer(text.parse().unwrap());
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::ffff:2"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
        assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
    }
}
