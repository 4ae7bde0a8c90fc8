/**
 * Where the time of a call went: a waterfall, each row with its number.
 */

import { one, row } from "./dom.js";
import { bar } from "./svg.js";
import { exactly, roughly } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").Phases} Phases
 */

/** @type {Record<keyof Phases, string>} */
const NAMES = {
  dnsMillis: "DNS",
  connectMillis: "Connect",
  tlsMillis: "TLS",
  sendMillis: "Send",
  waitMillis: "Wait",
  networkMillis: "Network",
  producerDelayMillis: "Producer's delay",
  producerWorkMillis: "Producer's work",
  bodyMillis: "Body",
};

/**
 * Known only when the producer tells what it spent; which of the network's time was there and which back is not.
 *
 * @type {(keyof Phases)[]}
 */
const PARTS_OF_WAIT = ["networkMillis", "producerDelayMillis", "producerWorkMillis"];

/** In the order of a call, which is that of the caller's JSON. @param {Phases} phases */
function phasesOf(phases) {
  const keys = /** @type {(keyof Phases)[]} */ (Object.keys(phases));
  return keys
    .filter((key) => key in NAMES && !PARTS_OF_WAIT.includes(key))
    .flatMap((key) => (key === "waitMillis" ? [key, ...PARTS_OF_WAIT] : [key]));
}

/** @param {Explained} hop */
export function phaseRows(hop) {
  let at = 0;
  let within = 0;
  const rows = phasesOf(hop.phases).map((key) => {
    const millis = hop.phases[key];
    const isPart = PARTS_OF_WAIT.includes(key);
    const none = isPart && hop.phases.waitMillis !== null ? "unknown" : "not taken";
    const copy = row("phase-row", NAMES[key], millis === null ? none : exactly(millis));
    if (isPart) copy.dataset.partOf = "waitMillis";
    if (millis) {
      copy.dataset.phase = key;
      const from = isPart ? within : at;
      one(copy, ".track", HTMLElement).append(bar(share(from, hop), share(from + millis, hop)));
    }
    if (key === "waitMillis") within = at;
    if (isPart) within += millis ?? 0;
    else at += millis ?? 0;
    return copy;
  });
  const total = row("phase-row", "Round trip", exactly(hop.roundTripTimeMillis));
  total.dataset.total = "";
  return [...rows, total];
}

/**
 * @param {number} millis
 * @param {Explained} hop
 */
function share(millis, { roundTripTimeMillis }) {
  return roundTripTimeMillis ? Math.min((millis / roundTripTimeMillis) * 100, 100) : 0;
}

/** Empty where nothing was measured. @param {Explained} hop */
export function longestPhase({ phases, roundTripTimeMillis }) {
  const [longest] = phasesOf(phases)
    .filter((key) => key !== "waitMillis" || phases.networkMillis === null)
    .toSorted((a, b) => (phases[b] ?? 0) - (phases[a] ?? 0));
  const millis = phases[longest];
  if (!millis) return "";
  return `Longest: ${NAMES[longest]}, ${roughly(millis)} of ${roughly(roundTripTimeMillis)}`;
}
