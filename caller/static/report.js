/**
 * What can be taken away: a command that does the same, and a report to paste. The caller has masked all secrets.
 *
 * @import { RunRecord } from "./run.js"
 */

import { checksText } from "./checks.js";
import { connectionFacts } from "./connection.js";
import { eventLoopText, phaseRows } from "./phases.js";
import { outcomeRows, runText, runVerdict } from "./run.js";
import { borders, hopText, seconds, verdict } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").CallerMessage} CallerMessage
 * @typedef {import("../../types/wire.d.ts").CheckReport} CheckReport
 * @typedef {import("../../types/wire.d.ts").ClusterMetadata} ClusterMetadata
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").RunRequest} RunRequest
 */

/**
 * @param {string} path of the API
 * @param {CallerMessage | RunRequest | null} body null: there is none
 */
export function curl(path, body) {
  const url = quoted(new URL(path, document.baseURI).href);
  if (body === null) return `curl ${url}`;
  return `curl -N -X POST ${url} -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
}

/** @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {Explained} hop */
export function callReport(hop) {
  const { diagnosis, headerDiff, startedAt } = hop;
  const late = eventLoopText(hop);
  const changes = [...(headerDiff?.request ?? []), ...(headerDiff?.reply ?? [])].filter(
    ({ change }) => change !== "same",
  );
  return lines(
    `# ${line(hopText(hop))}`,
    "",
    `- When: ${new Date(startedAt * 1000).toISOString()}`,
    `- ${verdict(hop.crossing)}. ${borders(hop.crossing)}`,
    `- Caller: ${who(hop.callerMetadata)}`,
    `- Producer: ${hop.producerMetadata ? who(hop.producerMetadata) : "unknown"}`,
    `- Target: ${code(hop.target)}`,
    `- Answered by: ${line(hop.answeredBy.name)} (${line(hop.answeredBy.evidence)})`,
    hop.error && `- Error: ${line(hop.error)}`,
    `- Id: ${code(hop.id)}`,
    "",
    ...table(
      ["Phase", "ms"],
      phaseRows(hop).map(({ children: [name, millis] }) => [name.textContent, millis.textContent]),
    ),
    ...(late ? ["", line(late)] : []),
    "",
    ...table(["Connection", ""], connectionFacts(hop)),
    ...(diagnosis ? ["", `## ${line(diagnosis.title)}`, "", line(diagnosis.summary)] : []),
    ...(diagnosis?.causes.flatMap(({ cause, command, fix, source }, index) => [
      "",
      `${index + 1}. ${line(cause)}`,
      "",
      indented(command),
      "",
      `   ${line(fix)} (${line(source)})`,
    ]) ?? []),
    ...(changes.length ? ["", "## Headers changed on the way", ""] : []),
    ...table(
      ["Header", "Change", "Sent", "Received"],
      changes.map(({ name, change, sent, received }) => [
        name,
        change,
        sent?.join(", ") ?? "",
        received?.join(", ") ?? "",
      ]),
    ),
  );
}

/** @param {RunRecord} run */
export function runReport(run) {
  const { spec, outages, progress } = run;
  return lines(
    `# ${line(runText(run))}`,
    "",
    `- ${line(runVerdict(run).text)}`,
    `- Targets: ${spec.targets.map(code).join(", ")}`,
    `- ${spec.count} calls at ${spec.rate}/s, connections: ${spec.connection}, time-out ${seconds(spec.timeoutSeconds)}`,
    "",
    ...table(["", ""], outcomeRows(run)),
    "",
    ...table(
      ["Answered by", "Calls", "p50 ms", "p90 ms", "p99 ms", "max ms"],
      (progress?.peers ?? []).map(
        ({ cluster, latency: { count, p50Millis, p90Millis, p99Millis, maxMillis } }) =>
          [cluster, count, p50Millis, p90Millis, p99Millis, maxMillis].map(String),
      ),
    ),
    "",
    ...table(
      ["Pod", "Calls"],
      Object.entries(progress?.distribution.pods ?? {}).map(([pod, count]) => [pod, String(count)]),
    ),
    ...(outages.length ? ["", "## Gaps", ""] : []),
    ...table(
      ["At", "Length", "Calls lost", "Before", "After"],
      outages.map(({ atSeconds, millis, callsLost, before, after }) =>
        [
          seconds(atSeconds),
          seconds(millis / 1000),
          callsLost,
          before?.pod ?? "nobody",
          after?.pod ?? "nobody",
        ].map(String),
      ),
    ),
  );
}

/** @param {CheckReport} report */
export function checksReport(report) {
  return lines(
    `# ${line(checksText(report))}`,
    "",
    ...table(
      ["Verdict", "Check", "Target", "Evidence", "Next"],
      report.checks.map(({ verdict: word, check, target, evidence, nextStep }) => [
        word,
        check,
        target ?? "",
        evidence,
        nextStep ?? "",
      ]),
    ),
  );
}

/** @param {ClusterMetadata} metadata */
function who({ clusterName, zone, namespace, podName, version }) {
  return `${code(clusterName)}, zone ${code(zone)}, pod ${code(`${namespace}/${podName}`)}, version ${line(version)}`;
}

/**
 * @param {string[]} head
 * @param {string[][]} rows
 */
function table(head, rows) {
  if (rows.length === 0) return [];
  return [head, head.map(() => "---"), ...rows.map((row) => row.map(line))].map(
    (row) => `| ${row.join(" | ")} |`,
  );
}

/** Text of the other side that is no Markdown. @param {string} text */
function line(text) {
  return text.replace(/\s+/g, " ").replace(/[\\`*_|<>[\]#]/g, "\\$&");
}

/** @param {string} text */
function code(text) {
  return `\`${text.replace(/\s+/g, " ").replaceAll("`", "'").replaceAll("|", "¦")}\``;
}

/** @param {string} text */
function indented(text) {
  return text.replace(/^/gm, "       ");
}

/** @param {(string | null | false)[]} all */
function lines(...all) {
  return `${all.filter((text) => typeof text === "string").join("\n")}\n`;
}
