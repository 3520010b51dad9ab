// Records of one partition, to look at. What is in them is shown as text, whatever it is.

import { bytes, count, h } from "./dom.js";

const STARTS = [["end", "the newest"], ["beginning", "the oldest"], ["offset", "an offset"], ["time", "a time"]];
/** Bytes of a value that are shown in hexadecimal. */
const HEX_BYTES = 4096;
/** Characters of a value that are coloured; more of them is plain. */
const COLOURED = 200_000;

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** JSON with line ends and colours, each number and text exactly as it was; `null` when it is none. */
export function pretty(text) {
  if (text.length > COLOURED || !/^\s*[{[]/.test(text)) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const tokens = text.match(TOKEN);
  const out = [];
  const line = (depth) => "\n" + "  ".repeat(depth);
  let depth = 0;
  for (const [at, token] of tokens.entries()) {
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      const isEmpty = next === "}" || next === "]";
      out.push(token);
      if (!isEmpty) out.push(line(++depth));
    } else if (token === "}" || token === "]") {
      const before = tokens[at - 1];
      if (before !== "{" && before !== "[") out.push(line(--depth));
      out.push(token);
    } else if (token === ",") {
      out.push(token, line(depth));
    } else if (token === ":") {
      out.push(": ");
    } else {
      const kind = token[0] === '"' ? (next === ":" ? "j-key" : "j-text") : /^[-0-9]/.test(token) ? "j-number" : "j-word";
      out.push(h("span", { class: kind }, token));
    }
  }
  return out;
}

/** Bytes as editors for bytes show them. */
export function hex(base64) {
  const all = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const lines = [];
  for (let at = 0; at < Math.min(all.length, HEX_BYTES); at += 16) {
    const row = [...all.slice(at, at + 16)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${digits}  ${text}`);
  }
  if (all.length > HEX_BYTES) lines.push(`… ${count(all.length - HEX_BYTES)} bytes more`);
  return lines.join("\n");
}

const none = (what) => h("span", { class: "none" }, what);

function brief(told) {
  if (told === null) return none("null");
  if (told.text === undefined) return none(`${bytes(told.bytes)} binary`);
  if (told.bytes === 0) return none("empty");
  return told.text.slice(0, 300).replace(/\s+/g, " ");
}

function whole(told) {
  if (told === null) return none("null");
  if (told.bytes === 0) return none("empty");
  const body = told.text === undefined ? hex(told.base64) : (!told.is_cut && pretty(told.text)) || told.text;
  return [h("pre", { tabindex: 0 }, body), told.is_cut && h("p", { class: "foot" }, `The first part of ${count(told.bytes)} bytes.`)];
}

/** A timestamp in this browser's time zone, in a form that sorts. */
export function time(ms) {
  if (ms < 0) return "–";
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return String(ms);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

function opened(record) {
  const size = (told) => (told === null ? "" : `, ${bytes(told.bytes)}`);
  return h("div", { class: "opened" },
    h("h4", {}, `Key${size(record.key)}`), whole(record.key),
    h("h4", {}, `Value${size(record.value)}`), whole(record.value),
    record.headers.length > 0 && [h("h4", {}, "Headers"),
      h("table", { class: "mono" }, h("tbody", {}, record.headers.map(({ key, value }) => h("tr", {}, h("th", {}, brief(key)), h("td", {}, brief(value))))))],
    record.headers_left_out > 0 && h("p", { class: "foot" }, `${count(record.headers_left_out)} headers more.`),
    h("p", { class: "foot" }, `${record.timestamp_type === "append" ? "Appended" : "Created"} at ${record.timestamp_ms < 0 ? "an unknown time" : `${new Date(record.timestamp_ms).toISOString()} (${record.timestamp_ms})`} · compression ${record.codec}`));
}

function row(record) {
  if (record.error) {
    return h("details", { class: "record" },
      h("summary", {}, h("span", { class: "offset" }, count(record.offset)), h("span", { class: "lagging" }, "unreadable"), h("span"), h("span", {}, record.error)),
      h("div", { class: "opened" }, `The batch up to offset ${count(record.last_offset)} cannot be shown: ${record.error}`));
  }
  const element = h("details", { class: "record" },
    h("summary", {},
      h("span", { class: "offset" }, count(record.offset)), h("span", { class: "time" }, time(record.timestamp_ms)),
      h("span", { class: "mono key-text" }, brief(record.key)), h("span", { class: "mono value-text" }, brief(record.value))));
  // Made when somebody looks: pages of large values would be slow.
  element.addEventListener("toggle", () => element.childElementCount === 1 && element.append(opened(record)), { once: true });
  return element;
}

export class Records {
  constructor(api, parameters, go) {
    this.api = api;
    this.go = go;
    this.parameters = parameters;
    const from = parameters.get("from") ?? "end";
    const kind = from.startsWith("@") ? "time" : ["end", "beginning"].includes(from) ? from : "offset";
    this.names = h("datalist", { id: "names" });
    this.topic = h("input", { class: "topic", list: "names", required: true, autocomplete: "off", value: parameters.get("topic") ?? "" });
    this.partition = h("input", { class: "number", type: "number", min: 0, required: true, value: parameters.get("partition") ?? 0 });
    this.kind = h("select", { onchange: () => this.showPlace() }, STARTS.map(([value, text]) => h("option", { value, selected: value === kind }, text)));
    this.offset = h("input", { class: "number", type: "number", min: 0, value: kind === "offset" ? from : 0 });
    const local = (ms) => time(ms).replace(" ", "T").slice(0, 19);
    this.time = h("input", { type: "datetime-local", step: 1, value: local(kind === "time" ? Number(from.slice(1)) : Date.now() - 3_600_000) });
    this.limit = h("select", {}, [20, 50, 100, 200].map((it) => h("option", { value: it, selected: String(it) === (parameters.get("limit") ?? "50") }, String(it))));
    this.places = { offset: h("label", {}, "Offset", this.offset), time: h("label", {}, "Time", this.time) };
    this.about = h("p", { class: "about" }, "Reads without a group: no offset moves.");
    this.form = h("form", { class: "ask", onsubmit: (event) => this.submit(event) },
      h("label", {}, "Topic", this.topic), h("label", {}, "Partition", this.partition), h("label", {}, "From", this.kind),
      this.places.offset, this.places.time, h("label", {}, "Records", this.limit), h("button", { class: "main" }, "Read"), this.names);
    this.result = h("div");
    this.element = h("section", {}, h("div", { class: "heading" }, h("div", {}, h("h1", {}, "Records"), this.about)), this.form, this.result);
    this.showPlace();
  }

  showPlace() {
    this.places.offset.hidden = this.kind.value !== "offset";
    this.places.time.hidden = this.kind.value !== "time";
  }

  submit(event) {
    event.preventDefault();
    const from = { offset: this.offset.value, time: `@${new Date(this.time.value).getTime()}` }[this.kind.value] ?? this.kind.value;
    this.read(from);
  }

  /** Goes there; the same place again is read again. */
  read(from) {
    const parameters = { topic: this.topic.value.trim(), partition: this.partition.value, from, limit: this.limit.value };
    this.go("records", parameters);
  }

  async begin() {
    const asked = ["topic", "partition", "from", "limit"].filter((name) => this.parameters.has(name));
    const reading = this.parameters.get("topic") ? this.api("records", Object.fromEntries(asked.map((name) => [name, this.parameters.get(name)]))) : null;
    if (!reading) this.result.replaceChildren(h("p", { class: "empty" }, "Choose a topic."));
    const [answer] = await Promise.all([reading, this.nameTopics()]);
    if (answer) this.show(answer);
  }

  async nameTopics() {
    const { topics } = await this.api("topics", { internal: true });
    this.names.replaceChildren(...topics.map(({ topic }) => h("option", { value: topic })));
  }

  show(answer) {
    const limit = Number(this.limit.value);
    const { log_start: start, high_watermark: end, from, next, records } = answer;
    const button = (text, is, to) => h("button", { type: "button", disabled: !is, onclick: () => this.read(String(to)) }, text);
    const bar = () => h("div", { class: "pages" },
      h("span", {}, records.length === 0 ? `Nothing from offset ${count(from)} on.` : `Offsets ${count(records[0].offset)} to ${count(next - 1)}.`, ` The partition has ${count(start)} to ${end > start ? count(end - 1) : "nothing"}.`),
      button("Oldest", from > start, start), button("Older", from > start, Math.max(start, from - limit)),
      button("Newer", next < end, next), button("Newest", true, "end"));
    const list = records.length > 0 && h("div", { class: "records" }, records.map(row));
    this.result.replaceChildren(bar(), ...(list ? [list] : [h("p", { class: "empty" }, end > start ? "No records there." : "The partition is empty.")]), ...(records.length > 10 ? [bar()] : []));
  }
}
