//! Who leads a partition now (KIP-951): what Produce and Fetch responses add to
//! NOT_LEADER_OR_FOLLOWER and the epoch errors, so that a client need not ask again.

use bytes::{BufMut, BytesMut};

use crate::wire::{Form, Reader, WireError, Writer};

/// A partition's leader, as a response names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    /// Node that leads, or −1.
    pub leader_id: i32,
    /// Its leader epoch, or −1.
    pub leader_epoch: i32,
}

/// Where a node can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The node.
    pub node_id: i32,
    /// Advertised host name or address.
    pub host: String,
    /// Advertised port.
    pub port: i32,
    /// The node's rack.
    pub rack: Option<String>,
}

impl CurrentLeader {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let leader = Self { leader_id: reader.i32()?, leader_epoch: reader.i32()? };
        reader.skip_tagged_fields()?;
        reader.finish()?;
        Ok(leader)
    }

    /// Writes it as the content of tagged field `tag`.
    pub(crate) fn write_tagged(self, tag: u32, buffer: &mut BytesMut) {
        const SIZE_BYTES: u32 = 4 + 4 + 1;
        buffer.put_uvarint(tag);
        buffer.put_uvarint(SIZE_BYTES);
        buffer.put_i32(self.leader_id);
        buffer.put_i32(self.leader_epoch);
        buffer.put_uvarint(0);
    }
}

impl NodeEndpoint {
    /// No endpoint is smaller: id, host, port, rack, tagged fields.
    const BYTES_MIN: usize = 4 + 1 + 4 + 1 + 1;

    /// Reads the content of the tagged field that holds them all.
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        let count = reader.count(Form::Compact, Self::BYTES_MIN)?.ok_or(WireError::InvalidLength(-1))?;
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            endpoints.push(Self {
                node_id: reader.i32()?,
                host: reader.str(Form::Compact)?.to_owned(),
                port: reader.i32()?,
                rack: reader.nullable_str(Form::Compact)?.map(str::to_owned),
            });
            reader.skip_tagged_fields()?;
        }
        reader.finish()?;
        Ok(endpoints)
    }

    /// Writes a section of tagged fields that holds the endpoints as its field 0, if any.
    pub(crate) fn write_section(endpoints: &[Self], buffer: &mut BytesMut) {
        if endpoints.is_empty() {
            buffer.put_uvarint(0);
            return;
        }
        let mut content = BytesMut::new();
        content.put_length(Form::Compact, endpoints.len());
        for endpoint in endpoints {
            content.put_i32(endpoint.node_id);
            content.put_str(Form::Compact, &endpoint.host);
            content.put_i32(endpoint.port);
            content.put_nullable_str(Form::Compact, endpoint.rack.as_deref());
            content.put_uvarint(0);
        }
        buffer.put_uvarint(1);
        buffer.put_uvarint(0);
        buffer.put_uvarint(u32::try_from(content.len()).expect("endpoints are few"));
        buffer.put_slice(&content);
    }
}
