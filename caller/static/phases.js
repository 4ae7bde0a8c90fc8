// @ts-check
/**
 * Where the time of a call went: rows of a table, and a bar of the same numbers.
 *
 * @import { Hop, Phases } from "./wire.js"
 */

import { row } from "./dom.js";
import { exactly, roughly } from "./words.js";

/**
 * In the order of a call. The parts of `wait` are known only when the producer tells what it spent.
 *
 * @type {{key: keyof Phases, name: string, partOf?: keyof Phases}[]}
 */
const PHASES = [
  { key: "dnsMillis", name: "DNS" },
  { key: "connectMillis", name: "Connect" },
  { key: "tlsMillis", name: "TLS" },
  { key: "sendMillis", name: "Send" },
  { key: "waitMillis", name: "Wait" },
  { key: "networkMillis", name: "Network", partOf: "waitMillis" },
  { key: "producerDelayMillis", name: "Producer's delay", partOf: "waitMillis" },
  { key: "producerWorkMillis", name: "Producer's work", partOf: "waitMillis" },
  { key: "bodyMillis", name: "Body" },
];

const SVG = "http://www.w3.org/2000/svg";

/** @param {Hop} hop */
export function phaseRows(hop) {
  const drawn = new Set(segmentsOf(hop.phases).map(({ key }) => key));
  const rows = PHASES.map(({ key, name, partOf }) => {
    const millis = hop.phases[key];
    const copy = row("phase-row", name, millis === null ? missing(partOf) : exactly(millis));
    if (partOf) copy.dataset.partOf = partOf;
    if (drawn.has(key)) copy.dataset.phase = key;
    return copy;
  });
  const total = row("phase-row", "Round trip", exactly(hop.roundTripTimeMillis));
  total.dataset.total = "";
  return [...rows, total];
}

/** @param {string | undefined} partOf */
function missing(partOf) {
  return partOf ? "unknown" : "not taken";
}

/**
 * The phases that together are the round trip: `wait` itself, or its parts where they are known.
 *
 * @param {Phases} phases
 */
function segmentsOf(phases) {
  const split = phases.networkMillis === null ? null : "waitMillis";
  return PHASES.filter(({ key, partOf }) => key !== split && (!partOf || partOf === split))
    .map(({ key, name }) => ({ key, name, millis: phases[key] ?? 0 }))
    .filter(({ millis }) => millis > 0);
}

/**
 * A stacked bar; `width` is in percent of the round trip.
 *
 * @param {Hop} hop
 */
export function phaseBar(hop) {
  const segments = segmentsOf(hop.phases);
  const total = segments.reduce((sum, { millis }) => sum + millis, 0);
  const bar = svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "img", class: "bar" });
  const title = svg("title", {});
  title.textContent = finding(segments, total);
  bar.append(title);
  let x = 0;
  for (const { key, millis } of segments) {
    const width = (millis / total) * 100;
    bar.append(svg("rect", { x: String(x), width: String(width), height: "1", "data-phase": key }));
    x += width;
  }
  return bar;
}

/**
 * @param {{name: string, millis: number}[]} segments
 * @param {number} total
 */
function finding(segments, total) {
  const longest = segments.toSorted((a, b) => b.millis - a.millis)[0];
  return longest
    ? `Longest phase: ${longest.name}, ${roughly(longest.millis)} of ${roughly(total)}`
    : "No phase took any time";
}

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 */
function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  return element;
}
