// @ts-check
/**
 * From the form to a call, and from its reply to the page.
 *
 * @import { Reply } from "./api.js"
 * @import { Hop } from "./wire.js"
 */

import { call, lookUpTargets } from "./api.js";
import { offerCopying } from "./copy.js";
import { one, say } from "./dom.js";
import { clearProblem, messageOf, offer, showProblem } from "./form.js";
import { foldPreflight } from "./preflight.js";
import { whileRunning } from "./running.js";
import { showHop } from "./view.js";
import { failureText, hopText } from "./words.js";

const form = one(document, "#message", HTMLFormElement);
const sentence = one(document, "#sentence", HTMLOutputElement);
const hop = one(document, "#hop", HTMLElement);
const controls = {
  starts: [one(form, "#submit", HTMLButtonElement)],
  cancel: one(form, "#cancel", HTMLButtonElement),
  progress: one(form, "#progress", HTMLProgressElement),
  region: hop,
};

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearProblem(form);
  foldPreflight();
  say(sentence, "calling", "calling…");
  await whileRunning(controls, async (signal) => showReply(await call(messageOf(form), signal)));
});

form.addEventListener("input", () => clearProblem(form));

/** @param {Reply<Hop>} reply */
function showReply(reply) {
  hop.hidden = reply.kind !== "answer";
  if (reply.kind === "answer") {
    say(sentence, reply.answer.outcome, hopText(reply.answer));
    showHop(hop, reply.answer);
  } else {
    say(sentence, reply.kind, failureText(reply));
    if (reply.kind === "problem") showProblem(form, reply.problem);
  }
}

offerCopying();

const targets = await lookUpTargets(new AbortController().signal);
if (targets.kind === "answer") offer(form, targets.answer);
