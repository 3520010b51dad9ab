//! The simulated executor: one OS thread, runnable tasks drawn by seed, timers in a map. The clock
//! stands still while anything is runnable, and jumps to the next timer when nothing is. All timers
//! of one instant fire together before the next task is drawn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_task::{Builder, Runnable, Task};

use super::node::Node;
use super::{Place, SimOptions};
use crate::ctx::{self, Current};
use crate::task::Class;
use crate::time::CLOCK_START_NS;

/// The node number of the driver, the future given to `run_until`.
pub(super) const DRIVER: u32 = u32::MAX;

/// So many polls without any time passing are a livelock: virtual time does not pass by itself.
const POLLS_PER_INSTANT_MAX: u64 = 2_000_000;

/// Sleeps end up to this much late, so that equal deadlines seldom tie.
const SLEEP_JITTER_NS_MAX: u64 = 1_000;

/// Which task of which shard of which life of which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(super) id: u64,
    pub(super) node: u32,
    pub(super) incarnation: u64,
    pub(super) shard: usize,
    pub(super) class: Class,
}

enum Ready {
    Task(Runnable<Meta>),
    Driver,
}

/// Wakers must be `Send`, so what they push to is shared through a mutex that nobody contends for.
type ReadyList = Arc<Mutex<Vec<Ready>>>;

type Call = Box<dyn FnOnce(&Rc<Core>)>;

type Tasks = BTreeMap<u64, (Meta, Task<(), Meta>)>;

pub(super) enum Event {
    Wake(Waker),
    Call(Call),
}

/// Everything that one simulation owns.
pub(crate) struct Core {
    pub(super) seed: u64,
    pub(super) options: SimOptions,
    now_ns: Cell<u64>,
    ready: ReadyList,
    tasks: RefCell<Tasks>,
    finished: RefCell<Vec<u64>>,
    next_task: Cell<u64>,
    events: RefCell<BTreeMap<(u64, u64), Event>>,
    next_event: Cell<u64>,
    schedule_rng: RefCell<fastrand::Rng>,
    pub(super) io_rng: RefCell<fastrand::Rng>,
    user_rng: RefCell<fastrand::Rng>,
    trace: Cell<u64>,
    polls: Cell<u64>,
    pub(super) nodes: RefCell<BTreeMap<u32, Rc<Node>>>,
}

impl Core {
    pub(super) fn new(seed: u64, options: SimOptions) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            seed,
            options,
            now_ns: Cell::new(CLOCK_START_NS),
            ready: ReadyList::default(),
            tasks: RefCell::default(),
            finished: RefCell::default(),
            next_task: Cell::new(1),
            events: RefCell::default(),
            next_event: Cell::new(0),
            schedule_rng: RefCell::new(rng.fork()),
            io_rng: RefCell::new(rng.fork()),
            user_rng: RefCell::new(rng.fork()),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
            polls: Cell::new(0),
            nodes: RefCell::default(),
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    /// Adds an event to the trace.
    pub(super) fn trace(&self, words: &[u64]) {
        let mut hash = self.trace.get();
        for word in words {
            hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.trace.set(hash);
    }

    pub(super) fn random_u64(&self) -> u64 {
        self.user_rng.borrow_mut().u64(..)
    }

    pub(super) fn random_below(&self, n: u64) -> u64 {
        self.user_rng.borrow_mut().u64(..n)
    }

    pub(super) fn one_in(&self, n: u32) -> bool {
        self.schedule_rng.borrow_mut().u32(..n) == 0
    }

    fn alive(&self, meta: &Meta) -> bool {
        meta.node == DRIVER
            || self.nodes.borrow().get(&meta.node).is_some_and(|node| node.is_alive_in(meta.incarnation))
    }

    /// Queues a task; never polls it here. On a dead node the future is dropped.
    pub(super) fn spawn(&self, mut meta: Meta, future: impl Future<Output = ()> + 'static) {
        if !self.alive(&meta) {
            return;
        }
        meta.id = self.next_task.replace(self.next_task.get() + 1);
        let ready = Arc::clone(&self.ready);
        let schedule = move |runnable| lock(&ready).push(Ready::Task(runnable));
        let id = meta.id;
        let future = async move {
            future.await;
            if let Some(Current::Sim(place)) = ctx::current_or_none() {
                place.core.finished.borrow_mut().push(id);
            }
        };
        let (runnable, task) = Builder::new().metadata(meta).spawn_local(|_| future, schedule);
        self.tasks.borrow_mut().insert(id, (meta, task));
        runnable.schedule();
    }

    pub(super) fn at(&self, at_ns: u64, event: Event) -> (u64, u64) {
        let key = (at_ns, self.next_event.replace(self.next_event.get() + 1));
        self.events.borrow_mut().insert(key, event);
        key
    }

    /// Runs `call` after `delay_ns`.
    pub(super) fn after(&self, delay_ns: u64, call: impl FnOnce(&Rc<Self>) + 'static) {
        self.at(self.now_ns() + delay_ns, Event::Call(Box::new(call)));
    }

    pub(super) fn sleep_until(self: &Rc<Self>, deadline_ns: u64) -> Sleep {
        let jitter_ns = self.schedule_rng.borrow_mut().u64(1..SLEEP_JITTER_NS_MAX);
        let deadline_ns = deadline_ns.max(self.now_ns()).saturating_add(jitter_ns);
        Sleep { core: Rc::clone(self), deadline_ns, key: None }
    }

    /// Runs until `future` is ready.
    pub(super) fn run_until<T>(self: &Rc<Self>, future: impl Future<Output = T>) -> T {
        let _seed_printer = SeedPrinter(self.seed);
        let mut future = std::pin::pin!(future);
        let waker = Arc::new(DriverWaker { ready: Arc::clone(&self.ready), queued: AtomicBool::new(false) });
        waker.wake_by_ref();
        let driver_waker = Waker::from(Arc::clone(&waker));
        let driver = self.place(Meta { id: 0, node: DRIVER, incarnation: 0, shard: 0, class: Class::Serve });
        loop {
            match self.draw() {
                Some(Ready::Driver) => {
                    waker.queued.store(false, Ordering::Relaxed);
                    let _entered = ctx::enter(Current::Sim(driver.clone()));
                    let mut cx = Context::from_waker(&driver_waker);
                    if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                        // A wake may still be queued for a driver that is no more.
                        lock(&self.ready).retain(|ready| matches!(ready, Ready::Task(_)));
                        return output;
                    }
                }
                Some(Ready::Task(runnable)) => self.poll(runnable),
                None => self.advance(),
            }
        }
    }

    fn draw(&self) -> Option<Ready> {
        let mut ready = lock(&self.ready);
        if ready.is_empty() {
            return None;
        }
        let drawn = self.schedule_rng.borrow_mut().usize(..ready.len());
        let polls = self.polls.get() + 1;
        self.polls.set(polls);
        assert!(
            polls < POLLS_PER_INSTANT_MAX,
            "livelock: {polls} polls without virtual time passing (seed {})",
            self.seed
        );
        Some(ready.swap_remove(drawn))
    }

    fn poll(self: &Rc<Self>, runnable: Runnable<Meta>) {
        let meta = *runnable.metadata();
        self.trace(&[1, self.now_ns(), meta.id]);
        {
            let _entered = ctx::enter(Current::Sim(self.place(meta)));
            runnable.run();
        }
        let finished = std::mem::take(&mut *self.finished.borrow_mut());
        for id in finished {
            let task = self.tasks.borrow_mut().remove(&id);
            if let Some((_, task)) = task {
                task.detach();
            }
        }
    }

    /// Nothing is runnable: jumps to the next timer and fires all that are due.
    fn advance(self: &Rc<Self>) {
        self.polls.set(0);
        let next = self.events.borrow().first_key_value().map(|((at_ns, _), _)| *at_ns);
        let Some(at_ns) = next else {
            panic!(
                "deadlock: the driver waits, nothing is runnable, no timer is set, {} tasks wait \
                 (seed {})",
                self.tasks.borrow().len(),
                self.seed
            );
        };
        self.now_ns.set(at_ns.max(self.now_ns()));
        let passed_ns = self.now_ns() - CLOCK_START_NS;
        assert!(
            u128::from(passed_ns) <= self.options.time_max.as_nanos(),
            "the driver was not done within {:?} of virtual time (seed {})",
            self.options.time_max,
            self.seed
        );
        loop {
            let mut events = self.events.borrow_mut();
            match events.first_entry() {
                Some(entry) if entry.key().0 <= self.now_ns() => {
                    let event = entry.remove();
                    drop(events);
                    match event {
                        Event::Wake(waker) => waker.wake(),
                        Event::Call(call) => call(self),
                    }
                }
                _ => break,
            }
        }
    }

    pub(super) fn place(self: &Rc<Self>, meta: Meta) -> Place {
        Place { core: Rc::clone(self), meta }
    }

    /// Drops all tasks for which `dies` holds, as the death of their process would.
    pub(super) fn drop_tasks(self: &Rc<Self>, dies: impl Fn(&Meta) -> bool) {
        if let Some(Current::Sim(place)) = ctx::current_or_none() {
            assert!(!dies(&place.meta), "a task cannot drop itself: kill a node from the driver");
        }
        let doomed: Vec<u64> =
            self.tasks.borrow().iter().filter(|(_, (m, _))| dies(m)).map(|(id, _)| *id).collect();
        for id in doomed {
            let task = self.tasks.borrow_mut().remove(&id);
            if let Some((meta, task)) = task {
                let _entered = ctx::enter(Current::Sim(self.place(meta)));
                drop(task);
            }
        }
        // Dropping a task handle only schedules the drop of its future.
        loop {
            let runnable = {
                let mut ready = lock(&self.ready);
                let found = ready
                    .iter()
                    .position(|ready| matches!(ready, Ready::Task(runnable) if dies(runnable.metadata())));
                found.map(|at| ready.remove(at))
            };
            let Some(Ready::Task(runnable)) = runnable else {
                break;
            };
            let _entered = ctx::enter(Current::Sim(self.place(*runnable.metadata())));
            drop(runnable);
        }
    }

    /// Ends everything, so that tasks that hold the core do not keep it alive.
    pub(super) fn shut_down(self: &Rc<Self>) {
        for node in self.nodes.borrow().values() {
            node.die();
        }
        self.drop_tasks(|_| true);
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
    }
}

fn lock(ready: &ReadyList) -> std::sync::MutexGuard<'_, Vec<Ready>> {
    // A panic elsewhere leaves the list whole: pushes and removals are single calls.
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

struct DriverWaker {
    ready: ReadyList,
    queued: AtomicBool,
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready).push(Ready::Driver);
        }
    }
}

/// Says which seed failed when a panic passes through.
struct SeedPrinter(u64);

impl Drop for SeedPrinter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation with seed {} failed", self.0);
        }
    }
}

/// A virtual timer.
pub(crate) struct Sleep {
    core: Rc<Core>,
    deadline_ns: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now_ns() >= self.deadline_ns {
            return Poll::Ready(());
        }
        if let Some(key) = self.key.take() {
            self.core.events.borrow_mut().remove(&key);
        }
        self.key = Some(self.core.at(self.deadline_ns, Event::Wake(cx.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let event = self.core.events.borrow_mut().remove(&key);
            drop(event);
        }
    }
}

/// Goes back among the runnable tasks once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
