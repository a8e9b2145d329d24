/**
 * Elements without markup strings: text is always text, so nothing a user or a server says can
 * become an element, an attribute or a script.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Attributes that start with `on` are listeners, `class` and the rest are attributes;
 * true is an empty attribute, false and null leave it out.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...nodes(children));
  return element;
}

/**
 * @param {Element} element
 * @param {Record<string, any>} attributes
 */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on") && typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (value === false || value === null || value === undefined) {
      element.removeAttribute(name);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

/**
 * Put children in the place of all that is there.
 *
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/**
 * @param {(Child | Child[])[]} children
 * @returns {(Node | string)[]}
 */
function nodes(children) {
  return /** @type {(Node | string)[]} */ (
    children
      .flat()
      .filter((child) => child !== null && child !== undefined && child !== false)
      .map((child) => (child instanceof Node ? child : String(child)))
  );
}

/**
 * A picture from the sprite; it says nothing to a screen reader.
 *
 * @param {string} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  set(svg, { class: "icon", "aria-hidden": "true", viewBox: "0 0 20 20", focusable: "false" });
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button with a picture; its label is what a screen reader says and what hovering shows.
 *
 * @param {string} picture
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [more]
 * @returns {HTMLButtonElement}
 */
export function iconButton(picture, label, onclick, more = {}) {
  const given = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return h("button", { ...given, onclick, ...more }, icon(picture));
}

/**
 * The element with this id, which the page always has.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * Say something to screen readers, and to them alone.
 *
 * @param {string} text
 */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let toastEnd;

/**
 * A short word at the foot of the page.
 *
 * @param {string} text
 * @param {"plain" | "bad"} [kind]
 */
export function toast(text, kind = "plain") {
  const place = byId("toast");
  place.textContent = text;
  place.dataset.kind = kind;
  place.dataset.shown = "yes";
  clearTimeout(toastEnd);
  toastEnd = setTimeout(() => delete place.dataset.shown, 4000);
}

/**
 * Copy text, and say so.
 *
 * @param {string} text
 * @param {string} what
 */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyTheOldWay(text);
  }
  toast(`${what} copied`);
}

/** Pages on plain http have no clipboard API. @param {string} text */
function copyTheOldWay(text) {
  const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
