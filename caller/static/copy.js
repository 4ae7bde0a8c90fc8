/**
 * Buttons that give text away: `data-copies` names the element around them whose text is copied.
 */

import { one, part, visible } from "./dom.js";

const SHOWN_MILLIS = 2000;

export function offerCopying() {
  document.addEventListener("click", ({ target }) => {
    const button = target instanceof Element ? target.closest("button[data-copies]") : null;
    if (!(button instanceof HTMLButtonElement)) return;
    const block = button.closest("[data-copyable]") ?? document;
    const what = part(button, "what").textContent ?? "";
    copy(part(block, button.dataset.copies ?? "").textContent ?? "", what, part(button, "word"));
  });
}

/**
 * @param {string} text
 * @param {string} what its name, for the sentence that says whether it worked
 * @param {HTMLElement} word of a button, which says it too
 */
export async function copy(text, what, word) {
  const before = word.dataset.before ?? word.textContent ?? "";
  const done = await written(text);
  announce(done ? `copied ${what}` : `${what} could not be copied`);
  word.dataset.before = before;
  word.textContent = before.replace(/^Copy/, done ? "Copied" : "Not copied:");
  setTimeout(() => (word.textContent = before), SHOWN_MILLIS);
}

/**
 * Read out what no place on the page says.
 *
 * @param {string} text
 */
export function announce(text) {
  one(document, "#said", HTMLElement).textContent = visible(text);
}

/**
 * Behind an ingress without TLS a page has no clipboard, and the older way is all there is.
 *
 * @param {string} text
 */
async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return writtenByCommand(text);
  }
}

/** @param {string} text */
function writtenByCommand(text) {
  const focused = document.activeElement;
  const field = Object.assign(document.createElement("textarea"), {
    value: text,
    className: "visually-hidden",
  });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  return done;
}

/**
 * @param {string} name of the file
 * @param {unknown} value
 */
export function download(name, value) {
  const url = URL.createObjectURL(
    new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }),
  );
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), SHOWN_MILLIS);
}
