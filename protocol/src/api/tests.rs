use super::schema::{Field, Kind};
use super::*;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, Request, VersionRange};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::ops::RangeInclusive;

use crate::error::ErrorCode;
use crate::wire::{Form, WireError, Writer};

/// Random numbers for one message, drawn from the test's seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Writes a random message along a schema.
struct Writing<'a> {
    schema: &'a Schema,
    version: i16,
    dice: Dice,
}

impl Writing<'_> {
    fn flexible(&self) -> bool {
        self.version >= self.schema.flexible_from
    }

    fn structure(&mut self, fields: &[Field], buffer: &mut BytesMut) {
        let present: Vec<_> = fields.iter().filter(|field| field.exists_in(self.version)).collect();
        for field in present.iter().filter(|field| field.tag.is_none()) {
            self.field(field, buffer);
        }
        if !self.flexible() {
            return;
        }
        let mut tagged = Vec::new();
        for field in present.iter().filter(|field| field.tag.is_some()) {
            if self.dice.below(2) == 0 {
                let mut content = BytesMut::new();
                self.field(field, &mut content);
                tagged.push((field.tag.unwrap(), content));
            }
        }
        if self.dice.below(4) == 0 {
            tagged.push((1_000, BytesMut::from(&b"unknown"[..])));
        }
        buffer.put_uvarint(u32::try_from(tagged.len()).unwrap());
        for (tag, content) in tagged {
            buffer.put_uvarint(tag);
            buffer.put_uvarint(u32::try_from(content.len()).unwrap());
            buffer.put_slice(&content);
        }
    }

    fn field(&mut self, field: &Field, buffer: &mut BytesMut) {
        let null = self.version >= field.nullable_from && self.dice.below(4) == 0;
        let array = Form::array(self.flexible());
        let string = Form::string(self.flexible());
        let count = usize::try_from(self.dice.below(4)).unwrap();
        match field.kind {
            Kind::Fixed(size) => self.fixed(size, buffer),
            Kind::String if null => buffer.put_null(string),
            Kind::String => self.string(buffer),
            Kind::Struct(_) if null => buffer.put_i8(-1),
            Kind::Struct(fields) => {
                if self.version >= field.nullable_from {
                    buffer.put_i8(1);
                }
                self.structure(fields, buffer);
            }
            _ if null => buffer.put_null(array),
            Kind::ArrayOfFixed(size) => {
                buffer.put_length(array, count);
                (0..count).for_each(|_| self.fixed(size, buffer));
            }
            Kind::ArrayOfStrings => {
                buffer.put_length(array, count);
                (0..count).for_each(|_| self.string(buffer));
            }
            Kind::ArrayOfStructs(fields) => {
                buffer.put_length(array, count);
                (0..count).for_each(|_| self.structure(fields, buffer));
            }
        }
    }

    /// Small, so that booleans are 0 or 1.
    fn fixed(&mut self, size: usize, buffer: &mut BytesMut) {
        buffer.put_bytes(0, size - 1);
        buffer.put_u8(u8::try_from(self.dice.below(2)).unwrap());
    }

    fn string(&mut self, buffer: &mut BytesMut) {
        let text: String = (0..self.dice.below(5)).map(|_| 'ä').collect();
        buffer.put_str(Form::string(self.flexible()), &text);
    }
}

fn random_message(schema: &Schema, version: i16, seed: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut writing = Writing { schema, version, dice: Dice(seed | 1) };
    writing.structure(schema.fields, &mut bytes);
    bytes
}

fn each_version(
    schema: &Schema,
    versions: RangeInclusive<i16>,
    check: impl Fn(i16, BytesMut, u64) -> Result<(), TestCaseError>,
) {
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    for version in versions {
        runner
            .run(&any::<u64>(), |seed| check(version, random_message(schema, version, seed), seed))
            .unwrap_or_else(|error| panic!("version {version}: {error}"));
    }
}

/// A random message passes the walk, the generated decoder takes all of it, and what the
/// generated encoder makes of it passes again.
pub(super) fn agrees_with_the_generated_codec<T>(schema: &'static Schema)
where
    T: Message + Decodable + Encodable + PartialEq + std::fmt::Debug,
{
    let (VersionRange { min, max }, versions) = (T::VERSIONS, schema.versions);
    let is_log_dirs = std::ptr::eq(schema, &admin_schemas::DESCRIBE_LOG_DIRS_REQUEST)
        || std::ptr::eq(schema, &admin_schemas::DESCRIBE_LOG_DIRS_RESPONSE);
    assert!(
        min <= versions.0 && (max >= versions.1 || is_log_dirs),
        "only log_dirs.rs goes beyond the codec"
    );
    each_version(schema, versions.0..=versions.1.min(max), |version, bytes, _| {
        prop_assert_eq!(schema::check(schema, version, &bytes), Ok(0));
        let mut rest = bytes.clone().freeze();
        let message = T::decode(&mut rest, version)
            .map_err(|error| TestCaseError::fail(format!("{error} in {bytes:?}")))?;
        prop_assert_eq!(rest.remaining(), 0);
        let mut again = BytesMut::new();
        message.encode(&mut again, version).unwrap();
        prop_assert_eq!(schema::check(schema, version, &again), Ok(0));
        prop_assert_eq!(T::decode(&mut again.freeze(), version).unwrap(), message);
        Ok(())
    });
}

/// Every prefix is refused, and whatever the walk lets through after a mutation, the
/// generated decoder takes in whole without a panic.
pub(super) fn survives_mutation<T: Decodable>(schema: &'static Schema) {
    each_version(schema, schema.versions.0..=schema.versions.1, |version, bytes, seed| {
        let mut dice = Dice(seed | 1);
        let cut = usize::try_from(dice.below(bytes.len() as u64 + 1)).unwrap();
        if cut < bytes.len() {
            prop_assert!(schema::check(schema, version, &bytes[..cut]).is_err());
        }
        for _ in 0..20 {
            let mut mutated = bytes.clone();
            for _ in 0..=dice.below(3) {
                let length = mutated.len() as u64;
                if length > 0 {
                    let at = usize::try_from(dice.below(length)).unwrap();
                    mutated[at] = u8::try_from(dice.below(256)).unwrap();
                }
            }
            if let Ok(behind) = schema::check(schema, version, &mutated) {
                let mut rest = mutated.freeze();
                if T::decode(&mut rest, version).is_ok() {
                    prop_assert_eq!(rest.remaining(), behind);
                }
            }
        }
        Ok(())
    });
}

fn both_ways<T>()
where
    T: Request + PartialEq + std::fmt::Debug,
    T::Response: PartialEq + std::fmt::Debug,
{
    let api = Api::from_key(T::KEY).expect("the table has it");
    let (request, response) = api.row().schemas.expect("not one with framing of its own");
    assert_eq!(request.versions, (api.row().min, api.row().max), "{api}");
    assert_eq!(response.versions, request.versions, "{api}");
    assert_eq!(response.flexible_from, request.flexible_from, "{api}");
    for version in api.versions() {
        assert_eq!(api.request_header_version(version), T::header_version(version), "{api}");
        let theirs = <T::Response as kafka_protocol::protocol::HeaderVersion>::header_version;
        assert_eq!(api.response_header_version(version), theirs(version), "{api} {version}");
    }
    agrees_with_the_generated_codec::<T>(request);
    agrees_with_the_generated_codec::<T::Response>(response);
    survives_mutation::<T>(request);
    survives_mutation::<T::Response>(response);
}

macro_rules! schema_tests {
    ($($name:ident: $request:ty),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                both_ways::<$request>();
            }
        )*

        #[test]
        fn every_api_of_the_table_is_tested() {
            let tested = [$(<$request as Request>::KEY),*];
            for api in Api::all() {
                let own_framing = matches!(api, Api::Produce | Api::Fetch);
                assert_eq!(tested.contains(&api.key()), !own_framing, "{api}");
            }
        }
    };
}

schema_tests! {
    list_offsets: ListOffsetsRequest,
    metadata: MetadataRequest,
    find_coordinator: FindCoordinatorRequest,
    api_versions: ApiVersionsRequest,
    create_topics: CreateTopicsRequest,
    delete_topics: DeleteTopicsRequest,
    delete_records: DeleteRecordsRequest,
    init_producer_id: InitProducerIdRequest,
    offset_for_leader_epoch: OffsetForLeaderEpochRequest,
    describe_configs: DescribeConfigsRequest,
    describe_cluster: DescribeClusterRequest,
    describe_topic_partitions: DescribeTopicPartitionsRequest,
    offset_commit: OffsetCommitRequest,
    offset_fetch: OffsetFetchRequest,
    join_group: JoinGroupRequest,
    heartbeat: HeartbeatRequest,
    leave_group: LeaveGroupRequest,
    sync_group: SyncGroupRequest,
    describe_groups: DescribeGroupsRequest,
    list_groups: ListGroupsRequest,
    delete_groups: DeleteGroupsRequest,
    offset_delete: OffsetDeleteRequest,
    consumer_group_heartbeat: ConsumerGroupHeartbeatRequest,
    consumer_group_describe: ConsumerGroupDescribeRequest,
    create_partitions: CreatePartitionsRequest,
    alter_configs: AlterConfigsRequest,
    incremental_alter_configs: IncrementalAlterConfigsRequest,
    list_config_resources: ListConfigResourcesRequest,
    alter_replica_log_dirs: AlterReplicaLogDirsRequest,
    describe_log_dirs: DescribeLogDirsRequest,
    describe_producers: DescribeProducersRequest,
    elect_leaders: ElectLeadersRequest,
    alter_partition_reassignments: AlterPartitionReassignmentsRequest,
    list_partition_reassignments: ListPartitionReassignmentsRequest,
}

#[test]
fn the_table_is_ordered_and_named_like_kafka() {
    assert!(TABLE.windows(2).all(|rows| rows[0].api < rows[1].api));
    for api in Api::all() {
        let theirs = ApiKey::try_from(api.key()).unwrap();
        assert_eq!(format!("{theirs:?}").replace("Key", ""), api.name());
        assert_eq!(Api::from_key(api.key()), Some(api));
        let versions = api.versions();
        for version in versions.clone() {
            assert_eq!(
                api.request_header_version(version),
                theirs.request_header_version(version),
                "{api} {version}"
            );
            assert_eq!(
                api.response_header_version(version),
                theirs.response_header_version(version),
                "{api} {version}"
            );
        }
        assert!(api.is_served(*versions.end()));
    }
    assert_eq!(Api::from_key(24), None);
    assert_eq!(*Api::Produce.versions().start(), 0);
}

#[test]
fn headers_come_back_in_every_version() {
    for api in Api::all() {
        for version in api.versions() {
            let flexible = api.is_flexible(version);
            let mut frame = begin_request(api.key(), version, flexible, 42, "täst", 0);
            frame.put_slice(b"body");
            let mut frame = finish_frame(frame);
            frame.advance(4);
            let header = decode_request_header(&mut frame).unwrap();
            assert_eq!((header.api, header.version, header.correlation_id), (api, version, 42));
            assert_eq!(header.client_id.as_deref(), Some("täst"));
            assert_eq!(&frame[..], b"body");
        }
    }
}

#[test]
fn a_null_client_id_is_allowed() {
    let mut frame = BytesMut::from(&[0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff][..]);
    let header = decode_request_header(&mut frame).unwrap();
    assert_eq!((header.api, header.client_id), (Api::ApiVersions, None));
    assert!(frame.is_empty());
}

#[test]
fn unknown_apis_and_versions_are_told_apart_with_their_correlation_id() {
    let header = |key: i16, version: i16| {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(9);
        decode_request_header(&mut frame).unwrap_err()
    };
    assert_eq!(header(999, 1), HeaderError::UnknownApi { api_key: 999, api_version: 1, correlation_id: 9 });
    assert_eq!(
        header(18, 99),
        HeaderError::UnsupportedVersion { api: Api::ApiVersions, version: 99, correlation_id: 9 }
    );
    assert!(matches!(header(1, 3), HeaderError::UnsupportedVersion { api: Api::Fetch, .. }));
}

#[test]
fn an_unknown_version_of_api_versions_gets_a_version_0_body() {
    let mut frame = unsupported_api_versions_response(7).freeze();
    assert_eq!(usize::try_from(frame.get_i32()).unwrap(), frame.len());
    let (correlation_id, response) = decode_response::<ApiVersionsRequest>(0, frame).unwrap();
    assert_eq!(correlation_id, 7);
    assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
    assert_eq!(response.api_keys.len(), 1);
    assert_eq!((response.api_keys[0].api_key, response.api_keys[0].max_version), (18, 4));
}

#[test]
fn api_versions_answers_the_table_in_every_version() {
    for version in Api::ApiVersions.versions() {
        let response = api_versions_response();
        let mut frame = encode_response(Api::ApiVersions, version, 1, &response).unwrap().freeze();
        frame.advance(4);
        let (_, decoded) = decode_response::<ApiVersionsRequest>(version, frame).unwrap();
        let ranges: Vec<_> =
            decoded.api_keys.iter().map(|key| (key.api_key, key.min_version..=key.max_version)).collect();
        let table: Vec<_> = Api::all().map(|api| (api.key(), api.versions())).collect();
        assert_eq!(ranges, table);
    }
}

#[test]
fn requests_and_responses_travel_as_frames() {
    let request = MetadataRequest::default().with_topics(None);
    let mut frame = encode_request(12, 5, "me", &request).unwrap();
    assert_eq!(usize::try_from(frame.get_i32()).unwrap(), frame.len());
    let header = decode_request_header(&mut frame).unwrap();
    let decoded: MetadataRequest = decode_request(header.version, frame.freeze()).unwrap();
    assert_eq!(decoded, request);
    let response = MetadataResponse::default().with_throttle_time_ms(3);
    let mut frame = encode_response(Api::Metadata, 12, 5, &response).unwrap().freeze();
    frame.advance(4);
    assert_eq!(decode_response::<MetadataRequest>(12, frame).unwrap(), (5, response));
}

#[test]
fn counts_beyond_the_bytes_are_refused_before_decoding() {
    for (version, body) in [(0, &[0x7f, 0xff, 0xff, 0xff][..]), (9, &[0xff, 0xff, 0xff, 0xff, 0x0f])] {
        let error = decode_request::<MetadataRequest>(version, Bytes::from(body)).unwrap_err();
        assert!(
            matches!(
                error,
                DecodeError::Malformed {
                    error: SchemaError { field: "Topics", error: WireError::ArrayTooLong { .. } },
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn elements_have_a_maximum_even_when_the_bytes_are_there() {
    let count = schema::ELEMENTS_MAX + 1;
    let mut body = BytesMut::new();
    body.put_i32(i32::try_from(count).unwrap());
    body.put_bytes(0, 2 * count);
    let error = check_request(Api::Metadata, 0, &body).unwrap_err();
    assert_eq!(error.error, WireError::TooManyElements { limit: schema::ELEMENTS_MAX });
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200), version in -1i16..15,
    ) {
        for api in Api::all() {
            let _ = check_request(api, version, &bytes);
            let _ = check_response(api, version, &bytes);
        }
        let body = Bytes::from(bytes);
        let _ = decode_request::<MetadataRequest>(version, body.clone());
        let _ = decode_request::<CreateTopicsRequest>(version, body.clone());
        let _ = decode_response::<MetadataRequest>(version, body.clone());
        let _ = decode_request_header(&mut BytesMut::from(&body[..]));
    }
}
