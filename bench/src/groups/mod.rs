//! Many consumer groups that commit at a rate: what a coordinator costs, and how soon after a crash
//! it has every offset again.
//!
//! N groups commit the offsets of all partitions of one topic once in each interval, evenly spread
//! over it, whatever the broker does (open loop: latency counts from the intended time). By default
//! they have no members, as with a consumer that assigns partitions itself; with members, each has
//! one of the consumer protocol (KIP-848), which gives signs of life as the broker asks for them.
//!
//! One executor drives all of it over a few connections; the calling thread ([`run`]) takes what it
//! measured once a second, samples CPU, and writes the files.
//!
//! | Module | Owns |
//! |---|---|
//! | [`plan`] | what is asked for, with its limits |
//! | [`report`] | what a run leaves behind |
//! | [`ledger`] | what was sent and acknowledged, and what must be there (pure) |
//! | `crowd` | the groups and their connections; one run on the executor, from set-up to end |
//! | `commit` | commits: when each is due, and what came of it |
//! | `member` | members' joining, signs of life, leaving |
//! | `offsets` | what the broker has of every group, also after it came back |
//! | `tally` | what was measured since the last second |
//! | [`run`] | the calling thread: edges, files, the report |

mod commit;
mod crowd;
pub mod ledger;
mod member;
mod offsets;
pub mod plan;
pub mod report;
pub mod run;
mod tally;
