//! DescribeLogDirs in version 5, which the codec crate does not have: KIP-1066, Kafka 4.3.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::DescribeLogDirsResponse;
use kafka_protocol::protocol::{Encodable, Message};

use super::Api;
use super::frame::{EncodeError, begin_response, encode_failed, encode_response, finish_frame};
use crate::wire::{Form, Writer};

/// The newest version that is served. Its request is that of version 4.
pub(super) const VERSION_MAX: i16 = 5;
/// The newest version of the codec crate.
const CODEC_MAX: i16 = DescribeLogDirsResponse::VERSIONS.max;
const _: () = assert!(CODEC_MAX + 1 == VERSION_MAX, "with a newer codec crate this module can go");

/// As [`encode_response`], also in version 5, which says of each directory whether it is cordoned: of none
/// of ours, since there is only one to put partitions into.
///
/// # Errors
/// When a field is set that the version does not have.
pub fn encode_describe_log_dirs_response(
    version: i16,
    correlation_id: i32,
    response: &DescribeLogDirsResponse,
) -> Result<BytesMut, EncodeError> {
    const API: Api = Api::DescribeLogDirs;
    if version <= CODEC_MAX {
        return encode_response(API, version, correlation_id, response);
    }
    let failed = encode_failed(API.key(), version);
    let body_bytes = response.compute_size(CODEC_MAX).map_err(&failed)? + response.results.len();
    let mut frame = begin_response(API, version, correlation_id, body_bytes);
    frame.put_i32(response.throttle_time_ms);
    frame.put_i16(response.error_code);
    frame.put_length(Form::array(true), response.results.len());
    for result in &response.results {
        assert!(result.unknown_tagged_fields.is_empty(), "a directory is described by fields of ours");
        result.encode(&mut frame, CODEC_MAX).map_err(&failed)?;
        // `false` goes before the count of tagged fields, which version 4 ends with: one zero byte, too.
        frame.put_u8(0);
    }
    frame.put_uvarint(0);
    Ok(finish_frame(frame))
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes};
    use kafka_protocol::messages::DescribeLogDirsRequest;
    use kafka_protocol::messages::describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::api::{check_response, decode_request, decode_response};

    fn response() -> DescribeLogDirsResponse {
        let partition = DescribeLogDirsPartition::default().with_partition_index(3).with_partition_size(77);
        let topic = DescribeLogDirsTopic::default()
            .with_name(StrBytes::from_static_str("t").into())
            .with_partitions(vec![partition]);
        let dir = |path| DescribeLogDirsResult::default().with_log_dir(StrBytes::from_static_str(path));
        let full = dir("/a").with_topics(vec![topic]).with_total_bytes(9).with_usable_bytes(8);
        let broken = dir("/b").with_error_code(56);
        DescribeLogDirsResponse::default().with_throttle_time_ms(1).with_results(vec![full, broken])
    }

    #[test]
    fn version_5_is_version_4_with_a_flag_for_each_directory() {
        let frame = |version| encode_describe_log_dirs_response(version, 9, &response()).unwrap().freeze();
        let (mut fourth, mut fifth) = (frame(4), frame(5));
        assert_eq!(usize::try_from(fifth.get_i32()).unwrap(), fifth.len());
        fourth.advance(4);
        let (correlation_id, decoded) = decode_response::<DescribeLogDirsRequest>(4, fourth.clone()).unwrap();
        assert_eq!((correlation_id, decoded), (9, response()));
        // Behind the correlation id and the header's tagged fields.
        assert_eq!(check_response(Api::DescribeLogDirs, 5, &fifth[5..]), Ok(()));
        // An old reader would find a byte too many for each directory, and nothing else changed.
        assert_eq!(fifth.len(), fourth.len() + 2);
        let flag = fifth.iter().zip(&fourth).position(|(new, old)| new != old).unwrap();
        let usable = fourth.windows(8).position(|bytes| bytes == 8_i64.to_be_bytes()).unwrap() + 8;
        // The flag and the count of tagged fields are equal: the next directory's error differs first.
        assert_eq!((flag, &fifth[usable..usable + 2]), (usable + 2, &[0, 0][..]));
    }

    #[test]
    fn a_request_of_version_5_is_one_of_version_4() {
        let mut body = BytesMut::new();
        DescribeLogDirsRequest::default().with_topics(None).encode(&mut body, CODEC_MAX).unwrap();
        let decoded: DescribeLogDirsRequest = decode_request(VERSION_MAX, body.freeze()).unwrap();
        assert_eq!(decoded.topics, None);
        assert!(decode_request::<DescribeLogDirsRequest>(VERSION_MAX, Bytes::new()).is_err());
    }
}
