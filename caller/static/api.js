// @ts-check
/**
 * What the page asks its caller, and every way a request can end.
 *
 * @import { CheckReport, Hop, Message, Problem, Targets } from "./wire.js"
 */

/**
 * @template T
 * @typedef {{kind: "answer", answer: T} | Failure} Reply
 */

/**
 * @typedef {{kind: "problem", problem: Problem}
 *   | {kind: "foreign", status: number, contentType: string, server: string | null}
 *   | {kind: "silent", error: string}
 *   | {kind: "cancelled"}} Failure `foreign`: made by something between the page and the caller
 */

/**
 * @param {Message} message
 * @param {AbortSignal} signal
 */
export function call(message, signal) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  return ask("caller/messages", { method: "POST", headers, body: JSON.stringify(message), signal }, isHop);
}

/** @param {AbortSignal} signal */
export function runChecks(signal) {
  return ask("caller/checks", { headers: { accept: "application/json" }, signal }, isCheckReport);
}

/** @param {AbortSignal} signal */
export function lookUpTargets(signal) {
  return ask("caller/targets", { headers: { accept: "application/json" }, signal }, isTargets);
}

/**
 * @template T
 * @param {string} path
 * @param {RequestInit & {signal: AbortSignal}} request
 * @param {(value: any) => value is T} isAnswer
 * @returns {Promise<Reply<T>>}
 */
async function ask(path, request, isAnswer) {
  try {
    return await replyOf(await fetch(path, request), isAnswer);
  } catch (error) {
    return request.signal.aborted ? { kind: "cancelled" } : { kind: "silent", error: String(error) };
  }
}

/**
 * @template T
 * @param {Response} response
 * @param {(value: any) => value is T} isAnswer
 * @returns {Promise<Reply<T>>}
 */
async function replyOf(response, isAnswer) {
  const value = jsonOf(await response.text());
  if (isAnswer(value)) return { kind: "answer", answer: value };
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
 * @returns {value is CheckReport}
 */
function isCheckReport(value) {
  return typeof value?.verdict === "string" && Array.isArray(value.checks);
}

/**
 * @param {any} value
 * @returns {value is Targets}
 */
function isTargets(value) {
  return Array.isArray(value?.targets) && typeof value.maxPayloadBytes === "number";
}

/**
 * @param {any} value
 * @returns {value is Problem}
 */
function isProblem(value) {
  return typeof value?.detail === "string" && typeof value.status === "number" && Array.isArray(value.errors);
}
