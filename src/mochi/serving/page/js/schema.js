/**
 * A version's JSON schema as fields, and their rules in words. Rules here only save a round trip:
 * the server checks again, and its word counts.
 *
 * @typedef {"text" | "number" | "integer" | "boolean" | "choice" | "choices"} Kind
 *
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {Kind} kind
 * @property {string} description
 * @property {any} default
 * @property {number | null} minimum
 * @property {number | null} maximum
 * @property {number} step
 * @property {string[]} choices
 * @property {string | null} pattern what else a choice may look like
 * @property {Record<string, number>} scales of choices that have one
 * @property {Record<string, string>} notes about choices
 * @property {boolean} required
 * @property {boolean} advanced
 */

import { title } from "./format.js";

const ADVANCED = ["negative_prompt", "solver", "threshold", "linear_steps"];
const HIDDEN = ["preset"];
const LONG_TEXT = 40;

/** The words of `mochi generate` and of files, beside those of the predictions dialect. */
const OTHER_NAMES = {
  num_frames: "frames",
  num_inference_steps: "steps",
  guidance_scale: "guidance",
};

/** @type {Record<string, string>} */
const LABELS = {
  num_frames: "Frames",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  fps: "Frames per second",
  loras: "LoRAs",
  linear_every: "Linear steps: every n-th",
};

/**
 * @param {any} openapi a version's `openapi_schema`
 * @returns {Field[]} in the order of `x-order`
 */
export function fieldsOf(openapi) {
  const schemas = openapi?.components?.schemas ?? {};
  const input = schemas.Input ?? { properties: {} };
  const required = new Set(input.required ?? []);
  return Object.entries(input.properties ?? {})
    .map(([name, raw]) => ({ name, rule: resolve(raw, schemas) }))
    .sort((a, b) => (a.rule["x-order"] ?? 99) - (b.rule["x-order"] ?? 99))
    .filter(({ name }) => !HIDDEN.includes(name))
    .map(({ name, rule }) => fieldOf(name, rule, required.has(name)));
}

/** Follow `$ref`, `allOf`, and the `anyOf` with null that optional fields have. */
/** @param {any} rule @param {any} schemas @returns {any} */
function resolve(rule, schemas) {
  if (rule.$ref) return { ...schemas[String(rule.$ref).split("/").pop() ?? ""], ...rule };
  for (const key of ["allOf", "anyOf", "oneOf"]) {
    const some = (rule[key] ?? []).filter((/** @type {any} */ one) => one.type !== "null");
    if (some.length) return { ...resolve(some[0], schemas), ...rule };
  }
  return rule;
}

/** @param {string} name @param {any} rule @param {boolean} required @returns {Field} */
function fieldOf(name, rule, required) {
  const items = rule.items ?? {};
  const kind = kindOf(rule);
  return {
    name,
    label: labelOf(name, rule.title),
    kind,
    description: rule.description ?? "",
    default: rule.default ?? null,
    minimum: rule.minimum ?? rule.exclusiveMinimum ?? null,
    maximum: rule.maximum ?? rule.exclusiveMaximum ?? null,
    step: stepOf(name, rule, kind),
    choices: (rule.enum ?? listed(items) ?? []).map(String),
    pattern: patternOf(rule),
    scales: rule["x-scales"] ?? {},
    notes: rule["x-descriptions"] ?? {},
    required,
    advanced: ADVANCED.includes(name) || rule["x-advanced"] === true,
  };
}

/** The names that a rule lists, itself or in one of its branches. @param {any} rule */
function listed(rule) {
  return rule.enum ?? (rule.anyOf ?? []).map(listed).find(Boolean);
}

/** @param {any} rule @returns {string | null} */
function patternOf(rule) {
  const branches = rule.anyOf ?? rule.oneOf ?? [];
  return branches.find((/** @type {any} */ one) => one.pattern)?.pattern ?? null;
}

/** @param {any} rule @returns {Kind} */
function kindOf(rule) {
  if (rule.type === "array") return "choices";
  if (rule.enum) return "choice";
  if (rule.type === "integer" || rule.type === "number" || rule.type === "boolean")
    return rule.type;
  return "text";
}

/** @param {string} name @param {any} rule @param {Kind} kind */
function stepOf(name, rule, kind) {
  if (name === "num_frames" || name === "frames") return 6; // 6k + 1
  if (rule.multipleOf) return rule.multipleOf;
  if (name === "width" || name === "height") return 16;
  return kind === "integer" ? 1 : 0.1;
}

/** A field's name in words. @param {string} name @param {string} [given] the schema's own title */
export function labelOf(name, given) {
  return LABELS[name] ?? title(given ?? name);
}

/** A long text is typed in an area of several lines. @param {Field} field */
export function isLong(field) {
  return (
    field.kind === "text" && (/prompt/.test(field.name) || field.description.length > LONG_TEXT)
  );
}

/**
 * What is wrong with a value, in words; empty when nothing is.
 *
 * @param {Field} field
 * @param {any} value
 * @returns {string}
 */
export function wrong(field, value) {
  if (value === null || value === undefined || value === "") {
    return field.required ? "This is needed." : "";
  }
  if (field.kind === "integer" || field.kind === "number") return wrongNumber(field, value);
  if (field.kind === "choice" && !mayBe(field, String(value))) {
    return `Must be one of ${field.choices.join(", ")}.`;
  }
  if (field.name === "prompt" && !String(value).trim()) return "Describe what the video shows.";
  return "";
}

/** @param {Field} field @param {string} value */
function mayBe(field, value) {
  return field.choices.includes(value) || (field.pattern && new RegExp(field.pattern).test(value));
}

/** @param {Field} field @param {any} value */
function wrongNumber(field, value) {
  // Guidance may be a list, one for each step; the server knows how many.
  if (Array.isArray(value)) return "";
  if (typeof value !== "number" || !Number.isFinite(value)) return "Must be a number.";
  if (field.kind === "integer" && !Number.isInteger(value)) return "Must be a whole number.";
  if (field.minimum !== null && value < field.minimum) return `Must be at least ${field.minimum}.`;
  if (field.maximum !== null && value > field.maximum) return `Must be at most ${field.maximum}.`;
  if ((field.name === "width" || field.name === "height") && value % field.step) {
    const below = Math.max(field.step, Math.floor(value / field.step) * field.step);
    return `Must be a multiple of ${field.step}; nearest are ${below} and ${below + field.step}.`;
  }
  return "";
}

/** What the server will make of a value, where it makes something else of it. */
/** @param {Field} field @param {any} value @returns {string} */
export function snapped(field, value) {
  if (!/^(num_)?frames$/.test(field.name) || !Number.isInteger(value) || value % 6 === 1) return "";
  return `${nearestFrames(value)} frames will be made: counts are 6k + 1.`;
}

/** @param {number} frames */
export function nearestFrames(frames) {
  return Math.max(0, Math.round((frames - 1) / 6)) * 6 + 1;
}

/**
 * The values of a foreign input (a file's, an example's) that these fields can take.
 *
 * @param {Field[]} fields
 * @param {Record<string, any>} input
 * @returns {Record<string, any>}
 */
export function adopt(fields, input) {
  /** @type {Record<string, any>} */
  const values = {};
  for (const field of fields) {
    const other = /** @type {Record<string, string>} */ (OTHER_NAMES)[field.name];
    const value = input[field.name] ?? (other ? input[other] : undefined);
    if (value !== undefined && value !== null && value !== "") values[field.name] = value;
  }
  return values;
}

/**
 * Where two inputs differ.
 *
 * @param {Record<string, any>} a
 * @param {Record<string, any>} b
 * @returns {{name: string, a: any, b: any, same: boolean}[]} differing ones first
 */
export function difference(a, b) {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return names
    .map((name) => ({
      name,
      a: a[name] ?? null,
      b: b[name] ?? null,
      same: JSON.stringify(a[name] ?? null) === JSON.stringify(b[name] ?? null),
    }))
    .sort((one, other) => rank(one) - rank(other));
}

/** Differences first, and the prompt before all else. @param {{name: string, same: boolean}} row */
function rank(row) {
  return (row.same ? 2 : 0) + (row.name === "prompt" ? 0 : 1);
}
