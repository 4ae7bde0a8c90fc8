/**
 * What a failed call probably means and what to do next.
 */

import { filled, part, setMark, write } from "./dom.js";

/**
 * @typedef {import("../../types/wire.d.ts").DiagnosedCause} DiagnosedCause
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 */

/**
 * @param {HTMLElement} card
 * @param {Explained} hop
 */
export function showDiagnosis(card, { diagnosis, error }) {
  card.hidden = diagnosis === null;
  if (diagnosis === null) return;
  card.dataset.severity = diagnosis.severity;
  setMark(part(card, "severity"), diagnosis.severity);
  write(card, { title: diagnosis.title, summary: diagnosis.summary, error });
  part(card, "causes").replaceChildren(
    ...diagnosis.causes.map((cause, index) => causeItem(cause, index + 1)),
  );
}

/**
 * @param {DiagnosedCause} cause
 * @param {number} number
 */
function causeItem({ cause, command, fix, source }, number) {
  const item = filled("cause", { cause, command, fix, what: `command ${number}` });
  part(item, "source").replaceChildren(sourceNode(source));
  return item;
}

/**
 * A link where it is one to the web, and only then.
 *
 * @param {string} source
 */
function sourceNode(source) {
  if (!/^https:\/\//.test(source)) return document.createTextNode(source);
  const link = document.createElement("a");
  link.href = source;
  link.rel = "noreferrer";
  link.textContent = source;
  return link;
}
