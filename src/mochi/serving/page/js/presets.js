/** Named settings, each with what it takes on this machine before anything is run. */

import { fill, h } from "./dom.js";
import { memory, seconds, title } from "./format.js";
import { costOf } from "./stage.js";

export class Presets {
  /** @param {HTMLElement} place @param {import("./inputs.js").Inputs} inputs */
  constructor(place, inputs) {
    this.place = place;
    this.inputs = inputs;
    /** @type {any[]} */
    this.list = [];
    inputs.addEventListener("change", () => this.mark());
  }

  /** @param {any[]} list */
  show(list) {
    this.list = list;
    if (this.place.contains(document.activeElement)) return; // not under somebody's hands
    this.place.hidden = list.length === 0;
    const cards = list.map((preset) => {
      const box = h("input", { type: "radio", name: "preset", value: preset.name });
      box.addEventListener("change", () => this.inputs.usePreset(preset.input ?? {}));
      const needs = [
        preset.seconds ? seconds(preset.seconds) : "not measured",
        preset.memory_bytes && memory(preset.memory_bytes / 2 ** 30),
      ];
      return h(
        "label",
        { class: "preset" },
        box,
        h(
          "span",
          { class: "preset-face" },
          h("span", { class: "preset-name" }, preset.title ?? title(preset.name)),
          h("span", { class: "preset-cost" }, needs.filter(Boolean).join(" · ")),
          h("span", { class: "preset-cost" }, costOf(preset.price)),
        ),
      );
    });
    fill(
      this.place,
      h("legend", { class: "label" }, "Preset"),
      h("div", { class: "presets" }, cards),
    );
    this.mark();
  }

  /** The preset whose settings stand in the form is the chosen one. */
  mark() {
    const { values, preset: named } = this.inputs;
    for (const box of this.place.querySelectorAll("input")) {
      const { preset = null, ...wanted } =
        this.list.find((one) => one.name === box.value)?.input ?? {};
      const isSame = Object.entries(wanted).every(([name, value]) => values[name] === value);
      box.checked = preset === named && isSame;
    }
  }
}
