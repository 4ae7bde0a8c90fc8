// @ts-check
/**
 * One call through the caller, and every way it can end.
 *
 * @import { Hop, Message, Problem } from "./wire.js"
 *
 * @typedef {{kind: "hop", hop: Hop}
 *   | {kind: "problem", problem: Problem}
 *   | {kind: "foreign", status: number, contentType: string, server: string | null}
 *   | {kind: "silent", error: string}
 *   | {kind: "cancelled"}} Reply `foreign`: made by something between the page and the caller
 */

/**
 * @param {Message} message
 * @param {AbortSignal} signal
 * @returns {Promise<Reply>}
 */
export async function call(message, signal) {
  try {
    return await replyOf(await post(message, signal));
  } catch (error) {
    return signal.aborted ? { kind: "cancelled" } : { kind: "silent", error: String(error) };
  }
}

/**
 * @param {Message} message
 * @param {AbortSignal} signal
 */
function post(message, signal) {
  return fetch("caller/messages", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(message),
    signal,
  });
}

/**
 * @param {Response} response
 * @returns {Promise<Reply>}
 */
async function replyOf(response) {
  const value = jsonOf(await response.text());
  if (isHop(value)) return { kind: "hop", hop: value };
  if (isProblem(value)) return { kind: "problem", problem: value };
  return {
    kind: "foreign",
    status: response.status,
    contentType: response.headers.get("content-type") ?? "no content type",
    server: response.headers.get("server"),
  };
}

/** @param {string} text */
function jsonOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * @param {any} value
 * @returns {value is Hop}
 */
function isHop(value) {
  return typeof value?.outcome === "string" && typeof value.answeredBy?.who === "string";
}

/**
 * @param {any} value
 * @returns {value is Problem}
 */
function isProblem(value) {
  return typeof value?.detail === "string" && typeof value.status === "number" && Array.isArray(value.errors);
}

/**
 * The names of the addresses that may be called; none if the caller does not say.
 *
 * @returns {Promise<string[]>}
 */
export async function targetNames() {
  try {
    const response = await fetch("caller/targets", { headers: { accept: "application/json" } });
    const value = response.ok ? jsonOf(await response.text()) : null;
    return Array.isArray(value?.targets) ? value.targets.map((/** @type {{name: string}} */ target) => target.name) : [];
  } catch {
    return [];
  }
}
