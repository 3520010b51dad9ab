//! Frames: four bytes of length, a header, a body.

use std::ops::Deref;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use thiserror::Error;

use super::{Api, SchemaError, check_request, check_response};
use crate::error::ErrorCode;
use crate::wire::{Form, Reader, WireError, Writer};

/// Size of the length that precedes a frame.
const LENGTH_BYTES: usize = 4;

/// The header of a request for an API of the table, in an advertised version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API asked for.
    pub api: Api,
    /// The version of the request and of its answer.
    pub version: i16,
    /// Comes back in the answer.
    pub correlation_id: i32,
    /// What the client calls itself; not to be trusted.
    pub client_id: Option<String>,
}

/// Why a request's header is not one that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Not a request header.
    #[error("malformed request header: {0}")]
    Malformed(#[from] WireError),
    /// An API that is not in the table, so that its answers have no known form.
    #[error("unknown API key {api_key} (version {api_version})")]
    UnknownApi {
        /// What was asked for.
        api_key: i16,
        /// In which version.
        api_version: i16,
        /// Of the request.
        correlation_id: i32,
    },
    /// A version that is not advertised. For [`Api::ApiVersions`] the answer is
    /// [`unsupported_api_versions_response`].
    #[error("{api} version {version} is not supported")]
    UnsupportedVersion {
        /// What was asked for.
        api: Api,
        /// In which version.
        version: i16,
        /// Of the request.
        correlation_id: i32,
    },
}

/// Decodes the header of a request (a frame without its length) and takes it off `frame`,
/// so that the body is left. On an error `frame` is unchanged.
///
/// # Errors
/// See [`HeaderError`].
pub fn decode_request_header<Frame>(frame: &mut Frame) -> Result<RequestHeader, HeaderError>
where
    Frame: Buf + Deref<Target = [u8]>,
{
    let mut reader = Reader::new(frame);
    let api_key = reader.i16()?;
    let version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let api = Api::from_key(api_key).ok_or(HeaderError::UnknownApi {
        api_key,
        api_version: version,
        correlation_id,
    })?;
    if !api.versions().contains(&version) {
        return Err(HeaderError::UnsupportedVersion { api, version, correlation_id });
    }
    // Never compact, so that the header can be read before the version is known.
    let client_id = reader.nullable_str(Form::Short)?.map(str::to_owned);
    if api.is_flexible(version) {
        reader.skip_tagged_fields()?;
    }
    let header_bytes = reader.position();
    frame.advance(header_bytes);
    Ok(RequestHeader { api, version, correlation_id, client_id })
}

/// Why a message could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The type is of an API outside the table, or one with framing of its own.
    #[error("API key {0} is not decoded here")]
    NotHere(i16),
    /// The bytes are not such a message.
    #[error("malformed {api} version {version}: {error}")]
    Malformed {
        /// The API.
        api: Api,
        /// The version.
        version: i16,
        /// What is wrong, and where.
        error: SchemaError,
    },
    /// The bytes match the schema, yet the generated decoder refuses them.
    #[error("{api} version {version}: {reason}")]
    Refused {
        /// The API.
        api: Api,
        /// The version.
        version: i16,
        /// What the decoder says.
        reason: String,
    },
}

/// A message could not be encoded: a field is set that the version does not have, or a
/// length does not fit its form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot encode API key {api_key} version {version}: {reason}")]
pub struct EncodeError {
    /// The API.
    pub api_key: i16,
    /// The version.
    pub version: i16,
    /// What the generated encoder says.
    pub reason: String,
}

/// Decodes the body of a request; its strings share the memory of `body`.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_request<T: Request>(version: i16, body: Bytes) -> Result<T, DecodeError> {
    // Requests that the codec crate does not have in all versions of the table are no different in those.
    decode_checked(T::KEY, version, version.min(T::VERSIONS.max), body, check_request)
}

/// Decodes a response of request type `T` on the client's side, from a frame without its
/// length; gives the correlation id too.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_response<T: Request>(
    version: i16,
    mut frame: Bytes,
) -> Result<(i32, T::Response), DecodeError> {
    let api = Api::from_key(T::KEY).ok_or(DecodeError::NotHere(T::KEY))?;
    let (correlation_id, header_bytes) = read_response_header(api, version, &frame).map_err(|error| {
        DecodeError::Malformed { api, version, error: SchemaError { field: "response header", error } }
    })?;
    frame.advance(header_bytes);
    let response = decode_checked(T::KEY, version, version, frame, check_response)?;
    Ok((correlation_id, response))
}

fn decode_checked<T: Decodable>(
    key: i16,
    version: i16,
    codec_version: i16,
    mut body: Bytes,
    check: fn(Api, i16, &[u8]) -> Result<(), SchemaError>,
) -> Result<T, DecodeError> {
    let api = Api::from_key(key)
        .filter(|api| !matches!(api, Api::Produce | Api::Fetch))
        .ok_or(DecodeError::NotHere(key))?;
    check(api, version, &body).map_err(|error| DecodeError::Malformed { api, version, error })?;
    T::decode(&mut body, codec_version).map_err(|error| DecodeError::Refused {
        api,
        version,
        reason: error.to_string(),
    })
}

/// Correlation id and size of a response's header.
pub(crate) fn read_response_header(api: Api, version: i16, frame: &[u8]) -> Result<(i32, usize), WireError> {
    let mut reader = Reader::new(frame);
    let correlation_id = reader.i32()?;
    if api.response_header_version(version) > 0 {
        reader.skip_tagged_fields()?;
    }
    Ok((correlation_id, reader.position()))
}

/// Encodes a whole response frame, length and header included.
///
/// # Errors
/// When a field is set that the version does not have.
pub fn encode_response<T: Encodable + HeaderVersion>(
    api: Api,
    version: i16,
    correlation_id: i32,
    response: &T,
) -> Result<BytesMut, EncodeError> {
    let failed = encode_failed(api.key(), version);
    let body_bytes = response.compute_size(version).map_err(&failed)?;
    let mut frame = begin_response(api, version, correlation_id, body_bytes);
    response.encode(&mut frame, version).map_err(&failed)?;
    Ok(finish_frame(frame))
}

/// Encodes a whole request frame, length and header included, on the client's side.
///
/// # Errors
/// When a field is set that the version does not have.
pub fn encode_request<T: Request>(
    version: i16,
    correlation_id: i32,
    client_id: &str,
    request: &T,
) -> Result<BytesMut, EncodeError> {
    let failed = encode_failed(T::KEY, version);
    let body_bytes = request.compute_size(version).map_err(&failed)?;
    let flexible = T::header_version(version) >= 2;
    let mut frame = begin_request(T::KEY, version, flexible, correlation_id, client_id, body_bytes);
    request.encode(&mut frame, version).map_err(&failed)?;
    Ok(finish_frame(frame))
}

pub(super) fn encode_failed<E: std::fmt::Display>(api_key: i16, version: i16) -> impl Fn(E) -> EncodeError {
    move |error| EncodeError { api_key, version, reason: error.to_string() }
}

/// The place of the length and the header of a response.
pub(crate) fn begin_response(api: Api, version: i16, correlation_id: i32, body_bytes: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + 4 + 1 + body_bytes);
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    if api.response_header_version(version) > 0 {
        frame.put_uvarint(0);
    }
    frame
}

/// The place of the length and the header of a request.
pub(crate) fn begin_request(
    api_key: i16,
    version: i16,
    flexible: bool,
    correlation_id: i32,
    client_id: &str,
    body_bytes: usize,
) -> BytesMut {
    let header_bytes = LENGTH_BYTES + 2 + 2 + 4 + 2 + client_id.len() + 1;
    let mut frame = BytesMut::with_capacity(header_bytes + body_bytes);
    frame.put_i32(0);
    frame.put_i16(api_key);
    frame.put_i16(version);
    frame.put_i32(correlation_id);
    frame.put_str(Form::Short, client_id);
    if flexible {
        frame.put_uvarint(0);
    }
    frame
}

/// Writes the length of a frame that is complete.
pub(crate) fn finish_frame(mut frame: BytesMut) -> BytesMut {
    let length = frame.len();
    put_frame_length(&mut frame, length);
    frame
}

/// Writes the length of a frame of `frame_bytes` in all, whose head this is.
pub(crate) fn put_frame_length(head: &mut [u8], frame_bytes: usize) {
    let length = i32::try_from(frame_bytes - LENGTH_BYTES).expect("frames we write are below 2 GiB");
    head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// What the node answers to ApiVersions: the table. The caller adds features.
pub fn api_versions_response() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_api_keys(Api::all().map(advertised).collect())
}

/// The answer to a version of ApiVersions that is not in the table: a version 0 body with
/// UNSUPPORTED_VERSION, which names the supported versions of ApiVersions (KIP-511).
pub fn unsupported_api_versions_response(correlation_id: i32) -> BytesMut {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![advertised(Api::ApiVersions)]);
    encode_response(Api::ApiVersions, 0, correlation_id, &response).expect("version 0 has these two fields")
}

fn advertised(api: Api) -> ApiVersion {
    debug_assert!(ApiKey::try_from(api.key()).is_ok());
    ApiVersion::default()
        .with_api_key(api.key())
        .with_min_version(*api.versions().start())
        .with_max_version(*api.versions().end())
}
