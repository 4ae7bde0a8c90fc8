/**
 * What the page says about a call, as text.
 *
 * @import { Failure } from "./api.js"
 * @import { Headline } from "./banner.js"
 * @typedef {import("../../types/wire.d.ts").ClockSkew} ClockSkew
 * @typedef {import("../../types/wire.d.ts").ClusterMetadata} ClusterMetadata
 * @typedef {import("../../types/wire.d.ts").Crossing} Crossing
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 */

export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const signed = new Intl.NumberFormat("en", { maximumFractionDigits: 1, signDisplay: "exceptZero" });
const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const exact = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3 });

/** @param {number} millis */
export function roughly(millis) {
  return `${(millis < 10 ? tenths : whole).format(millis)} ms`;
}

/** @param {number} millis */
export function milliseconds(millis) {
  return `${tenths.format(millis)} ms`;
}

/** Three significant digits. @param {number} millis */
export function significant(millis) {
  return millis >= 1000 ? seconds(millis / 1000) : `${threeDigits.format(millis)} ms`;
}

/** @param {number} value in s */
export function seconds(value) {
  if (value >= 120)
    return `${Math.floor(value / 60)} min${value % 60 >= 0.5 ? ` ${whole.format(value % 60)} s` : ""}`;
  return value && value < 0.1 ? milliseconds(value * 1000) : `${tenths.format(value)} s`;
}

/**
 * @param {number} count
 * @param {string} singular
 */
export function counted(count, singular, plural = `${singular}s`) {
  return `${whole.format(count)} ${count === 1 ? singular : plural}`;
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
 * Why nothing came of a request to the caller, in one sentence.
 *
 * @param {Failure} reply
 */
export function failureText(reply) {
  switch (reply.kind) {
    case "problem":
      return `problem: the caller answered ${reply.problem.status} ${reply.problem.title}${again(reply.retryAfter)}`;
    case "foreign":
      return `${reply.status}: this reply did not come from the caller (${origin(reply)})`;
    case "silent":
      return `the caller did not answer: ${reply.error}`;
    case "cancelled":
      return "cancelled: it was given up";
  }
}

/** @param {string | null} retryAfter in s */
function again(retryAfter) {
  return retryAfter === null ? "" : `; again in ${retryAfter} s`;
}

/**
 * A call in one sentence.
 *
 * @param {Explained} hop
 */
export function hopText(hop) {
  return `${hop.outcome}: ${whatCame(hop)}`;
}

/** @param {Explained} hop */
function whatCame(hop) {
  const time = roughly(hop.roundTripTimeMillis);
  if (hop.answeredBy.who === "none")
    return `no ${usable(hop)}answer from ${hop.target} in ${time}`;
  const status = isOwnStatus(hop)
    ? hop.statusCode
    : `${hop.replyStatus ?? "something"} without a usable reply`;
  return `${status} in ${time}, answered by ${answerer(hop)}`;
}

/** @param {Explained} hop */
function usable(hop) {
  return hop.outcome === "bad_reply" || hop.outcome === "closed" ? "usable " : "";
}

/** @param {Explained} hop */
function answerer({ answeredBy, producerMetadata }) {
  if (answeredBy.who === "proxy") {
    return `${answeredBy.name === "unknown" ? "an unknown proxy" : answeredBy.name}, not by the producer`;
  }
  return `${answeredBy.name} in ${producerMetadata?.clusterName ?? "an unknown cluster"}`;
}

/**
 * Whether the status code is the one that was received, not what a gateway would answer for this failure.
 *
 * @param {Explained} hop
 */
function isOwnStatus(hop) {
  return hop.answeredBy.who !== "none" && hop.outcome !== "bad_reply";
}

/** @param {Explained} hop */
export function statusText(hop) {
  if (isOwnStatus(hop)) return String(hop.statusCode);
  const came = hop.replyStatus === null ? "none came in" : `${hop.replyStatus} came in`;
  return `${came}; ${hop.statusCode} is what a gateway would say`;
}

/** @param {ClockSkew | null} skew */
export function skewText(skew) {
  if (skew === null) return "unknown";
  return `${signed.format(skew.millis)} ms, give or take ${tenths.format(skew.errorMillis)}`;
}

/** @param {{contentType: string, server: string | null}} reply */
function origin({ contentType, server }) {
  return server === null ? contentType : `${contentType}, server ${server}`;
}

/** @param {Crossing} crossing */
export function verdict({ cluster }) {
  return `Cross-cluster: ${choice(cluster, "yes", "no, answered by the caller's own cluster")}`;
}

/**
 * What stands in large: whether clusters were crossed, or what went wrong.
 *
 * @param {Explained} hop
 * @returns {Headline}
 */
export function callHeadline(hop) {
  const { outcome, diagnosis, crossing, producerMetadata } = hop;
  const way = wayText(hop);
  if (outcome === "ok") {
    const tone = /** @type {Headline["tone"]} */ (choice(crossing.cluster));
    return { tone, text: verdict(crossing), way, more: borders(crossing) };
  }
  const text = `${outcome}: ${diagnosis?.title ?? "the call failed"}`;
  const more = producerMetadata ? `${verdict(crossing)}. ${borders(crossing)}` : "";
  return { tone: "failed", text, way, more };
}

/** @param {Crossing} crossing */
export function borders({ region, zone }) {
  return `Cross-region: ${choice(region)}, cross-zone: ${choice(zone)}`;
}

/** From where to where. @param {Explained} hop */
function wayText({ callerMetadata, producerMetadata, target }) {
  return `${place(callerMetadata)} → ${producerMetadata ? place(producerMetadata) : target}`;
}

/** @param {ClusterMetadata} metadata */
export function place({ clusterName, zone }) {
  return zone === "local" ? clusterName : `${clusterName} ${zone}`;
}
