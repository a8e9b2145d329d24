/**
 * The one input that all views show: form, JSON and snippets read it and write it.
 *
 * Emits `change` after each change; `detail.from` names who made it, so that a view need not
 * redraw what its own user is typing.
 */

import { adopt, wrong } from "./schema.js";
import { recall, remember } from "./storage.js";

/** @typedef {import("./schema.js").Field} Field */

export const MAX_SEED = 2 ** 32;
/** What a preset decides. */
const SAMPLER = ["num_inference_steps", "guidance_scale", "solver", "threshold", "linear_steps"];

export class Inputs extends EventTarget {
  /** @param {Field[]} fields */
  constructor(fields) {
    super();
    this.fields = fields;
    /** @type {Record<string, any>} */
    this.values = {};
    /** What the server said of a field, until the field changes. @type {Record<string, string>} */
    this.said = {};
    /** A locked seed stays; an unlocked one is drawn anew for each run. */
    this.seedLocked = false;
    /** The name of the preset that decides what is left empty. @type {string | null} */
    this.preset = null;
  }

  /** Another version's fields; values that these can take stay. @param {Field[]} fields */
  reshape(fields) {
    const isFirst = this.fields.length === 0;
    this.fields = fields;
    if (isFirst) this.restore();
    else this.values = { ...this.defaults(), ...adopt(fields, this.values) };
    this.changed("fields");
  }

  defaults() {
    /** @type {Record<string, any>} */
    const values = {};
    for (const field of this.fields) if (field.default !== null) values[field.name] = field.default;
    return values;
  }

  restore() {
    const draft = recall("draft", { values: {}, seedLocked: false, preset: null });
    this.become({ ...draft.values, preset: draft.preset }, "draft");
    this.seedLocked = Boolean(draft.seedLocked);
  }

  /** @param {string} name @param {any} value @param {string} [from] */
  put(name, value, from = name) {
    if (value === null || value === "" || value === undefined) delete this.values[name];
    else this.values[name] = value;
    delete this.said[name];
    this.changed(from);
  }

  /** @param {Record<string, any>} values @param {string} from */
  putAll(values, from) {
    this.values = { ...this.values, ...values };
    for (const name of Object.keys(values)) {
      if (values[name] === null || values[name] === "") delete this.values[name];
      delete this.said[name];
    }
    this.changed(from);
  }

  /**
   * A preset's settings: values of fields, the name of what the server knows, or neither, which
   * is the model's own way. A field that a named preset decides is left empty.
   *
   * @param {Record<string, any>} input
   */
  usePreset(input) {
    for (const name of SAMPLER) {
      delete this.values[name];
      delete this.said[name];
    }
    const { preset, ...more } = input;
    this.preset = preset ?? null;
    const rest = this.preset ? {} : this.defaultsOf(SAMPLER);
    this.values = { ...this.values, ...rest, ...adopt(this.fields, more) };
    this.changed("preset");
  }

  /** @param {string[]} names */
  defaultsOf(names) {
    return Object.fromEntries(
      Object.entries(this.defaults()).filter(([name]) => names.includes(name)),
    );
  }

  /**
   * Take over a whole input: what it does not say goes back to the default.
   *
   * @param {Record<string, any>} input
   * @param {string} from
   */
  become(input, from) {
    const values = adopt(this.fields, input);
    this.preset = typeof input.preset === "string" ? input.preset : null;
    const defaults = this.defaults();
    if (this.preset) for (const name of SAMPLER) delete defaults[name];
    this.values = { ...defaults, ...values };
    this.said = {};
    this.seedLocked = values.seed !== undefined;
    this.changed(from);
  }

  /** @param {boolean} locked */
  lockSeed(locked) {
    this.seedLocked = locked;
    if (locked && this.values.seed === undefined) this.values.seed = randomSeed();
    this.changed("lock");
  }

  rollSeed() {
    this.values.seed = randomSeed();
    this.seedLocked = true;
    delete this.said.seed;
    this.changed("roll");
  }

  /** What is sent: nothing that is empty, no seed that shall be drawn, no advanced default. */
  input() {
    /** @type {Record<string, any>} */
    const input = {};
    for (const field of this.fields) {
      const value = this.values[field.name];
      if (value === undefined || value === null || value === "") continue;
      if (field.name === "seed" && !this.seedLocked) continue;
      if (field.advanced && !this.preset && same(value, field.default)) continue;
      if (Array.isArray(value) && value.length === 0) continue;
      input[field.name] = value;
    }
    if (this.preset) input.preset = this.preset;
    return input;
  }

  /** What is wrong, by field; the server's words go before ours. @returns {Record<string, string>} */
  errors() {
    /** @type {Record<string, string>} */
    const found = {};
    for (const field of this.fields) {
      const skip = field.name === "seed" && !this.seedLocked;
      const words = this.said[field.name] || (skip ? "" : wrong(field, this.values[field.name]));
      if (words) found[field.name] = words;
    }
    return found;
  }

  /**
   * Put the server's words beside the fields they are about.
   *
   * @param {import("./api.js").InvalidField[]} invalid
   * @returns {string[]} those about no field of this form
   */
  blame(invalid) {
    const names = new Set(this.fields.map((field) => field.name));
    const rest = [];
    for (const one of invalid) {
      const name = one.field.replace(/^(input|inputs\[\d+\])\./, "");
      const nearest = one.nearest ? ` Nearest: ${one.nearest}.` : "";
      const words = sentence(one.description) + nearest;
      if (names.has(name)) this.said[name] = words;
      else rest.push(`${one.field}: ${words}`);
    }
    this.changed("server");
    return rest;
  }

  /** @param {string} from */
  changed(from) {
    const { values, seedLocked, preset } = this;
    remember("draft", { values, seedLocked, preset });
    this.dispatchEvent(new CustomEvent("change", { detail: { from } }));
  }
}

/** @param {any} a @param {any} b */
function same(a, b) {
  return JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
}

/** @param {string} words */
function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** A seed that JavaScript's numbers hold exactly. */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % MAX_SEED;
}
