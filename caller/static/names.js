/**
 * What a name looks like: a colour for a cluster, two words for a pod; the same on every screen.
 */

const HUES = [250, 60, 160, 320, 100, 200, 285, 130, 340, 80, 225, 180];
const FIRST =
  "amber bold calm deft early fair gold happy iron jolly keen lucky mellow noble opal proud".split(
    " ",
  );
const SECOND =
  "badger crane dingo egret falcon gecko heron ibis jackal koala lemur marten newt otter puffin quail".split(
    " ",
  );

/** @type {Map<string, number>} two clusters that are on the page together do not share a hue */
const taken = new Map();

/**
 * @param {HTMLElement | SVGElement} element
 * @param {string | null | undefined} cluster
 */
export function paint(element, cluster) {
  const known = cluster && cluster !== "unknown" && cluster !== "local";
  element.setAttribute("data-cluster", known ? "known" : "unknown");
  if (known) element.style.setProperty("--hue", hue(cluster));
}

/** @param {string} cluster */
function hue(cluster) {
  if (!taken.has(cluster)) {
    let place = hash(cluster) % HUES.length;
    for (let tries = 0; tries < HUES.length && [...taken.values()].includes(HUES[place]); tries++) {
      place = (place + 1) % HUES.length;
    }
    taken.set(cluster, HUES[place]);
  }
  return String(taken.get(cluster));
}

/**
 * Two words that are easier to tell apart than the end of a pod's name.
 *
 * @param {string | null | undefined} pod
 */
export function nickname(pod) {
  if (!pod || pod === "unknown" || pod === "local") return "";
  const number = hash(pod);
  return `${FIRST[number % 16]} ${SECOND[(number >>> 8) % 16]}`;
}

/**
 * FNV-1a, 32 bits.
 *
 * @param {string} text
 */
function hash(text) {
  let found = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text))
    found = Math.imul(found ^ byte, 0x01000193) >>> 0;
  return (found ^ (found >>> 15)) >>> 0;
}
