/**
 * A run on the page, while it goes on and after.
 *
 * @import { Column, RunRecord } from "./run.js"
 */

import { runChart } from "./chart.js";
import { copyOf, entry, filled, numberRow, one, part, visible } from "./dom.js";
import { nickname, paint } from "./names.js";
import { clustersOf, outcomeRows, sum } from "./run.js";
import { bar } from "./svg.js";
import { counted, milliseconds, percent, seconds, whole } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Outage} Outage
 * @typedef {import("../../types/wire.d.ts").Who} Who
 */

/** What the table of the chart's numbers holds. @type {{run?: RunRecord, clusters?: string}} */
let numbersOf = {};

/** A producer may give itself as many names as it likes. */
const MOST_ROWS = 50;

/**
 * @param {HTMLElement} root
 * @param {RunRecord} run
 */
export function showRun(root, run) {
  const { progress, spec } = run;
  const meter = one(root, "#started", HTMLProgressElement);
  meter.max = spec.count;
  meter.value = progress?.offered ?? 0;
  part(root, "take").hidden = run.ended === "going on";
  part(root, "going").textContent = goingText(run);
  const chart = part(root, "chart");
  chart.replaceChildren(runChart(run, chart.clientWidth || 640));
  showLegend(part(root, "legend"), run);
  const numbers = one(root, "details[data-part=numbers]", HTMLDetailsElement);
  numbers.ontoggle = () => showNumbers(numbers, run);
  showNumbers(numbers, run);
  part(root, "noGaps").hidden = run.outages.length > 0;
  part(root, "gaps").replaceChildren(...run.outages.map(outageItem));
  part(root, "evenness").textContent = balanceText(run);
  showSpread(part(root, "spread"), run);
  part(root, "totals").replaceChildren(
    ...outcomeRows(run).map(([name, value]) => entry(name, value)),
  );
  part(root, "latency").replaceChildren(
    ...(progress?.peers ?? []).map(
      ({ cluster, latency: { p50Millis, p90Millis, p99Millis, maxMillis } }) =>
        numberRow(cluster, ...[p50Millis, p90Millis, p99Millis, maxMillis].map(latencyText)),
    ),
  );
}

/** @param {number | null} millis */
function latencyText(millis) {
  return millis === null ? "–" : milliseconds(millis).replace(" ms", "");
}

/** @param {RunRecord} run */
function goingText({ progress, spec }) {
  if (!progress) return "";
  return [
    `${seconds(progress.elapsedSeconds)} of ${seconds(spec.count / spec.rate)}`,
    `${whole.format(progress.done)} of ${counted(spec.count, "call")}`,
    `${progress.rate.toFixed(1)}/s`,
    `${progress.inFlight} in flight`,
  ].join(", ");
}

/**
 * @param {HTMLElement} list
 * @param {RunRecord} run
 */
function showLegend(list, run) {
  const items = clustersOf(run).map((cluster) => {
    const item = swatch("li", "calls", cluster);
    paint(item, cluster);
    return item;
  });
  list.replaceChildren(
    ...items,
    swatch("li", "failed", "failed"),
    swatch("li", "p50", "p50"),
    swatch("li", "p99", "p99"),
  );
}

/**
 * @param {string} tag
 * @param {string} kind
 * @param {string} text
 */
function swatch(tag, kind, text) {
  const element = document.createElement(tag);
  element.dataset.swatch = kind;
  element.textContent = text;
  return element;
}

/**
 * The chart's numbers, only when somebody looks: there may be a thousand rows.
 *
 * @param {HTMLDetailsElement} details
 * @param {RunRecord} run
 */
function showNumbers(details, run) {
  if (!details.open) return;
  const clusters = clustersOf(run);
  const body = one(details, "tbody", HTMLElement);
  const isOther = numbersOf.run !== run || numbersOf.clusters !== clusters.join();
  if (isOther || body.children.length > run.columns.length) {
    const head = document.createElement("tr");
    for (const name of ["From (s)", ...clusters, "failed", "p50 (ms)", "p99 (ms)"]) {
      const cell = Object.assign(document.createElement("th"), { scope: "col" });
      cell.textContent = visible(name);
      head.append(cell);
    }
    one(details, "thead", HTMLElement).replaceChildren(head);
    body.replaceChildren();
    numbersOf = { run, clusters: clusters.join() };
  }
  const added = run.columns.slice(body.children.length);
  body.append(...added.map((column) => numbersRow(column, clusters)));
}

/**
 * @param {Column} column
 * @param {string[]} clusters
 */
function numbersRow({ from, answered, failed, p50, p99 }, clusters) {
  const counts = clusters.map((cluster) => String(answered[cluster] ?? 0));
  return numberRow(
    from.toFixed(1),
    ...counts,
    String(sum(failed)),
    latencyText(p50),
    latencyText(p99),
  );
}

/** @param {Outage} outage */
function outageItem({ target, atSeconds, millis, callsLost, outcomes, before, after }) {
  const item = document.createElement("li");
  const lost = Object.entries(outcomes).map(([name, count]) => `${count} ${name}`);
  item.textContent = visible(
    [
      `${seconds(millis / 1000)} at ${seconds(atSeconds)}:`,
      `${counted(callsLost, "call")} lost (${lost.join(", ")});`,
      `before it ${whoText(before)},`,
      after ? `now ${whoText(after)};` : "and the run ended in it;",
      target,
    ].join(" "),
  );
  return item;
}

/** @param {Who | null} who */
function whoText(who) {
  if (!who) return "nobody";
  const words = nickname(who.pod);
  return `${who.pod ?? "a pod"}${words && ` (${words})`} in ${who.cluster ?? "an unknown cluster"}`;
}

/** @param {RunRecord} run */
function balanceText({ balance }) {
  if (!balance) return "";
  const { verdict, pValue } = balance;
  if (verdict !== "uneven" || pValue === null) return `Spread over pods: ${verdict}`;
  const chance = pValue < 0.001 ? "less than 0.1 %" : percent.format(pValue);
  return `Spread over pods: uneven; so uneven by chance in ${chance}`;
}

/**
 * @param {HTMLElement} root
 * @param {RunRecord} run
 */
function showSpread(root, { progress }) {
  const { clusters = {}, zones = {}, pods = {} } = progress?.distribution ?? {};
  root.replaceChildren(
    spreadTable("By cluster", clusters, { painted: paint }),
    spreadTable("By zone", zones),
    spreadTable("By pod", pods, { nicknamed: nickname }),
  );
}

/**
 * @param {string} caption
 * @param {Record<string, number>} counts
 * @param {{painted?: (element: SVGElement, name: string) => void, nicknamed?: (name: string) => string}} how
 */
function spreadTable(caption, counts, { painted, nicknamed } = {}) {
  const table = copyOf("spread");
  one(table, "caption", HTMLElement).textContent = caption;
  const total = sum(counts) || 1;
  const all = Object.entries(counts);
  const rows = all.slice(0, MOST_ROWS).map(([name, count]) => {
    const copy = filled("spread-row", {
      name,
      nickname: nicknamed?.(name) ?? "",
      calls: whole.format(count),
      share: percent.format(count / total),
    });
    const track = bar(0, (count / total) * 100);
    painted?.(track, name);
    part(copy, "track").append(track);
    return copy;
  });
  const more = all.slice(MOST_ROWS).reduce((calls, [, count]) => calls + count, 0);
  if (more) {
    rows.push(numberRow(`${counted(all.length - MOST_ROWS, "other")}`, whole.format(more)));
  }
  one(table, "tbody", HTMLElement).append(...rows);
  return table;
}
