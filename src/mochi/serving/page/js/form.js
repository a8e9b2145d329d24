/** The form, made from the version's schema. The prompt's own place is the composer. */

import { h, icon, iconButton, fill } from "./dom.js";
import { seconds } from "./format.js";
import { controlOf } from "./controls.js";
import { snapped } from "./schema.js";

/**
 * @typedef {import("./schema.js").Field} Field
 * @typedef {import("./inputs.js").Inputs} Inputs
 */

/** Its control lives in the composer. */
export const PROMPT = "prompt";

export class Form {
  /**
   * @param {HTMLElement} place
   * @param {Inputs} inputs
   */
  constructor(place, inputs) {
    this.place = place;
    this.inputs = inputs;
    /** @type {Map<string, (from: string) => void>} */
    this.painters = new Map();
    inputs.addEventListener("change", (event) => {
      const { from } = /** @type {CustomEvent} */ (event).detail;
      if (from === "fields") this.build();
      else this.paint(from);
    });
    this.build();
  }

  build() {
    this.painters.clear();
    const fields = this.inputs.fields.filter((field) => field.name !== PROMPT);
    const everyday = fields.filter((field) => !field.advanced);
    const folded = fields.filter((field) => field.advanced);
    const advanced = h(
      "details",
      { class: "advanced" },
      h("summary", {}, icon("chevron"), "Advanced"),
      h(
        "div",
        { class: "fields" },
        folded.map((field) => this.field(field)),
      ),
    );
    fill(
      this.place,
      h(
        "div",
        { class: "fields" },
        everyday.map((field) => this.field(field)),
      ),
      folded.length > 0 && advanced,
    );
    this.advanced = folded.length ? advanced : null;
    this.paint("build");
  }

  /** @param {Field} field @returns {HTMLElement} */
  field(field) {
    const id = `field-${field.name}`;
    const control = controlOf(field, id, (value) => this.inputs.put(field.name, value));
    const isGroup = control.target.tagName === "DIV";
    const label = isGroup
      ? h("span", { class: "label", id: `${id}-label` }, field.label)
      : h("label", { class: "label", id: `${id}-label`, for: id }, field.label);
    const note = h("p", { class: "note", id: `${id}-note` });
    const error = h("p", { class: "error", id: `${id}-error` });
    control.target.setAttribute("aria-describedby", `${id}-note ${id}-error`);
    const extra = field.name === "seed" ? this.seedButtons(control.target) : [];
    const row = h("div", { class: "control" }, control.parts, extra);
    const element = h(
      "div",
      { class: `field kind-${field.kind}`, "data-field": field.name },
      h("div", { class: "field-head" }, label),
      row,
      note,
      error,
    );
    this.painters.set(field.name, (from) => {
      if (from !== field.name) control.show(this.inputs.values[field.name]);
      if (field.name !== "seed") {
        control.target.setAttribute("placeholder", this.inputs.preset ?? "");
      }
      note.textContent = this.note(field);
      const words = this.inputs.errors()[field.name] ?? "";
      error.textContent = words;
      control.target.setAttribute("aria-invalid", words ? "true" : "false");
      element.classList.toggle("is-wrong", Boolean(words));
    });
    return element;
  }

  /** @param {Field} field */
  note(field) {
    const { values, seedLocked } = this.inputs;
    const snap = this.inputs.errors()[field.name] ? "" : snapped(field, values[field.name]);
    if (snap) return snap;
    if (field.name === "num_frames" && values.fps > 0) {
      return `${seconds(values.num_frames / values.fps)} of video at ${values.fps} frames a second`;
    }
    if (field.name === "seed") {
      return seedLocked ? "Locked: the same seed makes the same video" : "A new one for each run";
    }
    return field.description;
  }

  /** @param {HTMLElement} target @returns {HTMLElement[]} */
  seedButtons(target) {
    const { inputs } = this;
    const roll = iconButton("dice", "Roll a new seed", () => inputs.rollSeed());
    const lock = iconButton("unlock", "Lock the seed", () => inputs.lockSeed(!inputs.seedLocked));
    target.addEventListener("input", () => (inputs.seedLocked = true));
    this.painters.set("seed buttons", () => {
      const locked = inputs.seedLocked;
      lock.setAttribute("aria-pressed", String(locked));
      fill(lock, icon(locked ? "lock" : "unlock"));
      target.setAttribute("placeholder", locked ? "" : "random");
      target.classList.toggle("is-idle", !locked);
    });
    return [roll, lock];
  }

  /** @param {string} from */
  paint(from) {
    for (const paint of this.painters.values()) paint(from);
  }

  /** Open what is folded and go to the first field that is wrong. @returns {boolean} */
  showErrors() {
    const wrong = Object.keys(this.inputs.errors());
    if (!wrong.length) return false;
    this.paint("check");
    const first = this.inputs.fields.find((field) => wrong.includes(field.name));
    if (first?.advanced && this.advanced) this.advanced.open = true;
    const id = first?.name === PROMPT ? PROMPT : `field-${first?.name}`;
    document.getElementById(id)?.focus();
    return true;
  }
}
