//! A simulated file: what reads see, and what a power loss would leave of it.
//!
//! `blocks` is what reads see. What the disk holds for certain is the same, but for the blocks in
//! `durable`. A power loss starts from there and lets any part of the unsynced changes land.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::fs::BLOCK_BYTES;

pub(super) type Block = [u8; BLOCK_BYTES];
pub(super) type FileRef = Rc<RefCell<Inode>>;

static ZERO_BLOCK: Block = [0; BLOCK_BYTES];

thread_local! {
    static SHARED_ZERO: Rc<Block> = Rc::new(ZERO_BLOCK);
}

/// The buffer as blocks; all-zero blocks share one allocation, which makes zero-filling cheap.
pub(super) fn to_blocks(bytes: &[u8]) -> Vec<Rc<Block>> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    assert!(rest.is_empty(), "writes are whole blocks");
    let share = |block: &Block| {
        if block == &ZERO_BLOCK { SHARED_ZERO.with(Rc::clone) } else { Rc::new(*block) }
    };
    blocks.iter().map(share).collect()
}

#[derive(Clone)]
pub(super) enum ChangeKind {
    Write { first: usize, blocks: Vec<Rc<Block>> },
    Truncate(u64),
}

struct Change {
    /// Position in the disk's order of completions.
    seq: u64,
    kind: ChangeKind,
}

/// How much of one unsynced write survives a power loss.
#[derive(Clone, Copy)]
enum Landing {
    All,
    Nothing,
    /// Sectors of this size, up to some point.
    Prefix(usize),
    /// Any subset of the sectors of this size.
    Subset(usize),
}

pub(super) struct Inode {
    pub(super) id: u64,
    blocks: Vec<Option<Rc<Block>>>,
    len: u64,
    durable: BTreeMap<usize, Option<Rc<Block>>>,
    durable_len: u64,
    unsynced: VecDeque<Change>,
    /// Blocks whose visible content never reaches the disk, because a sync of it failed.
    lost: BTreeSet<usize>,
    used_blocks: Rc<Cell<u64>>,
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.recount(|inode| inode.blocks.clear());
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).expect("simulated files are small")
}

fn blocks_of(len: u64) -> usize {
    index(len.div_ceil(BLOCK_BYTES as u64))
}

fn or_zero(block: Option<&Rc<Block>>) -> &Block {
    block.map_or(&ZERO_BLOCK, |block| &**block)
}

impl Inode {
    pub(super) fn new(id: u64, used_blocks: Rc<Cell<u64>>) -> Self {
        Self {
            id,
            blocks: Vec::new(),
            len: 0,
            durable: BTreeMap::new(),
            durable_len: 0,
            unsynced: VecDeque::new(),
            lost: BTreeSet::new(),
            used_blocks,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Applies `change` and keeps the disk's count of used blocks right.
    fn recount(&mut self, change: impl FnOnce(&mut Self)) {
        let count = |inode: &Self| inode.blocks.iter().flatten().count() as u64;
        let before = count(self);
        change(self);
        self.used_blocks.set(self.used_blocks.get() + count(self) - before);
    }

    /// How many blocks a write would newly allocate.
    pub(super) fn missing(&self, first: usize, count: usize) -> u64 {
        let present = self.blocks.iter().skip(first).take(count).flatten().count();
        (count - present) as u64
    }

    /// A write that completed.
    pub(super) fn write(&mut self, seq: u64, first: usize, blocks: Vec<Rc<Block>>) {
        let end = first + blocks.len();
        if self.blocks.len() < end {
            self.blocks.resize(end, None);
        }
        let mut allocated = 0;
        for (at, block) in (first..).zip(&blocks) {
            let old = self.blocks[at].replace(Rc::clone(block));
            allocated += u64::from(old.is_none());
            self.durable.entry(at).or_insert(old);
            self.lost.remove(&at);
        }
        self.used_blocks.set(self.used_blocks.get() + allocated);
        self.len = self.len.max((end * BLOCK_BYTES) as u64);
        self.unsynced.push_back(Change { seq, kind: ChangeKind::Write { first, blocks } });
    }

    pub(super) fn truncate(&mut self, seq: u64, len: u64) {
        let keep = blocks_of(len);
        for at in keep..self.blocks.len() {
            let old = self.blocks[at].clone();
            self.durable.entry(at).or_insert(old);
        }
        self.recount(|inode| inode.blocks.truncate(keep));
        if let Some(cut) = zero_tail(self.blocks.get(keep.wrapping_sub(1)), len) {
            let old = self.blocks[keep - 1].replace(cut);
            self.durable.entry(keep - 1).or_insert(old);
        }
        self.len = len;
        self.unsynced.push_back(Change { seq, kind: ChangeKind::Truncate(len) });
    }

    pub(super) fn read(&self, position: u64, len: usize) -> Bytes {
        let end = self.len.min(position.saturating_add(len as u64));
        let mut out = BytesMut::with_capacity(len);
        let mut at = position;
        while at < end {
            let within = index(at % BLOCK_BYTES as u64);
            let take = index(end - at).min(BLOCK_BYTES - within);
            let block = self.blocks.get(index(at / BLOCK_BYTES as u64)).and_then(Option::as_ref);
            out.extend_from_slice(&or_zero(block)[within..within + take]);
            at += take as u64;
        }
        out.freeze()
    }

    /// Inverts one bit, also of what is durable.
    pub(super) fn flip_bit(&mut self, position: u64, bit: u8) {
        let at = index(position / BLOCK_BYTES as u64);
        let within = index(position % BLOCK_BYTES as u64);
        let flip = |slot: &mut Option<Rc<Block>>| {
            if let Some(block) = slot {
                Rc::make_mut(block)[within] ^= 1 << bit;
            }
        };
        if let Some(slot) = self.blocks.get_mut(at) {
            flip(slot);
        }
        if let Some(slot) = self.durable.get_mut(&at) {
            flip(slot);
        }
    }

    /// A sync that was called when `mark` was the next position: all earlier changes are durable.
    pub(super) fn sync(&mut self, mark: u64) {
        while self.unsynced.front().is_some_and(|change| change.seq < mark) {
            if let Some(change) = self.unsynced.pop_front() {
                self.land(&change.kind, Landing::All, &mut fastrand::Rng::with_seed(0));
            }
        }
        self.forget_clean();
    }

    /// One write is synced, and no other: it lands now, and those before it that touch the same blocks
    /// or change the file's length with it, since they must not land on top of it later.
    pub(super) fn sync_one(&mut self, seq: u64) {
        let Some(at) = self.unsynced.iter().position(|change| change.seq == seq) else {
            return;
        };
        let ChangeKind::Write { first, blocks } = &self.unsynced[at].kind else {
            return;
        };
        let own = *first..*first + blocks.len();
        let is_apart = |change: &Change| match &change.kind {
            ChangeKind::Write { first, blocks } => first + blocks.len() <= own.start || own.end <= *first,
            ChangeKind::Truncate(_) => false,
        };
        let (apart, landing): (Vec<Change>, Vec<Change>) = self.unsynced.drain(..=at).partition(is_apart);
        for change in landing {
            self.land(&change.kind, Landing::All, &mut fastrand::Rng::with_seed(0));
        }
        for change in apart.into_iter().rev() {
            self.unsynced.push_front(change);
        }
        self.forget_clean();
    }

    /// A sync that failed: of the changes it was for, some landed and the rest never will.
    pub(super) fn fail_sync(&mut self, mark: u64, rng: &mut fastrand::Rng) {
        while self.unsynced.front().is_some_and(|change| change.seq < mark) {
            let Some(change) = self.unsynced.pop_front() else {
                break;
            };
            self.fail(&change, rng);
        }
    }

    /// The sync of one write failed, and of no other: see [`Self::fail_sync`].
    pub(super) fn fail_sync_of_one(&mut self, seq: u64, rng: &mut fastrand::Rng) {
        let Some(at) = self.unsynced.iter().position(|change| change.seq == seq) else {
            return;
        };
        if let Some(change) = self.unsynced.remove(at) {
            self.fail(&change, rng);
        }
    }

    /// A part of the change lands, and the rest never will.
    fn fail(&mut self, change: &Change, rng: &mut fastrand::Rng) {
        if let ChangeKind::Write { first, blocks } = &change.kind {
            self.lost.extend(*first..*first + blocks.len());
        }
        let landing = draw_landing(rng);
        self.land(&change.kind, landing, rng);
    }

    /// Drops the durable copies of blocks that are durable as they are seen.
    fn forget_clean(&mut self) {
        if self.unsynced.is_empty() && self.lost.is_empty() {
            self.durable.clear();
            return;
        }
        let mut dirty = self.lost.clone();
        let visible = self.blocks.len();
        for change in &self.unsynced {
            match &change.kind {
                ChangeKind::Write { first, blocks } => dirty.extend(*first..*first + blocks.len()),
                ChangeKind::Truncate(len) => {
                    dirty.extend(blocks_of(*len).saturating_sub(1)..visible);
                    dirty.extend(self.durable.range(visible..).map(|(at, _)| *at));
                }
            }
        }
        self.durable.retain(|at, _| dirty.contains(at));
    }

    /// What the disk holds for certain.
    fn durable_block(&self, at: usize) -> Option<Rc<Block>> {
        match self.durable.get(&at) {
            Some(block) => block.clone(),
            None => self.blocks.get(at).cloned().flatten(),
        }
    }

    /// Lets a part of a change reach the disk.
    fn land(&mut self, change: &ChangeKind, landing: Landing, rng: &mut fastrand::Rng) {
        match (change, landing) {
            (_, Landing::Nothing) => {}
            (ChangeKind::Truncate(len), _) => self.land_truncate(*len),
            (ChangeKind::Write { first, blocks }, Landing::All) => {
                for (at, block) in (*first..).zip(blocks) {
                    self.durable.insert(at, Some(Rc::clone(block)));
                }
                self.land_len(*first + blocks.len());
            }
            (ChangeKind::Write { first, blocks }, Landing::Prefix(sector)) => {
                let cut = rng.usize(..=blocks.len() * BLOCK_BYTES / sector);
                self.land_sectors(*first, blocks, sector, |at| at < cut);
                self.land_len(first + (cut * sector).div_ceil(BLOCK_BYTES));
            }
            (ChangeKind::Write { first, blocks }, Landing::Subset(sector)) => {
                let mut draw = rng.fork();
                self.land_sectors(*first, blocks, sector, |_| draw.bool());
                // The new length is metadata: it may be there without the bytes, or the reverse.
                if rng.bool() {
                    self.land_len(*first + blocks.len());
                }
            }
        }
    }

    fn land_len(&mut self, end: usize) {
        self.durable_len = self.durable_len.max((end * BLOCK_BYTES) as u64);
    }

    fn land_sectors(
        &mut self,
        first: usize,
        blocks: &[Rc<Block>],
        sector: usize,
        mut lands: impl FnMut(usize) -> bool,
    ) {
        let per_block = BLOCK_BYTES / sector;
        for (i, block) in blocks.iter().enumerate() {
            let mut torn = self.durable_block(first + i);
            for at in 0..per_block {
                if lands(i * per_block + at) {
                    let bytes = at * sector..(at + 1) * sector;
                    let target = torn.get_or_insert_with(|| Rc::new(ZERO_BLOCK));
                    Rc::make_mut(target)[bytes.clone()].copy_from_slice(&block[bytes]);
                }
            }
            self.durable.insert(first + i, torn);
        }
    }

    fn land_truncate(&mut self, len: u64) {
        let keep = blocks_of(len);
        let known = self.blocks.len().max(self.durable.last_key_value().map_or(0, |(at, _)| at + 1));
        for at in keep..known {
            self.durable.insert(at, None);
        }
        if let Some(last) = keep.checked_sub(1) {
            let block = self.durable_block(last);
            if let Some(cut) = zero_tail(Some(&block), len) {
                self.durable.insert(last, Some(cut));
            }
        }
        self.durable_len = len;
    }

    /// The process died while this change was in flight: whole blocks of it may have landed. They
    /// are as unsynced as any completed write.
    pub(super) fn kill_in_flight(&mut self, seq: u64, change: ChangeKind, rng: &mut fastrand::Rng) {
        if let ChangeKind::Write { first, mut blocks } = change {
            let landed = if rng.bool() { blocks.len() } else { rng.usize(..=blocks.len()) };
            blocks.truncate(landed);
            if !blocks.is_empty() {
                self.write(seq, first, blocks);
            }
        }
    }

    /// The power failed, with `in_flight` changes under way.
    pub(super) fn lose_power(&mut self, in_flight: Vec<ChangeKind>, rng: &mut fastrand::Rng) {
        if self.unsynced.is_empty() && self.lost.is_empty() && in_flight.is_empty() {
            return;
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        for change in unsynced.into_iter().map(|change| change.kind).chain(in_flight) {
            let landing = draw_landing(rng);
            self.land(&change, landing, rng);
        }
        let durable = std::mem::take(&mut self.durable);
        let durable_len = self.durable_len;
        self.lost.clear();
        self.recount(|inode| {
            for (at, block) in durable {
                if inode.blocks.len() <= at {
                    inode.blocks.resize(at + 1, None);
                }
                inode.blocks[at] = block;
            }
            // Bytes without the length that covers them are not part of the file.
            let keep = blocks_of(durable_len);
            inode.blocks.truncate(keep);
            if let Some(cut) =
                zero_tail(inode.blocks.last().filter(|_| inode.blocks.len() == keep), durable_len)
            {
                inode.blocks[keep - 1] = Some(cut);
            }
        });
        self.len = durable_len;
    }
}

/// The block with the bytes behind the end of the file zeroed, if `len` ends inside of it.
fn zero_tail(block: Option<&Option<Rc<Block>>>, len: u64) -> Option<Rc<Block>> {
    let within = index(len % BLOCK_BYTES as u64);
    let mut block = block?.clone().filter(|_| within > 0)?;
    Rc::make_mut(&mut block)[within..].fill(0);
    Some(block)
}

fn draw_landing(rng: &mut fastrand::Rng) -> Landing {
    let sector = if rng.bool() { 512 } else { BLOCK_BYTES };
    match rng.u8(..6) {
        0 | 1 => Landing::All,
        2 => Landing::Nothing,
        3 => Landing::Prefix(sector),
        _ => Landing::Subset(sector),
    }
}
