//! Who connects.

use std::net::IpAddr;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use tokio::net::TcpStream;

/// Seconds without a word before a peer is asked whether it is there, and between two such questions.
const KEEPALIVE_IDLE: u32 = 60;
const KEEPALIVE_INTERVAL: u32 = 15;
/// How many of them it may leave unanswered.
const KEEPALIVE_PROBES: u32 = 4;

/// Lets the kernel end the connection of a peer that has gone without a word: a terminal may be silent for days.
pub fn notice_loss(stream: &TcpStream) -> std::io::Result<()> {
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    Ok(setsockopt(stream, TcpKeepCount, &KEEPALIVE_PROBES)?)
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

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_silent_is_asked_whether_it_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        notice_loss(&stream).unwrap();
        assert!(getsockopt(&stream, KeepAlive).unwrap());
        let asked = (getsockopt(&stream, TcpKeepIdle), getsockopt(&stream, TcpKeepInterval));
        assert_eq!(asked, (Ok(KEEPALIVE_IDLE), Ok(KEEPALIVE_INTERVAL)));
        assert_eq!(getsockopt(&stream, TcpKeepCount), Ok(KEEPALIVE_PROBES));
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
