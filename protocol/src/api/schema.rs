//! Schemas of messages as constant data, and the walk that holds bytes against one.
//!
//! A walk visits every byte once, allocates nothing, and counts elements: what passes can
//! be decoded at a cost proportional to its size.

use thiserror::Error;

use crate::wire::{Form, Reader, WireError};

/// Largest number of array elements (other than numbers) and tagged fields in a message:
/// each costs the generated decoder some hundred bytes, whatever it takes on the wire.
pub(crate) const ELEMENTS_MAX: usize = 1 << 20;

/// A message's schema.
#[derive(Debug)]
pub(crate) struct Schema {
    /// First version with compact lengths and tagged fields.
    pub(crate) flexible_from: i16,
    /// Versions that the schema describes, both inclusive.
    pub(crate) versions: (i16, i16),
    pub(crate) fields: &'static [Field],
}

/// A field of a message or of a structure in it.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Versions that have the field, both inclusive.
    pub(crate) versions: (i16, i16),
    /// First version in which it may be null.
    pub(crate) nullable_from: i16,
    /// Its tag, when it is a tagged field.
    pub(crate) tag: Option<u32>,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A number, a boolean or a UUID of so many bytes.
    Fixed(usize),
    String,
    Struct(&'static [Field]),
    ArrayOfFixed(usize),
    ArrayOfStrings,
    ArrayOfStructs(&'static [Field]),
}

/// No version.
const NEVER: i16 = i16::MAX;

impl Field {
    pub(crate) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, versions: (0, i16::MAX), nullable_from: NEVER, tag: None }
    }

    /// Only from this version on.
    pub(crate) const fn since(mut self, version: i16) -> Self {
        self.versions.0 = version;
        self
    }

    /// Only up to this version.
    pub(crate) const fn until(mut self, version: i16) -> Self {
        self.versions.1 = version;
        self
    }

    /// May be null from this version on.
    pub(crate) const fn nullable(mut self, version: i16) -> Self {
        self.nullable_from = version;
        self
    }

    /// A tagged field.
    pub(crate) const fn tagged(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(crate) fn exists_in(&self, version: i16) -> bool {
        (self.versions.0..=self.versions.1).contains(&version)
    }
}

/// Where and how bytes differ from a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("field {field}: {error}")]
pub struct SchemaError {
    /// Name of the field in the protocol's schema; empty for the message as a whole.
    pub field: &'static str,
    /// What is wrong.
    pub error: WireError,
}

/// Checks that `bytes` begins with a message, and tells how many bytes follow it. Kafka ignores
/// those, and so do we: librdkafka sends three bytes too many with Metadata version 13.
pub(crate) fn check(schema: &Schema, version: i16, bytes: &[u8]) -> Result<usize, SchemaError> {
    let whole = |error| SchemaError { field: "", error };
    if !(schema.versions.0..=schema.versions.1).contains(&version) {
        return Err(whole(WireError::UnsupportedVersion(version)));
    }
    let mut reader = Reader::new(bytes);
    let mut walk = Walk { version, flexible: version >= schema.flexible_from, elements: 0 };
    walk.structure(schema.fields, &mut reader)?;
    Ok(reader.remaining())
}

struct Walk {
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk {
    fn structure(&mut self, fields: &'static [Field], reader: &mut Reader<'_>) -> Result<(), SchemaError> {
        for field in fields {
            if field.tag.is_none() && field.exists_in(self.version) {
                self.field(field, reader)?;
            }
        }
        if self.flexible {
            self.tagged_fields(fields, reader)?;
        }
        Ok(())
    }

    fn tagged_fields(
        &mut self,
        fields: &'static [Field],
        reader: &mut Reader<'_>,
    ) -> Result<(), SchemaError> {
        let mut inner = Ok(());
        let outer = reader.tagged_fields(|tag, content| {
            self.count_elements(1)?;
            let Some(field) = fields.iter().find(|field| field.tag == Some(tag)) else {
                return Ok(());
            };
            if !field.exists_in(self.version) {
                return Err(WireError::InvalidTaggedField(tag));
            }
            if let Err(error) = self.field(field, content) {
                inner = Err(error);
                return Err(error.error);
            }
            content.finish()
        });
        inner?;
        outer.map_err(|error| SchemaError { field: "tagged fields", error })
    }

    fn field(&mut self, field: &Field, reader: &mut Reader<'_>) -> Result<(), SchemaError> {
        let at_field = |error| SchemaError { field: field.name, error };
        let nullable = self.version >= field.nullable_from;
        match field.kind {
            Kind::Fixed(size) => reader.take(size).map(drop).map_err(at_field),
            Kind::String => self.string(nullable, reader).map_err(at_field),
            Kind::Struct(fields) => {
                if nullable {
                    match reader.i8().map_err(at_field)? {
                        -1 => return Ok(()),
                        1 => {}
                        other => return Err(at_field(WireError::UnknownValue(other.into()))),
                    }
                }
                self.structure(fields, reader)
            }
            Kind::ArrayOfFixed(size) => {
                let count = self.count(nullable, size, reader).map_err(at_field)?;
                reader.take(count * size).map(drop).map_err(at_field)
            }
            Kind::ArrayOfStrings => {
                let size = if self.flexible { 1 } else { 2 };
                let count = self.count(nullable, size, reader).map_err(at_field)?;
                self.count_elements(count).map_err(at_field)?;
                (0..count).try_for_each(|_| self.string(false, reader)).map_err(at_field)
            }
            Kind::ArrayOfStructs(fields) => {
                let size = self.bytes_min(fields);
                let count = self.count(nullable, size, reader).map_err(at_field)?;
                self.count_elements(count).map_err(at_field)?;
                (0..count).try_for_each(|_| self.structure(fields, reader))
            }
        }
    }

    fn string(&self, nullable: bool, reader: &mut Reader<'_>) -> Result<(), WireError> {
        match reader.nullable_str(Form::string(self.flexible))? {
            None if !nullable => Err(WireError::InvalidLength(-1)),
            _ => Ok(()),
        }
    }

    /// The count of an array; null counts as 0 where it is allowed.
    fn count(
        &self,
        nullable: bool,
        element_bytes_min: usize,
        reader: &mut Reader<'_>,
    ) -> Result<usize, WireError> {
        match reader.count(Form::array(self.flexible), element_bytes_min)? {
            None if !nullable => Err(WireError::InvalidLength(-1)),
            count => Ok(count.unwrap_or(0)),
        }
    }

    fn count_elements(&mut self, count: usize) -> Result<(), WireError> {
        self.elements += count;
        if self.elements > ELEMENTS_MAX {
            return Err(WireError::TooManyElements { limit: ELEMENTS_MAX });
        }
        Ok(())
    }

    /// The fewest bytes that a structure of these fields takes.
    fn bytes_min(&self, fields: &[Field]) -> usize {
        let present = fields.iter().filter(|field| field.tag.is_none() && field.exists_in(self.version));
        let tags = usize::from(self.flexible);
        tags + present
            .map(|field| match field.kind {
                Kind::Fixed(size) => size,
                Kind::String if self.flexible => 1,
                Kind::String => 2,
                Kind::Struct(_) => 1,
                _ if self.flexible => 1,
                _ => 4,
            })
            .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;
    use crate::wire::{STRING_BYTES_MAX, Writer};

    #[test]
    fn a_message_with_a_string_of_32_kib_is_refused() {
        static FIELDS: [Field; 1] = [Field::new("GroupId", Kind::String)];
        let schema = Schema { flexible_from: 0, versions: (0, 0), fields: &FIELDS };
        let message = |length: usize| {
            let mut bytes = BytesMut::new();
            bytes.put_length(Form::Compact, length);
            bytes.put_bytes(b'g', length);
            bytes.put_uvarint(0);
            bytes
        };
        assert_eq!(check(&schema, 0, &message(STRING_BYTES_MAX)), Ok(0));
        let refused = check(&schema, 0, &message(STRING_BYTES_MAX + 1)).map_err(|error| error.field);
        assert_eq!(refused, Err("GroupId"));
    }
}
