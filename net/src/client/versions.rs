//! Which versions of which APIs a broker serves, and the one that is spoken with it.

use std::collections::BTreeMap;

use corelog_protocol::api::Api;
use kafka_protocol::messages::ApiVersionsResponse;

/// No broker's list of versions is larger: it bounds what decoding allocates.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024;

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

/// An API's name, for errors.
pub(crate) fn name(api_key: i16) -> &'static str {
    Api::from_key(api_key).map_or("a request", Api::name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
