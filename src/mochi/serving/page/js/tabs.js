/** A row of tabs: arrow keys move, Home and End jump, one tab stop. */

import { h } from "./dom.js";

/**
 * @param {string} label
 * @param {string[]} names
 * @param {string} panel id of what the tabs change
 * @param {(name: string) => void} onchoose
 * @returns {{element: HTMLElement, choose: (name: string) => void}}
 */
export function tabs(label, names, panel, onchoose) {
  const buttons = names.map((name, index) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        class: "tab",
        id: `${panel}-tab-${index}`,
        "aria-controls": panel,
        "aria-selected": String(index === 0),
        tabindex: index === 0 ? 0 : -1,
        onclick: () => choose(name),
      },
      name,
    ),
  );

  /** @param {string} name */
  function choose(name) {
    for (const [index, button] of buttons.entries()) {
      const chosen = names[index] === name;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    }
    onchoose(name);
  }

  /** @param {KeyboardEvent} event */
  function onkeydown(event) {
    const now = buttons.findIndex((button) => button === document.activeElement);
    const last = buttons.length - 1;
    const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last };
    const next = /** @type {Record<string, number>} */ (moves)[event.key];
    if (next === undefined || now < 0) return;
    event.preventDefault();
    const button = buttons[(next + buttons.length) % buttons.length];
    button.focus();
    button.click();
  }

  const element = h(
    "div",
    { class: "tabs", role: "tablist", "aria-label": label, onkeydown },
    buttons,
  );
  return { element, choose };
}
