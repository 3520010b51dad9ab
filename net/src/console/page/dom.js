// Elements, numbers as people read them, tables. Text from the node becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== undefined && child !== null && child !== false) element.append(child);
  }
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const grouping = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number with its thousands apart. */
export const count = (number) => (number === null || number === undefined ? "–" : grouping.format(number));

function scaled(number, base, units) {
  let at = 0;
  while (Math.abs(number) >= base && at < units.length - 1) {
    number /= base;
    at += 1;
  }
  const digits = at === 0 || Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return [number.toFixed(digits), units[at]];
}

/** A number and its unit, apart. */
export const bytesParts = (number) => scaled(number, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
export const bytes = (number) => (number === null || number === undefined ? "–" : bytesParts(number).join(" "));

/** A rate in so many a second; small ones keep a digit. */
export function rateParts(number) {
  if (number > 0 && number < 10) return [number.toFixed(1), ""];
  if (number < 100_000) return [grouping.format(number), ""];
  return scaled(number, 1000, ["", "k", "M", "G"]);
}
export const rate = (number) => (number === null ? "–" : rateParts(number).join(" ").trim() + "/s");
export const bytesRate = (number) => (number === null ? "–" : bytes(number) + "/s");

/** A time in ns. */
export function durationParts(ns) {
  if (ns === null) return ["–", ""];
  const units = [[1e3, "µs"], [1e6, "ms"], [1e9, "s"]];
  const [size, unit] = units.findLast(([size]) => ns >= size * 0.9995) ?? units[0];
  const number = ns / size;
  return [number.toFixed(number >= 100 ? 0 : number >= 10 ? 1 : 2), unit];
}
export const duration = (ns) => durationParts(ns).join(" ").trim();

export function span(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.floor(ms / 1000))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} days`;
}

export const plural = (number, one, many = one + "s") => `${count(number)} ${number === 1 ? one : many}`;

export function pill(text, kind = "") {
  return h("span", { class: `pill ${kind}` }, text);
}

export function link(path, parameters, ...children) {
  const query = new URLSearchParams(parameters).toString();
  return h("a", { href: `#/${path}${query && "?" + query}` }, ...children);
}

/** Facts with names, as `[name, value, whether it is a fault]`. */
export function facts(list, kind = "") {
  return h("dl", { class: `facts ${kind}` }, list.map(([name, value, extra]) =>
    h("div", {}, h("dt", {}, name), h("dd", { title: typeof value === "string" ? value : undefined }, value), extra)));
}

export function meter(used, budget) {
  const share = budget > 0 ? Math.min(1, used / budget) : 0;
  const bar = h("i");
  bar.style.width = `${(share * 100).toFixed(1)}%`;
  return h("div", { class: share > 0.9 ? "meter full" : "meter" }, bar);
}

/**
 * A table whose columns sort it. A column: `name`, `cell` (node or text), `by` (what is sorted by),
 * `left`, `wide` (left out on narrow screens), `down` (begins with the largest).
 */
export class Table {
  constructor(columns, sortedBy, empty) {
    this.columns = columns;
    this.at = columns.findIndex((column) => column.name === sortedBy);
    this.down = columns[this.at].down ?? false;
    this.empty = empty;
    this.rows = [];
    this.body = h("tbody");
    this.heads = columns.map((column, at) =>
      h("th", { class: this.kind(column), scope: "col" },
        column.by ? h("button", { type: "button", onclick: () => this.sort(at) }, column.name) : column.name));
    this.nothing = h("p", { class: "empty" }, empty);
    this.table = h("table", {}, h("thead", {}, h("tr", {}, this.heads)), this.body);
    this.element = h("div", { class: "table" }, this.table, this.nothing);
    this.show([]);
  }

  kind({ left, wide, name }) {
    return [left && "left", wide && "wide", name === "" && "blank"].filter(Boolean).join(" ") || undefined;
  }

  sort(at) {
    this.down = at === this.at ? !this.down : this.columns[at].down ?? false;
    this.at = at;
    this.show(this.rows);
  }

  show(rows) {
    this.rows = rows;
    const { by } = this.columns[this.at];
    const sign = this.down ? -1 : 1;
    const compare = (one, other) => (typeof one === "string" ? one.localeCompare(other) : (one ?? -1) - (other ?? -1));
    const sorted = [...rows].sort((one, other) => sign * compare(by(one), by(other)));
    this.heads.forEach((head, at) => {
      if (at === this.at) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.body.replaceChildren(...sorted.map((row) =>
      h("tr", {}, this.columns.map((column) => {
        const extra = column.mark && "name";
        const kind = [this.kind(column), extra].filter(Boolean).join(" ") || undefined;
        return h("td", { class: kind }, column.cell(row));
      }))));
    this.table.hidden = rows.length === 0;
    this.nothing.hidden = rows.length > 0;
  }
}
