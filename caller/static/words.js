// @ts-check
/**
 * What the page says about a call, as text.
 *
 * @import { Reply } from "./call.js"
 * @import { Crossing, Hop } from "./wire.js"
 */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3 });

/** @param {number} millis */
export function roughly(millis) {
  return `${(millis < 10 ? tenths : whole).format(millis)} ms`;
}

/** @param {number} millis */
export function exactly(millis) {
  return exact.format(millis);
}

/**
 * @param {boolean | null} value
 * @param {string} yes
 * @param {string} no
 * @param {string} unknown
 */
export function choice(value, yes = "yes", no = "no", unknown = "unknown") {
  if (value === null) return unknown;
  return value ? yes : no;
}

/**
 * The reply in one sentence.
 *
 * @param {Reply} reply
 */
export function sentenceOf(reply) {
  switch (reply.kind) {
    case "hop":
      return `${reply.hop.outcome}: ${whatCame(reply.hop)}`;
    case "problem":
      return `problem: the caller answered ${reply.problem.status} ${reply.problem.title}`;
    case "foreign":
      return `${reply.status}: this reply did not come from the caller (${origin(reply)})`;
    case "silent":
      return `the caller did not answer: ${reply.error}`;
    case "cancelled":
      return "cancelled: the call was given up";
  }
}

/** @param {Hop} hop */
function whatCame(hop) {
  const time = roughly(hop.roundTripTimeMillis);
  if (hop.answeredBy.who === "caller") return `no ${usable(hop)}answer from ${hop.target} in ${time}`;
  return `${hasStatus(hop) ? hop.statusCode : "no usable reply"} in ${time}, answered by ${answerer(hop)}`;
}

/** @param {Hop} hop */
function usable(hop) {
  return hop.outcome === "bad_reply" || hop.outcome === "closed" ? "usable " : "";
}

/** @param {Hop} hop */
function answerer({ answeredBy, producerMetadata }) {
  if (answeredBy.who === "proxy") {
    return `${answeredBy.name === "unknown" ? "an unknown proxy" : answeredBy.name}, not by the producer`;
  }
  return `${answeredBy.name} in ${producerMetadata?.clusterName ?? "an unknown cluster"}`;
}

/**
 * Whether the status code is one that was received, not the one a gateway would answer for this failure.
 *
 * @param {Hop} hop
 */
function hasStatus(hop) {
  return hop.answeredBy.who !== "caller" && hop.outcome !== "bad_reply";
}

/** @param {Hop} hop */
export function statusText(hop) {
  return hasStatus(hop) ? String(hop.statusCode) : `${hop.statusCode}, what a gateway would say: no usable reply came`;
}

/** @param {{contentType: string, server: string | null}} reply */
function origin({ contentType, server }) {
  return server === null ? contentType : `${contentType}, server ${server}`;
}

/** @param {Crossing} crossing */
export function verdict({ cluster }) {
  return `Cross-cluster: ${choice(cluster, "yes", "no, answered by the caller's own cluster")}`;
}

/** @param {Crossing} crossing */
export function borders({ region, zone }) {
  return `Cross-region: ${choice(region)}, cross-zone: ${choice(zone)}`;
}
