// Drawings, and what they are of: rates from counters, percentiles from buckets.

import { s } from "./dom.js";

/** What happened between two answers: by how much a counter grew in a second, and so on. */
export class Between {
  constructor(before, after) {
    this.seconds = before && after.time_ms > before.time_ms ? (after.time_ms - before.time_ms) / 1000 : null;
  }

  /** `null` when it is not known: the first answer, or the node was started again. */
  rate(before, after) {
    if (this.seconds === null || before === undefined || before === null || after < before) return null;
    return (after - before) / this.seconds;
  }
}

/** Counts of a histogram that were added since. */
export function added(before, after) {
  if (!before) return { counts: after.counts.map(() => 0), sum_ns: 0, total: 0 };
  const counts = after.counts.map((number, at) => Math.max(0, number - before.counts[at]));
  const total = counts.reduce((sum, number) => sum + number, 0);
  return { counts, sum_ns: Math.max(0, after.sum_ns - before.sum_ns), total };
}

/** In ns, between the bounds of its bucket; `null` without values. What is above all bounds is the last. */
export function percentile({ counts, total }, bounds, share) {
  if (total === 0) return null;
  let rank = share * total;
  for (const [at, number] of counts.entries()) {
    if (number > 0 && rank <= number) {
      const high = bounds[Math.min(at, bounds.length - 1)];
      const low = at === 0 ? high / 2 : bounds[at - 1];
      return low * (high / low) ** (rank / number);
    }
    rank -= number;
  }
  return bounds.at(-1);
}

const points = (values, width, y) => {
  const step = width / Math.max(1, values.length - 1);
  return values.map((value, at) => `${(at * step).toFixed(1)},${y(value ?? 0).toFixed(1)}`);
};

/** A line over time, the newest on the right. */
export function sparkline(values, length) {
  const [width, height] = [200, 34];
  const padded = [...Array(Math.max(0, length - values.length)).fill(0), ...values];
  const top = Math.max(...padded.map((value) => value ?? 0), 1e-9);
  const line = points(padded, width, (value) => height - 2 - (value / top) * (height - 8));
  return s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("polygon", { class: "under", points: `0,${height} ${line.join(" ")} ${width},${height}` }),
    s("polyline", { class: "spark", points: line.join(" ") }));
}

/** What came in above the axis, what went out below it, on one scale for all shards. */
export function flow(samples, length, top) {
  const [width, height] = [360, 96];
  const middle = height / 2;
  const missing = Array(Math.max(0, length - samples.length)).fill({ in: 0, out: 0 });
  const padded = [...missing, ...samples];
  const scale = (middle - 2) / Math.max(top, 1);
  const area = (kind, sign) => {
    const line = points(padded.map((it) => it[kind]), width, (value) => middle + sign * value * scale);
    return s("polygon", { class: kind, points: `0,${middle} ${line.join(" ")} ${width},${middle}` });
  };
  return s("svg", { class: "flow", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": "bytes in and out over the last two minutes" },
    area("in", -1), area("out", 1),
    s("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle }));
}

/** A histogram's buckets as bars, by the square root of their share so that a tail is seen. */
export function bars({ counts, total }, p99, bounds) {
  const [height, slot] = [30, 11];
  const width = slot * counts.length;
  const top = Math.max(...counts, 1);
  const drawn = counts.map((number, at) => {
    const tall = number === 0 ? 0 : Math.max(1.5, Math.sqrt(number / top) * (height - 3));
    return tall > 0 && s("rect", { x: at * slot + 1, y: height - 1 - tall, width: slot - 2, height: tall, rx: 1 });
  });
  const place = p99 === null ? null : position(p99, bounds) * slot;
  return s("svg", { class: "bars", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${total} values` },
    s("line", { class: "base", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    drawn,
    place !== null && s("line", { class: "p99", x1: place, x2: place, y1: 0, y2: height }));
}

/** Where a time is among the buckets: bucket `n` is from `n` to `n + 1`. */
function position(ns, bounds) {
  const at = bounds.findIndex((bound) => ns <= bound);
  if (at === -1) return bounds.length + 0.5;
  const low = at === 0 ? bounds[0] / 2 : bounds[at - 1];
  return at + Math.max(0, Math.log(ns / low) / Math.log(bounds[at] / low));
}
