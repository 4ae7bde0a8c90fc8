/**
 * A run as it is put together from its events.
 *
 * @import { RunEvent } from "./api.js"
 * @import { Headline } from "./banner.js"
 */

import { counted, milliseconds, percent, seconds, whole } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Balance} Balance
 * @typedef {import("../../types/wire.d.ts").Outage} Outage
 * @typedef {import("../../types/wire.d.ts").Progress} Progress
 * @typedef {import("../../types/wire.d.ts").RunSpec} RunSpec
 */

/** Columns that are kept; with one more, each two become one. */
export const MOST_COLUMNS = 1200;
const MOST_OUTAGES = 200;
const MOST_NAMES = 4;

/**
 * @typedef {object} Column what came back in one stretch of time, in s since the start
 * @property {number} from
 * @property {number} to
 * @property {Record<string, number>} answered `ok` calls by cluster
 * @property {Record<string, number>} failed by outcome
 * @property {number | null} p50 in ms; of a column that was two, the higher one
 * @property {number | null} p99
 *
 * @typedef {object} RunRecord
 * @property {RunSpec} spec
 * @property {"going on" | "complete" | "stopped" | "cut off" | "failed"} ended
 * @property {string | null} reason
 * @property {Progress | null} progress
 * @property {Column[]} columns
 * @property {Outage[]} outages the first of them
 * @property {number} outageCount
 * @property {number} longestOutageMillis
 * @property {Balance | null} balance
 * @property {string} callerCluster
 */

/**
 * @param {RunSpec} spec
 * @param {string} callerCluster
 * @returns {RunRecord}
 */
export function newRun(spec, callerCluster) {
  const counts = { outageCount: 0, longestOutageMillis: 0 };
  return {
    spec,
    ended: "going on",
    reason: null,
    progress: null,
    columns: [],
    outages: [],
    ...counts,
    balance: null,
    callerCluster,
  };
}

/**
 * Take in the next event.
 *
 * @param {RunRecord} run
 * @param {RunEvent} event
 */
export function follow(run, event) {
  switch (event.type) {
    case "tick": {
      const { progress, recent, answered, failed } = event;
      const from = run.progress?.elapsedSeconds ?? 0;
      run.progress = progress;
      if (progress.elapsedSeconds > from) {
        run.columns.push({
          from,
          to: progress.elapsedSeconds,
          answered,
          failed,
          p50: recent.p50Millis,
          p99: recent.p99Millis,
        });
      }
      if (run.columns.length > MOST_COLUMNS) run.columns = halved(run.columns);
      break;
    }
    case "outage":
      run.outageCount += 1;
      run.longestOutageMillis = Math.max(run.longestOutageMillis, event.outage.millis);
      if (run.outages.length < MOST_OUTAGES) run.outages.push(event.outage);
      break;
    case "done": {
      const {
        outages,
        outageCount,
        longestOutageMillis,
        balance,
        histograms: _,
        ...progress
      } = event.summary;
      run.ended = event.ended;
      run.reason = event.reason;
      run.progress = progress;
      run.outages = outages.slice(0, MOST_OUTAGES);
      run.outageCount = outageCount;
      run.longestOutageMillis = longestOutageMillis;
      run.balance = balance;
      break;
    }
    case "failed":
      run.ended = "failed";
      run.reason = event.reason;
  }
}

/** @param {Column[]} columns */
function halved(columns) {
  return columns
    .filter((_, index) => index % 2 === 0)
    .map((first, index) => {
      const second = columns[2 * index + 1];
      if (!second) return first;
      return {
        from: first.from,
        to: second.to,
        answered: added(first.answered, second.answered),
        failed: added(first.failed, second.failed),
        p50: highest(first.p50, second.p50),
        p99: highest(first.p99, second.p99),
      };
    });
}

/**
 * @param {Record<string, number>} a
 * @param {Record<string, number>} b
 */
function added(a, b) {
  const total = { ...a };
  for (const [name, count] of Object.entries(b)) total[name] = (total[name] ?? 0) + count;
  return total;
}

/**
 * @param {number | null} a
 * @param {number | null} b
 */
function highest(a, b) {
  return a === null || b === null ? (a ?? b) : Math.max(a, b);
}

/** @param {Record<string, number>} counts */
export function sum(counts) {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

/** @param {RunRecord} run */
export function secondsOf({ spec, progress }) {
  return Math.max(spec.count / spec.rate, progress?.elapsedSeconds ?? 0);
}

/** @param {RunRecord} run */
export function clustersOf({ columns }) {
  return [...new Set(columns.flatMap(({ answered }) => Object.keys(answered)))].toSorted();
}

/** @param {RunRecord} run */
export function failuresOf({ progress }) {
  return progress ? progress.done - (progress.outcomes.ok ?? 0) : 0;
}

/** Nothing but a run that is complete and without a failure is well. @param {RunRecord} run */
export function runOutcome(run) {
  if (run.ended === "going on") return "calling";
  if (run.ended === "failed" || run.ended === "cut off" || failuresOf(run) || !run.progress?.done)
    return "fail";
  return run.ended === "complete" && !run.progress.dropped ? "ok" : "warn";
}

/** The run in one sentence. @param {RunRecord} run */
export function runText(run) {
  const { progress, ended, reason } = run;
  const clusters = answeringClusters(run);
  const why = reason && ended !== "complete" ? ` (${reason})` : "";
  return [
    `${ended}${why}: ${counted(progress?.done ?? 0, "call")}`,
    clusters.length === 1 ? `all answers from ${clusters[0]}` : counted(clusters.length, "cluster"),
    failuresOf(run)
      ? `${whole.format(failuresOf(run))} failed (${outcomesText(run)})`
      : "none failed",
    outagesText(run),
    progress?.dropped ? `${whole.format(progress.dropped)} left out` : "",
  ]
    .filter(Boolean)
    .join(", ");
}

/** @param {RunRecord} run */
function answeringClusters({ progress }) {
  return Object.keys(progress?.distribution.clusters ?? {}).toSorted();
}

/**
 * What stands in large: whether clusters were crossed, or that not all is well.
 *
 * @param {RunRecord} run
 * @returns {Headline}
 */
export function runHeadline(run) {
  const { text, tone } = runVerdict(run);
  const way = `${run.callerCluster} → ${sharesText(run) || run.spec.targets.join(", ")}`;
  const failures = failuresOf(run);
  if (run.ended === "going on") {
    const more = failures ? `so far; ${whole.format(failures)} failed` : "so far";
    return { tone: failures ? "failed" : "none", text, way, more };
  }
  if (runOutcome(run) !== "fail") return { tone, text, way, more: runText(run) };
  const calls = counted(run.progress?.done ?? 0, "call");
  const failed = failures ? `${whole.format(failures)} of ${calls} failed` : `Run ${run.ended}`;
  return { tone: "failed", text: failed, way, more: text };
}

/** How much each cluster answered, those with the most. @param {RunRecord} run */
function sharesText({ progress }) {
  const clusters = progress?.distribution.clusters ?? {};
  const total = sum(clusters);
  const all = Object.entries(clusters).toSorted(([, one], [, other]) => other - one);
  const shares = all
    .slice(0, MOST_NAMES)
    .map(([name, count]) => `${name} (${percent.format(count / total)})`);
  if (all.length > MOST_NAMES) shares.push(counted(all.length - MOST_NAMES, "other"));
  return shares.join(", ");
}

/** @param {RunRecord} run */
function outcomesText({ progress }) {
  const failed = Object.entries(progress?.outcomes ?? {}).filter(([name]) => name !== "ok");
  return failed.map(([name, count]) => `${whole.format(count)} ${name}`).join(", ");
}

/** @param {RunRecord} run */
function outagesText({ outageCount, outages, longestOutageMillis }) {
  if (outageCount === 0) return "";
  const longest = seconds(longestOutageMillis / 1000);
  if (outageCount > 1) return `${outageCount} gaps, the longest ${longest}`;
  const [{ before, after }] = outages;
  const gone =
    before?.pod && before.pod !== after?.pod ? ` after pod ${before.pod} stopped answering` : "";
  return `one gap of ${longest}${gone}`;
}

/** Its figures, by name. @param {RunRecord} run @returns {[string, string][]} */
export function outcomeRows({ spec, progress, outageCount, longestOutageMillis }) {
  if (!progress) return [];
  const { sent, done, dropped, outcomes, rate, inFlight, elapsedSeconds } = progress;
  const late = progress.schedulingDelay.p99Millis;
  const longest = seconds(longestOutageMillis / 1000);
  return [
    ["Targets", spec.targets.join(", ")],
    ["Connections", spec.connection],
    ["Asked for", `${whole.format(spec.count)} at ${spec.rate}/s`],
    ["Sent", `${whole.format(sent)} at ${rate.toFixed(1)}/s`],
    ["Left out", whole.format(dropped)],
    ["In flight", whole.format(inFlight)],
    ["Came back", `${whole.format(done)} in ${seconds(elapsedSeconds)}`],
    ...Object.entries(outcomes).map(
      ([name, count]) => /** @type {[string, string]} */ ([name, whole.format(count)]),
    ),
    ["Gaps", outageCount ? `${outageCount}, the longest ${longest}` : "0"],
    ["Started late (p99)", late === null ? "–" : milliseconds(late)],
  ];
}

/**
 * How much of it another cluster answered.
 *
 * @param {RunRecord} run
 * @returns {{tone: Headline["tone"], text: string}}
 */
export function runVerdict({ progress, callerCluster }) {
  const clusters = progress?.distribution.clusters ?? {};
  const answered = sum(clusters);
  const isUnknown = (/** @type {string} */ name) =>
    callerCluster === "local" || name === "unknown" || name === "local";
  const there = sum(omitted(clusters, (name) => isUnknown(name) || name === callerCluster));
  const unknown = answered - sum(omitted(clusters, isUnknown));
  if (answered === 0) return { tone: "unknown", text: "Cross-cluster: unknown, nobody answered" };
  if (unknown === answered) return { tone: "unknown", text: "Cross-cluster: unknown" };
  const tone = there === answered ? "yes" : there ? "partly" : "no";
  const text = `Cross-cluster: ${tone}, ${whole.format(there)} of ${counted(answered, "answer")}`;
  return { tone, text };
}

/**
 * @param {Record<string, number>} counts
 * @param {(name: string) => boolean} isOmitted
 */
function omitted(counts, isOmitted) {
  return Object.fromEntries(Object.entries(counts).filter(([name]) => !isOmitted(name)));
}
