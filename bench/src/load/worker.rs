//! One executor of a run: its share of the producers and consumers, from set-up to end.
//!
//! The first executor also makes the topics, finds out where consumers are done, and deletes what it
//! made.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use corelog_net::client::admin::{OffsetSpec, TopicSpec};
use corelog_net::client::{Admin, Client, ClientOptions};
use corelog_protocol::fetch::IsolationLevel;
use corelog_runtime::shards::{ShardContext, stop_signal};
use corelog_runtime::task::{self, Class, Join};
use corelog_runtime::time::{self, Instant};
use futures_util::future::{Either, join_all, select};

use super::consumer::Consumer;
use super::producer::Producer;
use super::recorder::Recorder;
use super::routes::{Part, Routes};
use super::shared::{Clock, Setup, Shared};

/// Between the moment at which everybody is connected, and the start.
const START_DELAY: Duration = Duration::from_millis(20);
/// How often what was measured is handed over: more often than once a second, as logs want it.
const HAND_OVER: Duration = Duration::from_millis(100);
/// The leaders of a new topic may take a moment.
const TOPIC_READY: Duration = Duration::from_secs(15);
const TOPIC_LOOK: Duration = Duration::from_millis(20);
/// The ends of the logs are asked for so often, and for so long.
const ENDS_LOOK: Duration = Duration::from_millis(200);
const ENDS_LIMIT: Duration = Duration::from_secs(30);
/// What ends by itself when the process is asked to stop has so much time for it.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The executors of a generator send each other nothing.
pub(super) type Executor = ShardContext<(), ()>;

/// Runs this executor's share.
pub(super) async fn run(executor: Executor, shared: Arc<Shared>) -> Result<(), String> {
    let result = {
        let work = std::pin::pin!(work(&executor, &shared));
        let stopped = std::pin::pin!(async { stop_signal().wait().await });
        match select(work, stopped).await {
            Either::Left((result, _)) => result,
            Either::Right(((), work)) => {
                let is_failed = shared.live.over.load(SeqCst);
                shared.outcome().interrupted |= !is_failed;
                // What runs ends by itself on that signal; what waits for others may not.
                time::timeout(STOP_LIMIT, work).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = result {
        shared.fail(error);
    }
    Ok(())
}

async fn work(executor: &Executor, shared: &Arc<Shared>) -> Result<()> {
    let options = ClientOptions::new([&shared.bootstrap]);
    let client = Client::connect(ClientOptions { client_id: "corelog-bench".to_owned(), ..options }).await?;
    if executor.shard == 0 {
        let setup = set_up(&client, shared).await?;
        shared.setup.send_replace(Some(setup));
    }
    let setup = shared.setup.subscribe().wait_for(Option::is_some).await?.clone().context("waited for")?;
    let routes = Rc::new(Routes::new(client.clone(), &setup.topics).await?);
    if executor.shard == 0 {
        let name = |part: &Part| format!("{}-{}", routes.topics[part.topic].name, part.partition);
        shared.outcome().part_names = routes.parts.iter().map(name).collect();
    }
    let clock = Rc::new(Clock::new());
    let recorder = Rc::new(Recorder::new(shared.phases.measured.clone()));
    let crew = Crew { executor, shared, setup: &setup, routes: &routes, clock: &clock, recorder: &recorder };
    let (producers, consumers) = (crew.producers().await?, crew.consumers().await?);
    let start_ns = agree_on_start(shared).await?;
    clock.set(start_ns);
    shared.live.start_ns.store(start_ns, SeqCst);
    task::spawn(hand_over(Rc::clone(&recorder), Arc::clone(shared)));
    time::sleep_until(clock.at(0)).await;
    let mut work: Vec<Join<()>> = Vec::new();
    work.extend(producers.into_iter().map(|it| task::spawn_join(Class::Serve, it.run())));
    work.extend(consumers.into_iter().map(|it| task::spawn_join(Class::Serve, it.run())));
    shared.producing.subscribe().wait_for(|producing| *producing == 0).await?;
    if executor.shard == 0 {
        let ends = log_ends(&client, &routes).await?;
        shared.ends.send_replace(Some(Arc::new(ends)));
    }
    join_all(work).await;
    recorder.hand_over(&shared.interval);
    end_together(executor, shared).await?;
    if executor.shard == 0 && !shared.uses_existing_topics {
        delete_topics(&client, &setup.topics).await;
    }
    Ok(())
}

/// Makes the topics, or looks whether they are as the plan has them.
async fn set_up(client: &Client, shared: &Shared) -> Result<Setup> {
    let plan = &shared.plan;
    let names = plan.topic_names();
    if shared.uses_existing_topics {
        let routes = Routes::new(client.clone(), &names).await?;
        let starts = offsets(client, &routes, OffsetSpec::Latest).await?;
        return Ok(Setup { topics: names, starts: Arc::new(starts) });
    }
    let names: Vec<String> = names.iter().map(|name| format!("{name}-{:08x}", shared.run)).collect();
    let specs: Vec<TopicSpec> = names
        .iter()
        .map(|name| TopicSpec {
            name: name.clone(),
            partitions: Some(plan.partitions),
            replication_factor: Some(plan.replication_factor),
            configs: plan.topic_configs.clone().into_iter().collect(),
        })
        .collect();
    for created in Admin::new(client.clone()).create_topics(&specs, false).await? {
        created?;
    }
    let limit = Instant::now() + TOPIC_READY;
    let partitions = usize::try_from(plan.partitions)? * names.len();
    loop {
        match Routes::new(client.clone(), &names).await {
            Ok(routes) if routes.parts.len() == partitions => {
                // Nothing is in a new topic.
                return Ok(Setup { topics: names, starts: Arc::new(vec![0; partitions]) });
            }
            Ok(_) if Instant::now() < limit => names.iter().for_each(|name| client.forget(name)),
            Ok(_) => bail!("the topic '{}' did not get its partitions", names[0]),
            Err(error) if Instant::now() >= limit => return Err(error),
            Err(_) => {}
        }
        time::sleep(TOPIC_LOOK).await;
        // What fails is seen when the topics are looked up.
        let _ = client.refresh(corelog_net::client::AutoCreate::No).await;
    }
}

/// An offset of every partition of the run.
async fn offsets(client: &Client, routes: &Routes, spec: OffsetSpec) -> Result<Vec<i64>> {
    let name = |topic: usize| Rc::clone(&routes.topics[topic].name);
    let wanted: Vec<_> = routes.parts.iter().map(|part| ((name(part.topic), part.partition), spec)).collect();
    let found = Admin::new(client.clone()).list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
    found
        .iter()
        .zip(&wanted)
        .map(|(found, ((name, partition), _))| {
            found.offset.with_context(|| format!("the broker does not know where {name}-{partition} ends"))
        })
        .collect()
}

/// Where the logs end when all producers are done. A broker that has just been killed gets time to
/// come back: what it acknowledged is to be looked for then, of all times.
async fn log_ends(client: &Client, routes: &Routes) -> Result<Vec<i64>> {
    let limit = Instant::now() + ENDS_LIMIT;
    loop {
        match offsets(client, routes, OffsetSpec::Latest).await {
            Err(error) if Instant::now() < limit && !stop_signal().is_raised() => {
                tracing::debug!(%error, "the ends of the logs could not be looked up");
                time::sleep(ENDS_LOOK).await;
            }
            found => return found,
        }
    }
}

/// Who works on this executor.
struct Crew<'a> {
    executor: &'a Executor,
    shared: &'a Arc<Shared>,
    setup: &'a Setup,
    routes: &'a Rc<Routes>,
    clock: &'a Rc<Clock>,
    recorder: &'a Rc<Recorder>,
}

impl Crew<'_> {
    /// Whether the `index`-th of many is this executor's.
    fn is_mine(&self, index: usize) -> bool {
        index % self.executor.shards == self.executor.shard
    }

    async fn producers(&self) -> Result<Vec<Rc<Producer>>> {
        let mut producers = Vec::new();
        for index in (0..self.shared.plan.producers).filter(|index| self.is_mine(*index)) {
            let (shared, routes) = (Arc::clone(self.shared), Rc::clone(self.routes));
            let (clock, recorder) = (Rc::clone(self.clock), Rc::clone(self.recorder));
            let index = u32::try_from(index)?;
            producers.push(Producer::new(index, shared, routes, clock, recorder).await?);
        }
        Ok(producers)
    }

    async fn consumers(&self) -> Result<Vec<Rc<Consumer>>> {
        let plan = &self.shared.plan;
        let mut consumers = Vec::new();
        for group in 0..plan.groups {
            for member in 0..plan.consumers {
                // From the other end, so that one producer and one consumer have an executor each.
                let index = self.executor.shards - 1 + group * plan.consumers + member;
                let parts = (0..self.routes.parts.len()).filter(|part| part % plan.consumers == member);
                let parts: Vec<usize> = parts.collect();
                if !self.is_mine(index) || parts.is_empty() {
                    continue;
                }
                let (shared, routes) = (Arc::clone(self.shared), Rc::clone(self.routes));
                let (clock, recorder) = (Rc::clone(self.clock), Rc::clone(self.recorder));
                let starts = &self.setup.starts;
                consumers.push(Consumer::new(group, parts, starts, shared, routes, clock, recorder).await?);
            }
        }
        Ok(consumers)
    }
}

/// Waits until everybody is connected; the last one says when the run starts.
async fn agree_on_start(shared: &Shared) -> Result<u64> {
    if shared.unready.fetch_sub(1, SeqCst) == 1 {
        shared.start.send_replace(Some((Instant::now() + START_DELAY).as_nanos()));
    }
    let start = *shared.start.subscribe().wait_for(Option::is_some).await?;
    start.context("waited for")
}

/// Waits until everybody is done.
async fn end_together(executor: &Executor, shared: &Shared) -> Result<()> {
    shared.ended.send_modify(|ended| *ended += 1);
    shared.ended.subscribe().wait_for(|ended| *ended == executor.shards).await?;
    Ok(())
}

async fn hand_over(recorder: Rc<Recorder>, shared: Arc<Shared>) {
    while !shared.live.over.load(SeqCst) {
        time::sleep(HAND_OVER).await;
        recorder.hand_over(&shared.interval);
    }
}

async fn delete_topics(client: &Client, names: &[String]) {
    let deleted = Admin::new(client.clone()).delete_topics(names).await;
    let failed = match deleted {
        Ok(each) => each.into_iter().find_map(Result::err),
        Err(error) => Some(error),
    };
    if let Some(error) = failed {
        tracing::warn!(%error, "a topic of this run could not be deleted");
    }
}
