/**
 * What can be known of a name: as getaddrinfo gives it, and as the resolver answers when it is asked itself.
 */

import { copyOf, entry, filled, part, setMark } from "./dom.js";
import { counted, exactly, milliseconds } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Candidate} Candidate
 * @typedef {import("../../types/wire.d.ts").DnsAnswer} DnsAnswer
 * @typedef {import("../../types/wire.d.ts").DnsReport} DnsReport
 */

/** @param {DnsReport} report */
export function dnsReport(report) {
  const copy = copyOf("dns-report");
  part(copy, "facts").replaceChildren(...facts(report));
  const names = [report.absolute, report.counterpart].filter((answers) => answers.length > 0);
  part(copy, "names").replaceChildren(
    ...names.map((answers) => answerTable(answers, report.hostsFile)),
  );
  const search = part(copy, "search");
  search.hidden = report.candidates.length === 0;
  part(search, "count").textContent = `What a lookup tries, in order (${report.candidates.length})`;
  part(search, "candidates").replaceChildren(...report.candidates.map(candidateItem));
  return copy;
}

/** @param {DnsReport} report */
function facts(report) {
  const { nameservers, search, ndots, error } = report.resolvConf;
  return [
    entry("Name", report.host),
    entry("getaddrinfo", systemText(report)),
    entry("A Lookup Costs", costText(report)),
    ...(report.hostsFile ? [entry("/etc/hosts", "has the name, so a lookup asks nobody")] : []),
    ...(error === null ? [] : [entry("/etc/resolv.conf", error)]),
    entry("Name Servers", nameservers.join(", ") || "none"),
    entry("Search List", search.join(" ") || "empty"),
    entry("ndots", String(ndots)),
  ];
}

/** @param {DnsReport} report */
function systemText({ system }) {
  return `${system.error ?? system.addresses.join(", ")} in ${milliseconds(system.millis)}`;
}

/** @param {DnsReport} report */
function costText({ absolute, queries, wastedQueries }) {
  if (absolute.length === 0) return "nothing: it is an address";
  return queries === 0
    ? "no query"
    : `${counted(queries, "query", "queries")}, ${wastedQueries} for nothing`;
}

/**
 * @param {DnsAnswer[]} answers of one name
 * @param {boolean} hostsFile
 */
function answerTable(answers, hostsFile) {
  const table = filled("dns-answers", {
    name: answers[0].name,
    nameserver: answers[0].nameserver ?? "nobody",
  });
  part(table, "answers").replaceChildren(...answers.map((answer) => answerRow(answer, hostsFile)));
  return table;
}

/**
 * @param {DnsAnswer} answer
 * @param {boolean} hostsFile
 */
function answerRow(answer, hostsFile) {
  const copy = filled("dns-answer", {
    type: answer.type,
    addresses: answer.addresses.join(", "),
    ttl: answer.ttl === null ? "none" : String(answer.ttl),
    millis: exactly(answer.millis),
  });
  markRcode(part(copy, "rcode"), answer, hostsFile);
  return copy;
}

/** @param {Candidate} candidate */
function candidateItem({ name, answers }) {
  const item = filled("dns-candidate", { name });
  part(item, "rcodes").append(
    ...answers.map((answer) => {
      const rcode = document.createElement("span");
      markRcode(rcode, answer);
      rcode.textContent = `${answer.type} ${answer.rcode}`;
      return rcode;
    }),
  );
  return item;
}

/**
 * A name that exists without an address of this type is no fault: most Services have none of IPv6. Nor is it one that
 * the resolver does not know a name of /etc/hosts.
 *
 * @param {Element} element
 * @param {DnsAnswer} answer
 * @param {boolean} [hostsFile]
 */
function markRcode(element, { rcode, addresses }, hostsFile) {
  setMark(
    element,
    addresses.length > 0 ? "pass" : hostsFile || rcode === "NOERROR" ? "skip" : "fail",
    rcode,
  );
}
