//! Which versions of which APIs a broker serves, and the one that is spoken with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use corelog_protocol::api::{self, Api};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

/// No broker's list of versions is larger.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The correlation id: the header of this answer is version 0 in all of its versions.
const HEADER_BYTES: usize = 4;

/// What one broker serves, by API key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiRanges(BTreeMap<i16, (i16, i16)>);

impl ApiRanges {
    pub(crate) fn new(response: &ApiVersionsResponse) -> Self {
        let ranges = response.api_keys.iter();
        Self(ranges.map(|range| (range.api_key, (range.min_version, range.max_version))).collect())
    }

    /// The lowest and highest version of an API, both inclusive.
    pub fn get(&self, api_key: i16) -> Option<(i16, i16)> {
        self.0.get(&api_key).copied()
    }

    /// The highest version that the broker serves within `[min, max]`.
    pub fn pick(&self, api_key: i16, min: i16, max: i16) -> Option<i16> {
        let (broker_min, broker_max) = self.get(api_key)?;
        let version = broker_max.min(max);
        (version >= broker_min.max(min)).then_some(version)
    }
}

/// The answer to ApiVersions in `version`, from a frame without its length. `None` when the broker
/// does not know that version: it says so in version 0, in which it has to be asked again.
///
/// # Errors
/// What is wrong with it. Every count is checked before there is room for what it counts.
pub(crate) fn read_answer(version: i16, frame: Bytes) -> Result<Option<ApiVersionsResponse>, String> {
    let code = frame.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk).ok_or("too short")?;
    if i16::from_be_bytes(*code) == ErrorCode::UnsupportedVersion.code() && version > 0 {
        return Ok(None);
    }
    if frame.len() > ANSWER_BYTES_MAX {
        return Err("larger than any list of versions".to_owned());
    }
    let decoded = api::decode_response::<ApiVersionsRequest>(version, frame);
    decoded.map(|(_, response)| Some(response)).map_err(|error| error.to_string())
}

/// An API's name, for errors.
pub(crate) fn name(api_key: i16) -> &'static str {
    Api::from_key(api_key).map_or("a request", Api::name)
}

#[cfg(test)]
mod tests {
    use corelog_protocol::api::{api_versions_response, encode_response};
    use proptest::prelude::*;

    use super::*;

    fn answer(version: i16) -> Vec<u8> {
        let frame = encode_response(Api::ApiVersions, version, 7, &api_versions_response()).unwrap();
        frame[4..].to_vec()
    }

    #[test]
    fn an_answer_is_read_and_that_of_an_older_broker_is_told() {
        for version in [0, 3] {
            let response = read_answer(version, answer(version).into()).unwrap().unwrap();
            assert_eq!(ApiRanges::new(&response).get(Api::Metadata.key()), Some((0, 13)));
        }
        let refused = Bytes::from_static(&[0, 0, 0, 7, 0, 35, 0, 0, 0, 0]);
        assert_eq!(read_answer(3, refused), Ok(None));
    }

    #[test]
    fn a_count_that_the_answer_has_no_bytes_for_is_an_error_and_no_memory() {
        // The process was ended by the allocation.
        let version_0 = [0, 0, 0, 7, 0, 0, 0x7f, 0xff, 0xff, 0xff];
        let version_3 = [0, 0, 0, 7, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(read_answer(0, Bytes::copy_from_slice(&version_0)).is_err());
        assert!(read_answer(3, Bytes::copy_from_slice(&version_3)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_versions_or_an_error(
            version in 0..4_i16,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut changed = answer(version);
            for (at, value) in changes {
                let at = at.index(changed.len());
                changed[at] = value;
            }
            for frame in [changed, bytes] {
                if let Ok(Some(response)) = read_answer(version, frame.into()) {
                    let ranges = ApiRanges::new(&response);
                    let picked = ranges.pick(Api::Metadata.key(), 2, 9);
                    prop_assert!(picked.is_none_or(|version| (2..=9).contains(&version)));
                }
            }
        }
    }

    #[test]
    fn the_highest_common_version_is_picked() {
        let ranges = ApiRanges(BTreeMap::from([(3, (2, 9))]));
        assert_eq!(ranges.pick(3, 0, 13), Some(9));
        assert_eq!(ranges.pick(3, 0, 5), Some(5));
        assert_eq!(ranges.pick(3, 0, 1), None);
        assert_eq!(ranges.pick(3, 10, 13), None);
        assert_eq!(ranges.pick(4, 0, 13), None);
    }
}
