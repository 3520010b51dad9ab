//! Well-formed answers to requests that are not served: each API's own response, with an error in
//! each place where that API has one, so that a client never hangs and never loses its connection.
//!
//! Kafka closes the connection instead. A client that looked at ApiVersions never gets here.
//! Pure functions of the request.

use bytes::{BufMut, Bytes, BytesMut};
use corelog_protocol::api;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, StrBytes};

/// Says why, where the response has room for words.
const MESSAGE: &str = "this broker does not serve this API yet";

fn message() -> Option<StrBytes> {
    Some(StrBytes::from_static_str(MESSAGE))
}

/// The version of the response to a request of a version that nobody knows: the nearest one.
pub(crate) fn nearest_version(key: ApiKey, version: i16) -> i16 {
    let known = key.valid_versions();
    version.clamp(known.min, known.max)
}

/// The frame, its length included, that refuses a request whose frame this is.
///
/// # Errors
/// When the response cannot be encoded, which would be a mistake in this module.
pub(crate) fn response(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    frame: Bytes,
) -> Result<Bytes, RefusalError> {
    let answered = nearest_version(key, version);
    let body = body(key, version, frame);
    let response = refuse(key, answered, body);
    let mut encoded = BytesMut::new();
    encoded.put_i32(0);
    encoded.put_i32(correlation_id);
    if key.response_header_version(answered) > 0 {
        // No tagged fields.
        encoded.put_u8(0);
    }
    response.encode(&mut encoded, answered).map_err(|error| RefusalError(error.to_string()))?;
    let length = i32::try_from(encoded.len() - 4).map_err(|error| RefusalError(error.to_string()))?;
    encoded[..4].copy_from_slice(&length.to_be_bytes());
    Ok(encoded.freeze())
}

/// A refusal could not be encoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RefusalError(String);

/// What follows the header, if the header can be read.
fn body(key: ApiKey, version: i16, mut frame: Bytes) -> Option<Bytes> {
    RequestHeader::decode(&mut frame, key.request_header_version(version)).ok()?;
    Some(frame)
}

/// A response that refuses a request with `UNSUPPORTED_VERSION`. A body that cannot be read is
/// answered as if it named nothing.
fn refuse(key: ApiKey, version: i16, body: Option<Bytes>) -> ResponseKind {
    let request = body.and_then(|body| api::decode_refused(key, version, body));
    request.and_then(refuse_items).unwrap_or_else(|| refuse_whole(key))
}

/// The code that says that something is not served.
fn code(key: ApiKey) -> i16 {
    match key {
        // What Kafka says on a listener without SASL.
        ApiKey::SaslHandshake | ApiKey::SaslAuthenticate => ErrorCode::IllegalSaslState.code(),
        _ => ErrorCode::UnsupportedVersion.code(),
    }
}

/// The error in each item of the request, for the APIs whose responses have their errors there.
fn refuse_items(request: RequestKind) -> Option<ResponseKind> {
    let code = ErrorCode::UnsupportedVersion.code();
    Some(match request {
        RequestKind::AddPartitionsToTxn(request) => add_partitions_to_txn(request, code).into(),
        RequestKind::WriteTxnMarkers(request) => write_txn_markers(request, code).into(),
        RequestKind::TxnOffsetCommit(request) => txn_offset_commit(request, code).into(),
        RequestKind::AlterUserScramCredentials(request) => alter_scram(request, code).into(),
        request => return refuse_flat_items(request, code),
    })
}

/// As [`refuse_items`], for the APIs with one flat list of items.
fn refuse_flat_items(request: RequestKind, code: i16) -> Option<ResponseKind> {
    Some(match request {
        RequestKind::ShareGroupDescribe(request) => {
            use share_group_describe_response::DescribedGroup as Item;
            let item = |group| Item::default().with_error_code(code).with_group_id(group);
            let item = |group| item(group).with_error_message(message());
            let groups = request.group_ids.into_iter().map(item).collect();
            ShareGroupDescribeResponse::default().with_groups(groups).into()
        }
        RequestKind::DescribeShareGroupOffsets(request) => {
            use describe_share_group_offsets_response::DescribeShareGroupOffsetsResponseGroup as Item;
            let item = |id| Item::default().with_error_code(code).with_group_id(id);
            let groups = request.groups.into_iter().map(|group| item(group.group_id)).collect();
            DescribeShareGroupOffsetsResponse::default().with_groups(groups).into()
        }
        RequestKind::DescribeTransactions(request) => {
            use describe_transactions_response::TransactionState as Item;
            let item = |id| Item::default().with_error_code(code).with_transactional_id(id);
            let states = request.transactional_ids.into_iter().map(item).collect();
            DescribeTransactionsResponse::default().with_transaction_states(states).into()
        }
        request => return refuse_admin_items(request, code),
    })
}

/// As [`refuse_flat_items`]: access control and quotas.
fn refuse_admin_items(request: RequestKind, code: i16) -> Option<ResponseKind> {
    Some(match request {
        RequestKind::CreateAcls(request) => {
            use create_acls_response::AclCreationResult as Item;
            let item = Item::default().with_error_code(code).with_error_message(message());
            CreateAclsResponse::default().with_results(vec![item; request.creations.len()]).into()
        }
        RequestKind::DeleteAcls(request) => {
            use delete_acls_response::DeleteAclsFilterResult as Item;
            let item = Item::default().with_error_code(code).with_error_message(message());
            let results = vec![item; request.filters.len()];
            DeleteAclsResponse::default().with_filter_results(results).into()
        }
        RequestKind::AlterClientQuotas(request) => {
            use alter_client_quotas_response::{EntityData, EntryData as Item};
            let item = Item::default().with_error_code(code).with_error_message(message());
            let entity = |e: alter_client_quotas_request::EntityData| {
                EntityData::default().with_entity_type(e.entity_type).with_entity_name(e.entity_name)
            };
            let entries = request.entries.into_iter();
            let entries =
                entries.map(|e| item.clone().with_entity(e.entity.into_iter().map(entity).collect()));
            AlterClientQuotasResponse::default().with_entries(entries.collect()).into()
        }
        _ => return None,
    })
}

fn add_partitions_to_txn(request: AddPartitionsToTxnRequest, code: i16) -> AddPartitionsToTxnResponse {
    use add_partitions_to_txn_response::{
        AddPartitionsToTxnPartitionResult as Partition, AddPartitionsToTxnResult as Transaction,
        AddPartitionsToTxnTopicResult as Topic,
    };
    let partition =
        |index: &i32| Partition::default().with_partition_index(*index).with_partition_error_code(code);
    let topic = |topic: add_partitions_to_txn_request::AddPartitionsToTxnTopic| {
        let partitions = topic.partitions.iter().map(partition).collect();
        Topic::default().with_name(topic.name).with_results_by_partition(partitions)
    };
    let transactions = request.transactions.into_iter().map(|transaction| {
        let topics = transaction.topics.into_iter().map(topic).collect();
        Transaction::default().with_transactional_id(transaction.transactional_id).with_topic_results(topics)
    });
    AddPartitionsToTxnResponse::default()
        .with_error_code(code)
        .with_results_by_transaction(transactions.collect())
        .with_results_by_topic_v3_and_below(request.v3_and_below_topics.into_iter().map(topic).collect())
}

fn write_txn_markers(request: WriteTxnMarkersRequest, code: i16) -> WriteTxnMarkersResponse {
    use write_txn_markers_response::{
        WritableTxnMarkerPartitionResult as Partition, WritableTxnMarkerResult as Marker,
        WritableTxnMarkerTopicResult as Topic,
    };
    let partition = |index: &i32| Partition::default().with_partition_index(*index).with_error_code(code);
    let markers = request.markers.into_iter().map(|marker| {
        let topics = marker.topics.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(partition).collect();
            Topic::default().with_name(topic.name).with_partitions(partitions)
        });
        Marker::default().with_producer_id(marker.producer_id).with_topics(topics.collect())
    });
    WriteTxnMarkersResponse::default().with_markers(markers.collect())
}

fn txn_offset_commit(request: TxnOffsetCommitRequest, code: i16) -> TxnOffsetCommitResponse {
    use txn_offset_commit_response::{
        TxnOffsetCommitResponsePartition as Partition, TxnOffsetCommitResponseTopic as Topic,
    };
    let partition = |index| Partition::default().with_partition_index(index).with_error_code(code);
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| partition(p.partition_index)).collect();
        Topic::default().with_name(topic.name).with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

fn alter_scram(request: AlterUserScramCredentialsRequest, code: i16) -> AlterUserScramCredentialsResponse {
    use alter_user_scram_credentials_response::AlterUserScramCredentialsResult as Item;
    let item = Item::default().with_error_code(code).with_error_message(message());
    let deleted = request.deletions.into_iter().map(|deletion| deletion.name);
    let users = deleted.chain(request.upsertions.into_iter().map(|upsertion| upsertion.name));
    let results = users.map(|user| item.clone().with_user(user)).collect();
    AlterUserScramCredentialsResponse::default().with_results(results)
}

macro_rules! responses {
    (
        coded: $($coded:ident($coded_response:ident))*;
        worded: $($worded:ident($worded_response:ident))*;
        empty: $($empty:ident($empty_response:ident))*;
    ) => {
        /// The error at the top of the response, or an empty response where there is no such
        /// place: nobody but another broker gets one of those.
        fn refuse_whole(key: ApiKey) -> ResponseKind {
            let code = code(key);
            match key {
                $(ApiKey::$coded => $coded_response::default().with_error_code(code).into(),)*
                $(ApiKey::$worded => $worded_response::default()
                    .with_error_code(code)
                    .with_error_message(message())
                    .into(),)*
                $(ApiKey::$empty => $empty_response::default().into(),)*
            }
        }
    };
}

responses! {
    coded:
        Fetch(FetchResponse)
        Metadata(MetadataResponse)
        OffsetFetch(OffsetFetchResponse)
        JoinGroup(JoinGroupResponse)
        Heartbeat(HeartbeatResponse)
        LeaveGroup(LeaveGroupResponse)
        SyncGroup(SyncGroupResponse)
        ListGroups(ListGroupsResponse)
        SaslHandshake(SaslHandshakeResponse)
        ApiVersions(ApiVersionsResponse)
        InitProducerId(InitProducerIdResponse)
        AddPartitionsToTxn(AddPartitionsToTxnResponse)
        AddOffsetsToTxn(AddOffsetsToTxnResponse)
        EndTxn(EndTxnResponse)
        DescribeLogDirs(DescribeLogDirsResponse)
        CreateDelegationToken(CreateDelegationTokenResponse)
        RenewDelegationToken(RenewDelegationTokenResponse)
        ExpireDelegationToken(ExpireDelegationTokenResponse)
        DescribeDelegationToken(DescribeDelegationTokenResponse)
        OffsetDelete(OffsetDeleteResponse)
        Vote(VoteResponse)
        BeginQuorumEpoch(BeginQuorumEpochResponse)
        EndQuorumEpoch(EndQuorumEpochResponse)
        AlterPartition(AlterPartitionResponse)
        Envelope(EnvelopeResponse)
        FetchSnapshot(FetchSnapshotResponse)
        BrokerRegistration(BrokerRegistrationResponse)
        BrokerHeartbeat(BrokerHeartbeatResponse)
        ListTransactions(ListTransactionsResponse)
        AllocateProducerIds(AllocateProducerIdsResponse)
        GetTelemetrySubscriptions(GetTelemetrySubscriptionsResponse)
        PushTelemetry(PushTelemetryResponse)
        AssignReplicasToDirs(AssignReplicasToDirsResponse)
        ListConfigResources(ListConfigResourcesResponse)
        UpdateRaftVoter(UpdateRaftVoterResponse);
    worded:
        DescribeAcls(DescribeAclsResponse)
        SaslAuthenticate(SaslAuthenticateResponse)
        AlterPartitionReassignments(AlterPartitionReassignmentsResponse)
        ListPartitionReassignments(ListPartitionReassignmentsResponse)
        DescribeClientQuotas(DescribeClientQuotasResponse)
        DescribeUserScramCredentials(DescribeUserScramCredentialsResponse)
        DescribeQuorum(DescribeQuorumResponse)
        UpdateFeatures(UpdateFeaturesResponse)
        DescribeCluster(DescribeClusterResponse)
        UnregisterBroker(UnregisterBrokerResponse)
        ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse)
        ControllerRegistration(ControllerRegistrationResponse)
        ShareGroupHeartbeat(ShareGroupHeartbeatResponse)
        ShareFetch(ShareFetchResponse)
        ShareAcknowledge(ShareAcknowledgeResponse)
        AddRaftVoter(AddRaftVoterResponse)
        RemoveRaftVoter(RemoveRaftVoterResponse)
        AlterShareGroupOffsets(AlterShareGroupOffsetsResponse)
        DeleteShareGroupOffsets(DeleteShareGroupOffsetsResponse);
    empty:
        FindCoordinator(FindCoordinatorResponse)
        ElectLeaders(ElectLeadersResponse)
        Produce(ProduceResponse)
        ListOffsets(ListOffsetsResponse)
        OffsetCommit(OffsetCommitResponse)
        DescribeGroups(DescribeGroupsResponse)
        CreateTopics(CreateTopicsResponse)
        DeleteTopics(DeleteTopicsResponse)
        DeleteRecords(DeleteRecordsResponse)
        OffsetForLeaderEpoch(OffsetForLeaderEpochResponse)
        WriteTxnMarkers(WriteTxnMarkersResponse)
        TxnOffsetCommit(TxnOffsetCommitResponse)
        CreateAcls(CreateAclsResponse)
        DeleteAcls(DeleteAclsResponse)
        DescribeConfigs(DescribeConfigsResponse)
        AlterConfigs(AlterConfigsResponse)
        AlterReplicaLogDirs(AlterReplicaLogDirsResponse)
        CreatePartitions(CreatePartitionsResponse)
        DeleteGroups(DeleteGroupsResponse)
        IncrementalAlterConfigs(IncrementalAlterConfigsResponse)
        AlterClientQuotas(AlterClientQuotasResponse)
        AlterUserScramCredentials(AlterUserScramCredentialsResponse)
        DescribeProducers(DescribeProducersResponse)
        DescribeTransactions(DescribeTransactionsResponse)
        ConsumerGroupDescribe(ConsumerGroupDescribeResponse)
        DescribeTopicPartitions(DescribeTopicPartitionsResponse)
        ShareGroupDescribe(ShareGroupDescribeResponse)
        InitializeShareGroupState(InitializeShareGroupStateResponse)
        ReadShareGroupState(ReadShareGroupStateResponse)
        WriteShareGroupState(WriteShareGroupStateResponse)
        DeleteShareGroupState(DeleteShareGroupStateResponse)
        ReadShareGroupStateSummary(ReadShareGroupStateSummaryResponse)
        DescribeShareGroupOffsets(DescribeShareGroupOffsetsResponse);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_of_the_codec_is_refused_in_every_version() {
        for key in ApiKey::iter() {
            let known = key.valid_versions();
            for version in 0..=known.max + 1 {
                let response = refuse(key, nearest_version(key, version), None);
                let mut encoded = BytesMut::new();
                response.encode(&mut encoded, nearest_version(key, version)).unwrap_or_else(|error| {
                    panic!("{key:?} version {version}: {error:#}");
                });
            }
        }
    }

    #[test]
    fn errors_are_in_each_item_in_every_version() {
        use txn_offset_commit_request::{
            TxnOffsetCommitRequestPartition as Partition, TxnOffsetCommitRequestTopic as Topic,
        };
        let request = TxnOffsetCommitRequest::default().with_topics(vec![
            Topic::default()
                .with_name(StrBytes::from_static_str("topic").into())
                .with_partitions(vec![Partition::default().with_partition_index(3)]),
        ]);
        for version in 0..=5 {
            let mut encoded = BytesMut::new();
            RequestKind::TxnOffsetCommit(request.clone()).encode(&mut encoded, version).unwrap();
            let ResponseKind::TxnOffsetCommit(response) =
                refuse(ApiKey::TxnOffsetCommit, version, Some(encoded.freeze()))
            else {
                panic!("another response");
            };
            let partition = &response.topics[0].partitions[0];
            assert_eq!(response.topics[0].name.as_str(), "topic");
            assert_eq!((partition.partition_index, partition.error_code), (3, 35));
        }
    }

    proptest::proptest! {
        /// Whatever a client sends under an API that is not served, it gets a frame for it.
        #[test]
        fn any_request_gets_a_whole_frame(
            version in -1i16..30,
            correlation_id: i32,
            has_header: bool,
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..150),
        ) {
            for key in ApiKey::iter() {
                let mut frame = BytesMut::new();
                if has_header {
                    frame.put_i16(key as i16);
                    frame.put_i16(version);
                    frame.put_i32(correlation_id);
                    frame.put_i16(-1);
                    if key.request_header_version(version) == 2 {
                        frame.put_u8(0);
                    }
                }
                frame.put_slice(&bytes);
                let response = response(key, version, correlation_id, frame.freeze());
                let response = response.unwrap_or_else(|error| panic!("{key:?} {version}: {error}"));
                proptest::prop_assert_eq!(&response[..4], &u32::try_from(response.len() - 4).unwrap().to_be_bytes());
                proptest::prop_assert_eq!(&response[4..8], &correlation_id.to_be_bytes());
            }
        }
    }
}
