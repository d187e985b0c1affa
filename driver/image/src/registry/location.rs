//! Which URLs a registry may redirect to: not services of this host or its link.

use std::net::IpAddr;

use reqwest::Url;

/// Whether an answer of `from` may lead to `to`: never from an encrypted connection to one that is not, and to an address of
/// this host or its link only from there.
pub fn may_lead(from: &Url, to: &Url) -> bool {
    let is_as_safe = to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    is_as_safe && (!is_local(to) || is_local(from))
}

/// Whether both are the same server.
pub fn is_same_host(one: &Url, other: &Url) -> bool {
    one.host_str() == other.host_str() && one.port_or_known_default() == other.port_or_known_default()
}

fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return true };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
        Err(_) => {
            let host = host.trim_end_matches('.');
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(from: &str, to: &str) -> bool {
        may_lead(&Url::parse(from).unwrap(), &Url::parse(to).unwrap())
    }

    #[test]
    fn a_registry_leads_to_its_storage_and_not_to_this_host() {
        assert!(leads("https://registry.example/v2/", "https://storage.example/blob"));
        assert!(leads("http://10.0.0.5:5000/v2/", "http://10.0.0.6/blob"));
        assert!(leads("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token"));
        assert!(!leads("https://registry.example/v2/", "http://storage.example/blob"), "not encrypted");
        for local in [
            "https://127.0.0.1:9876/",
            "https://localhost/",
            "https://a.localhost/",
            "https://localhost./",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://[fe80::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://0.0.0.0/",
            "https://2130706433/",
        ] {
            assert!(!leads("https://registry.example/v2/", local), "{local}");
        }
        assert!(!leads("https://registry.example/", "file:///etc/passwd"));
    }
}
