//! Compression of record batches: gzip, snappy, lz4 and zstd in the framings that Kafka's
//! clients write.
//!
//! Owns the bound on decompression: output never exceeds the caller's limit, and memory
//! stays within a small multiple of it, whatever the input claims. Knows nothing of records.

use std::io::{Read, Write};

use thiserror::Error;
use zstd::zstd_safe::{self, zstd_sys::ZSTD_ErrorCode};

/// A [`Scratch`] larger than this is given back at the next compressed batch.
const SCRATCH_RETAINED_BYTES: usize = 4 * 1024 * 1024;

/// First guess for the output of a zstd frame that does not state its size.
const ZSTD_FIRST_GUESS_BYTES: usize = 64 * 1024;

/// No snappy element makes more than 64 bytes out of its two or three.
const SNAPPY_EXPANSION_MAX: usize = 64;

/// Magic of the framing of `snappy-java`, followed by two version numbers of four bytes.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_VERSION: i32 = 1;
/// Block size that `snappy-java` writes.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

/// A compression codec; the numbers are those of a batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not compressed.
    None = 0,
    /// RFC 1952, possibly several members.
    Gzip = 1,
    /// Raw snappy (librdkafka) or the framing of `snappy-java` (Kafka's own client).
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// Zstandard frames (Produce version 7 and later).
    Zstd = 4,
}

impl Codec {
    /// Every codec, in the order of its number.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec with this number in a batch's attributes; 5 to 7 mean nothing yet.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// The number in a batch's attributes.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// The name in Kafka's configuration (`compression.type`).
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec of this name in Kafka's configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The output would be larger than the caller allows.
    #[error("decompressed data is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit that was passed in.
        limit_bytes: usize,
    },
    /// Not a valid stream of that codec.
    #[error("malformed {codec} data")]
    Malformed {
        /// The codec that refused the bytes.
        codec: Codec,
    },
    /// The codec library could not be set up or refused its parameters.
    #[error("{codec} compression failed")]
    Failed {
        /// The codec that failed.
        codec: Codec,
    },
}

/// Reused memory for decompression, owned by one shard; not shared.
///
/// An uncompressed batch never touches it. It grows to the largest batch seen and
/// shrinks again after an unusually large one.
#[derive(Default)]
pub struct Scratch {
    output: Vec<u8>,
    zstd: Option<zstd_safe::DCtx<'static>>,
    snappy: snap::raw::Decoder,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("capacity_bytes", &self.output.capacity()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// An empty scratch; allocates nothing until the first compressed batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decompresses `input` and returns the result, which lives until the next call.
    /// `Codec::None` returns the input itself.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] when the output would exceed `limit_bytes`, and
    /// [`CodecError::Malformed`] for anything that is not a stream of that codec.
    pub fn decompress<'a>(
        &'a mut self,
        codec: Codec,
        input: &'a [u8],
        limit_bytes: usize,
    ) -> Result<&'a [u8], CodecError> {
        self.output.clear();
        if self.output.capacity() > SCRATCH_RETAINED_BYTES {
            self.output = Vec::new();
        }
        match codec {
            Codec::None => {
                if input.len() > limit_bytes {
                    return Err(CodecError::TooLarge { limit_bytes });
                }
                return Ok(input);
            }
            Codec::Gzip => {
                let reader = flate2::bufread::MultiGzDecoder::new(input);
                read_bounded(codec, reader, &mut self.output, limit_bytes)?;
            }
            Codec::Lz4 => {
                let reader = lz4_flex::frame::FrameDecoder::new(input);
                read_bounded(codec, reader, &mut self.output, limit_bytes)?;
            }
            Codec::Snappy => self.decompress_snappy(input, limit_bytes)?,
            Codec::Zstd => self.decompress_zstd(input, limit_bytes)?,
        }
        Ok(&self.output)
    }

    fn decompress_snappy(&mut self, input: &[u8], limit_bytes: usize) -> Result<(), CodecError> {
        const MALFORMED: CodecError = CodecError::Malformed { codec: Codec::Snappy };
        if !input.starts_with(&XERIAL_MAGIC) {
            return self.append_snappy_block(input, limit_bytes);
        }
        let mut blocks = input.get(XERIAL_HEADER_BYTES..).ok_or(MALFORMED)?;
        while !blocks.is_empty() {
            let (length, rest) = blocks.split_first_chunk::<4>().ok_or(MALFORMED)?;
            let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| MALFORMED)?;
            let (block, rest) = rest.split_at_checked(length).ok_or(MALFORMED)?;
            self.append_snappy_block(block, limit_bytes)?;
            blocks = rest;
        }
        Ok(())
    }

    fn append_snappy_block(&mut self, block: &[u8], limit_bytes: usize) -> Result<(), CodecError> {
        const MALFORMED: CodecError = CodecError::Malformed { codec: Codec::Snappy };
        let length = snap::raw::decompress_len(block).map_err(|_| MALFORMED)?;
        let start = self.output.len();
        if length > limit_bytes - start {
            return Err(CodecError::TooLarge { limit_bytes });
        }
        // The length is a claim: it is bounded by what so many bytes can expand to.
        if length > block.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
            return Err(MALFORMED);
        }
        self.output.resize(start + length, 0);
        let written = self.snappy.decompress(block, &mut self.output[start..]).map_err(|_| MALFORMED)?;
        if written == length { Ok(()) } else { Err(MALFORMED) }
    }

    /// In one piece, so that the output is its own window: a frame may ask a streaming
    /// decoder for a window of 128 MiB, but never this for more than the limit.
    fn decompress_zstd(&mut self, input: &[u8], limit_bytes: usize) -> Result<(), CodecError> {
        const MALFORMED: CodecError = CodecError::Malformed { codec: Codec::Zstd };
        let context = match &mut self.zstd {
            Some(context) => context,
            none => {
                none.insert(zstd_safe::DCtx::try_create().ok_or(CodecError::Failed { codec: Codec::Zstd })?)
            }
        };
        let guess = ZSTD_FIRST_GUESS_BYTES.max(input.len().saturating_mul(4));
        let mut capacity = guess.max(self.output.capacity()).min(limit_bytes);
        loop {
            self.output.clear();
            self.output.reserve_exact(capacity);
            match context.decompress(&mut self.output, input) {
                Ok(_) if self.output.len() > limit_bytes => {
                    return Err(CodecError::TooLarge { limit_bytes });
                }
                Ok(_) => return Ok(()),
                Err(code) if !is_zstd_output_too_small(code) => return Err(MALFORMED),
                Err(_) if self.output.capacity() >= limit_bytes => {
                    return Err(CodecError::TooLarge { limit_bytes });
                }
                Err(_) => capacity = capacity.saturating_mul(4).min(limit_bytes),
            }
        }
    }
}

/// zstd returns errors as negated numbers of its enumeration.
fn is_zstd_output_too_small(code: zstd_safe::ErrorCode) -> bool {
    code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize
}

fn read_bounded(
    codec: Codec,
    reader: impl Read,
    output: &mut Vec<u8>,
    limit_bytes: usize,
) -> Result<(), CodecError> {
    let one_more = u64::try_from(limit_bytes).map_or(u64::MAX, |limit| limit.saturating_add(1));
    reader.take(one_more).read_to_end(output).map_err(|_| CodecError::Malformed { codec })?;
    if output.len() > limit_bytes {
        return Err(CodecError::TooLarge { limit_bytes });
    }
    Ok(())
}

/// Decompresses into memory of its own, for callers without a [`Scratch`].
///
/// # Errors
/// As [`Scratch::decompress`].
pub fn decompress(codec: Codec, input: &[u8], limit_bytes: usize) -> Result<Vec<u8>, CodecError> {
    let mut scratch = Scratch::new();
    if codec == Codec::None {
        return scratch.decompress(codec, input, limit_bytes).map(<[u8]>::to_vec);
    }
    scratch.decompress(codec, input, limit_bytes)?;
    Ok(scratch.output)
}

/// Compresses `input` in the framing that Kafka's own client writes; `level` is the codec's
/// own scale (gzip 0–9, zstd 1–22), `None` its default. Snappy and lz4 have no levels here.
///
/// # Errors
/// [`CodecError::Failed`] when the library refuses, as with an input of over 4 GiB.
pub fn compress(codec: Codec, input: &[u8], level: Option<i32>) -> Result<Vec<u8>, CodecError> {
    let failed = CodecError::Failed { codec };
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => {
            let level = level
                .and_then(|level| u32::try_from(level).ok())
                .map_or(flate2::Compression::default(), |level| flate2::Compression::new(level.min(9)));
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(input).map_err(|_| failed)?;
            encoder.finish().map_err(|_| failed)
        }
        Codec::Snappy => compress_xerial(input).ok_or(failed),
        Codec::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(input).map_err(|_| failed)?;
            encoder.finish().map_err(|_| failed)
        }
        Codec::Zstd => zstd::bulk::compress(input, level.unwrap_or(0)).map_err(|_| failed),
    }
}

fn compress_xerial(input: &[u8]) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(XERIAL_HEADER_BYTES + input.len() / 2);
    output.extend_from_slice(&XERIAL_MAGIC);
    output.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    output.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(XERIAL_BLOCK_BYTES)];
    for chunk in input.chunks(XERIAL_BLOCK_BYTES) {
        let length = encoder.compress(chunk, &mut block).ok()?;
        output.extend_from_slice(&i32::try_from(length).ok()?.to_be_bytes());
        output.extend_from_slice(&block[..length]);
    }
    Some(output)
}
