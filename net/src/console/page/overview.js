// The node: what goes through it, its shards, and where time goes.

import { Between, added, bars, flow, percentile, sparkline } from "./charts.js";
import {
  Table, bytes, bytesParts, bytesRate, count, duration, durationParts, facts, h, meter, pill, plural, rate, rateParts, span,
} from "./dom.js";

/** Answers that are kept: two minutes of one a second. */
const KEPT = 120;
/** Histograms show what happened since so many answers ago. */
const WINDOW = 10;

const STAGES = {
  queue: "a request waits for its turn",
  forward: "to another shard and back",
  park: "a produce waits for room in the journal",
  journal_write: "a commit is written, to be synced after that",
  journal_sync: "a commit is synced, or written and synced at once: what the disk takes",
  reply: "an answer is written to its client",
  segment_read: "a fetch reads from segments",
  segment_flush: "a tail goes to its segment, behind the journal",
};

/** The last answers of `/api/v1/node`. */
export class History {
  constructor() {
    this.answers = [];
  }

  add(answer) {
    const last = this.answers.at(-1);
    // After a restart counters begin at zero again, and other shards may have other numbers.
    const isOther = last && (last.process?.started_ms !== answer.process?.started_ms || last.shards.length !== answer.shards.length);
    if (isOther) this.answers = [];
    this.answers.push(answer);
    if (this.answers.length > KEPT + 1) this.answers.shift();
  }

  get last() {
    return this.answers.at(-1);
  }

  get windowStart() {
    return this.answers.at(-1 - Math.min(WINDOW, this.answers.length - 1));
  }

  /** A value for each pair of neighbours: what happened between them. */
  between(value) {
    return this.answers.slice(1).map((after, at) => value(this.answers[at], after, new Between(this.answers[at], after)));
  }

  /** A counter's rates, summed over the shards. */
  rates(counter) {
    const sum = (answer) => answer.shards.reduce((total, shard) => total + counter(shard), 0);
    return this.between((before, after, it) => it.rate(sum(before), sum(after)));
  }
}

function tile(name) {
  const parts = { value: h("div", { class: "value" }, "–"), sub: h("div", { class: "sub" }), drawing: h("div") };
  parts.element = h("div", { class: "tile" }, h("div", { class: "name" }, name), parts.value, parts.sub, parts.drawing);
  parts.set = ([number, unit], sub, values) => {
    parts.value.replaceChildren(number, unit ? h("small", {}, unit) : "");
    parts.sub.replaceChildren(sub ?? "");
    if (values) {
      parts.element.classList.add("drawn");
      parts.drawing.replaceChildren(sparkline(values, KEPT));
    }
  };
  return parts;
}

const known = (parts, value, unit) => (value === null || value === undefined ? ["–", ""] : [parts(value)[0], parts(value)[1] + unit]);

export class Overview {
  constructor() {
    this.tiles = {
      records: tile("Records written"), in: tile("Bytes from clients"), out: tile("Bytes to clients"),
      produce: tile("Produce, p99"), connections: tile("Connections"), cpu: tile("CPU"), memory: tile("Memory"), groups: tile("Groups"),
    };
    this.shards = h("div", { class: "shards" });
    this.stages = new Table([
      { name: "Stage", left: true, mark: true, by: (it) => it.order, cell: (it) => h("span", { title: STAGES[it.stage] }, it.stage.replace("_", " ")) },
      { name: "Rate", down: true, by: (it) => it.rate, cell: (it) => rate(it.rate) },
      { name: "Mean", wide: true, down: true, by: (it) => it.mean, cell: (it) => duration(it.mean) },
      { name: "p50", down: true, wide: true, by: (it) => it.p50, cell: (it) => duration(it.p50) },
      { name: "p99", down: true, by: (it) => it.p99, cell: (it) => duration(it.p99) },
      { name: "p99.9", wide: true, down: true, by: (it) => it.p999, cell: (it) => duration(it.p999) },
      { name: "1 µs to 10 s", left: true, cell: (it) => bars(it.delta, it.p99, it.bounds) },
    ], "Stage", "Nothing was measured yet.");
    this.requests = new Table([
      { name: "API", left: true, mark: true, by: (it) => it.api, cell: (it) => it.api },
      { name: "Rate", down: true, by: (it) => it.rate, cell: (it) => rate(it.rate) },
      { name: "p50", wide: true, down: true, by: (it) => it.p50, cell: (it) => duration(it.p50) },
      { name: "p99", down: true, by: (it) => it.p99, cell: (it) => duration(it.p99) },
      { name: "Since the start", wide: true, down: true, by: (it) => it.requests, cell: (it) => count(it.requests) },
      { name: "Errors", left: true, by: (it) => it.errorCount, down: true, cell: (it) => it.errorCount === 0 ? h("span", { class: "none" }, "none") : h("span", { title: it.errors, class: "lagging" }, count(it.errorCount)) },
    ], "Rate", "No client has asked for anything yet.");
    this.requests.down = true;
    this.who = h("p", { class: "about" });
    this.element = h("div", {},
      h("section", {}, h("div", { class: "heading" }, h("div", {}, h("h1", {}, "Overview"), this.who)),
        h("div", { class: "tiles" }, Object.values(this.tiles).map((it) => it.element))),
      h("section", {}, h("div", { class: "heading" }, h("div", {}, h("h2", {}, "Shards"), h("p", { class: "about" }, "The flow of bytes through each core over the last two minutes, all on one scale.")),
        h("span", { class: "key in" }, "in"), h("span", { class: "key out" }, "out")), this.shards),
      h("section", {}, h("div", { class: "heading" }, h("div", {}, h("h2", {}, "Where time goes"), h("p", { class: "about" }, `Latency by stage over the last ${WINDOW} s. Each bar is a bucket, its height the root of its share; the dashed line is the p99.`))), this.stages.element),
      h("section", {}, h("div", { class: "heading" }, h("div", {}, h("h2", {}, "Requests"), h("p", { class: "about" }, `By API over the last ${WINDOW} s. Consumers at the end of their partitions wait on purpose.`))), this.requests.element));
  }

  show(history) {
    const now = history.last;
    if (!now) return;
    this.showTiles(history, now);
    this.showShards(history, now);
    this.showTimes(history, now);
    const started = now.process ? `up ${span(now.time_ms - now.process.started_ms)}` : "";
    const listeners = now.nodes.flatMap((node) => node.listeners).map((listener) => listener.split(" ")[1]);
    const many = now.nodes.length === 1 ? listeners.join(", ") : plural(now.nodes.length, "node");
    this.who.replaceChildren([`node ${now.node}`, many, `cluster ${now.cluster}`, started].filter(Boolean).join(" · "));
  }

  showTiles(history, now) {
    const tiles = this.tiles;
    const total = (value) => now.shards.reduce((sum, shard) => sum + value(shard), 0);
    const of = (tile, parts, unit, counter, sub) => {
      const rates = history.rates(counter);
      tile.set(known(parts, rates.at(-1), unit), sub, rates);
    };
    of(tiles.records, rateParts, "/s", (it) => it.produced_records, `${plural(total((it) => it.produced_records), "record")} since the start`);
    of(tiles.in, bytesParts, "/s", (it) => it.received_bytes, `${bytes(total((it) => it.received_bytes))} in all`);
    of(tiles.out, bytesParts, "/s", (it) => it.sent_bytes, `${bytes(total((it) => it.sent_bytes))} in all`);
    const times = (answer) => answer.requests.find((it) => it.api === "Produce")?.times;
    const p99 = (before, after) => (times(after) && times(before) ? percentile(added(times(before), times(after)), after.bounds_ns, 0.99) : null);
    tiles.produce.set(durationParts(p99(history.windowStart, now)), `over the last ${WINDOW} s`, history.between(p99));
    const open = (answer) => answer.shards.reduce((sum, shard) => sum + shard.connections, 0);
    tiles.connections.set([count(open(now)), ""], `of ${count(now.connections_max)}`, history.answers.map(open));
    if (now.process) {
      const cores = history.between((before, after, it) => it.rate(before.process.cpu_s, after.process.cpu_s));
      const used = cores.at(-1);
      tiles.cpu.set(used === undefined || used === null ? ["–", ""] : [(used * 100).toFixed(used < 0.1 ? 1 : 0), "% of a core"], plural(now.process.threads, "thread"), cores);
      const [number, unit] = bytesParts(now.process.resident_bytes);
      tiles.memory.set([number, unit], `${count(now.process.open_files)} of ${count(now.process.open_files_max)} files open`, history.answers.map((it) => it.process.resident_bytes));
    }
    tiles.groups.set([count(total((it) => it.groups)), ""], `${plural(now.topics, "topic")}, ${plural(total((it) => it.partitions), "partition")}`, history.rates((it) => it.group_requests));
  }

  showShards(history, now) {
    const flows = now.shards.map((_, at) => history.between((before, after, it) => ({
      in: it.rate(before.shards[at].received_bytes, after.shards[at].received_bytes) ?? 0,
      out: it.rate(before.shards[at].sent_bytes, after.shards[at].sent_bytes) ?? 0,
    })));
    const top = Math.max(1, ...flows.flat().flatMap((it) => [it.in, it.out]));
    this.shards.replaceChildren(...now.shards.map((shard, at) => {
      const last = flows[at].at(-1);
      const { journal, memory } = shard;
      const full = journal.full && pill(journal.full === "disk" ? "disk full" : "journal full", "bad");
      return h("article", { class: shard.fault ? "shard bad" : "shard" },
        h("header", {}, h("h3", {}, `Shard ${shard.shard}`), full,
          h("span", { class: "key in" }, h("b", {}, bytesRate(last ? last.in : null))),
          h("span", { class: "key out" }, h("b", {}, bytesRate(last ? last.out : null)))),
        shard.fault && h("p", { class: "lagging" }, shard.fault),
        flow(flows[at], KEPT, top),
        facts([
          ["Partitions", shard.partitions_offline ? `${count(shard.partitions)}, ${count(shard.partitions_offline)} offline` : count(shard.partitions)],
          ["Connections", count(shard.connections)],
          ["Journal files", `${journal.files_in_use} of ${journal.files_max}`],
          ["Cache", bytes(memory.tail_cache.bytes), meter(memory.tail_cache.bytes, memory.tail_cache.budget_bytes)],
          ["Not in segments", bytes(memory.unflushed.bytes), meter(memory.unflushed.bytes, memory.unflushed.budget_bytes)],
          ["Requests", bytes(memory.requests.bytes), meter(memory.requests.bytes, memory.requests.budget_bytes)],
        ]));
    }));
  }

  showTimes(history, now) {
    const start = history.windowStart;
    const seconds = (now.time_ms - start.time_ms) / 1000;
    const measured = (before, after) => {
      const delta = added(before, after);
      const at = (share) => percentile(delta, now.bounds_ns, share);
      const mean = delta.total === 0 ? null : delta.sum_ns / delta.total;
      return { delta, bounds: now.bounds_ns, rate: seconds > 0 ? delta.total / seconds : null, mean, p50: at(0.5), p99: at(0.99), p999: at(0.999) };
    };
    this.stages.show(now.stages.map(({ stage, times }, order) => ({ stage, order, ...measured(start.stages[order].times, times) })));
    this.requests.show(now.requests.map(({ api, times, requests, errors }) => {
      const before = start.requests.find((it) => it.api === api);
      const errorCount = Object.values(errors).reduce((sum, number) => sum + number, 0);
      const told = Object.entries(errors).map(([name, number]) => `${name}: ${count(number)}`).join("\n");
      return { api, requests, errorCount, errors: told, ...measured(before?.times, times) };
    }));
  }
}
