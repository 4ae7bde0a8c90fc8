/**
 * What stands in large at the top: of each view the latest that came of it.
 */

import { one, write } from "./dom.js";

/**
 * @typedef {object} Headline
 * @property {"yes" | "no" | "partly" | "unknown" | "failed" | "pass" | "warn" | "none"} tone
 * @property {string} text
 * @property {string} way
 * @property {string} more
 */

const banner = one(document, "#verdict", HTMLElement);

/** @type {Record<string, Headline>} */
const headlines = {
  call: nothingYet(
    "No call yet",
    "Send a message to the producer: who answers, from which cluster, and where the time goes.",
  ),
  run: nothingYet(
    "No run yet",
    "Send many at a steady rate: who answers, how fast, and how long nobody does.",
  ),
  checks: nothingYet(
    "Not checked yet",
    "Look at every step of the way to each target, one by one.",
  ),
  history: nothingYet(
    "Calls and runs",
    "Those of this browser tab, the newest first. Tick two runs to lay one over the other.",
  ),
};

/**
 * @param {string} text
 * @param {string} way
 * @returns {Headline}
 */
function nothingYet(text, way) {
  return { tone: "none", text, way, more: "" };
}

/**
 * @param {string} view
 * @param {Headline} headline
 */
export function headlineIs(view, headline) {
  headlines[view] = headline;
  if (document.body.dataset.view === view) showHeadline(view);
}

/** @param {string} view */
export function showHeadline(view) {
  const { tone, text, way, more } = headlines[view];
  banner.dataset.tone = tone;
  write(banner, { verdict: text, way, more });
}
