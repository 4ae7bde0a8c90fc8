/**
 * The headers of a call, seen at four places.
 */

import { copyOf, one, row } from "./dom.js";

/** @typedef {import("../../types/wire.d.ts").Explained} Explained */

/** @type {{key: "callerHeaders" | "sentHeaders" | "producerHeaders" | "returnedHeaders", title: string, place: string}[]} */
const PLACES = [
  {
    key: "callerHeaders",
    title: "Caller Headers",
    place: "Of the request, as the caller received it",
  },
  { key: "sentHeaders", title: "Sent Headers", place: "Of the request, as the caller sent it on" },
  {
    key: "producerHeaders",
    title: "Producer Headers",
    place: "Of the request, as the producer received it",
  },
  {
    key: "returnedHeaders",
    title: "Returned Headers",
    place: "Of the reply, as the caller received it",
  },
];

/**
 * The four tables, in full; those that are open stay open.
 *
 * @param {Element} root
 * @param {Explained} hop
 */
export function showHeaders(root, hop) {
  const before = [...root.querySelectorAll("details")];
  for (const [index, { key, title, place }] of PLACES.entries()) {
    const details = before[index] ?? root.appendChild(copyOf("header-table"));
    const rows = headerRows(hop[key]);
    one(details, "summary", HTMLElement).textContent = `${title} (${rows.length})`;
    one(details, "caption", HTMLElement).textContent = place;
    one(details, "tbody", HTMLElement).replaceChildren(...rows);
  }
}

/** @param {Explained["callerHeaders"]} headers */
function headerRows(headers) {
  return Object.entries(headers).flatMap(([name, values]) =>
    values.map((value) => row("header-row", name, value)),
  );
}
