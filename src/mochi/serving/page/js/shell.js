/** Theme, token, notifications, address: what surrounds the playground. */

import { announce, byId, fill, icon, toast } from "./dom.js";
import { recall, remember } from "./storage.js";

const THEMES = ["system", "light", "dark"];

/** Light, dark, or what the system says. */
export function themeSwitch() {
  const button = byId("theme");
  let theme = recall("theme", "system");
  const paint = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = `Theme: ${theme}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    fill(button, icon(theme === "system" ? "auto" : theme === "light" ? "sun" : "moon"));
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme === "system" ? null : theme);
    paint();
  });
  paint();
}

/** Word when a run is done and nobody is looking. */
export class Notifier {
  constructor() {
    this.on = recall("notify", false) && permission() === "granted";
    this.button = byId("notify");
    this.title = document.title;
    this.button.addEventListener("click", () => this.toggle());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) document.title = this.title;
    });
    this.paint();
  }

  async toggle() {
    if (!this.on && permission() === "default") await Notification.requestPermission();
    if (!this.on && permission() !== "granted") {
      toast("This browser does not allow notifications here", "bad");
      return;
    }
    this.on = !this.on;
    remember("notify", this.on);
    this.paint();
  }

  paint() {
    this.button.setAttribute("aria-pressed", String(this.on));
    fill(this.button, icon(this.on ? "bell" : "bell-off"));
  }

  /** @param {import("./api.js").Prediction} run */
  done(run) {
    const words = run.status === "succeeded" ? "Your video is ready" : `Your run ${run.status}`;
    announce(words);
    if (!document.hidden) return;
    document.title = `● ${words}`;
    if (!this.on) return;
    const note = new Notification(words, { body: String(run.input.prompt ?? ""), tag: run.id });
    note.onclick = () => {
      focus();
      note.close();
    };
  }
}

function permission() {
  return "Notification" in globalThis ? Notification.permission : "denied";
}

/** Whoever was asked for a token did not give one. */
export class NoToken extends Error {}

/**
 * Ask for a token, once however many requests wait for it.
 *
 * @param {import("./api.js").Api} api
 */
export function askForTokens(api) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("token-dialog"));
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  const words = byId("token-error");
  /** @type {Promise<void> | null} */
  let asking = null;
  // Escape leaves the dialog, but nothing works without a token; the button in the head asks again.
  byId("token-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    api.token = field.value.trim();
    remember("token", api.token);
    dialog.close("given");
  });

  api.onTokenNeeded = (wrong) => {
    asking ??= new Promise((done, fail) => {
      words.textContent = wrong ? "That token was not accepted." : "";
      field.value = "";
      dialog.showModal();
      const onclose = () => {
        asking = null;
        if (dialog.returnValue === "given") done();
        else fail(new NoToken("This server asks for a token."));
        dialog.returnValue = "";
      };
      dialog.addEventListener("close", onclose, { once: true });
    });
    return asking;
  };
  byId("token-cancel").addEventListener("click", () => dialog.close("left"));
}

/**
 * The page that the address asks for.
 *
 * @typedef {{page: string, ids: string[]}} Place
 * @returns {Place}
 */
export function whereAmI() {
  const shared = /^\/p\/([\w-]+)$/.exec(location.pathname);
  const [page = "", ...ids] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (shared && !page) return { page: "shared", ids: [shared[1]] };
  return { page: page || "playground", ids };
}

/** @param {string} path without the `#/` */
export function goTo(path) {
  if (!location.pathname.startsWith("/p/")) {
    location.hash = `#/${path}`;
    return;
  }
  history.pushState(null, "", `/#/${path}`);
  dispatchEvent(new HashChangeEvent("hashchange"));
}
