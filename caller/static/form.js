// @ts-check
/**
 * The form: its fields as a message, and what was wrong with them.
 *
 * @import { Message, Problem, Targets } from "./wire.js"
 */

import { one } from "./dom.js";

const number = new Intl.NumberFormat("en");

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
    connection: one(form, "#connection", HTMLSelectElement).value === "fresh" ? "fresh" : "reuse",
    ...(target && { target }),
  };
}

/**
 * Offer what the caller offers: a choice of targets, if there is one, and its limits.
 *
 * @param {HTMLFormElement} form
 * @param {Targets} offered
 */
export function offer(form, { targets, maxPayloadBytes, maxDelayMillis }) {
  const options = targets.map(({ name }) => new Option(name, name));
  one(form, "#target", HTMLSelectElement).replaceChildren(...options);
  one(form, '[data-field="target"]', HTMLElement).hidden = options.length < 2;
  one(form, "#delay", HTMLInputElement).max = String(maxDelayMillis);
  one(form, "#delay-hint", HTMLElement).textContent = `0 to ${number.format(maxDelayMillis)}`;
  one(form, "#payload-hint", HTMLElement).textContent = `at most ${number.format(maxPayloadBytes)} bytes of UTF-8`;
  const payload = one(form, "#payload", HTMLTextAreaElement);
  const limit = () => limitBytes(payload, maxPayloadBytes);
  payload.addEventListener("input", limit);
  limit();
}

/**
 * `maxlength` counts UTF-16 code units; the caller counts bytes.
 *
 * @param {HTMLTextAreaElement} payload
 * @param {number} most
 */
function limitBytes(payload, most) {
  const { length } = new TextEncoder().encode(payload.value);
  const message = `${number.format(length)} bytes of UTF-8 are more than ${number.format(most)}`;
  payload.setCustomValidity(length > most ? message : "");
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
