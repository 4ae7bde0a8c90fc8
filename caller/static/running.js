// @ts-check
/**
 * Something that takes a while, can be cancelled, and says that it is going on.
 *
 * @typedef {object} Controls
 * @property {HTMLButtonElement[]} starts what starts it, or another thing in its place
 * @property {HTMLButtonElement} cancel
 * @property {HTMLProgressElement} progress
 * @property {HTMLElement} region what it is about to change
 */

/**
 * The focus comes back to the button that had it, since a disabled or hidden button loses it.
 *
 * @template T
 * @param {Controls} controls
 * @param {(signal: AbortSignal) => Promise<T>} work
 */
export async function whileRunning(controls, work) {
  const { starts, cancel } = controls;
  const start = starts.find((button) => button === document.activeElement);
  const running = new AbortController();
  cancel.onclick = () => running.abort();
  show(controls, true);
  const result = await work(running.signal);
  const focusIsLost = document.activeElement === document.body || document.activeElement === cancel;
  show(controls, false);
  if (start && focusIsLost) start.focus({ preventScroll: true });
  return result;
}

/**
 * @param {Controls} controls
 * @param {boolean} isRunning
 */
function show({ starts, cancel, progress, region }, isRunning) {
  for (const start of starts) start.disabled = isRunning;
  cancel.hidden = !isRunning;
  progress.hidden = !isRunning;
  region.ariaBusy = String(isRunning);
}
