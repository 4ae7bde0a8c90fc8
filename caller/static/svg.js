import { visible } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {(Element | string)[]} children
 */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes))
    element.setAttribute(attribute, String(value));
  element.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

/**
 * A bar that begins at one percentage of its track and ends at another.
 *
 * @param {number} from
 * @param {number} to
 */
export function bar(from, to) {
  const rect = svg("rect", { x: from, width: Math.max(to - from, 0.5), height: 1 });
  return svg(
    "svg",
    { viewBox: "0 0 100 1", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" },
    rect,
  );
}
