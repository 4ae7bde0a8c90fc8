/**
 * The checks as lists: those about the caller itself, then those of each target.
 *
 * @import { Headline } from "./banner.js"
 */

import { filled, part, setMark } from "./dom.js";
import { counted, milliseconds } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").Check} Check
 * @typedef {import("../../types/wire.d.ts").CheckReport} CheckReport
 */

/** The worst first. @type {Check["verdict"][]} */
const VERDICTS = ["fail", "warn", "pass", "skip"];

/** @param {CheckReport} report */
export function checkGroups({ checks }) {
  return [...Map.groupBy(checks, ({ target }) => target)].map(([target, group]) => {
    const copy = filled("check-group", { title: target ?? "The caller itself" });
    part(copy, "checks").append(...group.map(checkItem));
    return copy;
  });
}

/** @param {Check} check */
function checkItem({ check, verdict, evidence, nextStep, command }) {
  const item = filled("check", { check, evidence, nextStep, command, what: `command of ${check}` });
  item.dataset.verdict = verdict;
  setMark(part(item, "mark"), verdict);
  part(item, "next").hidden = nextStep === null;
  part(item, "confirm").hidden = command === null;
  return item;
}

/** @param {CheckReport} report */
export function checksText({ verdict, checks, millis }) {
  const counts = VERDICTS.flatMap((word) => {
    const { length } = withVerdict(checks, word);
    return length ? `${length} ${word}` : [];
  });
  const all = counted(checks.length, "check");
  return `${verdict}: ${counts.join(", ")} of ${all}, in ${milliseconds(millis)}`;
}

/**
 * What stands in large: how many are wrong, and the first of them.
 *
 * @param {CheckReport} report
 * @returns {Headline}
 */
export function checksHeadline(report) {
  const { checks } = report;
  const failed = withVerdict(checks, "fail");
  const warned = withVerdict(checks, "warn");
  const [first] = [...failed, ...warned];
  const way = first
    ? `${[first.target, first.check].filter(Boolean).join(", ")}: ${first.evidence}`
    : "";
  const more = checksText(report);
  if (failed.length) {
    return { tone: "failed", text: `${counted(failed.length, "check")} failed`, way, more };
  }
  return warned.length
    ? { tone: "warn", text: `No check failed, ${warned.length} warned`, way, more }
    : { tone: "pass", text: "No check failed", way, more };
}

/**
 * @param {Check[]} checks
 * @param {Check["verdict"]} word
 */
function withVerdict(checks, word) {
  return checks.filter(({ verdict }) => verdict === word);
}
