//! The addresses that a node would listen on.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use corelog_runtime::checks;

use super::Check;
use super::directory::Directory;
use crate::config::Config;

pub(super) fn ports(config: &Config, directory: &Directory) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for listener in &config.listener {
        let name = format!("listener {}", listener.name);
        checks.push(port(&name, listener.bind_addr()?, directory));
    }
    if let Some(address) = config.http_addr()? {
        checks.push(port("http", address, directory));
    }
    Ok(checks)
}

fn port(name: &str, address: SocketAddr, directory: &Directory) -> Check {
    let error = match checks::check_port(address) {
        Ok(()) => return Check::ok(name, format!("{address} is free")),
        Err(_) if directory.listens_on(address) => {
            return Check::ok(name, format!("{address} is taken by the node that uses the data directory"));
        }
        Err(error) => error,
    };
    let set = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another port; `ss -ltnp sport = :{}` shows, to root, which process has this one",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => "an address of this machine, or 0.0.0.0 for all".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "a port above 1023, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit".to_owned()
        }
        _ => "another address".to_owned(),
    };
    Check::fail(name, format!("{address}: {error}"), set)
}
