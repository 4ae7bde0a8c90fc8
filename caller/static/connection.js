/**
 * What is known of the connection of a call, as names and values.
 */

import { counted, seconds, significant, whole } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Attempt} Attempt
 * @typedef {import("../../types/wire.d.ts").Certificate} Certificate
 * @typedef {import("../../types/wire.d.ts").Connection} Connection
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 */

/** Attempts to connect, and names of a certificate; all of them are in the JSON. */
const MAX_SHOWN = 5;

/**
 * @param {Explained} hop
 * @returns {[string, string][]}
 */
export function connectionFacts(hop) {
  const { connection } = hop;
  const { peerCertificate: certificate, kernelRttMillis, retransmits } = connection;
  /** @type {[string, string | null | false | undefined][]} */
  const facts = [
    ["State", stateText(connection)],
    ["Asked For", connection.mode],
    ["Local Address", connection.localAddress],
    ["Peer Address", connection.peerAddress],
    ["Addresses (getaddrinfo)", addressesText(hop)],
    ["Attempts", attemptsText(connection.attempts)],
    ["HTTP Version", connection.httpVersion],
    ["Sent", sentText(hop)],
    ["Received", bytesText(connection.bytesReceived)],
    ["RTT (Kernel)", kernelRttMillis !== null && significant(kernelRttMillis)],
    ["Retransmits", retransmits ? whole.format(retransmits) : null],
    ["Closed", connection.closedBeforeReply && "before a reply"],
    ["TLS Version", connection.tlsVersion],
    ["TLS Alert", connection.tlsAlert && `${connection.tlsAlert}, from the other side`],
    ["Certificate", certificate && (limited(certificate.names, ", ") || "no name")],
    ["Refused", isNew(connection.tlsVerifyError, hop) && connection.tlsVerifyError],
    ["Issuer", certificate?.issuer],
    ["Validity", certificate && validityText(certificate, hop.startedAt * 1000)],
  ];
  return facts.flatMap(([name, value]) => (value ? [[name, value]] : []));
}

/** @param {Connection} connection */
function stateText({ peerAddress, reused, idleMillis }) {
  if (peerAddress === null) return "none";
  if (!reused) return "new";
  return idleMillis === null ? "reused" : `reused, idle ${seconds(idleMillis / 1000)}`;
}

/** Those that are neither among the attempts nor in the DNS report. @param {Explained} hop */
function addressesText({ addresses, connection, dns }) {
  return dns === null && addresses.length > connection.attempts.length && addresses.join(", ");
}

/** @param {Attempt[]} attempts */
function attemptsText(attempts) {
  if (attempts.length === 1 && attempts[0].error === null) return null;
  const texts = attempts.map(
    ({ address, error, millis }) => `${address} ${error ?? "connected"} (${significant(millis)})`,
  );
  return limited(texts, " · ");
}

/** @param {Explained} hop */
function sentText(hop) {
  const { answeredBy, connection } = hop;
  const { bytesSent, bytesUnacknowledged, tlsVerifyError } = connection;
  const sent = bytesText(bytesSent);
  // After a reply all has arrived; and a caller that refuses a certificate closes right after its alert.
  if (answeredBy.who !== "none" || tlsVerifyError || !bytesUnacknowledged) return sent;
  const text = `${whole.format(bytesUnacknowledged)} of ${sent} sent were not acknowledged`;
  return isNew(text, hop) ? text.replace(" sent", "") : sent;
}

/** @param {number | null} count */
function bytesText(count) {
  return count !== null && counted(count, "byte");
}

/**
 * Whether the error of the call does not have the same words.
 *
 * @param {string | null} text
 * @param {Explained} hop
 */
function isNew(text, { error }) {
  return text !== null && !error?.includes(text);
}

/**
 * @param {Certificate} certificate
 * @param {number} at ms since the epoch
 */
function validityText({ notBefore, notAfter }, at) {
  if (at < Date.parse(notBefore)) return `not before ${minute(notBefore)}`;
  const hours = (Date.parse(notAfter) - at) / 3_600_000;
  const span =
    Math.abs(hours) < 48
      ? `${whole.format(Math.abs(hours))} h`
      : `${whole.format(Math.abs(hours) / 24)} days`;
  return hours < 0
    ? `expired ${minute(notAfter)} (${span} ago)`
    : `until ${minute(notAfter)} (${span} left)`;
}

/** @param {string} time */
function minute(time) {
  return `${new Date(time).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/**
 * The first of them, and how many more there are.
 *
 * @param {string[]} texts
 * @param {string} separator
 */
function limited(texts, separator) {
  const more = texts.length > MAX_SHOWN ? ` and ${texts.length - MAX_SHOWN} more` : "";
  return texts.slice(0, MAX_SHOWN).join(separator) + more;
}
