/** Several runs at once: the same input with other seeds, or with other prompts. */

import { byId, fill, h } from "./dom.js";
import { plural } from "./format.js";
import { MAX_SEED, randomSeed } from "./inputs.js";

const MOST = 100;

export class Batch {
  /** @param {import("./inputs.js").Inputs} inputs @param {(text: string, count: number) => void} onlabel */
  constructor(inputs, onlabel) {
    this.inputs = inputs;
    this.onlabel = onlabel;
    this.place = byId("batch");
    this.mode = "one";
    this.count = 4;
    this.limit = MOST;
    this.prompts = h("textarea", {
      class: "input",
      id: "batch-prompts",
      rows: 4,
      placeholder: "One prompt a line",
    });
    this.number = h("input", {
      class: "input number",
      id: "batch-count",
      type: "number",
      min: 2,
      max: MOST,
      value: 4,
    });
    this.prompts.addEventListener("input", () => this.paint());
    this.number.addEventListener("input", () => {
      this.count = Math.max(2, Math.min(this.limit, Math.round(Number(this.number.value)) || 2));
      this.paint();
    });
    for (const box of document.querySelectorAll('input[name="batch-mode"]')) {
      box.addEventListener("change", () =>
        this.choose(/** @type {HTMLInputElement} */ (box).value),
      );
    }
    this.choose("one");
  }

  /** @param {string} mode */
  choose(mode) {
    this.mode = mode;
    const prompt = /** @type {HTMLTextAreaElement} */ (byId("prompt"));
    for (const element of [prompt, byId("tokens")]) element.hidden = mode === "prompts";
    if (mode === "prompts" && !this.prompts.value && prompt.value) {
      this.prompts.value = `${prompt.value.replaceAll("\n", " ")}\n`;
    }
    if (mode === "seeds") {
      fill(
        this.place,
        h("label", { class: "label", for: "batch-count" }, "How many seeds"),
        this.number,
      );
    } else if (mode === "prompts") {
      fill(
        this.place,
        h("label", { class: "label", for: "batch-prompts" }, "Prompts, one a line"),
        this.prompts,
      );
    } else {
      fill(this.place);
    }
    this.paint();
  }

  paint() {
    const count = this.size();
    this.onlabel(
      this.mode === "one" ? "Run" : `Run ${plural(count, "video").replace(" videos", "")}`,
      count,
    );
  }

  lines() {
    return this.prompts.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean)
      .slice(0, this.limit);
  }

  size() {
    if (this.mode === "seeds") return this.count;
    return this.mode === "prompts" ? this.lines().length : 1;
  }

  /** The inputs of the batch, or null for a single run. @returns {Record<string, any>[] | null} */
  all() {
    const input = this.inputs.input();
    if (this.mode === "seeds") {
      const first = input.seed ?? randomSeed();
      return Array.from({ length: this.count }, (_, k) => ({
        ...input,
        seed: (first + k) % MAX_SEED,
      }));
    }
    if (this.mode === "prompts") return this.lines().map((prompt) => ({ ...input, prompt }));
    return null;
  }
}
