/**
 * The element that a selector means; a page without it is broken and says so immediately.
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
 * Text of the other side in which nothing is invisible and nothing changes the direction of what is around it.
 *
 * @param {string} text
 */
export function visible(text) {
  return text.replace(
    /[\0-\x08\v\f\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * A copy of what a `<template>` holds.
 *
 * @param {string} id
 */
export function copyOf(id) {
  const copy = one(
    document,
    `template#${id}`,
    HTMLTemplateElement,
  ).content.firstElementChild?.cloneNode(true);
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
  write(copy, texts);
  return copy;
}

/**
 * @param {ParentNode} root
 * @param {Record<string, string | null>} texts by the name of the part
 */
export function write(root, texts) {
  for (const [name, text] of Object.entries(texts)) {
    part(root, name).textContent = text && visible(text);
  }
}

/**
 * A row of a table with its first two cells.
 *
 * @param {string} id of the template
 * @param {string} head
 * @param {string} value
 */
export function row(id, head, value) {
  const copy = copyOf(id);
  one(copy, "th", HTMLTableCellElement).textContent = visible(head);
  one(copy, "td", HTMLTableCellElement).textContent = visible(value);
  return copy;
}

/**
 * A row of a table of numbers.
 *
 * @param {string} head
 * @param {string[]} values
 */
export function numberRow(head, ...values) {
  const copy = copyOf("number-row");
  one(copy, "th", HTMLTableCellElement).textContent = visible(head);
  for (const value of values)
    copy.append(Object.assign(document.createElement("td"), { textContent: visible(value) }));
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
  element.textContent = visible(word);
}

/**
 * @param {HTMLOutputElement} sentence
 * @param {string} outcome
 * @param {string} text
 */
export function say(sentence, outcome, text) {
  sentence.dataset.outcome = outcome;
  sentence.textContent = visible(text);
}
