/**
 * What the page asks its caller, and every way a request can end.
 *
 * @typedef {import("../../types/wire.d.ts").CallerMessage} CallerMessage
 * @typedef {import("../../types/wire.d.ts").CheckReport} CheckReport
 * @typedef {import("../../types/wire.d.ts").Explained} Explained
 * @typedef {import("../../types/wire.d.ts").RunRequest} RunRequest
 * @typedef {import("../../types/wire.d.ts").Targets} Targets
 *
 * @typedef {import("../../types/wire.d.ts").Started
 *   | import("../../types/wire.d.ts").Tick
 *   | import("../../types/wire.d.ts").OutageClosed
 *   | import("../../types/wire.d.ts").Done
 *   | import("../../types/wire.d.ts").Failed} RunEvent
 *
 * @typedef {import("../../types/wire.d.ts").Problem} Problem
 */

/**
 * @template T
 * @typedef {{kind: "answer", answer: T} | Failure} Reply
 */

/**
 * @typedef {{kind: "problem", problem: Problem, retryAfter: string | null}
 *   | {kind: "foreign", status: number, contentType: string, server: string | null}
 *   | {kind: "silent", error: string}
 *   | {kind: "cancelled"}} Failure `foreign`: made by something between the page and the caller
 */

/**
 * @param {CallerMessage} message
 * @param {AbortSignal} signal
 */
export function call(message, signal) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  return ask(
    "caller/messages",
    { method: "POST", headers, body: JSON.stringify(message), signal },
    isHop,
  );
}

/** @param {AbortSignal} signal */
export function runChecks(signal) {
  return ask("caller/checks", { headers: { accept: "application/json" }, signal }, isCheckReport);
}

/**
 * @param {AbortSignal} signal
 * @param {boolean} dns whether to wait for what their names resolve to
 */
export function lookUpTargets(signal, dns = true) {
  const path = dns ? "caller/targets" : "caller/targets?dns=false";
  return ask(path, { headers: { accept: "application/json" }, signal }, isTargets);
}

/**
 * @param {RunRequest} run
 * @param {AbortSignal} signal stops the run
 * @param {(event: RunEvent) => void} tell
 * @returns {Promise<{kind: "answer"} | Failure>} when the stream has ended, whether or not the run has
 */
export async function startRun(run, signal, tell) {
  const headers = {
    "content-type": "application/json",
    accept: "text/event-stream, application/json",
  };
  try {
    const response = await fetch("caller/runs", {
      method: "POST",
      headers,
      body: JSON.stringify(run),
      signal,
    });
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!response.ok || !isStream || !response.body)
      return failedReply(response, jsonOf(await response.text()));
    await read(response.body, tell);
    return { kind: "answer" };
  } catch (error) {
    return failureOf(error, signal);
  }
}

/**
 * Server-sent events: blocks with an empty line between them, whose `data:` is JSON.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @param {(event: RunEvent) => void} tell
 */
async function read(body, tell) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) tell(JSON.parse(data.slice(6)));
    }
  }
}

/**
 * @template T
 * @param {string} path
 * @param {RequestInit & {signal: AbortSignal}} request
 * @param {(value: Partial<T> | null) => value is T} isAnswer
 * @returns {Promise<Reply<T>>}
 */
async function ask(path, request, isAnswer) {
  try {
    return await replyOf(await fetch(path, request), isAnswer);
  } catch (error) {
    return failureOf(error, request.signal);
  }
}

/**
 * @param {unknown} error
 * @param {AbortSignal} signal
 * @returns {Failure}
 */
function failureOf(error, signal) {
  return signal.aborted ? { kind: "cancelled" } : { kind: "silent", error: String(error) };
}

/**
 * @template T
 * @param {Response} response
 * @param {(value: Partial<T> | null) => value is T} isAnswer
 * @returns {Promise<Reply<T>>}
 */
async function replyOf(response, isAnswer) {
  const value = jsonOf(await response.text());
  return isAnswer(value) ? { kind: "answer", answer: value } : failedReply(response, value);
}

/**
 * @param {Response} response
 * @param {Partial<Problem> | null} value
 * @returns {Failure}
 */
function failedReply(response, value) {
  if (isProblem(value))
    return { kind: "problem", problem: value, retryAfter: response.headers.get("retry-after") };
  return {
    kind: "foreign",
    status: response.status,
    contentType: response.headers.get("content-type") ?? "no content type",
    server: response.headers.get("server"),
  };
}

/**
 * @param {string} text
 * @returns {any} what `JSON.parse` returns; null where it fails
 */
function jsonOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * @param {Partial<Explained> | null} value
 * @returns {value is Explained}
 */
function isHop(value) {
  return typeof value?.outcome === "string" && typeof value.answeredBy?.who === "string";
}

/**
 * @param {Partial<CheckReport> | null} value
 * @returns {value is CheckReport}
 */
function isCheckReport(value) {
  return typeof value?.verdict === "string" && Array.isArray(value.checks);
}

/**
 * @param {Partial<Targets> | null} value
 * @returns {value is Targets}
 */
function isTargets(value) {
  return Array.isArray(value?.targets) && typeof value.maxPayloadBytes === "number";
}

/**
 * @param {Partial<Problem> | null} value
 * @returns {value is Problem}
 */
function isProblem(value) {
  return (
    typeof value?.detail === "string" &&
    typeof value.status === "number" &&
    Array.isArray(value.errors)
  );
}
