use super::*;
use crate::api::{self, Api};
use crate::error::ErrorCode;
use crate::leader::{CurrentLeader, NodeEndpoint};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    BrokerId, FetchRequest as TheirRequest, FetchResponse as TheirResponse, ProducerId, TopicName,
    fetch_request, fetch_response,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._-]{0,20}"
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

prop_compose! {
    fn fetch_partition()(
        index: i32, current_leader_epoch: i32, fetch_offset: i64, last_fetched_epoch: i32,
        log_start_offset: i64, max_bytes: i32, replica_directory_id in uuid(),
    ) -> FetchPartition {
        FetchPartition {
            index,
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            max_bytes,
            replica_directory_id,
        }
    }
}

fn fetch_topic() -> impl Strategy<Value = FetchTopic> {
    let partitions = prop::collection::vec(fetch_partition(), 0..4);
    (name(), uuid(), partitions).prop_map(|(name, topic_id, partitions)| FetchTopic {
        name,
        topic_id,
        partitions,
    })
}

fn forgotten_topic() -> impl Strategy<Value = ForgottenTopic> {
    let partitions = prop::collection::vec(any::<i32>(), 0..4);
    (name(), uuid(), partitions).prop_map(|(name, topic_id, partitions)| ForgottenTopic {
        name,
        topic_id,
        partitions,
    })
}

prop_compose! {
    fn request()(
        cluster_id in prop::option::of(name()), replica_id: i32, replica_epoch: i64,
        limits in any::<[i32; 3]>(), level in 0i8..2, session_id: i32, session_epoch: i32,
        topics in prop::collection::vec(fetch_topic(), 0..4),
        forgotten_topics in prop::collection::vec(forgotten_topic(), 0..4),
        rack_id in name(),
    ) -> FetchRequest {
        FetchRequest {
            cluster_id,
            replica_id,
            replica_epoch,
            max_wait_ms: limits[0],
            min_bytes: limits[1],
            max_bytes: limits[2],
            isolation_level: IsolationLevel::from_wire(level).unwrap(),
            session_id,
            session_epoch,
            topics,
            forgotten_topics,
            rack_id,
        }
    }
}

/// What is left of a request in a version that cannot say everything.
fn request_as_of(version: i16, mut request: FetchRequest) -> FetchRequest {
    let names = version < TOPIC_IDS_FROM;
    if version < 15 {
        request.replica_epoch = -1;
    }
    if version < 12 {
        request.cluster_id = None;
    }
    if version < 11 {
        request.rack_id.clear();
    }
    if version < 7 {
        request.session_id = 0;
        request.session_epoch = -1;
        request.forgotten_topics.clear();
    }
    for topic in &mut request.topics {
        if names {
            topic.topic_id = Uuid::nil()
        } else {
            topic.name.clear()
        }
        for partition in &mut topic.partitions {
            if version < 17 {
                partition.replica_directory_id = Uuid::nil();
            }
            if version < 12 {
                partition.last_fetched_epoch = -1;
            }
            if version < 9 {
                partition.current_leader_epoch = -1;
            }
            if version < 5 {
                partition.log_start_offset = -1;
            }
        }
    }
    for topic in &mut request.forgotten_topics {
        if names { topic.topic_id = Uuid::nil() } else { topic.name.clear() }
    }
    request
}

fn their_request(version: i16, request: &FetchRequest) -> TheirRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            fetch_request::FetchPartition::default()
                .with_partition(partition.index)
                .with_current_leader_epoch(partition.current_leader_epoch)
                .with_fetch_offset(partition.fetch_offset)
                .with_last_fetched_epoch(partition.last_fetched_epoch)
                .with_log_start_offset(partition.log_start_offset)
                .with_partition_max_bytes(partition.max_bytes)
                .with_replica_directory_id(partition.replica_directory_id)
        });
        fetch_request::FetchTopic::default()
            .with_topic(TopicName(text(&topic.name)))
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    let forgotten = request.forgotten_topics.iter().map(|topic| {
        fetch_request::ForgottenTopic::default()
            .with_topic(TopicName(text(&topic.name)))
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.clone())
    });
    let mut theirs = TheirRequest::default()
        .with_cluster_id(request.cluster_id.as_deref().map(text))
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(request.isolation_level.to_wire())
        .with_session_id(request.session_id)
        .with_session_epoch(request.session_epoch)
        .with_topics(topics.collect())
        .with_forgotten_topics_data(forgotten.collect())
        .with_rack_id(text(&request.rack_id));
    if version <= 14 {
        theirs.replica_id = BrokerId(request.replica_id);
    } else {
        theirs.replica_state = fetch_request::ReplicaState::default()
            .with_replica_id(BrokerId(request.replica_id))
            .with_replica_epoch(request.replica_epoch);
    }
    theirs
}

prop_compose! {
    fn partition_response()(
        index: i32, code in -1i16..134, offsets in any::<[i64; 3]>(), preferred: i32,
        // Their encoder leaves out what equals the default.
        diverging in prop::option::of((0..i32::MAX, any::<i64>())),
        leader in prop::option::of((0..i32::MAX, any::<i32>())),
        aborted in prop::option::of(prop::collection::vec(any::<(i64, i64)>(), 0..4)),
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..4),
    ) -> FetchPartitionResponse {
        FetchPartitionResponse {
            index,
            error: ErrorCode::from_code(code),
            high_watermark: offsets[0],
            last_stable_offset: offsets[1],
            log_start_offset: offsets[2],
            diverging_epoch: diverging.map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
            current_leader: leader
                .map(|(leader_id, leader_epoch)| CurrentLeader { leader_id, leader_epoch }),
            aborted_transactions: aborted.map(|aborted| {
                aborted
                    .into_iter()
                    .map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset })
                    .collect()
            }),
            preferred_read_replica: preferred,
            records: records.into_iter().map(Bytes::from).collect(),
        }
    }
}

fn topic_response() -> impl Strategy<Value = FetchTopicResponse> {
    let partitions = prop::collection::vec(partition_response(), 0..4);
    (name(), uuid(), partitions).prop_map(|(name, topic_id, partitions)| FetchTopicResponse {
        name,
        topic_id,
        partitions,
    })
}

prop_compose! {
    fn response()(
        throttle_time_ms: i32, code in -1i16..134, session_id: i32,
        topics in prop::collection::vec(topic_response(), 0..4),
        endpoints in prop::collection::vec(
            (any::<i32>(), name(), any::<i32>(), prop::option::of(name())), 0..3,
        ),
    ) -> FetchResponse {
        FetchResponse {
            throttle_time_ms,
            error: ErrorCode::from_code(code),
            session_id,
            topics,
            node_endpoints: endpoints
                .into_iter()
                .map(|(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack })
                .collect(),
        }
    }
}

/// What is left of a response in a version that cannot say everything, its records in one
/// piece.
fn response_as_of(version: i16, mut response: FetchResponse) -> FetchResponse {
    if version < 16 {
        response.node_endpoints.clear();
    }
    if version < 7 {
        response.error = ErrorCode::None;
        response.session_id = 0;
    }
    for topic in &mut response.topics {
        if version < TOPIC_IDS_FROM {
            topic.topic_id = Uuid::nil()
        } else {
            topic.name.clear()
        }
        for partition in &mut topic.partitions {
            if version < 12 {
                partition.diverging_epoch = None;
                partition.current_leader = None;
            }
            if version < 11 {
                partition.preferred_read_replica = -1;
            }
            if version < 5 {
                partition.log_start_offset = -1;
            }
            let records = partition.records.concat();
            partition.records.clear();
            if !records.is_empty() {
                partition.records.push(Bytes::from(records));
            }
        }
    }
    response
}

fn their_partition(partition: &FetchPartitionResponse) -> fetch_response::PartitionData {
    let aborted = partition.aborted_transactions.as_ref().map(|aborted| {
        let aborted = aborted.iter().map(|transaction| {
            fetch_response::AbortedTransaction::default()
                .with_producer_id(ProducerId(transaction.producer_id))
                .with_first_offset(transaction.first_offset)
        });
        aborted.collect()
    });
    let mut theirs = fetch_response::PartitionData::default()
        .with_partition_index(partition.index)
        .with_error_code(partition.error.code())
        .with_high_watermark(partition.high_watermark)
        .with_last_stable_offset(partition.last_stable_offset)
        .with_log_start_offset(partition.log_start_offset)
        .with_aborted_transactions(aborted)
        .with_preferred_read_replica(BrokerId(partition.preferred_read_replica))
        .with_records(Some(Bytes::from(partition.records.concat())));
    if let Some(diverging) = partition.diverging_epoch {
        theirs.diverging_epoch = fetch_response::EpochEndOffset::default()
            .with_epoch(diverging.epoch)
            .with_end_offset(diverging.end_offset);
    }
    if let Some(leader) = partition.current_leader {
        theirs.current_leader = fetch_response::LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(leader.leader_id))
            .with_leader_epoch(leader.leader_epoch);
    }
    theirs
}

fn their_response(response: &FetchResponse) -> TheirResponse {
    let topics = response.topics.iter().map(|topic| {
        fetch_response::FetchableTopicResponse::default()
            .with_topic(TopicName(text(&topic.name)))
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.iter().map(their_partition).collect())
    });
    let endpoints = response.node_endpoints.iter().map(|endpoint| {
        fetch_response::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(text(&endpoint.host))
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.as_deref().map(text))
    });
    TheirResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(response.error.code())
        .with_session_id(response.session_id)
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.collect())
}

/// One frame, its length checked and taken off.
fn joined(chunks: &[Bytes]) -> Bytes {
    let mut frame = BytesMut::new();
    for chunk in chunks {
        assert!(!chunk.is_empty());
        frame.put_slice(chunk);
    }
    let length = usize::try_from(frame.get_i32()).unwrap();
    assert_eq!(length, frame.len());
    frame.freeze()
}

proptest! {
    #[test]
    fn requests_are_those_of_the_generated_codec(request in request(), version in 4i16..=17) {
        let expected = request_as_of(version, request.clone());
        let mut bytes = BytesMut::new();
        their_request(version, &expected).encode(&mut bytes, version).unwrap();
        prop_assert_eq!(FetchRequest::decode(version, &bytes), Ok(expected));

        let mut frame = BytesMut::from(&joined(&[request.encode(version, 3, "c").freeze()])[..]);
        let header = api::decode_request_header(&mut frame).unwrap();
        prop_assert_eq!((header.api, header.version), (Api::Fetch, version));
        prop_assert_eq!(&frame, &bytes);
    }

    #[test]
    fn responses_are_those_of_the_generated_codec(
        response in response(), version in 4i16..=17, correlation_id: i32,
    ) {
        let expected = response_as_of(version, response.clone());
        let mut bytes = BytesMut::new();
        their_response(&expected).encode(&mut bytes, version).unwrap();
        let frame = joined(&response.encode(version, correlation_id));
        let header_bytes = if version >= 12 { 5 } else { 4 };
        prop_assert_eq!(&frame[header_bytes..], &bytes[..]);
        let theirs = TheirResponse::decode(&mut bytes.freeze(), version).unwrap();
        prop_assert_eq!(theirs, their_response(&expected));
        prop_assert_eq!(FetchResponse::decode(version, frame), Ok((correlation_id, expected)));
    }

    #[test]
    fn mutated_messages_never_panic(
        request in request(), response in response(), version in 4i16..=17,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut frame = request.encode(version, 77, "client");
        let mut answer = joined(&response.encode(version, 5)).to_vec();
        for (at, value) in &mutations {
            let index = at.index(frame.len());
            frame[index] = *value;
            let index = at.index(answer.len());
            answer[index] = *value;
        }
        frame.advance(4);
        if api::decode_request_header(&mut frame).is_ok() {
            let _ = FetchRequest::decode(version, &frame);
        }
        let _ = FetchResponse::decode(version, Bytes::from(answer));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100), version in 3i16..19,
    ) {
        let _ = FetchRequest::decode(version, &bytes);
        let _ = FetchResponse::decode(version, Bytes::from(bytes));
    }
}

#[test]
fn records_are_neither_copied_going_out_nor_coming_in() {
    let records = Bytes::from(vec![5; 1_000]);
    let mut partition = FetchPartitionResponse::failed(0, ErrorCode::None);
    partition.records = vec![records.clone(), records.clone()];
    let response = FetchResponse {
        topics: vec![FetchTopicResponse { partitions: vec![partition], ..FetchTopicResponse::default() }],
        ..FetchResponse::default()
    };
    let chunks = response.encode(16, 1);
    assert_eq!(chunks.len(), 4);
    assert_eq!(chunks[1].as_ptr(), records.as_ptr());
    assert_eq!(chunks[2].as_ptr(), records.as_ptr());
    let frame = joined(&chunks);
    let memory = frame.as_ptr_range();
    let (_, decoded) = FetchResponse::decode(16, frame.clone()).unwrap();
    let received = &decoded.topics[0].partitions[0].records;
    assert_eq!(received[0].len(), 2_000);
    assert!(memory.contains(&received[0].as_ptr()));
}

#[test]
fn an_unknown_isolation_level_is_refused() {
    let mut body = FetchRequest::default().encode(4, 1, "").split_off(4 + 10);
    body[16] = 2;
    assert_eq!(FetchRequest::decode(4, &body), Err(WireError::UnknownValue(2)));
}
