use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zé0-9.-]{0,12}".prop_map(Arc::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn partitions() -> impl Strategy<Value = Vec<TopicPartitions>> {
    let topic = (any::<u128>(), prop::collection::vec(any::<i32>(), 0..5))
        .prop_map(|(topic, partitions)| TopicPartitions { topic: Uuid::from_u128(topic), partitions });
    prop::collection::vec(topic, 0..4)
}

fn offset() -> impl Strategy<Value = Record> {
    (
        text(),
        text(),
        any::<i32>(),
        prop::option::of((any::<i64>(), any::<i32>(), text(), any::<i64>(), -1i64..5)),
    )
        .prop_map(|(group, topic, partition, value)| Record::Offset {
            group,
            topic,
            partition,
            value: value.map(|(offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms)| {
                // Only version 1 has a time of expiry, and it has no leader epoch.
                let leader_epoch = if expire_timestamp_ms == -1 { leader_epoch } else { -1 };
                OffsetCommit { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms }
            }),
        })
}

fn group() -> impl Strategy<Value = Record> {
    let member = (text(), prop::option::of(text()), text(), any::<i32>(), bytes(), bytes()).prop_map(
        |(member_id, instance_id, client_id, timeout, subscription, assignment)| GroupMember {
            client_host: client_id.clone(),
            member_id,
            instance_id,
            client_id,
            rebalance_timeout_ms: timeout,
            session_timeout_ms: timeout,
            subscription,
            assignment,
        },
    );
    let value =
        (text(), any::<i32>(), prop::option::of(text()), any::<i64>(), prop::collection::vec(member, 0..4))
            .prop_map(|(protocol_type, generation, protocol, state_timestamp_ms, members)| GroupMetadata {
                protocol_type,
                generation,
                leader: protocol.clone(),
                protocol,
                state_timestamp_ms,
                members,
            });
    (text(), prop::option::of(value)).prop_map(|(group, value)| Record::Group { group, value })
}

fn consumer_member() -> impl Strategy<Value = ConsumerMember> {
    let classic =
        (any::<i32>(), prop::collection::vec((text(), bytes()), 0..3)).prop_map(|(timeout, protocols)| {
            ConsumerClassicMember {
                session_timeout_ms: timeout,
                protocols: protocols
                    .into_iter()
                    .map(|(name, metadata)| ClassicProtocol { name, metadata })
                    .collect(),
            }
        });
    (
        prop::option::of(text()),
        text(),
        prop::collection::vec(text(), 0..4),
        any::<i32>(),
        prop::option::of(classic),
    )
        .prop_map(|(optional, client_id, topics, rebalance_timeout_ms, classic)| ConsumerMember {
            instance_id: optional.clone(),
            rack_id: optional.clone(),
            client_host: client_id.clone(),
            client_id,
            topics,
            regex: optional.clone(),
            rebalance_timeout_ms,
            assignor: optional,
            classic,
        })
}

fn consumer() -> impl Strategy<Value = Record> {
    let epoch = (text(), prop::option::of((any::<i32>(), any::<i64>()))).prop_map(|(group, value)| {
        Record::ConsumerGroup {
            group,
            value: value.map(|(epoch, metadata_hash)| ConsumerGroupEpoch { epoch, metadata_hash }),
        }
    });
    let member = (text(), text(), prop::option::of(consumer_member()))
        .prop_map(|(group, member, value)| Record::ConsumerMember { group, member, value });
    let target = (text(), prop::option::of(any::<i32>())).prop_map(|(group, epoch)| Record::ConsumerTarget {
        group,
        value: epoch.map(|epoch| ConsumerTargetEpoch { epoch }),
    });
    let target_member = (text(), text(), prop::option::of(partitions()))
        .prop_map(|(group, member, value)| Record::ConsumerTargetMember { group, member, value });
    let current = (text(), text(), prop::option::of((any::<i32>(), any::<i8>(), partitions(), partitions())))
        .prop_map(|(group, member, value)| Record::ConsumerCurrent {
            group,
            member,
            value: value.map(|(epoch, state, assigned, revoking)| ConsumerCurrent {
                epoch,
                previous_epoch: epoch,
                state,
                assigned,
                revoking,
            }),
        });
    let regex = (text(), text(), prop::option::of((prop::collection::vec(text(), 0..4), any::<i64>())))
        .prop_map(|(group, regex, value)| Record::ConsumerRegex {
            group,
            regex,
            value: value.map(|(topics, version)| ConsumerRegex { topics, version, timestamp_ms: version }),
        });
    prop_oneof![epoch, member, target, target_member, current, regex]
}

proptest! {
    #[test]
    fn records_come_back(record in prop_oneof![offset(), group(), consumer()]) {
        let (key, value) = (record.key(), record.value());
        prop_assert_eq!(Record::decode(&key, value.as_deref()), Ok(Some(record)));
    }

    #[test]
    fn cut_or_spoilt_records_never_panic(
        record in prop_oneof![offset(), group(), consumer()],
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let key = record.key();
        if let Some(value) = record.value() {
            let mut spoilt = value.to_vec();
            let place = flip.index(spoilt.len());
            spoilt[place] ^= 0x81;
            let _ = Record::decode(&key, Some(&spoilt));
            prop_assert!(Record::decode(&key, Some(&value[..cut.index(value.len())])).is_err());
        }
        prop_assert!(Record::decode(&key[..cut.index(key.len())], None).is_err());
    }

    #[test]
    fn arbitrary_embedded_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode_subscription(&bytes);
        let _ = decode_assignment(&bytes);
    }

    #[test]
    fn assignments_come_back(
        version in 0i16..5,
        assigned in prop::collection::vec((text(), prop::collection::vec(any::<i32>(), 0..4)), 0..4),
    ) {
        prop_assert_eq!(decode_assignment(&encode_assignment(version, &assigned)), Ok(assigned));
    }
}

#[test]
fn a_key_of_another_kind_is_skipped() {
    for kind in [4i16, 9, 15, 17, 1000, -1] {
        let mut key = BytesMut::new();
        key.put_i16(kind);
        assert_eq!(Record::decode(&key, None), Ok(None));
    }
}

#[test]
fn an_offset_follows_the_schema() {
    // By the schemas, for group `g`, topic `t`, partition 2, offset 5, epoch 1, metadata `m`.
    let record = Record::Offset {
        group: Arc::from("g"),
        topic: Arc::from("t"),
        partition: 2,
        value: Some(OffsetCommit {
            offset: 5,
            leader_epoch: 1,
            metadata: Arc::from("m"),
            commit_timestamp_ms: 7,
            expire_timestamp_ms: -1,
        }),
    };
    assert_eq!(&record.key()[..], b"\0\x01\0\x01g\0\x01t\0\0\0\x02");
    let value = record.value().unwrap();
    assert_eq!(&value[..], b"\0\x03\0\0\0\0\0\0\0\x05\0\0\0\x01\0\x01m\0\0\0\0\0\0\0\x07");
}
