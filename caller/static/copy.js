// @ts-check
/**
 * Buttons with `data-copies`, which copy the text of the element that they name in the block around them.
 */

import { one, part } from "./dom.js";

const SHOWN_MILLIS = 2000;

/** A page that did not come over HTTPS or from localhost has no clipboard: then the buttons stay hidden. */
export function offerCopying() {
  if (!("clipboard" in navigator)) return;
  document.documentElement.dataset.clipboard = "";
  document.addEventListener("click", ({ target }) => {
    const button = target instanceof Element ? target.closest("button[data-copies]") : null;
    if (button instanceof HTMLButtonElement) copy(button);
  });
}

/** @param {HTMLButtonElement} button */
async function copy(button) {
  const block = button.closest("[data-copyable]") ?? document;
  const what = part(button, "what").textContent;
  const done = await written(part(block, button.dataset.copies ?? "").textContent ?? "");
  one(document, "#said", HTMLElement).textContent = done ? `copied ${what}` : `${what} could not be copied`;
  const word = part(button, "word");
  word.textContent = done ? "Copied" : "Not copied:";
  setTimeout(() => (word.textContent = "Copy"), SHOWN_MILLIS);
}

/** @param {string} text */
async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
