/**
 * One control for each kind of field. A control gives its element, shows a value when told, and
 * calls `put` with what its user chose.
 *
 * @typedef {import("./schema.js").Field} Field
 *
 * @typedef {object} Control
 * @property {HTMLElement[]} parts what goes below the label
 * @property {HTMLElement} target what the label names, and what an error is tied to
 * @property {(value: any) => void} show
 */

import { h } from "./dom.js";
import { isLong } from "./schema.js";

const RADIOS_UP_TO = 4;

/**
 * @param {Field} field
 * @param {string} id
 * @param {(value: any) => void} put
 * @returns {Control}
 */
export function controlOf(field, id, put) {
  if (field.kind === "number" || field.kind === "integer") return numeric(field, id, put);
  if (field.kind === "boolean") return toggle(field, id, put);
  if (field.kind === "choice") {
    return field.choices.length <= RADIOS_UP_TO ? radios(field, id, put) : select(field, id, put);
  }
  if (field.kind === "choices") return checkboxes(field, id, put);
  return text(field, id, put);
}

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function text(field, id, put) {
  const given = { id, name: field.name, class: "input", autocomplete: "off" };
  const target = isLong(field)
    ? h("textarea", { ...given, rows: 2 })
    : h("input", { ...given, type: "text" });
  target.addEventListener("input", () => put(target.value));
  return { parts: [target], target, show: (value) => (target.value = value ?? "") };
}

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function numeric(field, id, put) {
  const { name, minimum: min, maximum: max, step } = field;
  // The browser's own step would refuse numbers that the server only snaps.
  const given = { id, name, class: "input number", min, max, inputmode: "decimal" };
  const target = h("input", { ...given, type: "number", step: "any" });
  const hasSlider = min !== null && max !== null && name !== "seed" && step !== 16;
  const slider = hasSlider
    ? h("input", {
        type: "range",
        min: sliderStart(field),
        max,
        step,
        tabindex: -1,
        "aria-hidden": "true",
      })
    : null;
  const paint = (/** @type {any} */ value) => {
    if (!slider) return;
    slider.value = String(value ?? field.default ?? min);
    const share =
      (Number(slider.value) - Number(slider.min)) / (Number(slider.max) - Number(slider.min));
    slider.style.setProperty("--share", `${Math.round(share * 1000) / 10}%`);
  };
  target.addEventListener("input", () => {
    const value = target.value === "" ? null : Number(target.value);
    paint(value);
    put(value);
  });
  target.addEventListener("keydown", (event) => nudge(event, target, field));
  slider?.addEventListener("input", () => {
    target.value = slider.value;
    paint(slider.value);
    put(Number(slider.value));
  });
  const show = (/** @type {any} */ value) => {
    const next = Array.isArray(value) ? "" : String(value ?? "");
    if (target.value !== next) target.value = next;
    paint(Array.isArray(value) ? null : value);
  };
  return { parts: slider ? [slider, target] : [target], target, show };
}

/** Arrow keys move by the field's own step: frames by 6, pixels by 16. */
/** @param {KeyboardEvent} event @param {HTMLInputElement} target @param {Field} field */
function nudge(event, target, field) {
  const direction = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
  if (!direction) return;
  event.preventDefault();
  const before = Number(target.value || field.default || 0);
  const next = Math.round((before + direction * field.step) * 1000) / 1000;
  target.value = String(Math.min(field.maximum ?? Infinity, Math.max(field.minimum ?? 0, next)));
  target.dispatchEvent(new Event("input"));
}

/** The slider steps over legal frame counts alone. @param {Field} field */
function sliderStart(field) {
  const least = field.minimum ?? 0;
  return field.step === 6 ? Math.ceil((least - 1) / 6) * 6 + 1 : least;
}

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function toggle(field, id, put) {
  const target = h("input", {
    id,
    name: field.name,
    type: "checkbox",
    class: "switch",
    role: "switch",
  });
  target.addEventListener("change", () => put(target.checked));
  return { parts: [target], target, show: (value) => (target.checked = Boolean(value)) };
}

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function select(field, id, put) {
  const none = field.required || field.default !== null ? [] : [h("option", { value: "" }, "none")];
  const options = field.choices.map((choice) => h("option", { value: choice }, choice));
  const target = h("select", { id, name: field.name, class: "input" }, none, options);
  target.addEventListener("change", () => put(target.value || null));
  return { parts: [target], target, show: (value) => (target.value = String(value ?? "")) };
}

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function radios(field, id, put) {
  const mayBeNone = !field.required && field.default === null;
  const boxes = (mayBeNone ? ["", ...field.choices] : field.choices).map((choice) => {
    const box = h("input", { type: "radio", name: `radio-${field.name}`, value: choice });
    box.addEventListener("change", () => put(choice || null));
    return box;
  });
  const labels = boxes.map((box) =>
    h("label", { class: "segment" }, box, h("span", {}, box.value || "none")),
  );
  const given = { id, class: "segments", role: "radiogroup", tabindex: -1 };
  const target = h("div", { ...given, "aria-labelledby": `${id}-label` }, labels);
  const show = (/** @type {any} */ value) => {
    for (const box of boxes) box.checked = box.value === String(value ?? "");
  };
  return { parts: [target], target, show };
}

/**
 * Several of a list; beside a chosen one that has a scale, a number: `name:0.8`. A chosen one at
 * its usual scale is its name alone.
 *
 * @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control}
 */
function checkboxes(field, id, put) {
  const rows = field.choices.map((choice) => {
    const row = choiceRow(choice, field.scales[choice], say);
    const note = field.notes[choice];
    if (note) row.element.append(h("span", { class: "note" }, note));
    return row;
  });
  function say() {
    put(rows.map((row) => row.value()).filter(Boolean));
  }
  const given = { id, class: "choices", role: "group", tabindex: -1 };
  const target = h(
    "div",
    { ...given, "aria-labelledby": `${id}-label` },
    rows.map((row) => row.element),
  );
  const show = (/** @type {any} */ value) => {
    const names = new Map((Array.isArray(value) ? value : []).map(nameAndScale));
    for (const row of rows) row.show(names);
  };
  return { parts: [target], target, show };
}

/** @param {string} choice @param {number | undefined} usual @param {() => void} say */
function choiceRow(choice, usual, say) {
  const box = h("input", { type: "checkbox", value: choice });
  const number = h("input", {
    type: "number",
    class: "input number",
    step: "any",
    "aria-label": `Scale of ${choice}`,
    value: usual ?? 1,
  });
  number.hidden = true;
  const value = () => {
    if (!box.checked) return null;
    const isUsual = usual === undefined || number.value === "" || Number(number.value) === usual;
    return isUsual ? choice : `${choice}:${number.value}`;
  };
  const paint = () => (number.hidden = usual === undefined || !box.checked);
  box.addEventListener("change", () => {
    paint();
    say();
  });
  number.addEventListener("input", say);
  const element = h(
    "div",
    { class: "choice" },
    h("label", { class: "segment" }, box, h("span", {}, choice)),
    number,
  );
  const show = (/** @type {Map<string, string | null>} */ names) => {
    box.checked = names.has(choice);
    const scale = names.get(choice) ?? String(usual ?? 1);
    if (number !== document.activeElement) number.value = scale;
    paint();
  };
  return { element, value, show };
}

/** @param {any} text @returns {[string, string | null]} */
function nameAndScale(text) {
  const [name, ...scale] = String(text).split(":");
  return [name, scale.length ? scale.join(":") : null];
}
