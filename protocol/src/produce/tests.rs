use super::*;
use kafka_protocol::messages::{
    BrokerId, ProduceRequest as TheirRequest, ProduceResponse as TheirResponse, TopicName, TransactionalId,
    produce_request, produce_response,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._-]{0,20}"
}

fn request() -> impl Strategy<Value = ProduceRequest<Bytes>> {
    let records = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let partition = (any::<i32>(), records).prop_map(|(index, records)| ProducePartition { index, records });
    let topic = (name(), prop::collection::vec(partition, 0..4))
        .prop_map(|(name, partitions)| ProduceTopic { name, partitions });
    let topics = prop::collection::vec(topic, 0..4);
    (prop::option::of(name()), any::<i16>(), any::<i32>(), topics).prop_map(
        |(transactional_id, acks, timeout_ms, topics)| ProduceRequest {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        },
    )
}

fn leader() -> impl Strategy<Value = CurrentLeader> {
    // Their encoder leaves out a leader that equals the default.
    (0..i32::MAX, any::<i32>())
        .prop_map(|(leader_id, leader_epoch)| CurrentLeader { leader_id, leader_epoch })
}

pub(crate) fn endpoint() -> impl Strategy<Value = NodeEndpoint> {
    (any::<i32>(), name(), any::<i32>(), prop::option::of(name()))
        .prop_map(|(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack })
}

prop_compose! {
    fn partition_response()(
        index: i32, code in -1i16..134, base_offset: i64, log_append_time_ms: i64,
        log_start_offset: i64,
        record_errors in prop::collection::vec((any::<i32>(), prop::option::of(name())), 0..3),
        error_message in prop::option::of(name()),
        current_leader in prop::option::of(leader()),
    ) -> ProducePartitionResponse {
        ProducePartitionResponse {
            index,
            error: ErrorCode::from_code(code),
            base_offset,
            log_append_time_ms,
            log_start_offset,
            record_errors: record_errors
                .into_iter()
                .map(|(batch_index, message)| RecordErrorEntry { batch_index, message })
                .collect(),
            error_message,
            current_leader,
        }
    }
}

fn response() -> impl Strategy<Value = ProduceResponse> {
    let topic = (name(), prop::collection::vec(partition_response(), 0..4))
        .prop_map(|(name, partitions)| ProduceTopicResponse { name, partitions });
    let endpoints = prop::collection::vec(endpoint(), 0..3);
    (prop::collection::vec(topic, 0..4), any::<i32>(), endpoints).prop_map(
        |(topics, throttle_time_ms, node_endpoints)| ProduceResponse {
            topics,
            throttle_time_ms,
            node_endpoints,
        },
    )
}

/// What is left of a response in a version that cannot say everything.
fn as_of(version: i16, mut response: ProduceResponse) -> ProduceResponse {
    if version < 10 {
        response.node_endpoints.clear();
    }
    if version < 1 {
        response.throttle_time_ms = 0;
    }
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if version < 2 {
            partition.log_append_time_ms = -1;
        }
        if version < 5 {
            partition.log_start_offset = -1;
        }
        if version < 8 {
            partition.record_errors.clear();
            partition.error_message = None;
        }
        if version < 10 {
            partition.current_leader = None;
        }
    }
    response
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn their_request(request: &ProduceRequest<Bytes>) -> TheirRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            produce_request::PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(Some(partition.records.clone()))
        });
        produce_request::TopicProduceData::default()
            .with_name(TopicName(text(&topic.name)))
            .with_partition_data(partitions.collect())
    });
    TheirRequest::default()
        .with_transactional_id(request.transactional_id.as_deref().map(text).map(TransactionalId))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
}

fn their_response(response: &ProduceResponse) -> TheirResponse {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let errors = partition.record_errors.iter().map(|entry| {
                produce_response::BatchIndexAndErrorMessage::default()
                    .with_batch_index(entry.batch_index)
                    .with_batch_index_error_message(entry.message.as_deref().map(text))
            });
            let mut theirs = produce_response::PartitionProduceResponse::default()
                .with_index(partition.index)
                .with_error_code(partition.error.code())
                .with_base_offset(partition.base_offset)
                .with_log_append_time_ms(partition.log_append_time_ms)
                .with_log_start_offset(partition.log_start_offset)
                .with_record_errors(errors.collect())
                .with_error_message(partition.error_message.as_deref().map(text));
            if let Some(leader) = partition.current_leader {
                theirs.current_leader = produce_response::LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader.leader_id))
                    .with_leader_epoch(leader.leader_epoch);
            }
            theirs
        });
        produce_response::TopicProduceResponse::default()
            .with_name(TopicName(text(&topic.name)))
            .with_partition_responses(partitions.collect())
    });
    let endpoints = response.node_endpoints.iter().map(|endpoint| {
        produce_response::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(text(&endpoint.host))
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.as_deref().map(text))
    });
    TheirResponse::default()
        .with_responses(topics.collect())
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_node_endpoints(endpoints.collect())
}

fn join(chunks: &[Bytes]) -> BytesMut {
    let mut frame = BytesMut::new();
    for chunk in chunks {
        frame.put_slice(chunk);
    }
    frame
}

/// Takes off and checks the length.
fn without_length(mut frame: BytesMut) -> BytesMut {
    let length = usize::try_from(frame.get_i32()).unwrap();
    assert_eq!(length, frame.len());
    frame
}

/// The request with its records in another form.
fn with_records<'a, Records>(
    request: &'a ProduceRequest<Bytes>,
    records: impl Fn(&'a Bytes) -> Records,
) -> ProduceRequest<Records> {
    let topic = |topic: &'a ProduceTopic<Bytes>| ProduceTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| ProducePartition {
                index: partition.index,
                records: records(&partition.records),
            })
            .collect(),
    };
    ProduceRequest {
        transactional_id: request.transactional_id.clone(),
        acks: request.acks,
        timeout_ms: request.timeout_ms,
        topics: request.topics.iter().map(topic).collect(),
    }
}

fn thawed(request: &ProduceRequest<Bytes>) -> ProduceRequest {
    with_records(request, |records| BytesMut::from(&records[..]))
}

fn lent(request: &ProduceRequest<Bytes>) -> ProduceRequest<&[u8]> {
    with_records(request, |records| &records[..])
}

proptest! {
    #[test]
    fn requests_are_those_of_the_generated_codec(request in request(), version in 3i16..=12) {
        let theirs = their_request(&request);
        let mut bytes = BytesMut::new();
        theirs.encode(&mut bytes, version).unwrap();
        prop_assert_eq!(ProduceRequest::decode(version, bytes.clone()), Ok(thawed(&request)));
        prop_assert_eq!(ProduceRequest::decode(version, &bytes[..]), Ok(lent(&request)));

        let mut frame = without_length(join(&request.encode(version, 77, "client")));
        let header = api::decode_request_header(&mut frame).unwrap();
        prop_assert_eq!(header.api, Api::Produce);
        prop_assert_eq!((header.version, header.correlation_id), (version, 77));
        prop_assert_eq!(header.client_id.as_deref(), Some("client"));
        prop_assert_eq!(&frame, &bytes);
    }

    #[test]
    fn responses_are_those_of_the_generated_codec(
        response in response(), version in 3i16..=12, correlation_id: i32,
    ) {
        let expected = as_of(version, response.clone());
        let mut bytes = BytesMut::new();
        their_response(&expected).encode(&mut bytes, version).unwrap();
        let frame = without_length(response.encode(version, correlation_id));
        let header_bytes = frame.len() - bytes.len();
        prop_assert_eq!(&frame[header_bytes..], &bytes[..]);
        let theirs = TheirResponse::decode(&mut bytes.freeze(), version).unwrap();
        prop_assert_eq!(theirs, their_response(&expected));
        let decoded = ProduceResponse::decode(version, &frame);
        prop_assert_eq!(decoded, Ok((correlation_id, expected)));
    }

    #[test]
    fn old_responses_come_back(response in response(), version in 0i16..3) {
        let frame = without_length(response.encode(version, 1));
        let decoded = ProduceResponse::decode(version, &frame);
        prop_assert_eq!(decoded, Ok((1, as_of(version, response))));
    }

    #[test]
    fn mutated_messages_never_panic(
        request in request(), response in response(), version in 0i16..=12,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut frame = join(&request.encode(version.max(3), 77, "client"));
        let mut answer = response.encode(version, 5);
        for (at, value) in &mutations {
            let index = at.index(frame.len());
            frame[index] = *value;
            let index = at.index(answer.len());
            answer[index] = *value;
        }
        frame.advance(4);
        if api::decode_request_header(&mut frame).is_ok() {
            let _ = ProduceRequest::decode(version, frame);
        }
        let _ = ProduceResponse::decode(version, &answer[4..]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100), version in -1i16..14,
    ) {
        let _ = ProduceRequest::decode(version, BytesMut::from(&bytes[..]));
        let _ = ProduceResponse::decode(version, &bytes);
        let _ = api::decode_request_header(&mut BytesMut::from(&bytes[..]));
    }
}

#[test]
fn records_are_parts_of_the_frame_and_can_be_patched() {
    let records = Bytes::from_static(&[7; 100]);
    let partition = |index| ProducePartition { index, records: records.clone() };
    let request = ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 1_000,
        topics: vec![ProduceTopic { name: "t".to_owned(), partitions: vec![partition(0), partition(1)] }],
    };
    let mut frame = without_length(join(&request.encode(9, 1, "c")));
    let memory = frame.as_ptr_range();
    api::decode_request_header(&mut frame).unwrap();
    let mut decoded = ProduceRequest::decode(9, frame).unwrap();
    for partition in &mut decoded.topics[0].partitions {
        assert!(memory.contains(&partition.records.as_ptr()), "copied");
        partition.records[0] = 1;
    }
    assert_eq!(decoded.topics[0].partitions[0].records[..2], [1, 7]);
    assert_eq!(decoded.topics[0].partitions[1].records[..2], [1, 7]);
}

#[test]
fn versions_below_3_are_read_and_refused() {
    // acks, timeout, one topic "t" with partition 5 of two bytes; there is no
    // transactional id yet.
    let body = [
        &1i16.to_be_bytes()[..],
        &1_000i32.to_be_bytes(),
        &1i32.to_be_bytes(),
        &[0, 1, b't'],
        &1i32.to_be_bytes(),
        &5i32.to_be_bytes(),
        &2i32.to_be_bytes(),
        &[9, 9],
    ]
    .concat();
    let request = ProduceRequest::decode(0, BytesMut::from(&body[..])).unwrap();
    assert!(!Api::Produce.is_served(2) && Api::Produce.is_served(3));
    let answer = ProduceResponse::refuse(&request, ErrorCode::UnsupportedVersion).encode(0, 8);
    let expected = [
        &35i32.to_be_bytes()[..],
        &8i32.to_be_bytes(),
        &1i32.to_be_bytes(),
        &[0, 1, b't'],
        &1i32.to_be_bytes(),
        &5i32.to_be_bytes(),
        &35i16.to_be_bytes(),
        &(-1i64).to_be_bytes(),
    ]
    .concat();
    assert_eq!(&answer[4..], &expected[4..]);
    assert_eq!(answer.len(), expected.len());
}
