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

/** @param {Field} field @param {string} id @param {(value: any) => void} put @returns {Control} */
function checkboxes(field, id, put) {
  const boxes = field.choices.map((choice) => h("input", { type: "checkbox", value: choice }));
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  for (const box of boxes) box.addEventListener("change", () => put(chosen()));
  const labels = boxes.map((box) =>
    h("label", { class: "segment" }, box, h("span", {}, box.value)),
  );
  const given = { id, class: "segments", role: "group", tabindex: -1 };
  const target = h("div", { ...given, "aria-labelledby": `${id}-label` }, labels);
  const show = (/** @type {any} */ value) => {
    const names = Array.isArray(value) ? value : [];
    for (const box of boxes) box.checked = names.includes(box.value);
  };
  return { parts: [target], target, show };
}
