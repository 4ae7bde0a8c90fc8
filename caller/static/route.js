/**
 * The way of a call as a picture: who it went through, and where it broke.
 */

import { nickname, paint } from "./names.js";
import { svg } from "./svg.js";
import { roughly } from "./words.js";

/**
 * @typedef {import("../../types/wire.d.ts").ClusterMetadata} ClusterMetadata
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").HeaderChange} HeaderChange
 */

/**
 * @typedef {{kind: string, lines: string[], cluster?: string, state?: "failed" | "unreached"}} Station
 * @typedef {{label: string, brokenAt?: number}} Leg `brokenAt`: the share of its way that was gone
 */

/** How far a call came that nobody answered. @type {Partial<Record<Explained["outcome"], [string, number]>>} */
const BROKEN = {
  dns_nxdomain: ["DNS", 0.12],
  dns_no_data: ["DNS", 0.12],
  dns_unavailable: ["DNS", 0.12],
  unreachable: ["TCP", 0.35],
  connect_timeout: ["TCP", 0.5],
  refused: ["TCP", 0.65],
  tls_error: ["TLS", 0.75],
  reset: ["HTTP", 0.85],
  closed: ["HTTP", 0.85],
  read_timeout: ["HTTP", 0.9],
};
/** @type {Set<HeaderChange["group"]>} */
const ON_THE_WAY = new Set(["mesh", "load balancer", "forwarding"]);

const WIDE = { width: 900, height: 76 };
const NARROW = { width: 300, height: 76, leg: 44 };
const WIDEST_BOX = 260;

/**
 * @param {Explained} hop
 * @param {boolean} isNarrow from top to bottom
 */
export function route(hop, isNarrow) {
  const { stations, legs } = wayOf(hop);
  const [picture, width, height] = isNarrow ? column(stations, legs) : rowOf(stations, legs);
  const frame = { viewBox: `-1 -1 ${width + 2} ${height + 2}`, role: "img", class: "route" };
  return svg("svg", frame, svg("title", {}, stationsText(stations, legs)), ...picture);
}

/**
 * @param {Station[]} stations
 * @param {Leg[]} legs
 * @returns {[Element[], number, number]}
 */
function rowOf(stations, legs) {
  const lengths = legs.map(({ label }) => (label ? Math.max(72, label.length * 8.4 + 12) : 44));
  const room = WIDE.width - lengths.reduce((total, length) => total + length, 0);
  const size = { ...WIDE, width: Math.min(room / stations.length, WIDEST_BOX) };
  const picture = [];
  let x = 0;
  for (const [index, station] of stations.entries()) {
    picture.push(box(station, x, 0, size));
    x += size.width;
    if (index < legs.length) picture.push(...across(legs[index], x, lengths[index]));
    x += lengths[index] ?? 0;
  }
  return [picture, x, size.height];
}

/**
 * @param {Station[]} stations
 * @param {Leg[]} legs
 * @returns {[Element[], number, number]}
 */
function column(stations, legs) {
  const step = NARROW.height + NARROW.leg;
  const boxes = stations.map((station, index) => box(station, 0, index * step, NARROW));
  const lines = legs.flatMap((leg, index) => down(leg, index * step + NARROW.height));
  return [[...boxes, ...lines], NARROW.width, legs.length * step + NARROW.height];
}

/** @param {Explained} hop */
function wayOf(hop) {
  const { callerMetadata: here, producerMetadata: there, answeredBy, outcome } = hop;
  const legs = [{ label: "" }];
  /** @type {Station[]} */
  const stations = [{ kind: "browser", lines: ["this page"] }];
  const front = between(hop.callerHeaders, ["via", "x-envoy-external-address", "x-forwarded-for"]);
  if (front) stations.push({ kind: "proxy", lines: [front] }) && legs.push({ label: "" });
  stations.push({ kind: "caller", lines: linesOf(here), cluster: here.clusterName });

  const broken = BROKEN[outcome];
  const proxy = answeredBy.who === "proxy" ? answeredBy.name : there && proxyOf(hop);
  if (proxy) {
    const failed = answeredBy.who === "proxy";
    stations.push({
      kind: "proxy",
      lines: [proxy, failed ? `answered ${hop.replyStatus ?? ""}` : ""],
      ...(failed && { state: "failed" }),
    });
    legs.push({ label: roughly(hop.roundTripTimeMillis) });
  }
  /** @type {Leg} */
  const last = { label: proxy ? "" : roughly(hop.roundTripTimeMillis) };
  if (broken) Object.assign(last, { label: `${broken[0]}: ${outcome}`, brokenAt: broken[1] });
  else if (answeredBy.who === "proxy") Object.assign(last, { label: outcome, brokenAt: 0.5 });
  legs.push(last);
  stations.push({
    kind: "producer",
    lines: there
      ? linesOf(there)
      : ["unknown", outcome === "bad_reply" ? "not the producer's reply" : "nobody said"],
    cluster: there?.clusterName,
    ...(outcome !== "ok" && (there || outcome === "bad_reply")
      ? { state: /** @type {const} */ ("failed") }
      : {}),
    ...(last.brokenAt !== undefined && { state: /** @type {const} */ ("unreached") }),
  });
  if (there && outcome === "http_error") {
    stations[stations.length - 1].lines[1] = `answered ${hop.replyStatus}`;
  }
  return { stations, legs };
}

/** @param {ClusterMetadata} metadata */
function linesOf({ clusterName, zone, podName }) {
  return [clusterName, zone, nickname(podName)];
}

/**
 * A proxy that let the call through and left a trace.
 *
 * @param {Explained} hop
 */
function proxyOf({ headerDiff, returnedHeaders, producerHeaders }) {
  const changes = [...(headerDiff?.request ?? []), ...(headerDiff?.reply ?? [])];
  const left = changes.filter(({ change, group }) => change !== "same" && ON_THE_WAY.has(group));
  if (left.length === 0) return null;
  return (
    between({ ...producerHeaders, ...returnedHeaders }, ["via"]) ??
    (left.some(({ group }) => group === "mesh") ? "Envoy" : "a proxy")
  );
}

/**
 * @param {Explained["callerHeaders"]} headers
 * @param {string[]} names
 */
function between(headers, names) {
  const name = names.find((candidate) => headers[candidate]);
  if (!name) return null;
  return name === "via" ? headers[name].join(", ") : "a proxy";
}

/**
 * @param {Station[]} stations
 * @param {Leg[]} legs
 */
function stationsText(stations, legs) {
  const names = stations.map(({ kind, lines }) =>
    kind === "browser" ? kind : `${kind} ${lines[0]}`,
  );
  const broken = legs.find(({ brokenAt }) => brokenAt !== undefined);
  return names.join(" to ") + (broken ? `; the last leg is broken: ${broken.label}` : "");
}

/**
 * @param {Leg} leg
 * @param {number} x where it begins
 * @param {number} length
 */
function across({ label, brokenAt }, x, length) {
  const y = WIDE.height / 2;
  const middle = { x: x + length / 2, y: y - 12, "text-anchor": "middle" };
  return [
    ...line(x, y, x + length, y, brokenAt),
    svg("text", { ...middle, class: legClass(brokenAt) }, label),
  ];
}

/**
 * @param {Leg} leg
 * @param {number} y where it begins
 */
function down({ label, brokenAt }, y) {
  const x = NARROW.width / 4;
  return [
    ...line(x, y, x, y + NARROW.leg, brokenAt),
    svg("text", { x: x + 16, y: y + NARROW.leg / 2 + 4, class: legClass(brokenAt) }, label),
  ];
}

/** @param {number} [brokenAt] */
function legClass(brokenAt) {
  return brokenAt === undefined ? "leg" : "leg broken";
}

/**
 * @param {number} x1
 * @param {number} y1
 * @param {number} x2
 * @param {number} y2
 * @param {number} [brokenAt]
 */
function line(x1, y1, x2, y2, brokenAt) {
  if (brokenAt === undefined) return [svg("line", { x1, y1, x2, y2, class: "way" })];
  const x = x1 + (x2 - x1) * brokenAt;
  const y = y1 + (y2 - y1) * brokenAt;
  return [
    svg("line", { x1, y1, x2: x, y2: y, class: "way" }),
    svg("line", { x1: x, y1: y, x2, y2, class: "way unreached" }),
    svg("path", { d: `M${x - 7} ${y - 7}l14 14m0-14l-14 14`, class: "break" }),
  ];
}

/**
 * @param {Station} station
 * @param {number} x
 * @param {number} y
 * @param {{width: number, height: number}} size
 */
function box({ kind, lines, cluster, state }, x, y, { width, height }) {
  const group = svg(
    "g",
    { class: "station", "data-state": state ?? "reached", transform: `translate(${x} ${y})` },
    svg("title", {}, [kind, ...lines].filter(Boolean).join(", ")),
    svg("rect", { width, height, rx: 8 }),
    svg("text", { x: 10, y: 17, class: "kind" }, state === "failed" ? `✕ ${kind}` : kind),
  );
  for (const [index, text] of lines.filter(Boolean).entries()) {
    const fits = Math.floor((width - 16) / (index ? 7.6 : 8.6));
    const shown = text.length > fits ? `${text.slice(0, fits - 1)}…` : text;
    const place = { x: 10, y: 35 + index * 16, class: index ? "" : "name" };
    group.append(svg("text", place, shown));
  }
  paint(group, cluster);
  return group;
}
