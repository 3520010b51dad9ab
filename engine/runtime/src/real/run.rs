//! Starting the shards and waiting for their end.

use std::cell::Cell;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::watch::{Pulse, Watch};
use super::{Shard, check, signals, task};
use crate::alloc;
use crate::ctx::{self, Current};
use crate::error::StartError;
use crate::mesh::{self, Mesh, RealEnd};
use crate::shards::{Options, ShardContext, StopFlag};
use crate::task::{Class, spawn_join};

thread_local! {
    static SHARD_OF_THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What every shard's thread is given.
#[derive(Clone)]
struct Plan {
    options: Options,
    shards: usize,
    stop: StopFlag,
    /// How many tasks of [`keep_awake`].
    turns: u32,
}

/// How long a shard's first task may keep others waiting: glommio's own default.
const PREEMPT_AT_START: Duration = Duration::from_millis(100);

/// The longest that a shard with work sleeps, see [`keep_awake`].
const KEEP_AWAKE_BUSY: Duration = Duration::from_millis(5);
/// The longest that an idle shard sleeps: ten wakes a second.
const KEEP_AWAKE_IDLE: Duration = Duration::from_millis(100);
/// Timers that take turns.
pub(crate) const KEEP_AWAKE_TURNS: u32 = 4;
/// Tasks that run in that time on an idle shard.
const KEEP_AWAKE_TASKS: u64 = 4;

/// See [`crate::shards::run`]. `turns` is how many guard timers each shard has, [`KEEP_AWAKE_TURNS`]
/// but in tests.
pub(crate) fn run<Q, A, F, Fut, E>(options: Options, turns: u32, shard_main: F) -> Result<(), StartError>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(ShardContext<Q, A>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: Display + 'static,
{
    let cores = check::check_cores(options.cores.as_deref())?;
    let shards = if options.shards == 0 { cores.len() } else { options.shards };
    let io_memory_bytes = check::check_memlock(options.io_memory_bytes, shards)?;
    check::check_io_uring()?;
    for dir in &options.data_dirs {
        check::check_data_dir(dir)?;
    }
    abort_on_shard_panic();

    let pulses: Vec<Arc<Pulse>> = (0..shards).map(|_| Arc::default()).collect();
    let watch = Watch::start(pulses.clone()).map_err(|source| StartError::Thread { shard: 0, source })?;
    let stop = StopFlag::default();
    signals::watch(&stop).map_err(|source| StartError::Thread { shard: 0, source })?;
    let plan = Plan { options: Options { io_memory_bytes, ..options }, shards, stop: stop.clone(), turns };
    // The executors' blocking threads inherit these cores; the executors pin themselves to one.
    let restore = Affinity::narrow(&cores);
    let mut threads = Vec::with_capacity(shards);
    let mut result = Ok(());
    for (shard, end) in mesh::real_ends::<Q, A>(shards).into_iter().enumerate() {
        let (plan, shard_main, pulse) = (plan.clone(), shard_main.clone(), Arc::clone(&pulses[shard]));
        let core = cores[shard % cores.len()];
        let spawned = std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || shard_thread(&plan, shard, core, end, &pulse, shard_main));
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                stop.raise();
                result = Err(StartError::Thread { shard, source });
                break;
            }
        }
    }
    drop(restore);
    for (shard, thread) in threads.into_iter().enumerate() {
        let ended = thread
            .join()
            .unwrap_or_else(|_| Err(StartError::Shard { shard, message: "its thread panicked".into() }));
        result = result.and(ended);
    }
    drop(watch);
    signals::unwatch(&stop);
    result
}

fn shard_thread<Q, A, F, Fut, E>(
    plan: &Plan,
    shard: usize,
    core: usize,
    end: RealEnd<Q, A>,
    pulse: &Arc<Pulse>,
    shard_main: F,
) -> Result<(), StartError>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(ShardContext<Q, A>) -> Fut + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: Display + 'static,
{
    SHARD_OF_THREAD.set(Some(shard));
    alloc::keep_freed(alloc::KEPT_BYTES_MAX);
    if let Err(source) = signals::keep_off_this_thread() {
        plan.stop.raise();
        return Err(StartError::Thread { shard, source });
    }
    // The timer is what makes a busy task let others run, see the latencies of the task queues: 100 ms
    // would delay the mesh, timers and I/O by as much. The executor's own is for the time before it
    // has those queues: a short one can put it to sleep before it ever ran, see `keep_awake`.
    // No spinning: an idle shard sleeps.
    let made = LocalExecutorBuilder::new(Placement::Unbound)
        .name("shard")
        .io_memory(plan.options.io_memory_bytes)
        .preempt_timer(PREEMPT_AT_START)
        .make();
    let executor = match made {
        Ok(executor) => executor,
        Err(error) => {
            plan.stop.raise();
            return Err(StartError::Thread { shard, source: error.into() });
        }
    };
    if let Err(source) = pin(&[core]) {
        plan.stop.raise();
        return Err(StartError::Thread { shard, source });
    }
    let (shards, preempt, stop, turns) = (plan.shards, plan.options.preempt, plan.stop.clone(), plan.turns);
    let result = executor.run(async move {
        let here = match Shard::new(preempt, stop.clone()) {
            Ok(here) => Rc::new(here),
            Err(error) => {
                stop.raise();
                return Err(format!("its sockets cannot be watched: {error}"));
            }
        };
        // For good: other tasks may still run between the end of this one and that of the thread.
        ctx::enter_for_good(Current::Real(Rc::clone(&here)));
        task::spawn_in(&here, Class::Serve, Rc::clone(&here.poller).run());
        for turn in 0..turns {
            glommio::spawn_local(keep_awake(turn, Arc::clone(pulse))).detach();
        }
        glommio::spawn_local(Arc::clone(pulse).listen()).detach();
        let main = async move {
            let mesh = Mesh::real(shard, end);
            let context = ShardContext { shard, shards, mesh: mesh.clone() };
            let result = shard_main(context).await.map_err(|error| format!("{error:#}"));
            mesh.close();
            mesh.flushed().await;
            result
        };
        let result = spawn_join(Class::Serve, main).await;
        if let Err(message) = &result {
            tracing::error!(shard, message, "shard failed, the node stops");
            stop.raise();
        }
        result
    });
    // A shard ends with its process. Dropping the executor would drop the futures of what still
    // runs, outside of it, where they could neither close files nor answer; the kernel does better.
    std::mem::forget(executor);
    result.map_err(|message| StartError::Shard { shard, message })
}

/// glommio 0.9 can go to sleep with runnable tasks: when a completion (the preempt timer's, or that of
/// a message from another shard) arrives just before the first task of a round is looked at,
/// `run_task_queues` reports that nothing ran, the completion is consumed, and the executor parks until
/// anything else happens. With these timers something always happens soon: within 5 ms on a
/// shard that has work, within [`KEEP_AWAKE_IDLE`] on one that was idle. The wake of such a timer can
/// be the one that is lost, so there are several, which take turns. On a machine without CPU to spare
/// all of them can expire in one round and be lost together; then [`Watch`] finds no more beats.
async fn keep_awake(turn: u32, pulse: Arc<Pulse>) {
    glommio::timer::sleep(KEEP_AWAKE_IDLE * turn).await;
    loop {
        pulse.beat();
        // Reading the statistics sets them back, so this is what ran since the last look.
        let worked = glommio::executor().executor_stats().tasks_executed() > KEEP_AWAKE_TASKS;
        let pause = if worked { KEEP_AWAKE_BUSY } else { KEEP_AWAKE_IDLE };
        glommio::timer::sleep(pause * KEEP_AWAKE_TURNS).await;
    }
}

fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The main thread's cores, given back when dropped.
struct Affinity(Vec<usize>);

impl Affinity {
    fn narrow(cores: &[usize]) -> Option<Self> {
        let before = check::allowed_cores().ok()?;
        pin(cores).ok()?;
        Some(Self(before))
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        if let Err(error) = pin(&self.0) {
            tracing::warn!(%error, "cannot give the main thread its cores back");
        }
    }
}

/// A shard that is gone takes its partitions with it, while the others would go on acknowledging:
/// a panic there ends the process.
fn abort_on_shard_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            if let Some(shard) = SHARD_OF_THREAD.get() {
                eprintln!("shard {shard} panicked (see above): the whole process ends now");
                std::process::abort();
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const ROUND_TRIPS: u64 = 20_000;

    /// Messages of two shards that have nothing else to do.
    fn talk(turns: u32) {
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            let options = Options { shards: 2, ..Options::default() };
            let ended = run(options, turns, |context: ShardContext<u64, u64>| async move {
                if context.shard == 0 {
                    for i in 0..=ROUND_TRIPS {
                        assert_eq!(context.mesh.call(1, i).await, Ok(i));
                    }
                    return Ok::<(), String>(());
                }
                while let Some(incoming) = context.mesh.next().await {
                    let last = incoming.q == ROUND_TRIPS;
                    incoming.reply.unwrap().send(incoming.q);
                    if last {
                        break;
                    }
                }
                Ok(())
            });
            done.send(ended).unwrap();
        });
        // A timer on a shard would wake it, so the one that looks is outside. It takes 2 seconds.
        is_done.recv_timeout(Duration::from_secs(300)).expect("the shards stand still").unwrap();
    }

    /// glommio 0.9.0 alone would stand still, see `keep_awake`.
    #[test]
    fn messages_of_two_idle_shards_never_get_stuck() {
        talk(KEEP_AWAKE_TURNS);
    }

    /// Also where all wakes of the timers are lost.
    #[test]
    fn a_shard_that_sleeps_with_runnable_tasks_is_woken_from_outside() {
        talk(0);
    }
}
