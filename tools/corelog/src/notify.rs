//! Telling a service manager that the node is ready, as sd_notify(3) describes it: for units of
//! `Type=notify`, whose dependents start when clients can connect and not when recovery begins.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const VARIABLE: &str = "NOTIFY_SOCKET";
const READY: &[u8] = b"READY=1\n";

/// Says so, if anybody wants to know. That nobody hears it is no reason not to serve.
pub(crate) fn ready() {
    let Some(socket) = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, READY) {
        tracing::warn!(socket = %socket.display(), %error, "the service manager cannot be told of the start");
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    };
    let datagram = UnixDatagram::unbound()?;
    // Called on a shard, which must not wait.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("corelog-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut buffer = [0; 64];
        for (manager, socket) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            send(&socket, READY).unwrap();
            let len = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"READY=1\n");
        }
    }

    #[test]
    fn nobody_there_is_an_error_and_no_wait() {
        assert!(send(OsStr::new("/nowhere/notify"), READY).is_err());
        assert!(send(OsStr::new("vsock:2:1"), READY).is_err());
    }
}
