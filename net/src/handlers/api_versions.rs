//! ApiVersions: what this node serves, and who is asking.

use corelog_protocol::api;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::api_versions_response::{FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::connection::Client;

/// First version with features.
const FEATURES_FROM: i16 = 3;
/// First version in which a feature's lowest level may be 0: older clients take that for a mistake.
const LEVEL_ZERO_FROM: i16 = 4;
/// The feature of consumer groups as of KIP-848, at level 1. Java clients use them only if it is
/// finalized; transactions v2 have one of their own, which is not there yet.
const GROUP_VERSION: &str = "group.version";
const GROUP_LEVEL: i16 = 1;

/// Answers with the table of served APIs and the features; `epoch` is of the metadata that say
/// which features are finalized.
pub(crate) fn serve(
    client: &Client,
    version: i16,
    request: &ApiVersionsRequest,
    epoch: u64,
) -> ApiVersionsResponse {
    let (name, software_version) = (&request.client_software_name, &request.client_software_version);
    if version >= 3 {
        if !is_software_name(name) || !is_software_name(software_version) {
            return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
        }
        tracing::debug!(peer = %client.peer, software = %name, version = %software_version, "client introduced itself");
    }
    with_features(version, epoch, api::api_versions_response())
}

fn with_features(version: i16, epoch: u64, response: ApiVersionsResponse) -> ApiVersionsResponse {
    if version < FEATURES_FROM {
        return response;
    }
    let supported = SupportedFeatureKey::default()
        .with_name(StrBytes::from_static_str(GROUP_VERSION))
        .with_min_version(i16::from(version < LEVEL_ZERO_FROM))
        .with_max_version(GROUP_LEVEL);
    let finalized = FinalizedFeatureKey::default()
        .with_name(StrBytes::from_static_str(GROUP_VERSION))
        .with_min_version_level(GROUP_LEVEL)
        .with_max_version_level(GROUP_LEVEL);
    response
        .with_supported_features(vec![supported])
        .with_finalized_features_epoch(i64::try_from(epoch).unwrap_or(i64::MAX))
        .with_finalized_features(vec![finalized])
}

/// KIP-511: letters, digits, dots and hyphens, beginning and ending with a letter or digit.
fn is_software_name(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let inner = |byte: u8| plain(&byte) || byte == b'.' || byte == b'-';
    let bytes = name.as_bytes();
    bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain) && bytes.iter().copied().all(inner)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    #[test]
    fn consumer_groups_are_a_finalized_feature() {
        for version in 0..=4 {
            let mut bytes = BytesMut::new();
            let response = with_features(version, 7, api::api_versions_response());
            response.encode(&mut bytes, version).unwrap();
            let response = ApiVersionsResponse::decode(&mut bytes.freeze(), version).unwrap();
            if version < FEATURES_FROM {
                assert!(response.supported_features.is_empty() && response.finalized_features.is_empty());
                continue;
            }
            let supported = &response.supported_features[0];
            assert_eq!((supported.min_version, supported.max_version), (i16::from(version < 4), 1));
            let finalized = &response.finalized_features[0];
            assert_eq!((finalized.name.as_str(), finalized.max_version_level), ("group.version", 1));
            assert_eq!((finalized.min_version_level, response.finalized_features_epoch), (1, 7));
        }
    }

    #[test]
    fn software_names_are_those_of_kip_511() {
        for good in ["a", "librdkafka", "apache-kafka-java", "2.3.0-RC1", "0"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "with space", "ünicode", "a\nb"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
