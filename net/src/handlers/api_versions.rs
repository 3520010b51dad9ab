//! ApiVersions: what this node serves, and who is asking.

use corelog_protocol::api;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::connection::Client;

/// Answers with the table of served APIs; no feature is finalized yet, so that Java clients use
/// neither the new group protocol nor transactions v2.
pub(crate) fn serve(client: &Client, version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let (name, software_version) = (&request.client_software_name, &request.client_software_version);
    if version >= 3 {
        if !is_software_name(name) || !is_software_name(software_version) {
            return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
        }
        tracing::debug!(peer = %client.peer, software = %name, version = %software_version, "client introduced itself");
    }
    api::api_versions_response()
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
    use super::is_software_name;

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
