//! ConsumerGroupHeartbeat, ConsumerGroupDescribe: consumer groups (KIP-848).

use std::sync::Arc;

use corelog_engine::group::api::{
    Client as Asker, ConsumerHeartbeat, ConsumerHeartbeatReply, DescribedConsumer, DescribedConsumerGroup,
    NamedPartitions, Refused, Reply, Request,
};
use corelog_engine::types::TopicId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member, TopicPartitions as DescribedPartitions,
};
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{ask, distinct, each, operations, optional, optional_text, owned, text};
use crate::service::Service;

/// First version of ConsumerGroupHeartbeat in which clients draw their members' ids (KIP-1082).
const MEMBER_ID_FROM: i16 = 1;
/// First version of ConsumerGroupDescribe that tells members' types.
const MEMBER_TYPE_FROM: i16 = 1;
const TYPE_CLASSIC: i8 = 0;
const TYPE_CONSUMER: i8 = 1;

/// Answers ConsumerGroupHeartbeat.
pub(crate) async fn heartbeat(
    service: &Service,
    asker: Asker,
    version: i16,
    request: &ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let request = Request::ConsumerHeartbeat(heartbeat_request(version, request));
    let take = |reply| if let Reply::ConsumerHeartbeat(reply) = reply { Some(reply) } else { None };
    let reply = ask(service, asker, request, take).await;
    beaten(reply.unwrap_or_else(|error| refused(error, None)))
}

fn refused(error: ErrorCode, message: Option<String>) -> ConsumerHeartbeatReply {
    ConsumerHeartbeatReply {
        error,
        message,
        member_id: None,
        member_epoch: 0,
        heartbeat_interval_ms: 0,
        assignment: None,
    }
}

fn heartbeat_request(version: i16, request: &ConsumerGroupHeartbeatRequest) -> ConsumerHeartbeat {
    let owned = request
        .topic_partitions
        .as_ref()
        .map(|owned| owned.iter().map(|topic| (TopicId(topic.topic_id), topic.partitions.clone())).collect());
    let topics = request.subscribed_topic_names.as_ref();
    ConsumerHeartbeat {
        group: text(&request.group_id),
        member_id: text(&request.member_id),
        must_bring_member_id: version >= MEMBER_ID_FROM,
        member_epoch: request.member_epoch,
        instance_id: optional_text(request.instance_id.as_ref()),
        rack_id: optional_text(request.rack_id.as_ref()),
        rebalance_timeout_ms: (request.rebalance_timeout_ms != -1).then_some(request.rebalance_timeout_ms),
        topics: topics.map(|topics| topics.iter().map(|topic| text(topic)).collect()),
        regex: optional_text(request.subscribed_topic_regex.as_ref()),
        assignor: optional_text(request.server_assignor.as_ref()),
        owned,
    }
}

fn beaten(reply: ConsumerHeartbeatReply) -> ConsumerGroupHeartbeatResponse {
    let assignment = reply.assignment.map(|topics| {
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TopicPartitions::default().with_topic_id(topic.0).with_partitions(partitions)
        });
        Assignment::default().with_topic_partitions(topics.collect())
    });
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(reply.error.code())
        .with_error_message(reply.message.map(StrBytes::from_string))
        .with_member_id(optional(reply.member_id.as_ref()))
        .with_member_epoch(reply.member_epoch)
        .with_heartbeat_interval_ms(reply.heartbeat_interval_ms)
        .with_assignment(assignment)
}

/// Answers ConsumerGroupDescribe.
pub(crate) async fn describe(
    service: &Service,
    asker: Asker,
    version: i16,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let wants_operations = request.include_authorized_operations;
    let groups = each(distinct(request.group_ids), |group| {
        let asker = asker.clone();
        async move {
            let described = describe_one(service, asker, &group).await;
            described_group(version, wants_operations, &group, described)
        }
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.await)
}

async fn describe_one(
    service: &Service,
    asker: Asker,
    group: &Arc<str>,
) -> Result<DescribedConsumerGroup, Refused> {
    let wordless = |error| Refused { error, message: String::new() };
    if group.is_empty() {
        return Err(wordless(ErrorCode::InvalidGroupId));
    }
    let request = Request::ConsumerDescribe { group: Arc::clone(group) };
    let take = |reply| if let Reply::ConsumerDescribe(group) = reply { Some(group) } else { None };
    ask(service, asker, request, take).await.map_err(wordless)?
}

fn described_group(
    version: i16,
    wants_operations: bool,
    group: &str,
    described: Result<DescribedConsumerGroup, Refused>,
) -> DescribedGroup {
    let response = DescribedGroup::default().with_group_id(owned(group).into());
    match described {
        Err(Refused { error, message }) => response
            .with_error_code(error.code())
            .with_error_message((!message.is_empty()).then(|| owned(&message)))
            .with_authorized_operations(operations(false, error)),
        Ok(described) => {
            let members = described.members.into_iter().map(|member| described_member(version, member));
            response
                .with_group_state(StrBytes::from_static_str(described.state))
                .with_group_epoch(described.epoch)
                .with_assignment_epoch(described.assignment_epoch)
                .with_assignor_name(owned(&described.assignor))
                .with_members(members.collect())
                .with_authorized_operations(operations(wants_operations, ErrorCode::None))
        }
    }
}

fn described_member(version: i16, member: DescribedConsumer) -> Member {
    let topics = member.topics.iter().map(|topic| owned(topic).into()).collect();
    let response = Member::default()
        .with_member_id(owned(&member.member_id))
        .with_instance_id(optional(member.instance_id.as_ref()))
        .with_rack_id(optional(member.rack_id.as_ref()))
        .with_member_epoch(member.member_epoch)
        .with_client_id(owned(&member.client_id))
        .with_client_host(owned(&member.client_host))
        .with_subscribed_topic_names(topics)
        .with_subscribed_topic_regex(optional(member.regex.as_ref()))
        .with_assignment(described_assignment(member.assignment))
        .with_target_assignment(described_assignment(member.target));
    match (version, member.is_classic) {
        (..MEMBER_TYPE_FROM, _) => response,
        (_, true) => response.with_member_type(TYPE_CLASSIC),
        (_, false) => response.with_member_type(TYPE_CONSUMER),
    }
}

fn described_assignment(topics: Vec<NamedPartitions>) -> DescribedAssignment {
    let topics = topics.into_iter().map(|topic| {
        DescribedPartitions::default()
            .with_topic_id(topic.topic.0)
            .with_topic_name(owned(&topic.name).into())
            .with_partitions(topic.partitions)
    });
    DescribedAssignment::default().with_topic_partitions(topics.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as OwnedPartitions;
    use uuid::Uuid;

    use super::super::tests::over_the_wire;
    use super::*;

    #[test]
    fn what_did_not_change_is_not_said() {
        let same = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(owned("g").into())
            .with_member_id(owned("m"))
            .with_member_epoch(3);
        let beat = heartbeat_request(1, &same);
        assert_eq!((beat.rebalance_timeout_ms, beat.topics, beat.owned), (None, None, None));
        let id = Uuid::from_u128(7);
        let owned_partitions = OwnedPartitions::default().with_topic_id(id).with_partitions(vec![1, 2]);
        let full = same
            .with_rebalance_timeout_ms(5)
            .with_subscribed_topic_names(Some(vec![owned("a").into()]))
            .with_subscribed_topic_regex(Some(owned("")))
            .with_topic_partitions(Some(vec![owned_partitions]));
        let beat = heartbeat_request(1, &full);
        assert_eq!((beat.rebalance_timeout_ms, beat.regex), (Some(5), Some(Arc::from(""))));
        assert_eq!(beat.topics, Some(vec![Arc::from("a")]));
        assert_eq!(beat.owned, Some(vec![(TopicId(id), vec![1, 2])]));
    }

    #[test]
    fn from_version_1_on_a_member_brings_its_id() {
        let request = ConsumerGroupHeartbeatRequest::default();
        assert!(!heartbeat_request(0, &request).must_bring_member_id);
        assert!(heartbeat_request(1, &request).must_bring_member_id);
    }

    #[test]
    fn an_assignment_is_told_when_it_changed() {
        let mut reply = refused(ErrorCode::None, None);
        for version in 0..=1 {
            assert_eq!(over_the_wire(version, &beaten(reply.clone())).assignment, None);
        }
        reply.assignment = Some(vec![(TopicId(Uuid::from_u128(7)), vec![0, 4])]);
        let assignment = over_the_wire(1, &beaten(reply)).assignment.unwrap();
        assert_eq!(assignment.topic_partitions[0].partitions, [0, 4]);
        let refusal = beaten(refused(ErrorCode::FencedMemberEpoch, Some("why".to_owned())));
        let refusal = over_the_wire(0, &refusal);
        assert_eq!((refusal.error_code, refusal.error_message.unwrap().as_str()), (110, "why"));
    }

    #[test]
    fn each_version_describes_what_it_can() {
        let partitions =
            NamedPartitions { topic: TopicId(Uuid::from_u128(7)), name: Arc::from("a"), partitions: vec![1] };
        let member = DescribedConsumer {
            member_id: Arc::from("m"),
            instance_id: None,
            rack_id: None,
            member_epoch: 2,
            client_id: Arc::from("c"),
            client_host: Arc::from("/127.0.0.1"),
            topics: vec![Arc::from("a")],
            regex: None,
            assignment: vec![partitions.clone()],
            target: vec![partitions],
            is_classic: true,
        };
        let group = DescribedConsumerGroup {
            state: "Stable",
            epoch: 2,
            assignment_epoch: 2,
            assignor: Arc::from("uniform"),
            members: vec![member],
        };
        let missing = Refused { error: ErrorCode::GroupIdNotFound, message: "Group x not found.".to_owned() };
        for version in 0..=1 {
            let groups = vec![
                described_group(version, true, "g", Ok(group.clone())),
                described_group(version, true, "x", Err(missing.clone())),
            ];
            let response = ConsumerGroupDescribeResponse::default().with_groups(groups);
            let response = over_the_wire(version, &response);
            let member = &response.groups[0].members[0];
            assert_eq!(member.member_type, if version >= 1 { TYPE_CLASSIC } else { -1 });
            assert_eq!(member.target_assignment.topic_partitions[0].topic_name.as_str(), "a");
            assert!(response.groups[0].authorized_operations > 0);
            let missing = &response.groups[1];
            assert_eq!((missing.error_code, missing.authorized_operations), (69, i32::MIN));
            assert_eq!(missing.error_message.as_ref().unwrap().as_str(), "Group x not found.");
        }
    }
}
