/**
 * The calls and runs of this browser tab, in its `sessionStorage`; the oldest go when there is no more room.
 *
 * @import { RunRecord } from "./run.js"
 */

import { comparisonChart } from "./chart.js";
import { filled, numberRow, one, part, setMark } from "./dom.js";
import { outcomeRows } from "./run.js";

/**
 * @typedef {import("../../types/wire.d.ts").CallerMessage} CallerMessage
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").RunRequest} RunRequest
 */

/**
 * @typedef {object} Entry
 * @property {"call" | "run"} kind
 * @property {number} at ms since the epoch
 * @property {string} link the form, as the hash of a URL
 * @property {CallerMessage | RunRequest} request
 * @property {string} outcome
 * @property {string} text
 * @property {Explained} [hop]
 * @property {RunRecord} [run]
 */

const KEY = "sample-caller-history-2";
const MOST_ENTRIES = 50;
const MOST_CHARACTERS = 2_000_000;
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const root = one(document, "#history", HTMLElement);
const comparison = one(root, "#comparison", HTMLElement);

/** @type {Entry[]} the newest first */
let entries = restored();
/** @type {Entry[]} */
let compared = [];
/** @type {Map<Entry, HTMLInputElement>} */
const boxes = new Map();

/** @param {(entry: Entry) => void} show */
export function offerHistory(show) {
  one(root, "#forget", HTMLButtonElement).addEventListener("click", () => {
    entries = [];
    keep();
    list(show);
    one(document, "[data-shows=history]", HTMLButtonElement).focus();
  });
  list(show);
}

/**
 * @param {Entry} entry
 * @param {(entry: Entry) => void} show
 */
export function remember(entry, show) {
  entries = [entry, ...entries].slice(0, MOST_ENTRIES);
  keep();
  list(show);
}

/** @returns {Entry[]} */
function restored() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isEntry) : [];
  } catch {
    return [];
  }
}

/**
 * @param {Partial<Entry> | null} value what an older page may have left, too
 * @returns {value is Entry}
 */
function isEntry(value) {
  const { at = NaN, text, link, outcome, hop, run } = value ?? {};
  const isText = [text, link, outcome].every((field) => typeof field === "string");
  const isWhole = (hop?.connection?.attempts ?? run?.outages) !== undefined;
  return isText && Math.abs(at) <= 8.64e15 && isWhole;
}

/** As many as there is room for: a browser that allows less than we do throws. */
function keep() {
  const texts = entries.map((entry) => JSON.stringify(entry));
  let length = texts.reduce((total, text) => total + text.length, 0);
  while (length > MOST_CHARACTERS && texts.length > 1) length -= texts.pop()?.length ?? 0;
  entries = entries.slice(0, texts.length);
  for (; ; texts.pop()) {
    try {
      sessionStorage.setItem(KEY, `[${texts}]`);
      return;
    } catch {
      if (texts.length === 0) return;
    }
  }
}

/** @param {(entry: Entry) => void} show */
function list(show) {
  compared = compared.filter((entry) => entries.includes(entry));
  boxes.clear();
  part(root, "entries").replaceChildren(...entries.map((entry) => item(entry, show)));
  part(root, "noEntries").hidden = entries.length > 0;
  one(root, "table", HTMLElement).hidden = entries.length === 0;
  one(root, "#forget", HTMLElement).hidden = entries.length === 0;
  compare();
}

/**
 * @param {Entry} entry
 * @param {(entry: Entry) => void} show
 */
function item(entry, show) {
  const { kind, at, text, outcome } = entry;
  const copy = filled("history-row", { at: time.format(at), kind, text });
  part(copy, "at").setAttribute("datetime", new Date(at).toISOString());
  setMark(part(copy, "mark"), { ok: "pass", warn: "warn" }[outcome] ?? "fail", "");
  const button = part(copy, "show");
  button.ariaLabel = `Show ${kind} of ${time.format(at)}`;
  button.addEventListener("click", () => show(entry));
  part(copy, "compare").hidden = kind === "call";
  const box = one(copy, "input", HTMLInputElement);
  box.ariaLabel = `Compare run of ${time.format(at)}`;
  box.checked = compared.includes(entry);
  box.addEventListener("change", () => {
    compared = compared.filter((other) => other !== entry);
    if (box.checked) compared = [...compared.slice(-1), entry];
    for (const [other, its] of boxes) its.checked = compared.includes(other);
    compare();
  });
  boxes.set(entry, box);
  return copy;
}

/** The two that are ticked, the earlier one as A. */
function compare() {
  const [a, b] = compared
    .toSorted((one, other) => one.at - other.at)
    .flatMap(({ run }) => run ?? []);
  comparison.hidden = !b;
  if (!b) return;
  part(comparison, "chart").replaceChildren(
    comparisonChart(a, b, part(comparison, "chart").clientWidth || 640),
  );
  const others = new Map(outcomeRows(b));
  const names = new Set([...outcomeRows(a), ...others].map(([name]) => name));
  const values = new Map(outcomeRows(a));
  part(comparison, "figures").replaceChildren(
    ...[...names].map((name) => numberRow(name, values.get(name) ?? "–", others.get(name) ?? "–")),
  );
}
