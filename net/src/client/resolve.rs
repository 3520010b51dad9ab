//! From `host:port` to socket addresses.

use std::net::{SocketAddr, ToSocketAddrs};

/// The addresses behind `host:port`, in the order in which to try them.
///
/// A name (not a number) goes to the system's resolver, which has no asynchronous form: the
/// executor waits for it. That happens when a connection is made and never on a data path.
pub(crate) fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let port = address.rsplit_once(':').map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        None => return Err("a port is missing; write host:port, for example 127.0.0.1:9092".to_owned()),
        Some(Err(_)) => return Err("the port is not a number from 0 to 65535".to_owned()),
        Some(Ok(_)) => {}
    }
    let addresses = address.to_socket_addrs().map_err(|error| error.to_string())?;
    // Dual-stack names often resolve to ::1 first while brokers listen on IPv4 only; both are
    // tried, in the system's order.
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Nothing here needs a resolver: no name has a port.
        #[test]
        fn any_text_is_addresses_or_an_error(
            text in "\\[?[0-9.:a-f]{0,20}\\]?:[0-9]{0,7}|[a-z.-]{0,12}|[a-z]{0,5}:([a-z ]{1,5}|[0-9]{6,12})|[^:]{0,20}",
        ) {
            let is_name = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if !is_name || text.parse::<SocketAddr>().is_ok() {
                let _ = resolve(&text);
            }
        }
    }

    #[test]
    fn numbers_are_taken_as_they_are_and_a_missing_port_is_said() {
        assert_eq!(resolve("127.0.0.1:9092"), Ok(vec!["127.0.0.1:9092".parse().unwrap()]));
        assert_eq!(resolve("[::1]:9092"), Ok(vec!["[::1]:9092".parse().unwrap()]));
        assert!(resolve("localhost").unwrap_err().contains("host:port"));
        assert!(resolve("localhost:http").unwrap_err().contains("not a number"));
    }
}
