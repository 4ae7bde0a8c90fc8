// @ts-check

/**
 * The element that a selector means; a page without it is broken and says so at once.
 *
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {{new (): T}} kind
 * @returns {T}
 */
export function one(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`no ${kind.name} at ${selector}`);
  return found;
}

/**
 * @param {ParentNode} root
 * @param {string} name
 */
export function part(root, name) {
  return one(root, `[data-part="${name}"]`, HTMLElement);
}

/**
 * A copy of what a `<template>` holds.
 *
 * @param {string} id
 */
export function copyOf(id) {
  const copy = one(document, `template#${id}`, HTMLTemplateElement).content.firstElementChild?.cloneNode(true);
  if (!(copy instanceof HTMLElement)) throw new Error(`nothing in template ${id}`);
  return copy;
}

/**
 * A copy of what a `<template>` holds, with these texts in its parts.
 *
 * @param {string} id
 * @param {Record<string, string | null>} texts by the name of the part
 */
export function filled(id, texts) {
  const copy = copyOf(id);
  for (const [name, text] of Object.entries(texts)) part(copy, name).textContent = text;
  return copy;
}

/**
 * A row of a table with its two cells.
 *
 * @param {string} id of the template
 * @param {string} head
 * @param {string} value
 */
export function row(id, head, value) {
  const copy = copyOf(id);
  one(copy, "th", HTMLTableCellElement).textContent = head;
  one(copy, "td", HTMLTableCellElement).textContent = value;
  return copy;
}

/**
 * A name and a value of a definition list.
 *
 * @param {string} name
 * @param {string} value
 */
export function entry(name, value) {
  return filled("entry", { name, value });
}

/**
 * A word with the shape and the colour that belong to it.
 *
 * @param {Element} element
 * @param {string} mark of those in marks.css
 * @param {string} word
 */
export function setMark(element, mark, word = mark) {
  element.classList.add("mark");
  element.setAttribute("data-mark", mark);
  element.textContent = word;
}

/**
 * @param {HTMLOutputElement} sentence
 * @param {string} outcome
 * @param {string} text
 */
export function say(sentence, outcome, text) {
  sentence.dataset.outcome = outcome;
  sentence.textContent = text;
}
