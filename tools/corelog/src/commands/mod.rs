//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod consume;
pub(crate) mod disk;
pub(crate) mod doctor;
pub(crate) mod hist;
mod input;
pub(crate) mod produce;
pub(crate) mod stages;
pub(crate) mod start;
pub(crate) mod topic;
