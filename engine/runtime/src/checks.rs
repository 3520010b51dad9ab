//! The checks that [`shards::run`](crate::shards::run) makes before it starts anything, one by one, and
//! measurements of the machine, for `corelog doctor`. Real ones only: they run on no shard, block the
//! thread that asks, and the simulator has nothing like them.

use std::io;
use std::net::SocketAddr;

use crate::real;
pub use crate::real::check::{
    allowed_cores, check_cores, check_data_dir_is_free, check_direct_io, check_io_uring, check_memlock,
    locked_bytes,
};
pub use crate::real::probe::{time_syncs, wall_clock_is_synchronised};

/// Checks that nobody listens on `addr`, without listening there.
///
/// # Errors
/// `AddrInUse` if somebody does; what else the operating system says.
pub fn check_port(addr: SocketAddr) -> io::Result<()> {
    real::net::Listener::probe(addr).map(drop)
}
