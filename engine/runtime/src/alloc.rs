//! Keeps freed buffers of direct writes for the thread that freed them.
//!
//! A shard frees and needs such buffers all the time, for commits and for flushes, in bursts and of
//! any number of blocks. An allocator gives their memory back to the kernel between two bursts, and
//! faulting it in again costs more than filling it (ADR 5). glommio makes its buffers by the global
//! allocator, so that is where they are kept: a thread that asked for it ([`keep_freed`]) has a shelf
//! for each size, all of them together bounded, and takes from there first. Whatever is not aligned
//! like a buffer of a direct write goes to the allocator behind it as it is.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

use crate::fs::BLOCK_BYTES;

/// The smallest size that is kept.
const KEPT_SIZE_MIN: usize = ALIGN;
/// Sizes are rounded up to this many steps between a power of two and the next.
const STEPS: usize = 8;
/// So many powers of two have shelves.
const DOUBLINGS: usize = 9;
/// What is larger is not kept.
const KEPT_SIZE_MAX: usize = KEPT_SIZE_MIN << DOUBLINGS;
const SHELVES: usize = STEPS * DOUBLINGS + 1;
/// Nothing but these buffers is aligned to blocks.
const ALIGN: usize = BLOCK_BYTES;

/// Freed buffers that a shard's thread keeps: about what its bursts of flushes need.
pub const KEPT_BYTES_MAX: usize = 32 << 20;

/// An allocator in front of another: see the module.
pub struct Kept<A> {
    inner: A,
}

impl<A> Kept<A> {
    /// In front of `inner`.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

/// From now on this thread keeps up to `bytes` of the buffers that it frees. It should run as long as
/// its process: what it keeps goes with it.
pub fn keep_freed(bytes: usize) {
    SHELVES_OF_THREAD.with(|shelves| shelves.bytes_max.set(bytes));
}

thread_local! {
    // Nothing to initialise and nothing to drop, so an allocator may use it at any time.
    static SHELVES_OF_THREAD: Shelves = const { Shelves::new() };
}

/// The first bytes of a buffer on a shelf.
struct Free {
    next: *mut Free,
}

struct Shelves {
    newest: [Cell<*mut Free>; SHELVES],
    bytes: Cell<usize>,
    bytes_max: Cell<usize>,
    /// The shelf that gives next when there is no room.
    hand: Cell<usize>,
}

impl Shelves {
    const fn new() -> Self {
        Self {
            newest: [const { Cell::new(ptr::null_mut()) }; SHELVES],
            bytes: Cell::new(0),
            bytes_max: Cell::new(0),
            hand: Cell::new(0),
        }
    }

    fn take(&self, shelf: Shelf) -> Option<*mut u8> {
        let newest = &self.newest[shelf.index];
        let free = newest.get();
        if free.is_null() {
            return None;
        }
        // SAFETY: what is on a shelf belongs to nobody else, and `put` wrote its `next`.
        newest.set(unsafe { (*free).next });
        self.bytes.set(self.bytes.get() - shelf.bytes);
        Some(free.cast())
    }

    /// # Safety
    /// `buffer` has the shelf's size and alignment, and nobody uses it any more.
    unsafe fn put(&self, shelf: Shelf, buffer: *mut u8) {
        let newest = &self.newest[shelf.index];
        let free = buffer.cast::<Free>();
        // SAFETY: the caller's promise; a buffer is larger than `Free` and aligned to more.
        unsafe { free.write(Free { next: newest.get() }) };
        newest.set(free);
        self.bytes.set(self.bytes.get() + shelf.bytes);
    }

    fn has_room(&self, shelf: Shelf) -> bool {
        self.bytes.get() + shelf.bytes <= self.bytes_max.get()
    }

    /// Some kept buffer, from one shelf after the other: sizes that are used no more make room so.
    fn give_up_one(&self) -> Option<(Shelf, *mut u8)> {
        for _ in 0..SHELVES {
            let index = self.hand.get();
            self.hand.set((index + 1) % SHELVES);
            let shelf = Shelf::of_index(index);
            if let Some(buffer) = self.take(shelf) {
                return Some((shelf, buffer));
            }
        }
        None
    }
}

/// A size that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shelf {
    index: usize,
    bytes: usize,
}

impl Shelf {
    /// Where a piece of this layout comes from and goes to, which only its layout says.
    fn of(layout: Layout) -> Option<Self> {
        let size = layout.size();
        if layout.align() != ALIGN || !(KEPT_SIZE_MIN..=KEPT_SIZE_MAX).contains(&size) {
            return None;
        }
        let doubling = (size / KEPT_SIZE_MIN).ilog2() as usize;
        let step_bytes = (KEPT_SIZE_MIN << doubling) / STEPS;
        let step = (size - (KEPT_SIZE_MIN << doubling)).div_ceil(step_bytes);
        Some(Self::of_index(doubling * STEPS + step))
    }

    fn of_index(index: usize) -> Self {
        let (doubling, step) = (index / STEPS, index % STEPS);
        Self { index, bytes: (KEPT_SIZE_MIN << doubling) / STEPS * (STEPS + step) }
    }

    fn layout(self) -> Layout {
        Layout::from_size_align(self.bytes, ALIGN).expect("a shelf's size is far below the limit")
    }
}

// SAFETY: whatever has a shelf is allocated and freed by the shelf's layout, which depends only on the
// caller's layout, and is at least as large and as aligned; the rest goes to `inner` as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Kept<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(shelf) = Shelf::of(layout) else {
            // SAFETY: the caller's promise about `layout`.
            return unsafe { self.inner.alloc(layout) };
        };
        match SHELVES_OF_THREAD.with(|shelves| shelves.take(shelf)) {
            Some(buffer) => buffer,
            // SAFETY: a shelf's size is not zero.
            None => unsafe { self.inner.alloc(shelf.layout()) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(shelf) = Shelf::of(layout) else {
            // SAFETY: the caller's promise about `layout`.
            return unsafe { self.inner.alloc_zeroed(layout) };
        };
        match SHELVES_OF_THREAD.with(|shelves| shelves.take(shelf)) {
            Some(buffer) => {
                // SAFETY: the buffer is ours, and a shelf's size is at least the layout's.
                unsafe { buffer.write_bytes(0, layout.size()) };
                buffer
            }
            // SAFETY: a shelf's size is not zero.
            None => unsafe { self.inner.alloc_zeroed(shelf.layout()) },
        }
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        let Some(shelf) = Shelf::of(layout) else {
            // SAFETY: it came from `inner` by this layout.
            return unsafe { self.inner.dealloc(buffer, layout) };
        };
        SHELVES_OF_THREAD.with(|shelves| {
            while !shelves.has_room(shelf) {
                let Some((other, given_up)) = shelves.give_up_one() else {
                    // SAFETY: it was allocated by its shelf's layout.
                    return unsafe { self.inner.dealloc(buffer, shelf.layout()) };
                };
                // SAFETY: as above; it is on no shelf any more.
                unsafe { self.inner.dealloc(given_up, other.layout()) };
            }
            // SAFETY: it was allocated by its shelf's layout, and its owner frees it.
            unsafe { shelves.put(shelf, buffer) };
        });
    }

    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size makes a layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let (from, to) = (Shelf::of(layout), Shelf::of(new_layout));
        match (from, to) {
            // SAFETY: it came from `inner` by this layout and stays there.
            (None, None) => unsafe { self.inner.realloc(buffer, layout, new_size) },
            (Some(from), Some(to)) if from == to => buffer,
            // SAFETY: as `GlobalAlloc::realloc` does by default; the two pieces do not overlap.
            _ => unsafe {
                let moved = self.alloc(new_layout);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(buffer, moved, layout.size().min(new_size));
                    self.dealloc(buffer, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// Counts what is in use behind the shelves, and that pieces come back as they went.
    #[derive(Default)]
    struct Counting {
        bytes: AtomicUsize,
        calls: AtomicUsize,
    }

    // SAFETY: passes everything on.
    unsafe impl GlobalAlloc for &Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
            self.calls.fetch_add(1, Ordering::Relaxed);
            // SAFETY: passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
            self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: passed on.
            unsafe { System.dealloc(buffer, layout) }
        }
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// In a thread of its own, since shelves are a thread's; frees everything behind it.
    fn with_shelves(bytes_max: usize, test: impl FnOnce(&Kept<&Counting>, &Counting) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let counting = Counting::default();
                let kept = Kept::new(&counting);
                keep_freed(bytes_max);
                test(&kept, &counting);
                while let Some((shelf, buffer)) = SHELVES_OF_THREAD.with(Shelves::give_up_one) {
                    // SAFETY: it is on no shelf any more.
                    unsafe { (&counting).dealloc(buffer, shelf.layout()) };
                }
                assert_eq!(counting.bytes.load(Ordering::Relaxed), 0, "all of it came back");
                SHELVES_OF_THREAD.with(|shelves| assert_eq!(shelves.bytes.get(), 0));
            });
        });
    }

    #[test]
    fn a_shelf_holds_what_is_asked_for_and_not_much_more() {
        for size in KEPT_SIZE_MIN..=KEPT_SIZE_MAX {
            let shelf = Shelf::of(layout(size, ALIGN)).unwrap();
            assert!(shelf.bytes >= size, "{size} on {shelf:?}");
            assert!(shelf.bytes - size < size / STEPS + 1, "{size} on {shelf:?}");
            assert!(shelf.index < SHELVES && shelf == Shelf::of_index(shelf.index), "{size} on {shelf:?}");
        }
        assert_eq!(Shelf::of(layout(KEPT_SIZE_MIN - 1, ALIGN)), None);
        assert_eq!(Shelf::of(layout(KEPT_SIZE_MAX + 1, ALIGN)), None);
        assert_eq!(Shelf::of(layout(KEPT_SIZE_MIN, 2 * ALIGN)), None);
        assert_eq!(Shelf::of(layout(KEPT_SIZE_MIN, ALIGN / 2)), None);
    }

    #[test]
    fn what_was_freed_is_used_again() {
        with_shelves(1 << 20, |kept, counting| {
            for _ in 0..100 {
                // SAFETY: freed by the layout that it was allocated by.
                unsafe {
                    let buffer = kept.alloc(layout(66_000, ALIGN));
                    kept.dealloc(buffer, layout(66_000, ALIGN));
                    let aligned = kept.alloc_zeroed(layout(69_632, ALIGN));
                    assert!(aligned.addr().is_multiple_of(ALIGN));
                    aligned.write_bytes(7, 69_632);
                    kept.dealloc(aligned, layout(69_632, ALIGN));
                }
            }
            assert_eq!(counting.calls.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn a_thread_that_did_not_ask_keeps_nothing() {
        with_shelves(0, |kept, counting| {
            // SAFETY: freed by the layout that it was allocated by.
            unsafe {
                let buffer = kept.alloc(layout(100_000, ALIGN));
                kept.dealloc(buffer, layout(100_000, ALIGN));
            }
            assert_eq!(counting.bytes.load(Ordering::Relaxed), 0);
        });
    }

    /// A size that nobody needs any more does not fill the shelves for ever.
    #[test]
    fn old_sizes_make_room() {
        with_shelves(1 << 20, |kept, counting| {
            let free_many = |size: usize| {
                // SAFETY: freed by the layout that they were allocated by.
                unsafe {
                    let buffers: Vec<_> = (0..16).map(|_| kept.alloc(layout(size, ALIGN))).collect();
                    for buffer in buffers {
                        kept.dealloc(buffer, layout(size, ALIGN));
                    }
                }
            };
            free_many(64 << 10);
            free_many(128 << 10);
            let before = counting.calls.load(Ordering::Relaxed);
            // SAFETY: freed by the layout that it was allocated by.
            unsafe {
                let buffer = kept.alloc(layout(128 << 10, ALIGN));
                kept.dealloc(buffer, layout(128 << 10, ALIGN));
            }
            assert_eq!(counting.calls.load(Ordering::Relaxed), before);
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc { size: usize, align: usize, zeroed: bool },
        Free(prop::sample::Index),
        Realloc(prop::sample::Index, usize),
    }

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![1..1000_usize, 30_000..70_000_usize, 60_000..300_000_usize, 1_900_000..2_200_000_usize]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (sizes(), prop::sample::select(vec![8, 4096, 4096, 4096, 8192]), any::<bool>())
                .prop_map(|(size, align, zeroed)| Step::Alloc { size, align, zeroed }),
            2 => any::<prop::sample::Index>().prop_map(Step::Free),
            2 => (any::<prop::sample::Index>(), sizes()).prop_map(|(at, size)| Step::Realloc(at, size)),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// A piece in use: each of its bytes is `mark`.
    struct Piece {
        buffer: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Piece {
        fn bytes(&self) -> &[u8] {
            // SAFETY: it is allocated with this size, and all of it was written.
            unsafe { std::slice::from_raw_parts(self.buffer, self.layout.size()) }
        }

        fn fill(&mut self, mark: u8) {
            self.mark = mark;
            // SAFETY: it is allocated with this size.
            unsafe { self.buffer.write_bytes(mark, self.layout.size()) };
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// No two pieces overlap, contents stay, and no more is kept than allowed.
        #[test]
        fn pieces_are_their_owners(steps in steps(), bytes_max in 0..2_000_000_usize) {
            with_shelves(bytes_max, |kept, _| {
                let mut pieces: Vec<Piece> = Vec::new();
                for (number, step) in steps.into_iter().enumerate() {
                    let mark = u8::try_from(number + 1).unwrap();
                    match step {
                        Step::Alloc { size, align, zeroed } => {
                            let layout = layout(size, align);
                            // SAFETY: the size is not zero.
                            let buffer = unsafe { if zeroed { kept.alloc_zeroed(layout) } else { kept.alloc(layout) } };
                            assert!(buffer.addr().is_multiple_of(align));
                            let mut piece = Piece { buffer, layout, mark: 0 };
                            if zeroed {
                                assert!(piece.bytes().iter().all(|byte| *byte == 0));
                            }
                            piece.fill(mark);
                            pieces.push(piece);
                        }
                        Step::Free(at) if !pieces.is_empty() => {
                            let piece = pieces.swap_remove(at.index(pieces.len()));
                            assert!(piece.bytes().iter().all(|byte| *byte == piece.mark));
                            // SAFETY: freed by the layout that it was allocated by.
                            unsafe { kept.dealloc(piece.buffer, piece.layout) };
                        }
                        Step::Realloc(at, size) if !pieces.is_empty() => {
                            let at = at.index(pieces.len());
                            let piece = &mut pieces[at];
                            // SAFETY: it has this layout, and the size is not zero.
                            piece.buffer = unsafe { kept.realloc(piece.buffer, piece.layout, size) };
                            let stays = piece.layout.size().min(size);
                            piece.layout = layout(size, piece.layout.align());
                            // SAFETY: so much was moved along.
                            let moved = unsafe { std::slice::from_raw_parts(piece.buffer, stays) };
                            assert!(moved.iter().all(|byte| *byte == piece.mark));
                            assert!(piece.buffer.addr().is_multiple_of(piece.layout.align()));
                            piece.fill(mark);
                        }
                        Step::Free(_) | Step::Realloc(..) => {}
                    }
                    SHELVES_OF_THREAD.with(|shelves| assert!(shelves.bytes.get() <= bytes_max));
                }
                for piece in pieces {
                    assert!(piece.bytes().iter().all(|byte| *byte == piece.mark));
                    // SAFETY: freed by the layout that it was allocated by.
                    unsafe { kept.dealloc(piece.buffer, piece.layout) };
                }
            });
        }
    }
}
