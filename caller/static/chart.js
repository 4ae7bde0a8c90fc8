/**
 * Pictures of runs. Above, calls by who answered, failures on top; below, latency on a logarithmic axis.
 *
 * @import { Column, RunRecord } from "./run.js"
 */

import { paint } from "./names.js";
import { clustersOf, runText, secondsOf, sum } from "./run.js";
import { svg } from "./svg.js";
import { seconds } from "./words.js";

/** @typedef {import("../../types/wire.d.ts").Outage} Outage */

const LEFT = 58;
const RIGHT = 8;
const CALLS = { top: 14, bottom: 140 };
const LATENCY = { top: 158, bottom: 236 };
const HEIGHT = 258;

/**
 * @param {RunRecord} run
 * @param {number} width in px
 */
export function runChart(run, width) {
  const { columns, outages } = run;
  const x = axis(secondsOf(run), LEFT, width - RIGHT);
  const most = nice(
    Math.max(1, ...columns.map(({ answered, failed }) => sum(answered) + sum(failed))),
  );
  const y = axis(most, CALLS.bottom, CALLS.top);
  const picture = frame(width, runText(run));
  picture.append(hatch(), ...callsAxis(y, most, width), ...timeAxis(x, secondsOf(run), width));

  const base = columns.map(() => 0);
  /** @param {(column: Column) => number} value */
  const bars = (value) =>
    columns
      .map((column, index) => {
        const count = value(column);
        const from = base[index];
        base[index] += count;
        if (!count) return "";
        const [left, right] = [x(column.from), x(column.to)];
        return `M${px(left)} ${px(y(from))}V${px(y(from + count))}H${px(right)}V${px(y(from))}z`;
      })
      .join("");
  for (const cluster of clustersOf(run)) {
    const path = svg(
      "path",
      { d: bars(({ answered }) => answered[cluster] ?? 0), class: "calls" },
      svg("title", {}, cluster),
    );
    paint(path, cluster);
    picture.append(path);
  }
  picture.append(
    svg(
      "path",
      { d: bars(({ failed }) => sum(failed)), class: "failed", fill: "url(#hatch)" },
      svg("title", {}, "failed"),
    ),
  );
  picture.append(...outageMarks(outages, x, width));
  const rises = latencyAxis(picture, columns, width);
  picture.append(
    svg("path", { d: lineOf(columns, x, rises, ({ p99 }) => p99), class: "p99" }),
    svg("path", { d: lineOf(columns, x, rises, ({ p50 }) => p50), class: "p50" }),
  );
  return picture;
}

/**
 * Each outage as a bracket below the calls, with its length above them where there is room for it.
 *
 * @param {Outage[]} outages
 * @param {(value: number) => number} x
 * @param {number} width in px
 */
function outageMarks(outages, x, width) {
  let end = 0;
  return outages
    .toSorted((one, other) => one.atSeconds - other.atSeconds)
    .flatMap(({ atSeconds, millis }) => {
      const [from, to] = [x(atSeconds), x(atSeconds + millis / 1000)];
      const d = `M${px(from)} ${CALLS.bottom + 4}v6H${px(Math.max(to, from + 2))}v-6`;
      const bracket = svg("path", { d, class: "gap" });
      const text = seconds(millis / 1000);
      const half = text.length * 4;
      const at = Math.min(Math.max((from + to) / 2, LEFT + half), width - RIGHT - half);
      if (at - half < end) return [bracket];
      end = at + half;
      const place = { x: px(at), y: CALLS.top - 4, "text-anchor": "middle", class: "gap-text" };
      return [bracket, svg("text", place, text)];
    });
}

/**
 * Two runs, A solid and B dashed: calls a second that were `ok`, and p99.
 *
 * @param {RunRecord} a
 * @param {RunRecord} b
 * @param {number} width in px
 */
export function comparisonChart(a, b, width) {
  const length = Math.max(secondsOf(a), secondsOf(b));
  const x = axis(length, LEFT, width - RIGHT);
  /** @param {Column} column */
  const rate = ({ from, to, answered }) => sum(answered) / (to - from);
  const most = nice(Math.max(1, ...[...a.columns, ...b.columns].map(rate)));
  const y = axis(most, CALLS.bottom, CALLS.top);
  const picture = frame(width, `A: ${runText(a)}; B: ${runText(b)}`);
  picture.append(...callsAxis(y, most, width, "ok/s"), ...timeAxis(x, length, width));
  const rises = latencyAxis(picture, [...a.columns, ...b.columns], width);
  for (const [name, { columns }] of /** @type {[string, RunRecord][]} */ ([
    ["a", a],
    ["b", b],
  ])) {
    picture.append(
      svg("path", { d: lineOf(columns, x, y, rate), class: `run-${name}` }),
      svg("path", { d: lineOf(columns, x, rises, ({ p99 }) => p99), class: `run-${name}` }),
    );
  }
  return picture;
}

/**
 * @param {number} width
 * @param {string} finding
 */
function frame(width, finding) {
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", class: "chart" },
    svg("title", {}, finding),
  );
}

function hatch() {
  const lines = svg("pattern", {
    id: "hatch",
    width: 5,
    height: 5,
    patternUnits: "userSpaceOnUse",
    patternTransform: "rotate(45)",
  });
  lines.append(
    svg("rect", { width: 5, height: 5, class: "ground" }),
    svg("rect", { width: 2, height: 5, class: "stroke" }),
  );
  return svg("defs", {}, lines);
}

/**
 * @param {(value: number) => number} y
 * @param {number} most
 * @param {number} width
 */
function callsAxis(y, most, width, unit = "calls") {
  return [...tick(y(0), unit, width), ...tick(y(most), String(most), width)];
}

/**
 * @param {(value: number) => number} x
 * @param {number} length in s
 * @param {number} width in px
 */
function timeAxis(x, length, width) {
  const step =
    [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600].find(
      (size) => length / size <= width / 80,
    ) ?? 43200;
  const ticks = Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
  return ticks.map((at) =>
    svg(
      "text",
      {
        x: px(x(at)),
        y: HEIGHT - 6,
        "text-anchor": at === 0 ? "start" : at > length - step / 4 ? "end" : "middle",
      },
      seconds(at),
    ),
  );
}

/**
 * @param {Element} picture
 * @param {Column[]} columns
 * @param {number} width
 */
function latencyAxis(picture, columns, width) {
  const values = columns.flatMap(({ p50, p99 }) => [p50, p99]).filter((value) => value !== null);
  const low = Math.floor(Math.log10(Math.max(Math.min(1, ...values), 0.1)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(1, ...values))), low + 1);
  const rise = axis(high - low, LATENCY.bottom, LATENCY.top);
  const y = (/** @type {number} */ millis) => rise(Math.log10(Math.max(millis, 10 ** low)) - low);
  for (let power = low; power <= high; power++) {
    picture.append(
      ...tick(y(10 ** power), power < 3 ? `${10 ** power} ms` : `${10 ** (power - 3)} s`, width),
    );
  }
  return y;
}

/**
 * @param {number} y
 * @param {string} label
 * @param {number} width
 */
function tick(y, label, width) {
  return [
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: px(y), y2: px(y), class: "grid" }),
    svg("text", { x: LEFT - 6, y: px(y + 4), "text-anchor": "end" }, label),
  ];
}

/**
 * A line through the middles of the columns, interrupted where there is no value.
 *
 * @param {Column[]} columns
 * @param {(value: number) => number} x
 * @param {(value: number) => number} y
 * @param {(column: Column) => number | null} valueOf
 */
function lineOf(columns, x, y, valueOf) {
  let pen = "M";
  return columns
    .map((column) => {
      const value = valueOf(column);
      const point =
        value === null ? "" : `${pen}${px(x((column.from + column.to) / 2))} ${px(y(value))}`;
      pen = value === null ? "M" : "L";
      return point;
    })
    .join("");
}

/**
 * @param {number} most
 * @param {number} start
 * @param {number} end
 */
function axis(most, start, end) {
  return (/** @type {number} */ value) => start + ((end - start) * value) / most;
}

/** @param {number} value */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 3, 4, 5, 6, 8].find((digit) => digit * power >= value) ?? 10) * power;
}

/** @param {number} value */
function px(value) {
  return Math.round(value * 10) / 10;
}
