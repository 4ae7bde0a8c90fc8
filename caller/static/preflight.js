/**
 * Before a call: is the way to every target right, and what do their names resolve to.
 *
 * @import { Reply } from "./api.js"
 * @import { Headline } from "./banner.js"
 */

import { lookUpTargets, runChecks } from "./api.js";
import { headlineIs } from "./banner.js";
import { checkGroups, checksHeadline, checksText } from "./checks.js";
import { dnsReport } from "./dns.js";
import { filled, one, part, say } from "./dom.js";
import { whileRunning } from "./running.js";
import { counted, failureText } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").CheckReport} CheckReport
 * @typedef {import("../../types/wire.d.ts").Targets} Targets
 */

const root = one(document, "#preflight", HTMLElement);
const sentence = one(root, "#preflight-sentence", HTMLOutputElement);
const findings = one(root, "#findings", HTMLElement);
const start = one(root, "#run-checks", HTMLButtonElement);
const lookUp = one(root, "#look-up", HTMLButtonElement);
const controls = {
  starts: [start, lookUp],
  cancel: one(root, "#preflight-cancel", HTMLButtonElement),
  progress: one(root, "#preflight-progress", HTMLProgressElement),
  region: findings,
};

/**
 * @typedef {{outcome: string, text: string, headline: Headline, content: HTMLElement[]}} Shown
 */

/** @type {CheckReport | null} */
let checks = null;

start.addEventListener("click", () => {
  begin("calling every target…");
  whileRunning(controls, async (signal) =>
    show(await runChecks(signal), (report) => {
      checks = report;
      return {
        outcome: report.verdict,
        text: checksText(report),
        headline: checksHeadline(report),
        content: checkGroups(report),
      };
    }),
  );
});

lookUp.addEventListener("click", () => {
  begin("looking up every name…");
  whileRunning(controls, async (signal) => show(await lookUpTargets(signal), namesShown));
});

/** @param {string} text */
function begin(text) {
  say(sentence, "calling", text);
  headlineIs("checks", { tone: "none", text: "Checking…", way: text, more: "" });
}

/** The checks that are shown, if any are. */
export function shownChecks() {
  return checks;
}

/**
 * @template T
 * @param {Reply<T>} reply
 * @param {(answer: T) => Shown} shown
 */
function show(reply, shown) {
  checks = null;
  findings.hidden = reply.kind !== "answer";
  if (reply.kind !== "answer") {
    const text = failureText(reply);
    const tone = reply.kind === "cancelled" ? "none" : "failed";
    headlineIs("checks", { tone, text, way: "", more: "" });
    return say(sentence, reply.kind, text);
  }
  const { outcome, text, headline, content } = shown(reply.answer);
  headlineIs("checks", headline);
  part(findings, "take").hidden = checks === null;
  part(findings, "content").replaceChildren(...content);
  say(sentence, outcome, text);
}

/**
 * @param {Targets} answer
 * @returns {Shown}
 */
function namesShown({ targets }) {
  const bad = targets.filter(({ dns }) => dns?.system.error !== null).map(({ name }) => name);
  const text = `names that resolve: ${targets.length - bad.length} of ${targets.length}`;
  return {
    outcome: bad.length ? "fail" : "pass",
    text,
    headline: {
      tone: bad.length ? "failed" : "pass",
      text: bad.length ? `${counted(bad.length, "name")} did not resolve` : "Every name resolves",
      way: bad.join(", "),
      more: text,
    },
    content: targets.map(({ name, dns }) => {
      const copy = filled("target-names", { name });
      if (dns) copy.append(dnsReport(dns));
      return copy;
    }),
  };
}
