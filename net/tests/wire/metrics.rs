//! `/metrics` and `/healthz` of a live node: the page that documents them, the format, the numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use corelog_net::scrape::{Families, Kind, Labels, parse};

use super::groups::{commit_alone, find};
use super::*;

const PAGE: &str = include_str!("../../../docs/METRICS.md");

/// Between two looks at a node that is not done yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

fn scrape(node: &Node) -> Families {
    let answer = node.http("/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
    parse(body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

/// The metrics once `is_settled`: a client has its answer a moment before that is counted.
fn settled(node: &Node, is_settled: impl Fn(&Families) -> bool) -> Families {
    let began = Instant::now();
    loop {
        let families = scrape(node);
        if is_settled(&families) {
            return families;
        }
        assert!(began.elapsed() < TIMEOUT, "{families:#?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn matches(labels: &Labels, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|it| it == value))
}

/// The sum over all series with these labels.
fn value(families: &Families, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let values = families[name].values.iter();
    values.filter(|(labels, _)| matches(labels, wanted)).map(|(_, value)| value).sum()
}

/// Count and sum over all series with these labels.
fn histogram(families: &Families, name: &str, wanted: &[(&str, &str)]) -> (u64, f64) {
    let series = families[name].histograms.iter().filter(|(labels, _)| matches(labels, wanted));
    series.fold((0, 0.0), |(count, sum), (_, it)| (count + it.count, sum + it.sum))
}

fn stage(families: &Families, stage: &str, shard: &str) -> u64 {
    histogram(families, "corelog_stage_duration_seconds", &[("stage", stage), ("shard", shard)]).0
}

/// A line of one of the page's tables of metrics.
struct Row {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

fn page() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, meaning, _] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        assert!(!meaning.is_empty(), "{name}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let row = Row { kind: kind.to_owned(), unit: unit.to_owned(), labels };
        assert!(rows.insert(name.to_owned(), row).is_none(), "{name} is listed twice");
    }
    rows
}

#[test]
fn the_page_lists_what_is_exported() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let refused = client.send_produce(9, 1, "t", 99, &["x"]);
    assert_eq!(client.produced(9, refused).0, 3);
    find(&mut client);
    commit_alone(&mut client, "g", 0);
    let families = settled(&node, |families| !families["corelog_net_request_errors_total"].values.is_empty());
    let page = page();
    let exported: BTreeSet<_> = families.keys().collect();
    assert_eq!(exported, page.keys().collect::<BTreeSet<_>>());
    for (name, family) in &families {
        let row = &page[name];
        assert_eq!(row.kind, family.kind.name(), "{name}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.contains(unit)).unwrap_or_default();
        assert_eq!(row.unit, unit, "{name}");
        let labels: BTreeSet<BTreeSet<String>> = match family.kind {
            Kind::Histogram => family.histograms.keys().map(|it| it.keys().cloned().collect()).collect(),
            Kind::Counter | Kind::Gauge => {
                family.values.keys().map(|it| it.keys().cloned().collect()).collect()
            }
        };
        assert_eq!(labels, BTreeSet::from([row.labels.clone()]), "{name}: every series has these labels");
    }
    for (label, metric) in [("stage", "corelog_stage_duration_seconds"), ("purpose", "corelog_memory_bytes")]
    {
        let family = &families[metric];
        let labels = family.values.keys().chain(family.histograms.keys());
        let values: BTreeSet<&String> = labels.map(|labels| &labels[label]).collect();
        assert!(values.len() >= 5, "{values:?}");
        for value in values {
            assert!(PAGE.contains(&format!("\n| `{value}` | ")), "{label} {value} is not on the page");
        }
    }
}

#[test]
fn lag_is_what_is_between_a_commit_and_the_end() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let without_groups = scrape(&node);
    assert!(without_groups["corelog_group_lag_records"].values.is_empty());
    for _ in 0..5 {
        let sent = client.send_produce(9, -1, "t", 0, &["a", "b"]);
        assert_eq!(client.produced(9, sent).0, 0);
    }
    find(&mut client);
    for (group, offset) in [("slow", 3), ("done", 10), ("beyond", 12)] {
        commit_alone(&mut client, group, offset);
    }
    let families = scrape(&node);
    let of =
        |name: &str, group| value(&families, name, &[("group", group), ("topic", "t"), ("partition", "0")]);
    let lag = |group| (of("corelog_group_committed_offset", group), of("corelog_group_lag_records", group));
    assert_eq!((lag("slow"), lag("done"), lag("beyond")), ((3.0, 7.0), (10.0, 0.0), (12.0, 0.0)));
    let end = &families["corelog_group_high_watermark_offset"];
    assert_eq!(end.values.values().copied().collect::<Vec<_>>(), [10.0], "once, however many groups read it");
    assert_eq!(value(&families, "corelog_group_offsets_left_out", &[]), 0.0);
}

#[test]
fn the_numbers_are_those_of_what_was_done() {
    const PRODUCES: u32 = 40;
    const UNACKNOWLEDGED: u32 = 3;
    const FETCHES: u32 = 12;
    let node = Node::start(2);
    let mut client = node.connect();
    let id = client.create("t");
    // First: a sync that somebody waits for covers them, and fetches see them.
    for _ in 0..UNACKNOWLEDGED {
        client.send_produce(9, 0, "t", 0, &["a", "b"]);
    }
    for number in 0..PRODUCES {
        let partition = i32::try_from(number % 4).unwrap();
        let sent = client.send_produce(9, -1, "t", partition, &["a", "b"]);
        assert_eq!(client.produced(9, sent).0, 0);
    }
    for partition in [17, 18] {
        let sent = client.send_produce(9, 1, "t", partition, &["a", "b"]);
        assert_eq!(client.produced(9, sent).0, 3);
    }
    for number in 0..FETCHES {
        let partition = i32::try_from(number % 4).unwrap();
        let fetched = client.fetch(12, &fetch_of("t", id, &[(partition, 0)]));
        assert_eq!(fetched.topics[0].partitions[0].error.code(), 0);
    }
    let produces = PRODUCES + UNACKNOWLEDGED + 2;
    let duration = "corelog_net_request_duration_seconds";
    let families = settled(&node, |it| {
        let commits: Vec<_> = ["0", "1"]
            .map(|shard| histogram(it, "corelog_journal_commit_entries", &[("shard", shard)]).1)
            .into();
        let entries: Vec<_> =
            ["0", "1"].map(|shard| value(it, "corelog_journal_entries_total", &[("shard", shard)])).into();
        histogram(it, duration, &[("api", "Fetch")]).0 == u64::from(FETCHES)
            && histogram(it, duration, &[("api", "Produce")]).0 == u64::from(produces)
            && commits == entries
            && value(it, "corelog_memory_bytes", &[("purpose", "journal_queue")]) == 0.0
    });

    // Requests, at the shard of the connection.
    let requests = |api| value(&families, "corelog_net_requests_total", &[("api", api)]);
    assert_eq!(requests("Produce"), f64::from(produces));
    assert_eq!(requests("Fetch"), f64::from(FETCHES));
    let all = value(&families, "corelog_net_requests_total", &[]);
    assert_eq!(all, f64::from(produces + FETCHES) + requests("Metadata"));
    let errors = [("api", "Produce"), ("error", "UNKNOWN_TOPIC_OR_PARTITION")];
    assert_eq!(value(&families, "corelog_net_request_errors_total", &errors), 2.0);
    let produce_errors = value(&families, "corelog_net_request_errors_total", &[("api", "Produce")]);
    assert_eq!(produce_errors, 2.0, "and no other");
    let is_own = |shard: &&str| value(&families, "corelog_net_requests_total", &[("shard", shard)]) > 0.0;
    let (own, other) = if is_own(&"0") { ("0", "1") } else { ("1", "0") };
    assert!(!is_own(&other), "one connection is on one shard");
    assert_eq!(value(&families, "corelog_net_connections", &[("shard", own)]), 1.0);
    assert_eq!(value(&families, "corelog_net_connections_accepted_total", &[]), 1.0);

    // Stages: everything was queued; what has an answer was written.
    let counted = all.to_string().parse::<u64>().unwrap();
    assert_eq!(stage(&families, "queue", own), counted);
    assert_eq!(stage(&families, "reply", own), counted - u64::from(UNACKNOWLEDGED));
    let (in_queue, queued) = histogram(&families, "corelog_stage_duration_seconds", &[("stage", "queue")]);
    let (whole_count, whole) = histogram(&families, duration, &[]);
    assert_eq!((in_queue, whole_count), (counted, counted));
    assert!(queued > 0.0 && queued < whole, "{queued} {whole}");

    // Records, at the shards of the partitions.
    let batch = BatchBuilder::new().record(1_700_000_000_000, Some(b"key"), Some(b"a")).record(
        1_700_000_000_000,
        Some(b"key"),
        Some(b"b"),
    );
    let batch_bytes = f64::from(u32::try_from(batch.build().unwrap().len()).unwrap());
    let batches = f64::from(PRODUCES + UNACKNOWLEDGED);
    let fsync = [("durability", "fsync")];
    assert_eq!(value(&families, "corelog_engine_produced_batches_total", &fsync), batches);
    assert_eq!(value(&families, "corelog_engine_produced_records_total", &fsync), 2.0 * batches);
    assert_eq!(value(&families, "corelog_engine_produced_bytes_total", &fsync), batch_bytes * batches);
    assert_eq!(value(&families, "corelog_engine_produced_batches_total", &[]), batches, "none in mode write");
    assert_eq!(value(&families, "corelog_engine_tail_cache_hits_total", &[]), f64::from(FETCHES));
    assert_eq!(value(&families, "corelog_engine_tail_cache_misses_total", &[]), 0.0);
    let fetched = value(&families, "corelog_engine_fetched_batches_total", &[("source", "memory")]);
    let bytes = value(&families, "corelog_engine_fetched_bytes_total", &[("source", "memory")]);
    assert_eq!(fetched, f64::from(FETCHES) / 4.0 * batches);
    assert_eq!(bytes, fetched * batch_bytes);
    let on = |shard, name: &str| value(&families, name, &[("shard", shard)]);
    let forwarded = on(other, "corelog_engine_produced_batches_total")
        + on(other, "corelog_engine_tail_cache_hits_total");
    assert!(forwarded > 0.0, "partitions are on both shards");
    assert_eq!(f64::from(u32::try_from(stage(&families, "forward", own)).unwrap()), forwarded);

    // Group commit: every commit is written, alone or together with its sync, every entry is in one of
    // them, in whole blocks.
    for shard in ["0", "1"] {
        let (commits, entries) = histogram(&families, "corelog_journal_commit_entries", &[("shard", shard)]);
        let (writes, bytes) = histogram(&families, "corelog_journal_commit_bytes", &[("shard", shard)]);
        assert_eq!(commits, writes);
        let (written, syncs) =
            (stage(&families, "journal_write", shard), stage(&families, "journal_sync", shard));
        assert!(written < commits, "a small commit is synced by its write");
        assert!((commits - written..=commits).contains(&syncs), "{syncs} syncs of {commits} commits");
        assert_eq!(entries, on(shard, "corelog_journal_entries_total"));
        assert!(entries >= on(shard, "corelog_engine_produced_batches_total"));
        assert!(bytes >= on(shard, "corelog_engine_produced_bytes_total") && bytes % 4096.0 == 0.0);
        assert_eq!(on(shard, "corelog_engine_shard_up"), 1.0);
        assert_eq!(on(shard, "corelog_engine_mesh_queued_messages"), 0.0, "a scrape does not see itself");
        assert_eq!(value(&families, "corelog_journal_full", &[("shard", shard)]), 0.0);
    }
    let unflushed = value(&families, "corelog_memory_bytes", &[("purpose", "unflushed")]);
    assert_eq!(unflushed, batch_bytes * batches, "nothing was flushed yet");
}

/// The body of an answer, and whether it is "200 OK".
fn health(addresses: &Addresses) -> (bool, String) {
    let mut stream = TcpStream::connect(addresses.http.unwrap()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/json"), "{head}");
    (head.starts_with("HTTP/1.1 200"), body.to_owned())
}

#[test]
fn health_is_told_from_the_bind_to_the_end() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data_dir = dir.path().join("data");
    let (tell, told) = mpsc::channel();
    let (step, steps) = watch::channel(0);
    let run = shards::Options { shards: 1, data_dirs: vec![data_dir.clone()], ..shards::Options::default() };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let net = NetOptions {
        listeners: vec![ListenerOptions { name: "plain".to_owned(), bind: loopback }],
        http: Some(loopback),
        ..NetOptions::default()
    };
    let shared = NodeNet::new(1);
    let thread = std::thread::spawn(move || {
        let main = move |context: ShardContext<_, _>| {
            let (net, shared, tell, data_dir) = (net.clone(), shared.clone(), tell.clone(), data_dir.clone());
            let mut steps = steps.clone();
            async move {
                let bound = Bound::bind(&shared, 0, &net).await.unwrap();
                let addresses = bound.addresses().clone();
                tell.send(addresses.clone()).unwrap();
                steps.wait_for(|step| *step >= 1).await.unwrap();
                let engine = Engine::start(context.mesh, engine_options(data_dir, Vec::new())).await.unwrap();
                let server = Server::start(engine.clone(), net, shared, bound);
                tell.send(addresses.clone()).unwrap();
                steps.wait_for(|step| *step >= 2).await.unwrap();
                server.stop().await;
                tell.send(addresses).unwrap();
                steps.wait_for(|step| *step >= 3).await.unwrap();
                engine.shut_down().await.unwrap();
                Ok::<(), Infallible>(())
            }
        };
        shards::run(run, main).unwrap();
    });
    let next = || told.recv_timeout(TIMEOUT).expect("the node goes on");
    let (is_ok, body) = health(&next());
    assert!(!is_ok && body.contains("\"starting\""), "{body}");
    step.send_replace(1);
    let (is_ok, body) = health(&next());
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let well = serde_json::json!({ "status": "ok", "shards": 1, "partitions_offline": 0 });
    assert_eq!((is_ok, body), (true, well));
    step.send_replace(2);
    let (is_ok, body) = health(&next());
    assert!(!is_ok && body.contains("\"stopping\""), "{body}");
    step.send_replace(3);
    thread.join().unwrap();
}
