//! DescribeGroups, ListGroups, DeleteGroups.

use std::sync::Arc;

use corelog_engine::group::api::{
    Client as Asker, DescribedGroup, DescribedMember, ListGroups, ListedGroup, Reply, Request,
};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{
    DescribedGroup as DescribedGroupResponse, DescribedGroupMember,
};
use kafka_protocol::messages::list_groups_response::ListedGroup as ListedGroupResponse;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    ListGroupsRequest, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{ask, distinct, each, operations, optional, owned};
use crate::service::Service;

/// First version of DescribeGroups in which a group that is not there is an error, with words.
const NOT_FOUND_FROM: i16 = 6;
/// First version of DescribeGroups that tells which operations are allowed.
const OPERATIONS_FROM: i16 = 3;

/// Answers DescribeGroups.
pub(crate) async fn describe(
    service: &Service,
    asker: Asker,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let wants_operations = request.include_authorized_operations;
    let groups = each(distinct(request.groups), |group| {
        let asker = asker.clone();
        async move {
            let not_found_is_error = version >= NOT_FOUND_FROM;
            let request = Request::Describe { group: Arc::clone(&group), not_found_is_error };
            let take = |reply| if let Reply::Describe(group) = reply { Some(group) } else { None };
            let described = ask(service, asker, request, take).await;
            described_group(version, wants_operations, &group, described)
        }
    });
    DescribeGroupsResponse::default().with_groups(groups.await)
}

fn described_group(
    version: i16,
    wants_operations: bool,
    group: &str,
    described: Result<DescribedGroup, ErrorCode>,
) -> DescribedGroupResponse {
    let response = DescribedGroupResponse::default().with_group_id(owned(group).into());
    let described = match described {
        Ok(described) => described,
        Err(error) => return response.with_error_code(error.code()),
    };
    let message = described.message.filter(|_| version >= NOT_FOUND_FROM);
    let wants_operations = wants_operations && version >= OPERATIONS_FROM;
    response
        .with_error_code(described.error.code())
        .with_error_message(message.map(StrBytes::from_string))
        .with_group_state(StrBytes::from_static_str(described.state))
        .with_protocol_type(owned(&described.protocol_type))
        .with_protocol_data(owned(&described.protocol))
        .with_members(described.members.into_iter().map(described_member).collect())
        .with_authorized_operations(operations(wants_operations, described.error))
}

fn described_member(member: DescribedMember) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(owned(&member.member_id))
        .with_group_instance_id(optional(member.instance_id.as_ref()))
        .with_client_id(owned(&member.client_id))
        .with_client_host(owned(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}

/// Answers ListGroups.
pub(crate) async fn list(service: &Service, request: &ListGroupsRequest) -> ListGroupsResponse {
    let filter = |wanted: &[StrBytes]| wanted.iter().map(|wanted| wanted.as_str().to_owned()).collect();
    let filter = ListGroups { states: filter(&request.states_filter), types: filter(&request.types_filter) };
    listed(service.engine.list_groups(&filter).await)
}

fn listed(groups: Result<Vec<ListedGroup>, ErrorCode>) -> ListGroupsResponse {
    let groups = match groups {
        Ok(groups) => groups,
        Err(error) => return ListGroupsResponse::default().with_error_code(error.code()),
    };
    let groups = groups.into_iter().map(|listed| {
        ListedGroupResponse::default()
            .with_group_id(owned(&listed.group).into())
            .with_protocol_type(owned(&listed.protocol_type))
            .with_group_state(StrBytes::from_static_str(listed.state))
            .with_group_type(StrBytes::from_static_str(listed.group_type))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

/// Answers DeleteGroups.
pub(crate) async fn delete(
    service: &Service,
    asker: Asker,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let results = each(distinct(request.groups_names), |group| {
        let asker = asker.clone();
        async move {
            let request = Request::Delete { group: Arc::clone(&group) };
            let take = |reply| if let Reply::Delete(error) = reply { Some(error) } else { None };
            let (Ok(error) | Err(error)) = ask(service, asker, request, take).await;
            DeletableGroupResult::default().with_group_id(owned(&group).into()).with_error_code(error.code())
        }
    });
    DeleteGroupsResponse::default().with_results(results.await)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::tests::over_the_wire;
    use super::*;

    fn group(error: ErrorCode) -> DescribedGroup {
        let member = DescribedMember {
            member_id: Arc::from("m"),
            instance_id: Some(Arc::from("i")),
            client_id: Arc::from("c"),
            client_host: Arc::from("/127.0.0.1"),
            metadata: Bytes::from_static(b"x"),
            assignment: Bytes::from_static(b"y"),
        };
        DescribedGroup {
            error,
            message: Some("Group g not found.".to_owned()),
            group: Arc::from("g"),
            state: "Stable",
            protocol_type: Arc::from("consumer"),
            protocol: Arc::from("range"),
            members: vec![member],
        }
    }

    fn described(version: i16, group: Result<DescribedGroup, ErrorCode>) -> DescribedGroupResponse {
        let groups = vec![described_group(version, true, "g", group)];
        let response = DescribeGroupsResponse::default().with_groups(groups);
        over_the_wire(version, &response).groups.remove(0)
    }

    #[test]
    fn each_version_describes_what_it_can() {
        for version in 0..=6 {
            let response = described(version, Ok(group(ErrorCode::None)));
            assert_eq!((response.group_state.as_str(), response.protocol_data.as_str()), ("Stable", "range"));
            assert_eq!(response.error_message.is_some(), version >= 6);
            assert_eq!(response.members[0].group_instance_id.is_some(), version >= 4);
            assert_eq!(response.authorized_operations > 0, version >= 3);
            let refused = described(version, Err(ErrorCode::NotCoordinator));
            assert_eq!((refused.error_code, refused.group_state.as_str()), (16, ""));
        }
        let missing = described(6, Ok(group(ErrorCode::GroupIdNotFound)));
        assert_eq!(missing.error_message.unwrap().as_str(), "Group g not found.");
        assert_eq!((missing.error_code, missing.authorized_operations), (69, i32::MIN));
    }

    #[test]
    fn each_version_lists_what_it_can() {
        let group = ListedGroup {
            group: Arc::from("g"),
            protocol_type: Arc::from("consumer"),
            state: "Empty",
            group_type: "classic",
        };
        for version in 0..=5 {
            let response = over_the_wire(version, &listed(Ok(vec![group.clone()])));
            let listed_group = &response.groups[0];
            assert_eq!(listed_group.group_state.as_str(), if version >= 4 { "Empty" } else { "" });
            assert_eq!(listed_group.group_type.as_str(), if version >= 5 { "classic" } else { "" });
            let loading = over_the_wire(version, &listed(Err(ErrorCode::CoordinatorLoadInProgress)));
            assert_eq!((loading.error_code, loading.groups.len()), (14, 0));
        }
    }
}
