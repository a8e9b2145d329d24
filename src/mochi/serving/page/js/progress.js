/**
 * A run's progress as a value: events go in, words and fractions come out. Nothing here knows of
 * elements, time or the network, so a replay of the same events gives the same picture.
 *
 * @typedef {import("./api.js").Prediction} Prediction
 *
 * @typedef {object} PhaseState
 * @property {string} name
 * @property {"waiting" | "now" | "done" | "skipped"} state
 * @property {number} done
 * @property {number | null} total
 *
 * @typedef {object} Progress
 * @property {{position: number, of: number, eta: number | null} | null} queue
 * @property {PhaseState[]} phases
 * @property {number | null} secondsPerStep
 * @property {number | null} eta seconds until the last step
 * @property {string[]} logs
 * @property {{step: number, data: string} | null} preview
 * @property {string | null} retry why it waits again
 * @property {string} lastId
 */

/** In the order that runs have. A model that is warm is not loaded: that phase is skipped. */
const PHASES = ["text", "load", "denoise", "decode", "write"];

export const PHASE_WORDS = {
  text: "Reading the prompt",
  load: "Loading the model",
  denoise: "Denoising",
  decode: "Decoding",
  write: "Writing",
};

/** @returns {Progress} */
export function nothingYet() {
  return {
    queue: null,
    phases: PHASES.map((name) => ({ name, state: "waiting", done: 0, total: null })),
    secondsPerStep: null,
    eta: null,
    logs: [],
    preview: null,
    retry: null,
    lastId: "",
  };
}

/**
 * @param {Progress} progress
 * @param {string} event
 * @param {any} data
 * @returns {Progress}
 */
export function advance(progress, event, data) {
  switch (event) {
    case "queue":
      return {
        ...progress,
        queue: { position: data.position, of: data.of, eta: data.eta_seconds ?? null },
      };
    case "phase":
      return { ...progress, queue: null, retry: null, phases: enter(progress.phases, data) };
    case "step":
      return {
        ...progress,
        secondsPerStep: data.seconds_per_step ?? null,
        eta: data.eta_seconds ?? null,
        phases: count(progress.phases, "denoise", data.step, data.steps),
      };
    case "frames":
      return { ...progress, phases: count(progress.phases, "decode", data.frames, data.total) };
    case "preview":
      return { ...progress, preview: { step: data.step, data: data.data } };
    case "log":
      return { ...progress, logs: [...progress.logs, String(data.line)] };
    case "retry":
      return { ...nothingYet(), logs: progress.logs, retry: data.reason, lastId: progress.lastId };
    default:
      return progress;
  }
}

/** @param {PhaseState[]} phases @param {any} data @returns {PhaseState[]} */
function enter(phases, data) {
  const at = phases.findIndex((phase) => phase.name === data.phase);
  return phases.map((phase, index) => {
    if (phase.name === data.phase) {
      return { ...phase, state: "now", total: data.total ?? phase.total };
    }
    // Decoding and writing overlap; all other phases end where the next begins.
    const overlaps = data.phase === "write" && phase.name === "decode";
    if (phase.state === "now" && !overlaps) return { ...phase, state: "done" };
    return phase.state === "waiting" && index < at ? { ...phase, state: "skipped" } : phase;
  });
}

/**
 * @param {PhaseState[]} phases
 * @param {string} name
 * @param {number} done
 * @param {number} total
 * @returns {PhaseState[]}
 */
function count(phases, name, done, total) {
  return phases.map((phase) =>
    phase.name === name ? { ...phase, done, total, state: done >= total ? "done" : "now" } : phase,
  );
}

/** The phase that goes on, or null. @param {Progress} progress @returns {PhaseState | null} */
export function current(progress) {
  return progress.phases.find((phase) => phase.state === "now") ?? null;
}

/** @param {Prediction} run */
export function isOver(run) {
  return !["starting", "processing"].includes(run.status);
}

/**
 * The state of a run and its cause, in a few words.
 *
 * @param {Prediction} run
 * @param {Progress} progress
 * @param {{state: string, reason?: string | null, trouble?: string | null} | null} runner
 * @returns {string}
 */
export function stateInWords(run, progress, runner) {
  if (run.status === "succeeded") return "Done";
  if (run.status === "failed") return "Failed";
  if (run.status === "canceled") return "Cancelled";
  const phase = current(progress);
  if (phase) return phaseInWords(phase);
  if (progress.retry) return `Starting again: ${progress.retry}`;
  if (runner?.trouble) return `Waiting: ${runner.trouble}`;
  if (runner?.state === "failed") return `Waiting: the model cannot start (${runner.reason})`;
  if (runner?.state === "starting") return "Waiting while the model loads";
  const { queue } = progress;
  if (queue && queue.of > 1) return `Waiting, position ${queue.position} of ${queue.of}`;
  return queue ? "Next in line" : "Starting";
}

/** @param {PhaseState} phase */
function phaseInWords(phase) {
  const words = /** @type {Record<string, string>} */ (PHASE_WORDS)[phase.name] ?? phase.name;
  if (phase.name === "denoise" && phase.total)
    return `${words}, step ${phase.done} of ${phase.total}`;
  if (phase.name === "decode" && phase.total)
    return `${words}, frame ${phase.done} of ${phase.total}`;
  return words;
}

/** Shares of the whole that the phases usually take; only the bar's width depends on them. */
const SHARES = { text: 0.06, load: 0.04, denoise: 0.7, decode: 0.18, write: 0.02 };

/** How much of a run is done, 0 to 1. @param {Progress} progress */
export function fraction(progress) {
  let sum = 0;
  for (const phase of progress.phases) {
    const share = /** @type {Record<string, number>} */ (SHARES)[phase.name] ?? 0;
    if (phase.state === "done" || phase.state === "skipped") sum += share;
    else if (phase.total) sum += share * (phase.done / phase.total);
  }
  return Math.min(1, sum);
}
