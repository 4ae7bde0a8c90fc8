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
  try {
    return await work(running.signal);
  } finally {
    const { activeElement } = document;
    show(controls, false);
    if (start && (activeElement === document.body || activeElement === cancel)) {
      start.focus({ preventScroll: true });
    }
  }
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
