// Topics and groups: all of them, and one of them.

import { Between } from "./charts.js";
import { Table, bytes, bytesRate, count, facts, h, link, pill, plural, rate } from "./dom.js";

const STATES = { Stable: "good", Empty: "", Dead: "bad" };

/** A field that narrows a list down; the node searches. */
function search(what, changed) {
  let timer;
  const input = h("input", { type: "search", placeholder: `Search ${what}`, "aria-label": `Search ${what}` });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(changed, 200);
  });
  return input;
}

function heading(title, about, ...tools) {
  return h("div", { class: "heading" }, h("div", {}, h("h1", {}, title), about), ...tools);
}

/** Rates between this answer and the one before, by name. */
class Rates {
  constructor(key) {
    this.key = key;
    this.before = undefined;
  }

  of(answer, list, counters) {
    const between = new Between(this.before?.answer, answer);
    const before = this.before?.rows ?? new Map();
    for (const row of list) {
      const old = before.get(row[this.key]);
      for (const [name, counter] of Object.entries(counters)) row[name] = between.rate(old?.[counter], row[counter]);
    }
    this.before = { answer, rows: new Map(list.map((row) => [row[this.key], row])) };
  }
}

const lag = (number) => h("span", { class: number > 0 ? "lag lagging" : "lag" }, count(number));

export class Topics {
  constructor(api) {
    this.api = api;
    this.rates = new Rates("topic");
    this.search = search("topics", () => this.update());
    this.internal = h("input", { type: "checkbox", onchange: () => this.update() });
    this.table = new Table([
      { name: "Topic", left: true, mark: true, by: (it) => it.topic, cell: (it) => link("topic", { name: it.topic }, it.topic) },
      { name: "Partitions", wide: true, down: true, by: (it) => it.partitions, cell: (it) => [count(it.partitions), it.offline > 0 && " ", it.offline > 0 && pill(`${it.offline} offline`, "bad")] },
      { name: "Records in", down: true, by: (it) => it.record_rate, cell: (it) => rate(it.record_rate) },
      { name: "Bytes in", wide: true, down: true, by: (it) => it.byte_rate, cell: (it) => bytesRate(it.byte_rate) },
      { name: "Records", wide: true, down: true, by: (it) => it.records, cell: (it) => count(it.records) },
      { name: "Size", down: true, by: (it) => it.bytes, cell: (it) => bytes(it.bytes) },
      { name: "Durability", wide: true, by: (it) => it.durability, cell: (it) => it.durability },
      { name: "", wide: true, cell: (it) => link("records", { topic: it.topic }, "Records") },
    ], "Topic", "There are no such topics.");
    this.about = h("p", { class: "about" });
    this.foot = h("p", { class: "foot" });
    this.element = h("section", {},
      heading("Topics", this.about, h("label", {}, this.internal, " the node's own, too"), this.search), this.table.element, this.foot);
  }

  async update() {
    const parameters = { search: this.search.value, internal: this.internal.checked };
    const answer = await this.api("topics", parameters);
    this.rates.of(answer, answer.topics, { record_rate: "ends", byte_rate: "appended_bytes" });
    this.table.show(answer.topics);
    const size = answer.topics.reduce((sum, topic) => sum + topic.bytes, 0);
    this.about.replaceChildren(`${plural(answer.topics.length, "topic")}, ${bytes(size)} as stored`);
    this.foot.replaceChildren(answer.left_out > 0 ? `${count(answer.left_out)} more are not shown: search for them.` : "");
  }
}

export class Topic {
  constructor(api, parameters) {
    this.api = api;
    this.name = parameters.get("name") ?? "";
    this.rates = new Rates("partition");
    this.facts = h("div");
    this.configs = h("section", { hidden: true });
    this.table = new Table([
      { name: "Partition", by: (it) => it.partition, cell: (it) => [count(it.partition), it.offline && " ", it.offline && pill("offline", "bad")] },
      { name: "Shard", wide: true, by: (it) => it.shard, cell: (it) => it.shard },
      { name: "Leader", wide: true, by: (it) => it.leader, cell: (it) => it.leader ?? pill("none", "bad") },
      { name: "Begins at", wide: true, by: (it) => it.log_start, cell: (it) => count(it.log_start) },
      { name: "Ends at", down: true, by: (it) => it.high_watermark, cell: (it) => count(it.high_watermark) },
      { name: "Records in", down: true, by: (it) => it.record_rate, cell: (it) => rate(it.record_rate) },
      { name: "Bytes in", wide: true, down: true, by: (it) => it.byte_rate, cell: (it) => bytesRate(it.byte_rate) },
      { name: "Size", down: true, by: (it) => it.bytes, cell: (it) => bytes(it.bytes) },
      { name: "", cell: (it) => link("records", { topic: this.name, partition: it.partition }, "Records") },
    ], "Partition", "This node has none of its partitions.");
    this.foot = h("p", { class: "foot" });
    this.element = h("div", {},
      h("section", {}, heading(this.name, null), this.facts),
      h("section", {}, h("div", { class: "heading" }, h("h2", {}, "Partitions")), this.table.element, this.foot),
      this.configs);
    this.element.firstChild.prepend(h("a", { class: "crumb", href: "#/topics" }, "← Topics"));
  }

  async update() {
    const answer = await this.api("topic", { name: this.name });
    this.rates.of(answer, answer.partition_list, { record_rate: "high_watermark", byte_rate: "appended_bytes" });
    this.table.show(answer.partition_list);
    this.foot.replaceChildren(answer.left_out > 0 ? `${plural(answer.left_out, "partition")} more.` : "");
    this.facts.replaceChildren(facts([
      ["Records", count(answer.records)], ["Size", bytes(answer.bytes)], ["Partitions", count(answer.partitions)],
      ["Replicas", count(answer.replicas)], ["Durability", answer.durability], ["Id", answer.id],
    ], "wide"));
    const configs = Object.entries(answer.configs);
    this.configs.hidden = configs.length === 0;
    this.configs.replaceChildren(h("div", { class: "heading" }, h("h2", {}, "Configs that were set")),
      h("div", { class: "table" }, h("table", {}, h("tbody", {}, configs.map(([name, value]) =>
        h("tr", {}, h("td", { class: "left name" }, name), h("td", { class: "left" }, value)))))));
  }
}

export class Groups {
  constructor(api) {
    this.api = api;
    this.search = search("groups", () => this.update());
    this.table = new Table([
      { name: "Group", left: true, mark: true, by: (it) => it.group, cell: (it) => link("group", { name: it.group }, it.group || "(without a name)") },
      { name: "State", left: true, by: (it) => it.state, cell: (it) => pill(it.state, STATES[it.state] ?? "warn") },
      { name: "Protocol", left: true, wide: true, by: (it) => it.type, cell: (it) => (it.protocol_type === "consumer" ? it.type : `${it.type}, ${it.protocol_type || "offsets only"}`) },
      { name: "Members", down: true, by: (it) => it.members, wide: true, cell: (it) => count(it.members) },
      { name: "Topics", left: true, wide: true, by: (it) => it.topics.length, cell: (it) => (it.topics.length > 3 ? plural(it.topics.length, "topic") : it.topics.join(", ")) },
      { name: "Partitions", wide: true, down: true, by: (it) => it.partitions, cell: (it) => count(it.partitions) },
      { name: "Lag", down: true, by: (it) => it.lag, cell: (it) => lag(it.lag) },
    ], "Lag", "There are no such groups.");
    this.table.down = true;
    this.about = h("p", { class: "about" });
    this.foot = h("p", { class: "foot" });
    this.element = h("section", {}, heading("Groups", this.about, this.search), this.table.element, this.foot);
  }

  async update() {
    const answer = await this.api("groups", { search: this.search.value });
    this.table.show(answer.groups);
    const behind = answer.groups.filter((group) => group.lag > 0).length;
    this.about.replaceChildren(`${plural(answer.groups.length, "group")}, ${behind} of them behind. Lag is in records, as this node sees it.`);
    const notes = [];
    if (answer.left_out > 0) notes.push(`${plural(answer.left_out, "group")} with less lag are not shown: search for them.`);
    if (answer.commits_left_out > 0) notes.push(`${plural(answer.commits_left_out, "committed offset")} are not counted.`);
    this.foot.replaceChildren(notes.join(" "));
  }
}

export class Group {
  constructor(api, parameters) {
    this.api = api;
    this.name = parameters.get("name") ?? "";
    this.rates = new Rates("key");
    this.facts = h("div");
    this.members = new Table([
      { name: "Member", left: true, mark: true, by: (it) => it.id, cell: (it) => h("span", { title: it.id }, it.instance_id ?? it.id) },
      { name: "Client", left: true, wide: true, by: (it) => it.client_id, cell: (it) => it.client_id },
      { name: "Host", left: true, wide: true, by: (it) => it.host, cell: (it) => it.host },
      { name: "Partitions", down: true, by: (it) => it.partitions, cell: (it) => count(it.partitions) },
      { name: "Lag", down: true, by: (it) => it.lag, cell: (it) => lag(it.lag) },
    ], "Member", "Nobody is in the group.");
    this.table = new Table([
      { name: "Topic", left: true, mark: true, by: (it) => it.key, cell: (it) => link("topic", { name: it.topic }, it.topic) },
      { name: "Partition", by: (it) => it.partition, cell: (it) => count(it.partition) },
      { name: "Committed", wide: true, down: true, by: (it) => it.committed, cell: (it) => count(it.committed) },
      { name: "End", wide: true, down: true, by: (it) => it.end, cell: (it) => count(it.end) },
      { name: "Lag", down: true, by: (it) => it.lag, cell: (it) => (it.lag === null ? count(null) : lag(it.lag)) },
      { name: "Consumed", down: true, by: (it) => it.rate, cell: (it) => rate(it.rate) },
      { name: "Member", left: true, wide: true, by: (it) => it.owner, cell: (it) => it.owner || h("span", { class: "none" }, "nobody") },
    ], "Topic", "It has committed nothing and reads nothing.");
    this.element = h("div", {},
      h("section", {}, heading(this.name, null), this.facts),
      h("section", {}, h("div", { class: "heading" }, h("h2", {}, "Partitions")), this.table.element),
      h("section", {}, h("div", { class: "heading" }, h("h2", {}, "Members")), this.members.element));
    this.element.firstChild.prepend(h("a", { class: "crumb", href: "#/groups" }, "← Groups"));
  }

  async update() {
    const answer = await this.api("group", { name: this.name });
    const rows = answer.partition_list;
    for (const row of rows) {
      const member = answer.member_list[row.member];
      row.key = `${row.topic}\u0000${String(row.partition).padStart(6, "0")}`;
      row.owner = member ? member.instance_id ?? member.client_id : "";
    }
    this.rates.of(answer, rows, { rate: "committed" });
    this.table.show(rows);
    for (const [at, member] of answer.member_list.entries()) {
      member.lag = rows.filter((row) => row.member === at).reduce((sum, row) => sum + (row.lag ?? 0), 0);
    }
    this.members.show(answer.member_list);
    this.facts.replaceChildren(facts([
      ["State", pill(answer.state, STATES[answer.state] ?? "warn")], ["Lag", lag(answer.lag)], ["Members", count(answer.members)],
      ["Protocol", answer.type], ["Assignor", answer.assignor || "–"],
    ], "wide"));
  }
}
