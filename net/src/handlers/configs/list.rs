//! ListConfigResources: what configs can be described of.

use corelog_engine::meta::image::MetaImage;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::handlers::owned;
use crate::service::Service;

/// First version with more than subscriptions of client metrics.
const TYPES_FROM: i16 = 1;

/// Answers ListConfigResources.
pub(crate) fn serve(
    service: &Service,
    version: i16,
    request: &ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    list(&service.engine.image(), version, request)
}

/// Client metrics and groups have no configs of their own here, so that none is listed.
fn list(
    image: &MetaImage,
    version: i16,
    request: &ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let known: &[i8] = match version {
        TYPES_FROM.. => &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP],
        _ => &[CLIENT_METRICS],
    };
    let asked = &request.resource_types;
    if asked.iter().any(|kind| !known.contains(kind)) {
        return ListConfigResourcesResponse::default().with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let is_asked = |kind: &i8| known.contains(kind) && (asked.is_empty() || asked.contains(kind));
    let mut resources = Vec::new();
    let mut add = |kind: i8, name: &str| {
        let resource = ConfigResource::default().with_resource_name(owned(name));
        resources.push(resource.with_resource_type(kind));
    };
    for kind in [BROKER_LOGGER, BROKER].iter().filter(|kind| is_asked(kind)) {
        image.nodes.keys().for_each(|id| add(*kind, &id.0.to_string()));
    }
    if is_asked(&TOPIC) {
        image.names.keys().for_each(|name| add(TOPIC, name));
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::handlers::metadata::tests::image;

    fn ask(version: i16, kinds: &[i8]) -> Result<Vec<(i8, String)>, i16> {
        let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response = list(&image(), version, &request);
        response.encode(&mut BytesMut::new(), version).unwrap();
        let resource = |it: &ConfigResource| (it.resource_type, it.resource_name.to_string());
        match response.error_code {
            0 => Ok(response.config_resources.iter().map(resource).collect()),
            code => Err(code),
        }
    }

    #[test]
    fn topics_and_nodes_have_configs() {
        let topics = [(2, "a".to_owned()), (2, "b".to_owned()), (2, "c".to_owned())];
        assert_eq!(ask(1, &[2]).unwrap(), topics);
        assert_eq!(ask(1, &[4, 16]).unwrap(), [(4, "1".to_owned())]);
        assert_eq!(ask(1, &[]).unwrap().len(), 5);
    }

    #[test]
    fn types_that_the_version_does_not_have_are_refused_as_kafka_does() {
        assert_eq!(ask(1, &[2, 7]), Err(35));
        assert_eq!(ask(0, &[]), Ok(vec![]));
    }
}
