// @ts-check
/**
 * The form: its fields as a message, and what was wrong with them.
 *
 * @import { Message, Problem } from "./wire.js"
 */

import { one } from "./dom.js";

/**
 * @param {HTMLFormElement} form
 * @returns {Message}
 */
export function messageOf(form) {
  const target = one(form, "#target", HTMLSelectElement).value;
  return {
    payload: one(form, "#payload", HTMLTextAreaElement).value,
    delay: one(form, "#delay", HTMLInputElement).valueAsNumber,
    responseCode: one(form, "#responseCode", HTMLInputElement).valueAsNumber,
    ...(target && { target }),
  };
}

/**
 * Offer a choice of targets, if there is one.
 *
 * @param {HTMLFormElement} form
 * @param {string[]} names
 */
export function offerTargets(form, names) {
  if (names.length < 2) return;
  one(form, "#target", HTMLSelectElement).replaceChildren(...names.map((name) => new Option(name, name)));
  one(form, '[data-field="target"]', HTMLElement).hidden = false;
}

/**
 * @param {HTMLFormElement} form
 * @param {Problem} problem
 */
export function showProblem(form, problem) {
  one(form, "#problem", HTMLElement).textContent = problem.detail;
  for (const { field, message } of problem.errors) markField(form, field, message);
}

/** @param {HTMLFormElement} form */
export function clearProblem(form) {
  one(form, "#problem", HTMLElement).textContent = "";
  for (const name of ["target", "payload", "delay", "responseCode"]) markField(form, name, "");
}

/**
 * Mark a field as wrong, or with no message as right; fields that the form does not have are in the detail.
 *
 * @param {HTMLFormElement} form
 * @param {string} name
 * @param {string} message
 */
function markField(form, name, message) {
  const control = form.elements.namedItem(name);
  if (!(control instanceof HTMLElement)) return;
  control.ariaInvalid = message ? "true" : null;
  one(form, `#${name}-error`, HTMLElement).textContent = message;
}
