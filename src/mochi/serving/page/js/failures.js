/**
 * A failed run in human words, and settings that would have a better chance.
 *
 * @typedef {object} Explanation
 * @property {string} title
 * @property {string} text
 * @property {boolean} smaller whether smaller settings may help
 */

/** By the code in brackets that a run's error begins with (docs/serving.md). */
const WORDS = {
  does_not_fit: [
    "It does not fit",
    "This video needs more memory than the machine has free.",
    true,
  ],
  bad_weights: ["The model cannot be read", "Its files are damaged or incomplete.", false],
  runner_died: [
    "The worker stopped",
    "It ended in the middle, most often for want of memory.",
    true,
  ],
  disk_full: ["The disk is full", "Delete old runs, then try again.", false],
  deadline: ["Out of time", "The run was not done by its deadline.", true],
  refused: ["Refused", "The server's rules do not allow this prompt or what it showed.", false],
  sampling: [
    "The sampler lost its way",
    "Numbers ran out of range. Gentler settings may help.",
    true,
  ],
  internal: ["Something broke", "This is our mistake; the log of the server says more.", true],
};

/**
 * @param {string | null | undefined} error
 * @returns {Explanation & {said: string}}
 */
export function explain(error) {
  const said = error ?? "";
  const code = /^\[([a-z_]+)\]\s*/.exec(said);
  const rest = said.slice(code?.[0].length ?? 0);
  const words = /** @type {Record<string, any>} */ (WORDS)[code?.[1] ?? ""];
  if (!words) return { title: "It did not work", text: "", smaller: true, said: rest };
  return { title: words[0], text: words[1], smaller: words[2], said: rest };
}

/**
 * The input with about half of the work: fewer frames, then fewer pixels, then fewer steps.
 *
 * @param {Record<string, any>} input
 * @param {import("./schema.js").Field[]} fields
 * @returns {Record<string, any>}
 */
export function smaller(input, fields) {
  const least = new Map(fields.map((field) => [field.name, field.minimum ?? 1]));
  const preset = new Map(fields.map((field) => [field.name, field.default]));
  const less = { ...input };
  for (const [name, cut] of Object.entries(CUTS)) {
    const value = Number(input[name] ?? preset.get(name));
    if (!least.has(name) || !Number.isFinite(value)) continue;
    const next = Math.max(cut(value), firstLegal(name, least.get(name) ?? 1));
    if (next < value) less[name] = next;
  }
  return less;
}

/** @type {Record<string, (value: number) => number>} */
const CUTS = {
  num_frames: (frames) => Math.max(1, Math.floor((frames / 2 - 1) / 6) * 6 + 1),
  width: (pixels) => Math.max(16, Math.floor((pixels * 0.75) / 16) * 16),
  height: (pixels) => Math.max(16, Math.floor((pixels * 0.75) / 16) * 16),
  num_inference_steps: (steps) => Math.max(1, Math.floor(steps * 0.75)),
};

/** @param {string} name @param {number} minimum */
function firstLegal(name, minimum) {
  if (name === "num_frames") return Math.ceil((minimum - 1) / 6) * 6 + 1;
  if (name === "width" || name === "height") return Math.ceil(minimum / 16) * 16;
  return minimum;
}

/** A refusal before the run, in human words. @param {import("./api.js").Problem} problem */
export function refusal(problem) {
  const again = problem.retryAfter ? ` Try again in ${problem.retryAfter} s.` : "";
  if (problem.status === undefined) return String(problem.message);
  if (problem.status === 0) return "The server does not answer. Is it still running?";
  if (problem.status === 429) return `The server has enough to do for now.${again}`;
  if (problem.status === 503) return `The server cannot take runs just now.${again}`;
  if (problem.status === 403) return `Not allowed: ${problem.message}`;
  return problem.message;
}
