// @ts-check
/**
 * Where the time of a call went: a waterfall, each row with its number.
 *
 * @import { Hop, Phases } from "./wire.js"
 */

import { one, row } from "./dom.js";
import { bar } from "./svg.js";
import { exactly, roughly } from "./words.js";

/**
 * In the order of a call. The parts of `wait` are known only when the producer tells what it spent; which of the
 * network's time was there and which back is not.
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

/** @param {Hop} hop */
export function phaseRows(hop) {
  let at = 0;
  let within = 0;
  const rows = PHASES.map(({ key, name, partOf }) => {
    const millis = hop.phases[key];
    const isUnknown = partOf && hop.phases[partOf] !== null;
    const none = isUnknown ? "unknown" : "not taken";
    const copy = row("phase-row", name, millis === null ? none : exactly(millis));
    if (partOf) copy.dataset.partOf = partOf;
    if (millis) {
      copy.dataset.phase = key;
      const from = partOf ? within : at;
      one(copy, ".track", HTMLElement).append(bar(share(from, hop), share(from + millis, hop)));
    }
    if (key === "waitMillis") within = at;
    if (partOf) within += millis ?? 0;
    else at += millis ?? 0;
    return copy;
  });
  const total = row("phase-row", "Round trip", exactly(hop.roundTripTimeMillis));
  total.dataset.total = "";
  return [...rows, total];
}

/**
 * @param {number} millis
 * @param {Hop} hop
 */
function share(millis, { roundTripTimeMillis }) {
  return roundTripTimeMillis ? Math.min((millis / roundTripTimeMillis) * 100, 100) : 0;
}

/** Empty where nothing was measured. @param {Hop} hop */
export function longestPhase({ phases, roundTripTimeMillis }) {
  const [longest] = PHASES.filter(
    ({ key }) => key !== "waitMillis" || phases.networkMillis === null,
  ).toSorted((a, b) => (phases[b.key] ?? 0) - (phases[a.key] ?? 0));
  const millis = phases[longest.key];
  if (!millis) return "";
  return `Longest: ${longest.name}, ${roughly(millis)} of ${roughly(roundTripTimeMillis)}`;
}
