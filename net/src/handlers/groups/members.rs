//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: members of classic groups.

use std::sync::Arc;

use bytes::Bytes;
use corelog_engine::group::api::{
    Client as Asker, Heartbeat, JoinGroup, JoinReply, LeaveGroup, LeaveReply, LeavingMember, Protocol, Reply,
    Request, SyncGroup, SyncReply,
};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{ask, ask_patiently, optional, optional_text, owned, text};
use crate::connection::Client;
use crate::service::Service;

/// First version of JoinGroup in which a member without id is given one and joins again with it.
const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// First version of JoinGroup in which a protocol's name may be null.
const NO_PROTOCOL_FROM: i16 = 7;
/// First version of JoinGroup in which the leader may be told to assign nothing.
const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// First version of SyncGroup that says which protocol it is about.
const SYNC_PROTOCOL_FROM: i16 = 5;
/// First version of LeaveGroup for several members.
const LEAVING_MEMBERS_FROM: i16 = 3;

/// Answers JoinGroup, once the group has got that far. `share` of the memory for requests is not
/// kept for so long.
pub(crate) async fn join(
    service: &Service,
    client: &Client,
    asker: Asker,
    version: i16,
    request: JoinGroupRequest,
    share: OwnedSemaphorePermit,
) -> JoinGroupResponse {
    let request = Request::Join(join_request(version, request));
    drop(share);
    let take = |reply| if let Reply::Join(reply) = reply { Some(reply) } else { None };
    let reply = ask_patiently(service, client, asker, request, take).await;
    joined(version, reply.unwrap_or_else(|error| JoinReply::refused(error, Arc::from(""))))
}

fn join_request(version: i16, request: JoinGroupRequest) -> JoinGroup {
    let protocols = request.protocols.iter().map(|protocol| Protocol {
        name: text(&protocol.name),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    JoinGroup {
        group: text(&request.group_id),
        member_id: text(&request.member_id),
        instance_id: optional_text(request.group_instance_id.as_ref()),
        protocol_type: text(&request.protocol_type),
        protocols: protocols.collect(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        member_id_required: version >= MEMBER_ID_REQUIRED_FROM,
        can_skip_assignment: version >= SKIP_ASSIGNMENT_FROM,
    }
}

fn joined(version: i16, reply: JoinReply) -> JoinGroupResponse {
    let protocol = reply.protocol.filter(|protocol| !protocol.is_empty());
    let protocol = match protocol {
        Some(protocol) => Some(owned(&protocol)),
        None if version >= NO_PROTOCOL_FROM => None,
        None => Some(StrBytes::new()),
    };
    let members = reply.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(owned(&member.member_id))
            .with_group_instance_id(optional(member.instance_id.as_ref()))
            .with_metadata(member.metadata)
    });
    JoinGroupResponse::default()
        .with_error_code(reply.error.code())
        .with_generation_id(reply.generation)
        .with_protocol_type(optional(reply.protocol_type.as_ref()))
        .with_protocol_name(protocol)
        .with_leader(owned(&reply.leader))
        .with_skip_assignment(version >= SKIP_ASSIGNMENT_FROM && reply.skip_assignment)
        .with_member_id(owned(&reply.member_id))
        .with_members(members.collect())
}

/// Answers SyncGroup, once the leader has assigned; as [`join`].
pub(crate) async fn sync(
    service: &Service,
    client: &Client,
    asker: Asker,
    version: i16,
    request: SyncGroupRequest,
    share: OwnedSemaphorePermit,
) -> SyncGroupResponse {
    let request = match sync_request(version, request) {
        Ok(request) => Request::Sync(request),
        Err(error) => return synced(SyncReply::refused(error)),
    };
    drop(share);
    let take = |reply| if let Reply::Sync(reply) = reply { Some(reply) } else { None };
    let reply = ask_patiently(service, client, asker, request, take).await;
    synced(reply.unwrap_or_else(SyncReply::refused))
}

fn sync_request(version: i16, request: SyncGroupRequest) -> Result<SyncGroup, ErrorCode> {
    let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
    if version >= SYNC_PROTOCOL_FROM && !names_protocol {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    let assignments = request.assignments.iter();
    let assignments =
        assignments.map(|to| (text(&to.member_id), Bytes::copy_from_slice(&to.assignment))).collect();
    Ok(SyncGroup {
        group: text(&request.group_id),
        generation: request.generation_id,
        member_id: text(&request.member_id),
        instance_id: optional_text(request.group_instance_id.as_ref()),
        protocol_type: optional_text(request.protocol_type.as_ref()),
        protocol: optional_text(request.protocol_name.as_ref()),
        assignments,
    })
}

fn synced(reply: SyncReply) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_error_code(reply.error.code())
        .with_protocol_type(optional(reply.protocol_type.as_ref()))
        .with_protocol_name(optional(reply.protocol.as_ref()))
        .with_assignment(reply.assignment)
}

/// Answers Heartbeat.
pub(crate) async fn heartbeat(
    service: &Service,
    asker: Asker,
    request: &HeartbeatRequest,
) -> HeartbeatResponse {
    let code = match heartbeat_request(request) {
        Err(error) => error,
        Ok(request) => {
            let take = |reply| if let Reply::Heartbeat(error) = reply { Some(error) } else { None };
            told(ask(service, asker, Request::Heartbeat(request), take).await)
        }
    };
    HeartbeatResponse::default().with_error_code(code.code())
}

fn heartbeat_request(request: &HeartbeatRequest) -> Result<Heartbeat, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    Ok(Heartbeat {
        group: text(&request.group_id),
        generation: request.generation_id,
        member_id: text(&request.member_id),
        instance_id: optional_text(request.group_instance_id.as_ref()),
    })
}

/// A member is let live while nobody knows yet whether there is such a member.
fn told(outcome: Result<ErrorCode, ErrorCode>) -> ErrorCode {
    match outcome {
        Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
        Ok(error) | Err(error) => error,
    }
}

/// Answers LeaveGroup.
pub(crate) async fn leave(
    service: &Service,
    asker: Asker,
    version: i16,
    request: &LeaveGroupRequest,
) -> LeaveGroupResponse {
    let request = Request::Leave(leave_request(version, request));
    let take = |reply| if let Reply::Leave(reply) = reply { Some(reply) } else { None };
    let reply = ask(service, asker, request, take).await;
    left(version, reply.unwrap_or_else(|error| LeaveReply { error, members: Vec::new() }))
}

fn leave_request(version: i16, request: &LeaveGroupRequest) -> LeaveGroup {
    let members = match version {
        LEAVING_MEMBERS_FROM.. => {
            let members = request.members.iter().map(|member| LeavingMember {
                member_id: text(&member.member_id),
                instance_id: optional_text(member.group_instance_id.as_ref()),
            });
            members.collect()
        }
        _ => vec![LeavingMember { member_id: text(&request.member_id), instance_id: None }],
    };
    LeaveGroup { group: text(&request.group_id), members }
}

fn left(version: i16, reply: LeaveReply) -> LeaveGroupResponse {
    if version < LEAVING_MEMBERS_FROM {
        // There is one member, and one place for an error.
        let of_member = reply.members.first().map_or(ErrorCode::None, |(_, error)| *error);
        let error = if reply.error == ErrorCode::None { of_member } else { reply.error };
        return LeaveGroupResponse::default().with_error_code(error.code());
    }
    let members = reply.members.iter().map(|(member, error)| {
        MemberResponse::default()
            .with_member_id(owned(&member.member_id))
            .with_group_instance_id(optional(member.instance_id.as_ref()))
            .with_error_code(error.code())
    });
    LeaveGroupResponse::default().with_error_code(reply.error.code()).with_members(members.collect())
}

#[cfg(test)]
mod tests {
    use corelog_engine::group::api::JoinedMember;
    use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;

    use super::super::tests::over_the_wire;
    use super::*;

    #[test]
    fn each_version_of_a_join_means_what_it_can_say() {
        let frame = Bytes::from_static(b"frame");
        let protocol = JoinGroupRequestProtocol::default().with_name(owned("range"));
        let request = JoinGroupRequest::default()
            .with_group_id(owned("g").into())
            .with_session_timeout_ms(7)
            .with_rebalance_timeout_ms(9)
            .with_protocols(vec![protocol.with_metadata(frame.clone())]);
        for version in 0..=9 {
            let join = join_request(version, request.clone());
            assert_eq!(join.rebalance_timeout_ms, if version == 0 { 7 } else { 9 });
            assert_eq!((join.member_id_required, join.can_skip_assignment), (version >= 4, version >= 9));
            assert_eq!(join.protocols[0].metadata, frame);
            assert_ne!(join.protocols[0].metadata.as_ptr(), frame.as_ptr(), "it is a copy");
        }
    }

    #[test]
    fn each_version_of_a_joined_says_what_it_can() {
        let member = JoinedMember {
            member_id: Arc::from("m"),
            instance_id: Some(Arc::from("i")),
            metadata: Bytes::from_static(b"x"),
        };
        let reply = JoinReply {
            error: ErrorCode::None,
            generation: 3,
            protocol_type: Some(Arc::from("consumer")),
            protocol: Some(Arc::from("range")),
            leader: Arc::from("m"),
            skip_assignment: true,
            member_id: Arc::from("m"),
            members: vec![member],
        };
        for version in 0..=9 {
            let response = over_the_wire(version, &joined(version, reply.clone()));
            assert_eq!((response.generation_id, response.leader.as_str()), (3, "m"));
            assert_eq!(response.protocol_type.is_some(), version >= 7);
            assert_eq!(response.members[0].group_instance_id.is_some(), version >= 5);
            assert_eq!(response.skip_assignment, version >= 9);
            assert_eq!(response.protocol_name.unwrap().as_str(), "range");
        }
    }

    #[test]
    fn a_refused_join_names_no_protocol_where_that_is_allowed() {
        for version in 0..=9 {
            let refused = JoinReply::refused(ErrorCode::UnknownMemberId, Arc::from("m"));
            let response = over_the_wire(version, &joined(version, refused));
            assert_eq!((response.error_code, response.generation_id), (25, -1));
            let expected = (version < 7).then_some("");
            assert_eq!(response.protocol_name.as_ref().map(|name| name.as_str()), expected);
        }
    }

    #[test]
    fn a_sync_has_to_name_its_protocol_since_version_5() {
        let assignment = SyncGroupRequestAssignment::default().with_assignment(Bytes::from_static(b"x"));
        let request = SyncGroupRequest::default().with_assignments(vec![assignment]);
        let named = |kind: Option<&str>, name: Option<&str>| {
            let request = request.clone().with_protocol_type(kind.map(owned));
            request.with_protocol_name(name.map(owned))
        };
        for version in 0..=5 {
            let sync = sync_request(version, request.clone());
            assert_eq!(sync.err(), (version >= 5).then_some(ErrorCode::InconsistentGroupProtocol));
        }
        assert!(sync_request(5, named(Some("consumer"), None)).is_err());
        assert!(sync_request(5, named(None, Some("range"))).is_err());
        let sync = sync_request(5, named(Some("consumer"), Some("range"))).unwrap();
        assert_ne!(sync.assignments[0].1.as_ptr(), request.assignments[0].assignment.as_ptr());
        for version in 0..=5 {
            let reply = SyncReply {
                protocol: Some(Arc::from("range")),
                assignment: Bytes::from_static(b"x"),
                ..SyncReply::refused(ErrorCode::None)
            };
            let response = over_the_wire(version, &synced(reply));
            assert_eq!(response.protocol_name.is_some(), version >= 5);
            assert_eq!(&response.assignment[..], b"x");
        }
    }

    #[test]
    fn members_live_while_their_group_is_loaded() {
        assert_eq!(told(Err(ErrorCode::CoordinatorLoadInProgress)), ErrorCode::None);
        assert_eq!(told(Err(ErrorCode::NotCoordinator)), ErrorCode::NotCoordinator);
        assert_eq!(told(Ok(ErrorCode::RebalanceInProgress)), ErrorCode::RebalanceInProgress);
        let nameless = HeartbeatRequest::default();
        assert_eq!(heartbeat_request(&nameless).err(), Some(ErrorCode::InvalidGroupId));
    }

    #[test]
    fn one_member_leaves_before_version_3_and_its_error_is_the_answers() {
        let member = MemberIdentity::default().with_member_id(owned("many"));
        let request = LeaveGroupRequest::default().with_member_id(owned("one")).with_members(vec![member]);
        for version in 0..=5 {
            let leave = leave_request(version, &request);
            assert_eq!(&*leave.members[0].member_id, if version < 3 { "one" } else { "many" });
            let member = LeavingMember { member_id: Arc::from("m"), instance_id: Some(Arc::from("i")) };
            let members = vec![(member, ErrorCode::UnknownMemberId)];
            let reply = LeaveReply { error: ErrorCode::None, members };
            let response = over_the_wire(version, &left(version, reply));
            match version {
                ..3 => assert_eq!((response.error_code, response.members.len()), (25, 0)),
                _ => assert_eq!((response.error_code, response.members[0].error_code), (0, 25)),
            }
            let refused = LeaveReply { error: ErrorCode::NotCoordinator, members: Vec::new() };
            assert_eq!(over_the_wire(version, &left(version, refused)).error_code, 16);
        }
    }
}
