// @ts-check
/**
 * Before a call: is the way to every target right, and what do their names resolve to.
 *
 * @import { Reply } from "./api.js"
 * @import { Targets } from "./wire.js"
 */

import { lookUpTargets, runChecks } from "./api.js";
import { checkGroups, checksText } from "./checks.js";
import { dnsReport } from "./dns.js";
import { filled, one, part, say } from "./dom.js";
import { whileRunning } from "./running.js";
import { failureText } from "./words.js";

const root = one(document, "#preflight", HTMLElement);
const sentence = one(root, "#preflight-sentence", HTMLOutputElement);
const findings = one(root, "#findings", HTMLDetailsElement);
const start = one(root, "#run-checks", HTMLButtonElement);
const lookUp = one(root, "#look-up", HTMLButtonElement);
const controls = {
  starts: [start, lookUp],
  cancel: one(root, "#preflight-cancel", HTMLButtonElement),
  progress: one(root, "#preflight-progress", HTMLProgressElement),
  region: findings,
};

start.addEventListener("click", () => {
  say(sentence, "calling", "calling every target…");
  whileRunning(controls, async (signal) =>
    show(await runChecks(signal), "Checks", (report) => ({
      outcome: report.verdict,
      text: checksText(report),
      content: checkGroups(report),
    })),
  );
});

lookUp.addEventListener("click", () => {
  say(sentence, "calling", "looking up every name…");
  whileRunning(controls, async (signal) => show(await lookUpTargets(signal), "Names", namesShown));
});

/** Out of the way, so that the result of a call is in sight. */
export function foldPreflight() {
  findings.open = false;
}

/**
 * @template T
 * @param {Reply<T>} reply
 * @param {string} title
 * @param {(answer: T) => {outcome: string, text: string, content: HTMLElement[]}} shown
 */
function show(reply, title, shown) {
  findings.hidden = reply.kind !== "answer";
  if (reply.kind !== "answer") return say(sentence, reply.kind, failureText(reply));
  const { outcome, text, content } = shown(reply.answer);
  one(findings, "summary", HTMLElement).textContent = title;
  part(findings, "content").replaceChildren(...content);
  findings.open = true;
  say(sentence, outcome, text);
}

/** @param {Targets} answer */
function namesShown({ targets }) {
  const resolved = targets.filter(({ dns }) => dns.system.error === null).length;
  return {
    outcome: resolved === targets.length ? "pass" : "fail",
    text: `names that resolve: ${resolved} of ${targets.length}`,
    content: targets.map(({ name, dns }) => {
      const copy = filled("target-names", { name });
      copy.append(dnsReport(dns));
      return copy;
    }),
  };
}
