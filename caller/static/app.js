// @ts-check
/**
 * From the form to a call, and from its reply to the page.
 *
 * @import { Reply } from "./call.js"
 */

import { call, targetNames } from "./call.js";
import { one, part } from "./dom.js";
import { clearProblem, messageOf, offerTargets, showProblem } from "./form.js";
import { showHop } from "./view.js";
import { sentenceOf } from "./words.js";

const form = one(document, "#message", HTMLFormElement);
const submit = one(form, "#submit", HTMLButtonElement);
const cancel = one(form, "#cancel", HTMLButtonElement);
const sentence = one(document, "#sentence", HTMLOutputElement);
const progress = one(form, "#progress", HTMLProgressElement);
const hop = one(document, "#hop", HTMLElement);
const copy = one(hop, "#copy", HTMLButtonElement);

let running = new AbortController();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const submitHadFocus = document.activeElement === submit;
  running = new AbortController();
  clearProblem(form);
  say("calling", "calling…");
  showRunning(true);
  const reply = await call(messageOf(form), running.signal);
  const focusIsLost = document.activeElement === document.body || document.activeElement === cancel;
  showRunning(false);
  showReply(reply);
  if (submitHadFocus && focusIsLost) submit.focus({ preventScroll: true });
});

form.addEventListener("input", () => clearProblem(form));

cancel.addEventListener("click", () => running.abort());

/**
 * @param {string} outcome
 * @param {string} text
 */
function say(outcome, text) {
  sentence.dataset.outcome = outcome;
  sentence.textContent = text;
}

/** @param {boolean} isRunning */
function showRunning(isRunning) {
  submit.disabled = isRunning;
  cancel.hidden = !isRunning;
  progress.hidden = !isRunning;
  hop.ariaBusy = String(isRunning);
}

/** @param {Reply} reply */
function showReply(reply) {
  say(reply.kind === "hop" ? reply.hop.outcome : reply.kind, sentenceOf(reply));
  hop.hidden = reply.kind !== "hop";
  if (reply.kind === "hop") showHop(hop, reply.hop);
  if (reply.kind === "problem") showProblem(form, reply.problem);
  copy.textContent = "Copy";
}

// A page that did not come over HTTPS or from localhost has no clipboard.
copy.hidden = !("clipboard" in navigator);

copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(part(hop, "raw").textContent ?? "");
  copy.textContent = "Copied";
});

offerTargets(form, await targetNames());
