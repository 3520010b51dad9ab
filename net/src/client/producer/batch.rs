//! The batches of one partition: open, waiting, under way, to be sent again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::{BatchBuilder, BatchHeader, CodecError, add_to_sequence, update_crc};
use corelog_runtime::time::Instant;

use super::{OutRecord, ProducerOptions};
use crate::client::error::ClientError;

/// An idempotent producer's id and epoch, as the broker gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
}

/// What became of a batch, for [`super::ProducerOptions::on_batch`].
#[derive(Debug)]
pub struct BatchReport<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The same number as [`Delivery::batch_id`]; counts up.
    pub batch_id: u64,
    /// How many records.
    pub records: i32,
    /// Their size in a batch, before compression.
    pub bytes: usize,
    /// When the first record was taken.
    pub opened_at: Instant,
    /// When it was sent, the last time; `None` if never.
    pub sent_at: Option<Instant>,
    /// The offset of the first record (`None` with acks=0), or why it failed.
    pub outcome: &'a Result<Option<i64>, ClientError>,
}

/// A batch's outcome, shared by the deliveries of its records.
pub(super) struct BatchState {
    id: u64,
    topic: Rc<str>,
    partition: i32,
    outcome: RefCell<Option<Result<Option<i64>, ClientError>>>,
    waiting: RefCell<Vec<Waker>>,
}

/// A record on its way: a future of where it ended up. Costs no allocation per record, and may be
/// dropped.
pub struct Delivery {
    batch: Rc<BatchState>,
    index: i32,
}

/// Where a record ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: i32,
    /// The offset; `None` with acks=0, and where a repeated batch's offset is not told.
    pub offset: Option<i64>,
}

impl Delivery {
    /// The batch that it is part of; counts up.
    pub fn batch_id(&self) -> u64 {
        self.batch.id
    }

    /// Its position in the batch.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> i32 {
        self.batch.partition
    }

    pub(super) fn begins_batch(&self) -> bool {
        self.index == 0
    }
}

impl Future for Delivery {
    type Output = Result<Delivered, ClientError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &*self.batch.outcome.borrow() {
            Some(Ok(base_offset)) => Poll::Ready(Ok(Delivered {
                partition: self.batch.partition,
                offset: base_offset.map(|base| base + i64::from(self.index)),
            })),
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            None => {
                let mut waiting = self.batch.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

struct OpenBatch {
    state: Rc<BatchState>,
    builder: BatchBuilder,
    opened_at: Instant,
    bytes: usize,
}

impl OpenBatch {
    fn has_room(&self, bytes_max: usize, options: &ProducerOptions) -> bool {
        self.builder.size_bytes() + bytes_max <= batch_bytes_max(options)
    }
}

fn batch_bytes_max(options: &ProducerOptions) -> usize {
    options.batch_bytes.min(options.request_bytes_max)
}

/// A batch that takes no more records.
pub(super) struct SealedBatch {
    state: Rc<BatchState>,
    /// Taken when the batch is first sent: that is when its sequence is known.
    builder: Option<BatchBuilder>,
    /// As it goes over the wire, kept for sending it again.
    encoded: Option<Bytes>,
    pub(super) records: i32,
    pub(super) bytes: usize,
    pub(super) opened_at: Instant,
    pub(super) sent_at: Option<Instant>,
    /// The identity under which it has its sequence.
    pub(super) identity: Option<Identity>,
    /// Sent, and the connection was lost before the answer: it may have been written.
    pub(super) ambiguous: bool,
}

impl SealedBatch {
    pub(super) fn id(&self) -> u64 {
        self.state.id
    }

    /// The bytes to send. The first time they are built, with a sequence when there is an identity.
    pub(super) fn encode(
        &mut self,
        options: &ProducerOptions,
        identity: Option<Identity>,
        next_sequence: &mut i32,
    ) -> Result<Bytes, CodecError> {
        if let Some(encoded) = &self.encoded
            && self.identity.is_some() == identity.is_some()
        {
            return Ok(encoded.clone());
        }
        let sequence = *next_sequence;
        let encoded = match self.encoded.take() {
            // Known not to be written, under an identity that is given up: a new sequence.
            Some(encoded) => renumber(&encoded, identity, sequence),
            None => {
                let mut builder = self.builder.take().expect("there until it is built");
                if let Some(identity) = identity {
                    builder = builder.producer(identity.producer_id, identity.producer_epoch, sequence);
                }
                builder.codec(options.codec).level(options.level).build()?
            }
        };
        if identity.is_some() {
            *next_sequence = add_to_sequence(sequence, self.records);
        }
        self.identity = identity;
        let encoded = encoded.freeze();
        self.encoded = Some(encoded.clone());
        Ok(encoded)
    }

    /// Tells everyone who waits, once.
    pub(super) fn settle(self, outcome: Result<Option<i64>, ClientError>, options: &ProducerOptions) {
        if let Some(on_batch) = &options.on_batch {
            on_batch(&BatchReport {
                topic: &self.state.topic,
                partition: self.state.partition,
                batch_id: self.state.id,
                records: self.records,
                bytes: self.bytes,
                opened_at: self.opened_at,
                sent_at: self.sent_at,
                outcome: &outcome,
            });
        }
        let earlier = self.state.outcome.replace(Some(outcome));
        assert!(earlier.is_none(), "a batch has one outcome");
        let waiting = std::mem::take(&mut *self.state.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

fn renumber(encoded: &[u8], identity: Option<Identity>, sequence: i32) -> BytesMut {
    let mut batch = BytesMut::from(encoded);
    let mut header = BatchHeader::parse(&batch).expect("a batch that was built here");
    if let Some(identity) = identity {
        header.producer_id = identity.producer_id;
        header.producer_epoch = identity.producer_epoch;
        header.base_sequence = sequence;
    }
    let header = header.to_bytes();
    batch[..header.len()].copy_from_slice(&header);
    update_crc(&mut batch);
    batch
}

/// Everything about one partition.
pub(super) struct PartitionQueue {
    pub(super) topic: Rc<str>,
    pub(super) partition: i32,
    open: Option<OpenBatch>,
    /// To be sent, in order; the first may have been sent before.
    pub(super) ready: VecDeque<SealedBatch>,
    /// Batches under way.
    pub(super) in_flight: usize,
    /// Batches that came back to be sent again. While there are any, nothing is sent until all that
    /// is under way is back, so that the order holds.
    pub(super) returned: Vec<SealedBatch>,
    /// Nothing is sent before.
    pub(super) again_at: Option<Instant>,
    /// Doublings of the pause between attempts.
    pub(super) attempts: u32,
    /// Who it is sequenced under.
    pub(super) identity: Option<Identity>,
    pub(super) next_sequence: i32,
    /// The identity's sequence has a gap that cannot be closed.
    pub(super) identity_lost: bool,
    /// Why it was last tried again.
    pub(super) last_error: Option<ClientError>,
    /// In `Core::active`.
    pub(super) listed: bool,
}

/// What pushing a record did.
pub(super) struct Pushed {
    pub(super) delivery: Delivery,
    /// What the record takes.
    pub(super) bytes: usize,
    /// The sender has something new to see.
    pub(super) wakes: bool,
}

impl PartitionQueue {
    pub(super) fn new(topic: Rc<str>, partition: i32) -> Self {
        Self {
            topic,
            partition,
            open: None,
            ready: VecDeque::new(),
            in_flight: 0,
            returned: Vec::new(),
            again_at: None,
            attempts: 0,
            identity: None,
            next_sequence: 0,
            identity_lost: false,
            last_error: None,
            listed: false,
        }
    }

    /// The id of the batch that would take a record of this size.
    pub(super) fn open_batch(&self, bytes_max: usize, options: &ProducerOptions) -> Option<u64> {
        let open = self.open.as_ref()?;
        open.has_room(bytes_max, options).then_some(open.state.id)
    }

    /// When the batch that takes records was begun.
    pub(super) fn opened_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.opened_at)
    }

    pub(super) fn push(
        &mut self,
        record: &OutRecord<'_>,
        timestamp_ms: i64,
        bytes_max: usize,
        options: &ProducerOptions,
        next_id: impl FnOnce() -> u64,
    ) -> Pushed {
        let mut wakes = false;
        if self.open.as_ref().is_some_and(|open| !open.has_room(bytes_max, options)) {
            self.seal();
            wakes = true;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                wakes = true;
                none.insert(OpenBatch {
                    state: Rc::new(BatchState {
                        id: next_id(),
                        topic: Rc::clone(&self.topic),
                        partition: self.partition,
                        outcome: RefCell::new(None),
                        waiting: RefCell::default(),
                    }),
                    builder: BatchBuilder::new(),
                    opened_at: Instant::now(),
                    bytes: 0,
                })
            }
        };
        let before = open.builder.size_bytes();
        open.builder.push(timestamp_ms, record.key, record.value, record.headers);
        let bytes = open.builder.size_bytes() - before;
        open.bytes += bytes;
        let delivery = Delivery { batch: Rc::clone(&open.state), index: open.builder.record_count() - 1 };
        if open.builder.size_bytes() >= batch_bytes_max(options) {
            self.seal();
            wakes = true;
        }
        Pushed { delivery, bytes, wakes }
    }

    /// Closes the open batch, if there is one.
    pub(super) fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.ready.push_back(SealedBatch {
                records: open.builder.record_count(),
                state: open.state,
                builder: Some(open.builder),
                encoded: None,
                bytes: open.bytes,
                opened_at: open.opened_at,
                sent_at: None,
                identity: None,
                ambiguous: false,
            });
        }
    }

    /// Nothing to send, and nothing that could come back.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.returned.is_empty()
    }

    /// While true nothing is sent, until all that is under way is back.
    pub(super) fn is_draining(&self) -> bool {
        !self.returned.is_empty() || self.identity_lost
    }

    /// Puts what came back in front again, once everything under way is back. Gives the batches that
    /// cannot be sent again: they may have been written under an identity that is lost.
    pub(super) fn requeue(&mut self) -> Vec<SealedBatch> {
        assert_eq!(self.in_flight, 0, "order holds only when all are back");
        let mut unknown = Vec::new();
        self.returned.sort_by_key(SealedBatch::id);
        for batch in std::mem::take(&mut self.returned).into_iter().rev() {
            self.ready.push_front(batch);
        }
        if std::mem::take(&mut self.identity_lost) {
            self.identity = None;
            self.next_sequence = 0;
            for mut batch in std::mem::take(&mut self.ready) {
                if batch.identity.take().is_some() && batch.ambiguous {
                    unknown.push(batch);
                } else {
                    self.ready.push_back(batch);
                }
            }
        }
        unknown
    }
}
