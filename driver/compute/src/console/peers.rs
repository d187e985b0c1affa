//! How many connections each peer has: one that opens many must not keep all others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one peer that have not led to a process yet. The proxy of all users is one peer.
const CONNECTIONS_OF_A_PEER_MAX: usize = 1024;

/// The connections of each peer.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of a peer's connections.
#[derive(Debug)]
pub struct PeerConnection {
    peers: Peers,
    peer: IpAddr,
}

impl Peers {
    /// Takes one more connection of a peer, unless it has too many.
    pub fn enter(&self, peer: IpAddr) -> Option<PeerConnection> {
        let peer = network(peer);
        let mut all = self.all();
        let count = all.entry(peer).or_default();
        if *count >= CONNECTIONS_OF_A_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(PeerConnection { peers: self.clone(), peer })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address, or for IPv6 the first one of its network of 64 bits: each host has all of one.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            bytes[8..].fill(0);
            IpAddr::V6(bytes.into())
        }
        v4 => v4,
    }
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        let mut all = self.peers.all();
        if let Some(count) = all.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_with_many_connections_keeps_no_other_out() {
        let (peers, one, other) =
            (Peers::default(), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut held: Vec<_> = (0..CONNECTIONS_OF_A_PEER_MAX).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(one).is_none() && peers.enter(other).is_some());
        held.pop();
        assert!(peers.enter(one).is_some());
        drop(held);
        assert!(peers.all().is_empty(), "who is gone is forgotten");

        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = peers.enter(address("2001:db8::1")).unwrap();
        let second = peers.enter(address("2001:db8::ffff:2")).unwrap();
        let elsewhere = peers.enter(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(peers.all().len(), 2, "hosts of one network count together");
        drop([first, second, elsewhere]);
        assert!(peers.all().is_empty(), "who is gone is forgotten");
    }
}
