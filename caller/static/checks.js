// @ts-check
/**
 * The checks as lists: those about the caller itself, then those of each target.
 *
 * @import { Check, CheckReport } from "./wire.js"
 */

import { filled, part, setMark } from "./dom.js";
import { counted, milliseconds } from "./words.js";

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
  const number = (/** @type {string} */ word) => checks.filter((check) => check.verdict === word).length;
  const counts = ["fail", "warn", "pass", "skip"].filter(number).map((word) => `${number(word)} ${word}`);
  return `${verdict}: ${counts.join(", ")} of ${counted(checks.length, "check")}, in ${milliseconds(millis)}`;
}
