/** Form, JSON, curl, Python and Node: five views of one input. */

import { copy, fill, h, icon } from "./dom.js";
import { adopt } from "./schema.js";
import { curl, node, python } from "./snippets.js";
import { tabs } from "./tabs.js";

/** @typedef {import("./inputs.js").Inputs} Inputs */

const VIEWS = ["Form", "JSON", "curl", "Python", "Node"];
const WRITERS = { curl, Python: python, Node: node };

export class Views {
  /**
   * @param {HTMLElement} head where the tabs go
   * @param {HTMLElement} form the panel of the form
   * @param {HTMLElement} other the panel of the rest
   * @param {Inputs} inputs
   * @param {() => import("./snippets.js").Target} target
   */
  constructor(head, form, other, inputs, target) {
    this.form = form;
    this.other = other;
    this.inputs = inputs;
    this.target = target;
    this.view = "Form";
    const bar = tabs("Views of the input", VIEWS, "input-panel", (name) => this.show(name));
    head.append(bar.element);
    inputs.addEventListener("change", (event) => {
      const { from } = /** @type {CustomEvent} */ (event).detail;
      if (from !== "json") this.draw();
    });
  }

  /** @param {string} name */
  show(name) {
    this.view = name;
    this.form.hidden = name !== "Form";
    this.other.hidden = name === "Form";
    this.draw();
  }

  draw() {
    if (this.view === "Form") return;
    if (this.view === "JSON") this.drawJson();
    else this.drawSnippet();
  }

  drawJson() {
    const error = h("p", { class: "error", id: "json-error", role: "alert" });
    const text = JSON.stringify(this.inputs.input(), null, 2);
    const rows = Math.max(12, text.split("\n").length + 1);
    const given = { class: "input code", id: "json", rows, spellcheck: "false" };
    const area = h("textarea", {
      ...given,
      "aria-label": "Input as JSON",
      "aria-describedby": "json-error",
    });
    area.value = text;
    area.addEventListener("input", () => {
      error.textContent = this.take(area.value);
      area.setAttribute("aria-invalid", String(Boolean(error.textContent)));
    });
    fill(
      this.other,
      area,
      error,
      copyButton(() => area.value, "JSON"),
    );
  }

  /** Read the JSON that was typed. @param {string} text @returns {string} what is wrong */
  take(text) {
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      return `Not JSON yet: ${/** @type {Error} */ (error).message}`;
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      return "The input is an object: { … }";
    }
    const known = adopt(this.inputs.fields, value);
    this.inputs.become(value, "json");
    const names = new Set(["preset", ...this.inputs.fields.map((field) => field.name)]);
    const strange = Object.keys(value).filter((key) => !names.has(key) && !(key in known));
    const wrong = Object.entries(this.inputs.errors()).map(([key, words]) => `${key}: ${words}`);
    if (strange.length) wrong.push(`No such field: ${strange.join(", ")}`);
    return wrong.join(" ");
  }

  drawSnippet() {
    const write = /** @type {Record<string, Function>} */ (WRITERS)[this.view];
    const text = write(this.inputs.input(), this.target());
    fill(this.other, snippet(text, this.view));
  }
}

/**
 * Code to read and to copy.
 *
 * @param {string} text
 * @param {string} language
 */
export function snippet(text, language) {
  const code = h("pre", { class: "code", tabindex: 0, "aria-label": `${language} code` }, text);
  return h(
    "div",
    { class: "snippet" },
    code,
    copyButton(() => text, `${language} code`),
  );
}

/** @param {() => string} text @param {string} what */
function copyButton(text, what) {
  const onclick = () => copy(text(), what);
  return h("button", { type: "button", class: "button small copy", onclick }, icon("copy"), "Copy");
}
