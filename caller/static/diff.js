/**
 * What happened to headers on the way: the request's there, the reply's back.
 */

import { copyOf, filled, one, part, setMark } from "./dom.js";
import { counted } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").HeaderChange} HeaderChange
 */

/** In the order in which the page shows them. @type {HeaderChange["group"][]} */
const GROUPS = ["tracing", "forwarding", "mesh", "load balancer", "other"];

/**
 * The parts of both directions that did not change stay open if they are.
 *
 * @param {HTMLElement} root
 * @param {Explained} hop
 */
export function showHeaderDiff(root, { headerDiff }) {
  const { request, reply } = headerDiff ?? { request: [], reply: [] };
  showDirection(part(root, "requestDiff"), request, requestRow, {
    head: "diff-head",
    none: "Not known: the producer did not say what it received",
    noChange: "Every header arrived as it was sent",
    same: "unchanged",
  });
  showDirection(part(root, "replyDiff"), reply, replyRow, {
    head: "reply-diff-head",
    none: "No reply came",
    noChange: "Nothing was added: every header is one that the producer sends",
    same: "of the producer's own",
  });
}

/**
 * @param {HTMLElement} root
 * @param {HeaderChange[]} changes
 * @param {(change: HeaderChange) => HTMLElement} rowOf
 * @param {{head: string, none: string, noChange: string, same: string}} texts
 */
function showDirection(root, changes, rowOf, { head, none, noChange, same }) {
  const changed = changes.filter(({ change }) => change !== "same");
  const unchanged = changes.filter(({ change }) => change === "same");
  part(root, "note").textContent =
    changes.length === 0 ? none : changed.length === 0 ? noChange : "";
  fill(part(root, "changed"), changed, rowOf, head);
  fill(part(root, "unchanged"), unchanged, rowOf, head);
  const details = one(root, "details", HTMLDetailsElement);
  details.hidden = unchanged.length === 0;
  one(details, "summary", HTMLElement).textContent =
    `${counted(unchanged.length, "header")} ${same}`;
}

/**
 * @param {HTMLElement} table
 * @param {HeaderChange[]} changes
 * @param {(change: HeaderChange) => HTMLElement} rowOf
 * @param {string} head
 */
function fill(table, changes, rowOf, head) {
  table.hidden = changes.length === 0;
  const columns = copyOf(head);
  one(table, "thead", HTMLElement).replaceChildren(columns);
  for (const body of table.querySelectorAll("tbody")) body.remove();
  for (const group of GROUPS) {
    const rows = changes.filter((change) => change.group === group).map(rowOf);
    if (rows.length === 0) continue;
    const body = filled("diff-group", { group });
    one(body, "th", HTMLTableCellElement).colSpan = columns.children.length;
    body.append(...rows);
    table.append(body);
  }
}

/** @param {HeaderChange} change */
function requestRow({ name, change, sent, received }) {
  return marked(
    filled("diff-row", { name, before: valuesText(sent), after: valuesText(received) }),
    change,
  );
}

/** @param {HeaderChange} change */
function replyRow({ name, change, received }) {
  return marked(filled("reply-diff-row", { name, after: valuesText(received) }), change);
}

/**
 * @param {HTMLElement} row
 * @param {HeaderChange["change"]} change
 */
function marked(row, change) {
  if (change !== "same") setMark(part(row, "change"), change);
  return row;
}

/** @param {string[] | null} values */
function valuesText(values) {
  return values === null ? "" : values.join("\n");
}
