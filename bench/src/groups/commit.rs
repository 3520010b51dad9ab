//! Commits: when each is due, and what came of it.
//!
//! They leave in the order in which they are due, each group's over one connection, so that the broker
//! has them in that order too. None is sent again.

use std::rc::Rc;

use bytes::Bytes;
use corelog_net::client::ClientError;
use corelog_net::client::connection::{PendingReply, Reply};
use corelog_protocol::api;
use corelog_protocol::error::ErrorCode;
use corelog_runtime::shards::stop_signal;
use corelog_runtime::task;
use corelog_runtime::time;
use futures_util::future::{Either, select};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::crowd::{Crowd, End};

/// Later versions name topics by ids.
const VERSION_MAX: i16 = 9;
/// What a consumer without a group's member says of its generation.
const NO_GENERATION: i32 = -1;
const WHAT: &str = "OffsetCommit";

/// Commits until it is over, in an open loop.
pub(super) async fn all(crowd: &Rc<Crowd>) -> End {
    let stop = stop_signal();
    let mut index = 0;
    loop {
        if let Some(at) = crowd.lost_at() {
            return End::Lost(at);
        }
        if stop.is_raised() {
            return End::Interrupted;
        }
        let due_ns = crowd.plan.due_ns(index);
        if due_ns >= crowd.until_ns() {
            return End::Done;
        }
        if crowd.now_ns() < due_ns {
            let due = std::pin::pin!(time::sleep_until(crowd.at(due_ns)));
            let gone = std::pin::pin!(crowd.gone.notified());
            let stopped = std::pin::pin!(stop.wait());
            let ended = std::pin::pin!(select(gone, stopped));
            if let Either::Right(_) = select(due, ended).await {
                continue;
            }
        }
        let place = usize::try_from(index % crowd.groups.len() as u64).expect("a group's place");
        send(crowd, place, due_ns);
        index += 1;
        task::yield_if_needed().await;
    }
}

/// The group's next commit, which was due at that time.
fn send(crowd: &Rc<Crowd>, place: usize, due_ns: u64) {
    let commit = crowd.ledger.borrow_mut().next(place);
    let connection = &crowd.groups[place].connection;
    let (version, pending) = match start(crowd, place, commit) {
        Ok(started) => started,
        Err(error) => return crowd.failed(WHAT, connection, error),
    };
    let sent_ns = crowd.now_ns();
    crowd.began();
    let crowd = Rc::clone(crowd);
    task::spawn(async move {
        let answer = pending.wait().await;
        let now_ns = crowd.now_ns();
        match answer.and_then(|frame| judge(&crowd, place, version, frame)) {
            Ok(()) => {
                crowd.ledger.borrow_mut().acknowledge(place, commit);
                crowd.tally.borrow_mut().commit(due_ns, sent_ns, now_ns, &crowd.measured);
            }
            Err(error) => crowd.failed(WHAT, &crowd.groups[place].connection, error),
        }
        crowd.ended();
    });
}

/// The first commit of a group.
pub(super) async fn first(crowd: &Crowd, place: usize) -> Result<(), ClientError> {
    let commit = crowd.ledger.borrow_mut().next(place);
    let (version, pending) = start(crowd, place, commit)?;
    judge(crowd, place, version, pending.wait().await?)?;
    crowd.ledger.borrow_mut().acknowledge(place, commit);
    Ok(())
}

/// Queues a commit; the version that it is in, and its reply.
fn start(crowd: &Crowd, place: usize, commit: u64) -> Result<(i16, PendingReply), ClientError> {
    let connection = &crowd.groups[place].connection;
    let version = connection.version::<OffsetCommitRequest>(VERSION_MAX)?;
    let correlation_id = connection.next_correlation();
    let request = request(crowd, place, commit);
    let frame = api::encode_request(version, correlation_id, connection.client_id(), &request);
    let frame = frame.map_err(|error| ClientError::Encode {
        address: connection.address().to_owned(),
        what: WHAT,
        version,
        reason: error.reason,
    })?;
    let timeout = connection.request_timeout();
    let pending = connection.submit(correlation_id, [frame.freeze()], Reply::Expected, WHAT, timeout)?;
    Ok((version, pending))
}

fn request(crowd: &Crowd, place: usize, commit: u64) -> OffsetCommitRequest {
    let group = &crowd.groups[place];
    let ledger = crowd.ledger.borrow();
    let partitions = (0..crowd.plan.partitions).map(|partition| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(ledger.offset(commit, partition))
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::from_static_str("")))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_string(crowd.topic.clone())))
        .with_partitions(partitions.collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(group.id.clone())
        .with_retention_time_ms(-1)
        .with_topics(vec![topic]);
    match &group.member {
        Some(member) => {
            request.with_member_id(member.id().clone()).with_generation_id_or_member_epoch(member.epoch())
        }
        None => request.with_generation_id_or_member_epoch(NO_GENERATION),
    }
}

/// Whether every partition was taken.
fn judge(crowd: &Crowd, place: usize, version: i16, frame: Bytes) -> Result<(), ClientError> {
    let group = &crowd.groups[place];
    let malformed = |reason: String| ClientError::Protocol {
        address: group.connection.address().to_owned(),
        what: WHAT,
        reason,
    };
    let (_, response) = api::decode_response::<OffsetCommitRequest>(version, frame)
        .map_err(|error| malformed(error.to_string()))?;
    let what = || format!("a commit of group '{}'", group.id.0.as_str());
    let mut answered = 0;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        ClientError::check(partition.error_code, None, what)?;
        answered += 1;
    }
    if answered == crowd.plan.partitions {
        return Ok(());
    }
    Err(ClientError::Refused { what: what(), code: ErrorCode::UnknownServerError, message: None })
}
