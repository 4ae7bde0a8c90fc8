/**
 * From the form to a call or a run, and from its reply to the page.
 *
 * @import { Failure } from "./api.js"
 * @import { Entry } from "./history.js"
 * @import { RunRecord } from "./run.js"
 */

import { call, lookUpTargets, startRun } from "./api.js";
import { headlineIs, showHeadline } from "./banner.js";
import { announce, copy, download, offerCopying } from "./copy.js";
import { copyOf, one, part, say, visible } from "./dom.js";
import {
  clearProblem,
  fill,
  hint,
  linkOf,
  messageOf,
  offer,
  runRequestOf,
  showProblem,
  suggest,
  validateInPlace,
} from "./form.js";
import { offerHistory, remember } from "./history.js";
import { paint } from "./names.js";
import { shownChecks } from "./preflight.js";
import { callReport, checksReport, curl, runReport } from "./report.js";
import { showRun } from "./run-view.js";
import { follow, newRun, runHeadline, runOutcome, runText } from "./run.js";
import { whileRunning } from "./running.js";
import { showHop } from "./view.js";
import { callHeadline, failureText, hopText, place } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").CallerMessage} CallerMessage
 * @typedef {import("../../types/wire.d.ts").ClusterMetadata} ClusterMetadata
 * @typedef {import("../../types/wire.d.ts").RunRequest} RunRequest
 * @typedef {import("../../types/wire.d.ts").Targets} Targets
 */

const form = one(document, "#message", HTMLFormElement);
const here = one(document, "#here", HTMLElement);
const callShown = one(document, "#hop", HTMLElement);
const callSentence = one(document, "#sentence", HTMLOutputElement);
const runShown = one(document, "#run-shown", HTMLElement);
const runSentence = one(document, "#run-sentence", HTMLOutputElement);
const callControls = controls("#submit", "#cancel", "#progress", callShown);
const runControls = controls("#start", "#stop", "#started", runShown);

/** What each view shows. @type {Record<string, Entry | null>} */
const shown = { call: null, run: null };
/** @type {ClusterMetadata | null} */
let caller = null;

/**
 * @param {string} start
 * @param {string} cancel
 * @param {string} progress
 * @param {HTMLElement} region
 */
function controls(start, cancel, progress, region) {
  return {
    starts: [one(form, start, HTMLButtonElement)],
    cancel: one(form, cancel, HTMLButtonElement),
    progress: one(document, progress, HTMLProgressElement),
    region,
  };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const isRun = document.body.dataset.view === "run";
  if ((isRun ? runControls : callControls).starts[0].disabled) return;
  clearProblem();
  const link = linkOf();
  if (isRun) link.set("view", "run");
  history.replaceState(null, "", `#${link}`);
  if (isRun) sendRun(String(link));
  else sendCall(String(link));
});

/** @param {string} link */
async function sendCall(link) {
  const request = messageOf();
  begin("call", callSentence, "Calling…", [request.target ?? "the producer"]);
  await whileRunning(callControls, async (signal) => {
    const at = Date.now();
    const reply = await call(request, signal);
    if (reply.kind !== "answer") return showFailure("call", reply, callSentence, callShown);
    const hop = reply.answer;
    if (hop.producerMetadata) suggest(hop.producerMetadata);
    keepAndShow({ kind: "call", at, link, request, outcome: hop.outcome, text: hopText(hop), hop });
  });
}

/** @param {string} link */
async function sendRun(link) {
  const request = runRequestOf();
  const at = Date.now();
  /** @type {RunRecord | undefined} */
  let run;
  let isDrawn = true;
  const draw = () => {
    isDrawn = true;
    if (run?.ended !== "going on") return;
    if (document.body.dataset.view === "run") showRun(runShown, run);
    if (run.progress?.done) headlineIs("run", runHeadline(run));
  };
  begin("run", runSentence, "Running…", request.targets ?? ["the producer"]);
  await whileRunning(runControls, async (signal) => {
    const reply = await startRun(request, signal, (event) => {
      if (event.type === "started") {
        run = newRun(event.run, caller?.clusterName ?? "local");
        runShown.hidden = false;
        shown.run = null;
      } else if (run) follow(run, event);
      if (event.type === "tick") {
        for (const { cluster, zone, pod } of event.newPods) {
          suggest({ clusterName: cluster, zone, podName: pod });
        }
      }
      if (isDrawn) requestAnimationFrame(draw);
      isDrawn = false;
    });
    if (!run) {
      return reply.kind !== "answer" && showFailure("run", reply, runSentence, runShown);
    }
    if (run.ended === "going on") {
      const isStopped = reply.kind === "cancelled";
      run.ended = isStopped ? "stopped" : "cut off";
      run.reason = isStopped
        ? null
        : "the stream ended before the run did; look at the time-outs of what is between";
    }
    const [outcome, text] = [runOutcome(run), runText(run)];
    keepAndShow({ kind: "run", at, link, request, outcome, text, run });
  });
}

/**
 * @param {Entry["kind"]} kind
 * @param {HTMLOutputElement} sentence
 * @param {string} text
 * @param {string[]} targets
 */
function begin(kind, sentence, text, targets) {
  say(sentence, "calling", text);
  const way = `${caller ? place(caller) : "caller"} → ${targets.join(", ")}`;
  headlineIs(kind, { tone: "none", text, way, more: "" });
  // Where the result is below the form, it would come unseen.
  if (matchMedia("(width < 60rem)").matches) sentence.scrollIntoView({ block: "nearest" });
}

/**
 * @param {Entry["kind"]} kind
 * @param {Failure} reply
 * @param {HTMLOutputElement} sentence
 * @param {HTMLElement} region
 */
function showFailure(kind, reply, sentence, region) {
  region.hidden = true;
  shown[kind] = null;
  const text = failureText(reply);
  say(sentence, reply.kind, text);
  headlineIs(kind, {
    tone: reply.kind === "cancelled" ? "none" : "failed",
    text,
    way: reply.kind === "problem" ? reply.problem.detail : "",
    more: "",
  });
  if (reply.kind === "problem") showProblem(reply.problem);
}

/** @param {Entry} entry */
function keepAndShow(entry) {
  remember(entry, showAgain);
  showEntry(entry);
  // Of a view that is hidden nothing is read out.
  if (document.body.dataset.view !== entry.kind) announce(`${entry.kind} ${entry.text}`);
}

/** @param {Entry} entry */
function showAgain(entry) {
  view(entry.kind);
  fill(new URLSearchParams(entry.link));
  showEntry(entry);
}

/** @param {Entry} entry */
function showEntry(entry) {
  const { kind, outcome, text, hop, run } = entry;
  shown[kind] = entry;
  if (hop) {
    callShown.hidden = false;
    say(callSentence, outcome, text);
    headlineIs("call", callHeadline(hop));
    showHop(callShown, hop);
  }
  if (run) {
    runShown.hidden = false;
    say(runSentence, outcome, text);
    headlineIs("run", runHeadline(run));
    showRun(runShown, run);
  }
}

/** @param {string} name */
function view(name) {
  document.body.dataset.view = name;
  for (const element of document.querySelectorAll("[data-views]")) {
    if (!(element instanceof HTMLElement)) continue;
    element.hidden = !element.dataset.views?.split(" ").includes(name);
    if (element instanceof HTMLFieldSetElement) element.disabled = element.hidden;
  }
  for (const button of document.querySelectorAll("[data-shows]")) {
    button.ariaCurrent = button.getAttribute("data-shows") === name ? "true" : null;
  }
  showHeadline(name);
  // Its chart is as wide as there is room, which a hidden one does not know.
  if (name === "run" && shown.run?.run) showRun(runShown, shown.run.run);
}

/** The form as the link in the address bar says; nothing is sent. */
function followLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const name = link.get("view") ?? "";
  view(["run", "checks"].includes(name) ? name : "call");
  fill(link);
}

/** Of the link, what can be filled in only now that the choice is known; the rest may have been changed since. */
function followLinkToTarget() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (link.has("target")) fill(link, ["target"]);
}

/**
 * What can be taken away of the view that is open.
 *
 * @returns {{path: string, link: string, request: CallerMessage | RunRequest | null, answer: object,
 *   report: () => string} | null}
 */
function takeable() {
  const name = document.body.dataset.view ?? "";
  const checks = shownChecks();
  if (name === "checks" && checks) {
    const report = () => checksReport(checks);
    return { path: "caller/checks", link: "view=checks", request: null, answer: checks, report };
  }
  const { link = "", request = null, hop, run } = shown[name] ?? {};
  if (hop) {
    return { path: "caller/messages", link, request, answer: hop, report: () => callReport(hop) };
  }
  return run
    ? { path: "caller/runs", link, request, answer: run, report: () => runReport(run) }
    : null;
}

/**
 * @param {string} what
 * @param {HTMLElement} button
 */
function take(what, button) {
  const taken = takeable();
  if (!taken) return;
  const { path, link, request, answer, report } = taken;
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  switch (what) {
    case "link":
      return copy(`${location.href.split("#")[0]}#${link}`, "link", button);
    case "curl":
      return copy(curl(path, request), "curl", button);
    case "report":
      return copy(report(), "report", button);
    case "json":
      return download(`${path.replace("/", "-")}-${time}.json`, answer);
  }
}

/** @param {Targets} offered */
function introduce({ callerMetadata, targets }) {
  caller = callerMetadata;
  const { podName } = callerMetadata;
  const names = [place(callerMetadata), podName].filter((word) => word !== "local");
  part(here, "caller").textContent = names.join(", ") || "local";
  paint(part(here, "caller"), callerMetadata.clusterName);
  part(here, "target").textContent = targets[0].name;
}

/** @param {Targets} offered */
function sayWhatResolves({ targets }) {
  const select = one(form, "#target", HTMLSelectElement);
  const tell = () => {
    const { name, dns } = targets.find((target) => target.name === select.value) ?? targets[0];
    const found = dns ? (dns.system.error ?? dns.system.addresses.join(", ")) : "";
    part(here, "target").textContent = visible(found ? `${name} → ${found}` : name);
    hint("target", found && `${dns?.system.error ? "does not resolve:" : "resolves to"} ${found}`);
  };
  form.addEventListener("change", tell);
  addEventListener("hashchange", tell);
  tell();
}

document.addEventListener("click", ({ target }) => {
  const button = target instanceof Element ? target.closest("button") : null;
  if (button?.dataset.shows) view(button.dataset.shows);
  if (button?.dataset.takes) take(button.dataset.takes, button);
});
for (const place of document.querySelectorAll("[data-part=take]")) {
  place.append(...copyOf("take-away").children);
}
addEventListener("hashchange", followLink);
addEventListener("resize", () => document.body.dataset.view === "run" && view("run"));
followLink();
offerCopying();
offerHistory(showAgain);
validateInPlace();

const { signal } = new AbortController();
const offered = await lookUpTargets(signal, false);
if (offered.kind === "answer") {
  offer(offered.answer);
  introduce(offered.answer);
  followLinkToTarget();
} else {
  part(here, "caller").textContent = visible(failureText(offered));
  part(here, "target").textContent = "unknown";
}
const resolved = await lookUpTargets(signal);
if (resolved.kind === "answer") sayWhatResolves(resolved.answer);
