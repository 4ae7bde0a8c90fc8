/**
 * The form: its fields as a message, a run or a link, and what was wrong with them.
 *
 * @import { Problem } from "./api.js"
 */

import { one, visible } from "./dom.js";

/**
 * @typedef {import("../../types/wire.d.ts").CallerMessage} CallerMessage
 * @typedef {import("../../types/wire.d.ts").RunRequest} RunRequest
 * @typedef {import("../../types/wire.d.ts").Targets} Targets
 */

const number = new Intl.NumberFormat("en");
const form = one(document, "#message", HTMLFormElement);

/** @type {(keyof import("../../types/wire.d.ts").Only)[]} */
const ONLY = ["clusterName", "zone", "podName"];

/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

/** @returns {Control[]} */
function controls() {
  return [.../** @type {Iterable<Control>} */ (form.elements)].filter(({ name }) => name);
}

/** @param {string} name */
function control(name) {
  return /** @type {Control | undefined} */ (
    controls().find((candidate) => candidate.name === name)
  );
}

/** @param {string} name */
function textOf(name) {
  return control(name)?.value ?? "";
}

/** What is echoed, and the fault. @returns {RunRequest["message"]} */
function common() {
  /** @type {RunRequest["message"]} */
  const message = {
    payload: textOf("payload"),
    delay: Number(textOf("delay")),
    responseCode: Number(textOf("responseCode")),
  };
  if (textOf("faultRate") !== "1") message.faultRate = Number(textOf("faultRate"));
  const only = ONLY.flatMap((name) => (textOf(name) ? [[name, textOf(name)]] : []));
  if (only.length) message.only = Object.fromEntries(only);
  return message;
}

/** @returns {Pick<CallerMessage & RunRequest, "timeoutSeconds">} */
function timeout() {
  return textOf("timeoutSeconds") ? { timeoutSeconds: Number(textOf("timeoutSeconds")) } : {};
}

/** @returns {CallerMessage} */
export function messageOf() {
  const target = textOf("target");
  const connection = /** @type {CallerMessage["connection"]} */ (textOf("connection"));
  return { ...common(), connection, ...(target && { target }), ...timeout() };
}

/** @returns {RunRequest} */
export function runRequestOf() {
  const select = one(form, "#target", HTMLSelectElement);
  const all = one(form, "#allTargets", HTMLInputElement).checked;
  const targets = all
    ? [...select.options].map(({ value }) => value)
    : [select.value].filter(Boolean);
  return {
    message: common(),
    ...(targets.length && { targets }),
    rate: Number(textOf("rate")),
    durationSeconds: Number(textOf("durationSeconds")),
    connection: /** @type {CallerMessage["connection"]} */ (textOf("connections")),
    ...timeout(),
  };
}

/** The fields that are not as they were at first, for the hash of a URL. */
export function linkOf() {
  const changed = controls().filter(
    (field) => !field.disabled && valueOf(field) !== initialOf(field),
  );
  return new URLSearchParams(changed.map((field) => [field.name, valueOf(field)]));
}

/**
 * Fill the form; what the link does not name is as at first, and nothing is sent.
 *
 * @param {URLSearchParams} link
 * @param {string[]} [names] of the fields; default: all
 */
export function fill(link, names) {
  if (!names) clearProblem();
  for (const field of controls()) {
    if (names && !names.includes(field.name)) continue;
    const value = link.get(field.name) ?? initialOf(field);
    if (isCheckbox(field)) field.checked = value === "on";
    else if (isOffered(field, value)) field.value = value;
    else markField(field.name, `the link says ${value.slice(0, 100)}, which is not offered here`);
    if (link.has(field.name)) field.closest("details")?.setAttribute("open", "");
  }
}

/** @param {Control} field */
function valueOf(field) {
  if (isCheckbox(field)) return field.checked ? "on" : "";
  return field.value;
}

/**
 * @param {Control} field
 * @returns {field is HTMLInputElement}
 */
function isCheckbox(field) {
  return field.type === "checkbox";
}

/**
 * @param {Control} field
 * @param {string} value
 */
function isOffered(field, value) {
  if (field.type === "number") return Number.isFinite(Number(value));
  if (!(field instanceof HTMLSelectElement)) return true;
  return field.options.length === 0 || [...field.options].some((option) => option.value === value);
}

/** @param {Control} field */
function initialOf(field) {
  if (field instanceof HTMLSelectElement) return field.options[0]?.value ?? "";
  return field.type === "checkbox" ? "" : field.defaultValue;
}

/**
 * Offer what the caller offers: its targets and its limits.
 *
 * @param {Targets} offered
 */
export function offer({
  targets,
  maxPayloadBytes,
  maxDelayMillis,
  callTimeoutSeconds,
  runMaxRate,
  runMaxSeconds,
}) {
  one(form, "#target", HTMLSelectElement).replaceChildren(
    ...targets.map(({ name }) => new Option(name, name)),
  );
  one(form, "#all", HTMLElement).hidden = targets.length < 2;
  for (const [name, most] of /** @type {[string, number][]} */ ([
    ["delay", maxDelayMillis],
    ["rate", runMaxRate],
    ["durationSeconds", runMaxSeconds],
  ])) {
    one(form, `#${name}`, HTMLInputElement).max = String(most);
    hint(name, name === "delay" ? `0 to ${number.format(most)}` : `at most ${number.format(most)}`);
  }
  one(form, "#timeoutSeconds", HTMLInputElement).placeholder = String(callTimeoutSeconds);
  hint("payload", `at most ${number.format(maxPayloadBytes)} bytes of UTF-8`);
  const payload = one(form, "#payload", HTMLTextAreaElement);
  const limit = () => limitBytes(payload, maxPayloadBytes);
  payload.addEventListener("input", limit);
  limit();
}

/**
 * @param {string} name
 * @param {string} text
 */
export function hint(name, text) {
  one(form, `#${name}-hint`, HTMLElement).textContent = text;
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

/** Say next to a field what is wrong with it, instead of in a bubble that goes away. */
export function validateInPlace() {
  form.addEventListener(
    "invalid",
    (event) => {
      event.preventDefault();
      const field = /** @type {Control} */ (event.target);
      if (!form.querySelector("[aria-invalid]")) {
        field.closest("details")?.setAttribute("open", "");
        field.focus();
      }
      markField(field.name, field.validationMessage);
    },
    true,
  );
  form.addEventListener("input", ({ target }) => {
    one(form, "#problem", HTMLElement).textContent = "";
    const field = /** @type {Control} */ (target);
    if (field.ariaInvalid) markField(field.name, field.validationMessage);
  });
  form.addEventListener("change", ({ target }) => {
    const field = /** @type {Control} */ (target);
    markField(field.name, field.validationMessage);
  });
}

/** @param {Problem} problem */
export function showProblem(problem) {
  one(form, "#problem", HTMLElement).textContent = visible(problem.detail);
  for (const { field, message } of problem.errors)
    markField(field.split(".").at(-1) ?? "", message);
}

export function clearProblem() {
  one(form, "#problem", HTMLElement).textContent = "";
  for (const { name } of controls()) markField(name, "");
}

/**
 * Mark a field as wrong, or with no message as right; fields that the form does not have are in the detail.
 *
 * @param {string} name
 * @param {string} message
 */
function markField(name, message) {
  const field = control(name);
  const error = form.querySelector(`#${CSS.escape(name)}-error`);
  if (!field || !error) return;
  field.ariaInvalid = message ? "true" : null;
  error.textContent = visible(message);
}

/**
 * Offer the names of those who answered for "only in".
 *
 * @param {Record<string, string | null>} seen
 */
export function suggest(seen) {
  for (const [name, value] of Object.entries(seen)) {
    const list = form.querySelector(`#seen-${name}`);
    if (!list || !value || value === "local" || list.children.length >= 20) continue;
    const known = [...list.children].some(
      (option) => option instanceof HTMLOptionElement && option.value === value,
    );
    if (!known) list.append(new Option("", value));
  }
}
