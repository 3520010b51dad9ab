//! Kafka's primitive types, read from borrowed bytes.
//!
//! Every read is bounded by the bytes that remain, and nothing here allocates.

use bytes::{BufMut, BytesMut};
use thiserror::Error;
use uuid::Uuid;

/// The most bytes that a string may have, however its length is written. Kafka's generated readers
/// refuse a longer one, and its writers cannot write it; so what was read can be written.
pub const STRING_BYTES_MAX: usize = 0x7fff;

/// Why bytes are not what a message's schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The message ends inside a field.
    #[error("truncated: {needed} more bytes needed, {remaining} remain")]
    Truncated {
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are there.
        remaining: usize,
    },
    /// A variable-length integer has too many bytes.
    #[error("variable-length integer out of range")]
    VarintOutOfRange,
    /// A length below −1, or −1 where null is not allowed.
    #[error("invalid length {0}")]
    InvalidLength(i64),
    /// An array claims more elements than the remaining bytes can hold.
    #[error("array of {count} elements in {remaining} bytes")]
    ArrayTooLong {
        /// Claimed number of elements.
        count: usize,
        /// Bytes that are there.
        remaining: usize,
    },
    /// The message has more elements and tagged fields than is reasonable.
    #[error("more than {limit} elements in one message")]
    TooManyElements {
        /// Named maximum.
        limit: usize,
    },
    /// A string is not UTF-8.
    #[error("string is not valid UTF-8")]
    InvalidUtf8,
    /// Bytes are left where the message should have ended.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
    /// A tagged field whose content does not end where its size says, or which this version
    /// does not have.
    #[error("malformed tagged field {0}")]
    InvalidTaggedField(u32),
    /// A number that stands for nothing.
    #[error("unknown value {0}")]
    UnknownValue(i64),
    /// This version of the message is not known here.
    #[error("version {0} is not supported")]
    UnsupportedVersion(i16),
}

/// A cursor over borrowed bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

macro_rules! fixed {
    ($($name:ident: $type:ty),*) => {
        $(pub(crate) fn $name(&mut self) -> Result<$type, WireError> {
            Ok(<$type>::from_be_bytes(self.chunk()?))
        })*
    };
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes consumed so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let remaining = self.remaining();
        if length > remaining {
            return Err(WireError::Truncated { needed: length, remaining });
        }
        let taken = &self.bytes[self.position..self.position + length];
        self.position += length;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let remaining = self.remaining();
        let chunk = self.bytes[self.position..]
            .first_chunk::<N>()
            .ok_or(WireError::Truncated { needed: N, remaining })?;
        self.position += N;
        Ok(*chunk)
    }

    fixed!(i8: i8, i16: i16, i32: i32, i64: i64, u8: u8);

    pub(crate) fn uuid(&mut self) -> Result<Uuid, WireError> {
        Ok(Uuid::from_bytes(self.chunk()?))
    }

    /// Unsigned, at most five bytes.
    pub(crate) fn uvarint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                return Err(WireError::VarintOutOfRange);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::VarintOutOfRange)
    }

    /// Zigzag, at most five bytes.
    pub(crate) fn varint(&mut self) -> Result<i32, WireError> {
        let raw = self.uvarint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// Zigzag, at most ten bytes.
    pub(crate) fn varlong(&mut self) -> Result<i64, WireError> {
        let mut raw = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(WireError::VarintOutOfRange);
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        Err(WireError::VarintOutOfRange)
    }

    /// The length of a string, byte string or array: `None` is null. Not yet compared with
    /// the bytes that remain.
    pub(crate) fn length(&mut self, form: Form) -> Result<Option<usize>, WireError> {
        let length = match form {
            Form::Compact => match self.uvarint()?.checked_sub(1) {
                None => return Ok(None),
                Some(length) => i64::from(length),
            },
            Form::Short => i64::from(self.i16()?),
            Form::Long => i64::from(self.i32()?),
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length).map(Some).map_err(|_| WireError::InvalidLength(length)),
        }
    }

    /// The count of an array whose elements take at least `element_bytes_min` bytes each.
    pub(crate) fn count(&mut self, form: Form, element_bytes_min: usize) -> Result<Option<usize>, WireError> {
        let Some(count) = self.length(form)? else {
            return Ok(None);
        };
        let remaining = self.remaining();
        if count > remaining / element_bytes_min.max(1) {
            return Err(WireError::ArrayTooLong { count, remaining });
        }
        Ok(Some(count))
    }

    pub(crate) fn nullable_bytes(&mut self, form: Form) -> Result<Option<&'a [u8]>, WireError> {
        match self.length(form)? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    /// A string of at most [`STRING_BYTES_MAX`] bytes.
    pub(crate) fn nullable_str(&mut self, form: Form) -> Result<Option<&'a str>, WireError> {
        let Some(length) = self.length(form)? else {
            return Ok(None);
        };
        if length > STRING_BYTES_MAX {
            return Err(WireError::InvalidLength(i64::try_from(length).unwrap_or(i64::MAX)));
        }
        std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| WireError::InvalidUtf8)
    }

    pub(crate) fn str(&mut self, form: Form) -> Result<&'a str, WireError> {
        self.nullable_str(form)?.ok_or(WireError::InvalidLength(-1))
    }

    /// Skips a whole section of tagged fields.
    pub(crate) fn skip_tagged_fields(&mut self) -> Result<(), WireError> {
        self.tagged_fields(|_, _| Ok(()))
    }

    /// Hands each tagged field to `field` as its tag and a reader over exactly its bytes.
    /// Tags must ascend, as the protocol says.
    pub(crate) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let count = self.uvarint()?;
        let mut previous = None;
        for _ in 0..count {
            let tag = self.uvarint()?;
            if previous.is_some_and(|previous| previous >= tag) {
                return Err(WireError::InvalidTaggedField(tag));
            }
            previous = Some(tag);
            let size = usize::try_from(self.uvarint()?).map_err(|_| WireError::VarintOutOfRange)?;
            field(tag, &mut Reader::new(self.take(size)?))?;
        }
        Ok(())
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(&self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            remaining => Err(WireError::TrailingBytes(remaining)),
        }
    }
}

/// How a length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Unsigned variable-length integer, one more than the length; 0 is null.
    Compact,
    /// Sixteen bits; −1 is null.
    Short,
    /// Thirty-two bits; −1 is null.
    Long,
}

impl Form {
    /// The form of a string's length.
    pub(crate) fn string(flexible: bool) -> Self {
        if flexible { Form::Compact } else { Form::Short }
    }

    /// The form of an array's or byte string's length.
    pub(crate) fn array(flexible: bool) -> Self {
        if flexible { Form::Compact } else { Form::Long }
    }
}

/// Writing of the same types; the counterpart of [`Reader`].
///
/// Lengths are asserted, not returned as errors: what is written is our own.
pub(crate) trait Writer {
    fn put_uvarint(&mut self, value: u32);
    fn put_varlong(&mut self, value: i64);
    fn put_varint(&mut self, value: i32) {
        self.put_varlong(i64::from(value));
    }
    fn put_length(&mut self, form: Form, length: usize);
    fn put_null(&mut self, form: Form);
    fn put_str(&mut self, form: Form, value: &str);
    fn put_nullable_str(&mut self, form: Form, value: Option<&str>) {
        match value {
            Some(value) => self.put_str(form, value),
            None => self.put_null(form),
        }
    }
    fn put_uuid(&mut self, value: Uuid);
}

impl Writer for BytesMut {
    fn put_uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8((value & 0x7f) as u8);
    }

    fn put_varlong(&mut self, value: i64) {
        let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while raw >= 0x80 {
            self.put_u8((raw & 0x7f) as u8 | 0x80);
            raw >>= 7;
        }
        self.put_u8((raw & 0x7f) as u8);
    }

    fn put_length(&mut self, form: Form, length: usize) {
        match form {
            Form::Compact => self.put_uvarint(
                u32::try_from(length)
                    .ok()
                    .and_then(|length| length.checked_add(1))
                    .expect("a length we write is below 4 GiB"),
            ),
            Form::Short => {
                self.put_i16(i16::try_from(length).expect("a string we write is below 32 KiB"));
            }
            Form::Long => {
                self.put_i32(i32::try_from(length).expect("a length we write is below 2 GiB"));
            }
        }
    }

    fn put_null(&mut self, form: Form) {
        match form {
            Form::Compact => self.put_u8(0),
            Form::Short => self.put_i16(-1),
            Form::Long => self.put_i32(-1),
        }
    }

    fn put_str(&mut self, form: Form, value: &str) {
        self.put_length(form, value.len());
        self.put_slice(value.as_bytes());
    }

    fn put_uuid(&mut self, value: Uuid) {
        self.put_slice(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(value in any::<i64>(), small in any::<i32>(), raw in any::<u32>()) {
            let mut bytes = BytesMut::new();
            bytes.put_varlong(value);
            bytes.put_varint(small);
            bytes.put_uvarint(raw);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varlong(), Ok(value));
            prop_assert_eq!(reader.varint(), Ok(small));
            prop_assert_eq!(reader.uvarint(), Ok(raw));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.clone().varlong();
            let _ = reader.clone().str(Form::Short);
            let _ = reader.clone().str(Form::Compact);
            let _ = reader.clone().count(Form::Compact, 3);
            let _ = reader.skip_tagged_fields();
        }
    }

    #[test]
    fn strings_of_32_kib_are_refused_in_every_form() {
        for form in [Form::Compact, Form::Long] {
            for (length, is_allowed) in [(STRING_BYTES_MAX, true), (STRING_BYTES_MAX + 1, false)] {
                let mut bytes = BytesMut::new();
                bytes.put_length(form, length);
                bytes.put_bytes(b'x', length);
                let read = Reader::new(&bytes).str(form).map(str::len);
                let refused = WireError::InvalidLength(i64::try_from(length).expect("it is small"));
                assert_eq!(read, if is_allowed { Ok(length) } else { Err(refused) });
            }
        }
    }

    #[test]
    fn overlong_varints_are_refused() {
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint().is_err());
        assert!(Reader::new(&[0x80; 11]).varlong().is_err());
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint(), Ok(u32::MAX));
    }
}
