/**
 * Where the time of a call went: a waterfall, each row with its number.
 */

import { one, row } from "./dom.js";
import { bar } from "./svg.js";
import { exactly, roughly, significant } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").Phases} Phases
 */

/** @typedef {Record<string, number | null>} Durations in ms, by the names of `Phases` */

/** @type {Record<string, string>} */
const NAMES = {
  dnsMillis: "DNS",
  connectMillis: "Connect",
  tlsMillis: "TLS",
  sendMillis: "Send",
  waitMillis: "Wait",
  networkMillis: "Network",
  producerDelayMillis: "Producer's delay",
  producerWorkMillis: "Producer's work",
  eventLoopMillis: "Event loop",
  bodyMillis: "Body",
};

/** Known only when the producer reports its times. Which of the network's time was there and which back is not. */
const PARTS_OF_WAIT = [
  "networkMillis",
  "producerDelayMillis",
  "producerWorkMillis",
  "eventLoopMillis",
];

/**
 * The durations of a call; `eventLoopMillis` is what the other parts leave of the wait.
 *
 * @param {Phases} phases
 * @returns {Durations}
 */
function durationsOf({ eventLoopDelayMillis: _total, delayedPhases: _delayed, ...durations }) {
  const { waitMillis, networkMillis, producerDelayMillis, producerWorkMillis } = durations;
  if (networkMillis === null) return durations;
  const others = networkMillis + (producerDelayMillis ?? 0) + (producerWorkMillis ?? 0);
  const rest = (waitMillis ?? 0) - others;
  return rest < 0.0005 ? durations : { ...durations, eventLoopMillis: rest };
}

/** In the order of a call, which is that of the caller's JSON. @param {Durations} durations */
function phasesOf(durations) {
  return Object.keys(durations)
    .filter((key) => key in NAMES && !PARTS_OF_WAIT.includes(key))
    .flatMap((key) =>
      key === "waitMillis" ? [key, ...PARTS_OF_WAIT.filter((name) => name in durations)] : [key],
    );
}

/** @param {Explained} hop */
export function phaseRows(hop) {
  let at = 0;
  let within = 0;
  const durations = durationsOf(hop.phases);
  const rows = phasesOf(durations).map((key) => {
    const millis = durations[key];
    const isPart = PARTS_OF_WAIT.includes(key);
    const none = isPart && durations.waitMillis !== null ? "unknown" : "not taken";
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
  const durations = durationsOf(phases);
  const [longest] = phasesOf(durations)
    .filter((key) => key !== "waitMillis" || durations.networkMillis === null)
    .toSorted((a, b) => (durations[b] ?? 0) - (durations[a] ?? 0));
  const millis = durations[longest];
  if (!millis) return "";
  return `Longest: ${NAMES[longest]}, ${roughly(millis)} of ${roughly(roundTripTimeMillis)}`;
}

/** Empty if no phase was noticeably delayed. @param {Explained} hop */
export function eventLoopText({ phases: { eventLoopDelayMillis, delayedPhases } }) {
  if (!delayedPhases.length) return "";
  const delay = significant(eventLoopDelayMillis ?? 0);
  return `The caller's own event loop was late by ${delay} (${delayedPhases.join(", ")}): not the network.`;
}
