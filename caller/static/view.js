/**
 * A hop on the page, below the sentence.
 */

import { connectionFacts } from "./connection.js";
import { showDiagnosis } from "./diagnosis.js";
import { showHeaderDiff } from "./diff.js";
import { dnsReport } from "./dns.js";
import { entry, part } from "./dom.js";
import { showHeaders } from "./headers.js";
import { nickname, paint } from "./names.js";
import { eventLoopText, longestPhase, phaseRows } from "./phases.js";
import { route } from "./route.js";
import { choice, exactly, skewText, statusText } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").ClusterMetadata} ClusterMetadata
 * @typedef {import("../../types/wire.d.ts").DnsReport} DnsReport
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 */

/** @type {[keyof ClusterMetadata, string][]} */
const METADATA = [
  ["clusterName", "Cluster Name"],
  ["clusterLocation", "Cluster Location"],
  ["hostName", "Host Name"],
  ["ipAddress", "Ip Address"],
  ["region", "Region"],
  ["zone", "Zone"],
  ["podName", "Pod"],
  ["namespace", "Namespace"],
  ["nodeName", "Node"],
  ["serviceAccount", "Service Account"],
  ["version", "Version"],
];

/**
 * @param {HTMLElement} root
 * @param {Explained} hop
 */
export function showHop(root, hop) {
  const narrow = matchMedia("(width < 45rem)");
  const draw = () => part(root, "route").replaceChildren(route(hop, narrow.matches));
  narrow.onchange = draw;
  draw();
  showDiagnosis(part(root, "diagnosis"), hop);
  showDns(part(root, "dns"), hop.dns);
  part(root, "callerMetadata").replaceChildren(...metadataEntries(hop.callerMetadata));
  part(root, "producerMetadata").replaceChildren(...metadataEntries(hop.producerMetadata));
  part(root, "producerMetadata").hidden = hop.producerMetadata === null;
  part(root, "producerUnknown").hidden = hop.producerMetadata !== null;
  part(root, "call").replaceChildren(...callEntries(hop));
  part(root, "connection").replaceChildren(
    ...connectionFacts(hop).map(([name, value]) => entry(name, value)),
  );
  part(root, "finding").textContent = longestPhase(hop);
  part(root, "phases").replaceChildren(...phaseRows(hop));
  part(root, "eventLoop").textContent = eventLoopText(hop);
  part(root, "received").textContent = hop.received;
  part(root, "received").hidden = hop.received === null;
  part(root, "nothingReceived").hidden = hop.received !== null;
  showHeaderDiff(part(root, "headerDiff"), hop);
  showHeaders(part(root, "headers"), hop);
  part(root, "raw").textContent = JSON.stringify(hop, null, 2);
}

/**
 * @param {HTMLElement} card
 * @param {DnsReport | null} dns
 */
function showDns(card, dns) {
  card.hidden = dns === null;
  if (dns) part(card, "report").replaceChildren(dnsReport(dns));
}

/** @param {ClusterMetadata | null} metadata */
function metadataEntries(metadata) {
  if (!metadata) return [];
  return METADATA.map(([key, label]) => {
    const words = key === "podName" ? nickname(metadata[key]) : "";
    const copy = entry(label, words ? `${metadata[key]} (${words})` : metadata[key]);
    if (key === "clusterName") paint(copy, metadata[key]);
    return copy;
  });
}

/** @param {Explained} hop */
function callEntries(hop) {
  const { who, name, evidence } = hop.answeredBy;
  return [
    entry("Outcome", hop.outcome),
    entry("Status Code", statusText(hop)),
    entry("Round Trip Time (millis)", exactly(hop.roundTripTimeMillis)),
    entry("Answered By", who === "none" ? "nobody; the caller speaks" : `${who} ${name}`),
    entry("Evidence", evidence),
    entry("Fault Applied", choice(hop.faultApplied)),
    entry("Clock Skew", skewText(hop.clockSkew)),
    entry("Target", hop.target),
    entry("Id", hop.id),
  ];
}
