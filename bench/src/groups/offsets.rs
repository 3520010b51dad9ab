//! What the broker has of every group: at the end of a run, or as soon as it gives it after a crash.
//!
//! One request for each group, as its consumer would send it, a few at a time on each connection. What
//! a coordinator refuses because it is not ready is asked for again.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use corelog_net::client::{Client, ClientError, Lane};
use corelog_runtime::shards::stop_signal;
use corelog_runtime::time::{self, Instant};
use futures_util::future::{join_all, try_join_all};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};

use super::crowd::{Crowd, options};
use super::report::{OffsetCheck, Restart};

/// The versions that ask for groups by name, and for topics by name.
const VERSIONS: std::ops::RangeInclusive<i16> = 8..=9;
/// Groups that are asked for at once on one connection.
const AT_ONCE: usize = 8;
/// How long a broker may take to come back, and to give everything.
const RETURN_LIMIT: Duration = Duration::from_secs(120);
/// Between two attempts to connect.
const CONNECT_LOOK: Duration = Duration::from_millis(1);
/// Before the next requests, when none of the last ones was granted: what is not ready yet shall not
/// be kept from it by being asked.
const READY_LOOK: Duration = Duration::from_millis(5);

/// What a run through a restart learns on the way.
#[derive(Default)]
struct Progress {
    connected: Cell<Option<Instant>>,
    first: Cell<Option<Instant>>,
    refused: Cell<u64>,
}

/// Reads the offsets of all groups, and judges them.
pub(super) async fn check(crowd: &Crowd, clients: &[Client]) -> Result<OffsetCheck> {
    read(crowd, clients, &Progress::default()).await
}

/// Waits for the broker that went away at `lost`, and does the same.
pub(super) async fn after_restart(
    crowd: &Crowd,
    bootstrap: &str,
    lost: Instant,
) -> Result<(OffsetCheck, Restart)> {
    let progress = Progress::default();
    let lanes = (0..crowd.plan.connections.min(crowd.plan.groups)).map(async |_| {
        let client = connect(crowd, bootstrap).await?;
        progress.connected.set(progress.connected.get().or_else(|| Some(Instant::now())));
        anyhow::Ok(client)
    });
    let clients = try_join_all(lanes).await?;
    let check = read(crowd, &clients, &progress).await?;
    let all_ms = (Instant::now() - lost).as_secs_f64() * 1e3;
    let ms = |at: &Cell<Option<Instant>>| at.get().map_or(all_ms, |at| (at - lost).as_secs_f64() * 1e3);
    let restart = Restart {
        connected_ms: ms(&progress.connected),
        first_ms: ms(&progress.first),
        all_ms,
        refused: progress.refused.get(),
    };
    Ok((check, restart))
}

/// A client of the broker, once that is there and knows who coordinates.
async fn connect(crowd: &Crowd, bootstrap: &str) -> Result<Client> {
    let limit = Instant::now() + RETURN_LIMIT;
    loop {
        let last = match Client::connect(options(&crowd.plan, bootstrap)).await {
            Ok(client) => {
                let known = client.metadata().brokers;
                if crowd.groups.iter().all(|group| known.contains_key(&group.coordinator)) {
                    return Ok(client);
                }
                None
            }
            Err(error) => Some(error),
        };
        ensure!(!stop_signal().is_raised(), "interrupted while the broker was away");
        if Instant::now() >= limit {
            let late = format!("the broker did not come back within {} s", RETURN_LIMIT.as_secs());
            return match last {
                Some(error) => Err(error).context(late),
                None => Err(anyhow::anyhow!(late)),
            };
        }
        time::sleep(CONNECT_LOOK).await;
    }
}

async fn read(crowd: &Crowd, clients: &[Client], progress: &Progress) -> Result<OffsetCheck> {
    let lanes = clients.iter().enumerate().map(|(lane, client)| read_lane(crowd, lane, client, progress));
    let mut found: Vec<_> = try_join_all(lanes).await?.into_iter().flatten().collect();
    found.sort_by_key(|(place, _)| *place);
    let (mut check, ledger) = (OffsetCheck::default(), crowd.ledger.borrow());
    for (place, offsets) in found {
        ledger.check(place, crowd.groups[place].id.0.as_str(), &offsets, &mut check);
    }
    Ok(check)
}

/// A group's place, and each partition with its offset.
type Found = (usize, Vec<(i32, i64)>);

/// All groups of one connection.
async fn read_lane(crowd: &Crowd, lane: usize, client: &Client, progress: &Progress) -> Result<Vec<Found>> {
    let limit = Instant::now() + RETURN_LIMIT;
    let mut waiting: VecDeque<usize> = crowd.of_lane(lane).collect();
    let mut found = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let some: Vec<usize> = waiting.drain(..waiting.len().min(AT_ONCE)).collect();
        let answers = join_all(some.iter().map(|place| fetch(crowd, *place, client))).await;
        let before = found.len();
        for (place, answer) in some.into_iter().zip(answers) {
            match answer {
                Ok(offsets) => {
                    progress.first.set(progress.first.get().or_else(|| Some(Instant::now())));
                    found.push((place, offsets));
                }
                Err(error) if error.is_retriable() && Instant::now() < limit => {
                    progress.refused.set(progress.refused.get() + 1);
                    waiting.push_back(place);
                }
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(!stop_signal().is_raised(), "interrupted while offsets were read");
        if found.len() == before {
            time::sleep(READY_LOOK).await;
        }
    }
    Ok(found)
}

/// One group's offsets, as its consumer asks for them: −1 where there is none.
async fn fetch(crowd: &Crowd, place: usize, client: &Client) -> Result<Vec<(i32, i64)>, ClientError> {
    let group = &crowd.groups[place];
    let connection = client.node(group.coordinator, Lane::Control).await?;
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(StrBytes::from_string(crowd.topic.clone())))
        .with_partition_indexes((0..crowd.plan.partitions).collect());
    let asked =
        OffsetFetchRequestGroup::default().with_group_id(group.id.clone()).with_topics(Some(vec![topic]));
    let version = connection.pick(OffsetFetchRequest::KEY, *VERSIONS.start(), *VERSIONS.end())?;
    let request = OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(true);
    let response = connection.call_up_to(&request, version).await?;
    let what = || format!("reading the offsets of group '{}'", group.id.0.as_str());
    ClientError::check(response.error_code, None, what)?;
    let mut offsets = Vec::new();
    for group in response.groups {
        ClientError::check(group.error_code, None, what)?;
        for partition in group.topics.into_iter().flat_map(|topic| topic.partitions) {
            ClientError::check(partition.error_code, None, what)?;
            offsets.push((partition.partition_index, partition.committed_offset));
        }
    }
    Ok(offsets)
}
