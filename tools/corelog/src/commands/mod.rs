//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod consume;
pub(crate) mod disk;
mod input;
pub(crate) mod produce;
pub(crate) mod start;
pub(crate) mod topic;
