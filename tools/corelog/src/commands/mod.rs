//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod completion;
pub(crate) mod config;
mod confirm;
pub(crate) mod consume;
pub(crate) mod disk;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod hist;
mod input;
pub(crate) mod produce;
mod selection;
pub(crate) mod stages;
pub(crate) mod start;
pub(crate) mod topic;
mod trim;
