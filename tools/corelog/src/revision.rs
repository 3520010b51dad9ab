//! Which sources this binary was built from.

/// The commit, with `-dirty` when a source differed from it; `unknown` outside a checkout.
pub(crate) const REVISION: &str = env!("BUILD_REVISION");

/// What `--version` says behind the name.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_REVISION"), ")");
