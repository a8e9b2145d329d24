/** The prompt, its length, what the run will take, and the button that starts it. */

import { byId, fill, h } from "./dom.js";
import { Problem } from "./api.js";
import { memory, plural, seconds } from "./format.js";
import { costOf } from "./stage.js";

/**
 * @typedef {import("./inputs.js").Inputs} Inputs
 * @typedef {import("./api.js").Api} Api
 */

const PAUSE = 250;
const TOKEN_LIMIT = 256;

export class Composer {
  /**
   * @param {Inputs} inputs
   * @param {Api} api
   * @param {() => string} version
   */
  constructor(inputs, api, version) {
    this.inputs = inputs;
    this.api = api;
    this.version = version;
    this.prompt = /** @type {HTMLTextAreaElement} */ (byId("prompt"));
    this.error = byId("prompt-error");
    this.tokens = byId("tokens");
    this.estimate = byId("estimate");
    /** @type {AbortController | null} */
    this.asking = null;
    this.lastTokens = "";
    /** How many videos the button will ask for. */
    this.count = 1;
    /** @type {any} */
    this.told = null;
    this.prompt.addEventListener("input", () => {
      inputs.put("prompt", this.prompt.value, "prompt");
      this.grow();
    });
    inputs.addEventListener("change", (event) => {
      const { from } = /** @type {CustomEvent} */ (event).detail;
      this.paint(from);
    });
    this.paint("build");
    addEventListener("resize", () => this.grow());
  }

  /** @param {string} from */
  paint(from) {
    if (from !== "prompt") {
      this.prompt.value = this.inputs.values.prompt ?? "";
      this.grow();
    }
    // An empty prompt is no mistake until Run is pressed.
    const words = this.inputs.values.prompt || this.checked ? this.inputs.errors().prompt : "";
    this.error.textContent = words ?? "";
    this.prompt.setAttribute("aria-invalid", String(Boolean(words)));
    clearTimeout(this.clock);
    this.clock = setTimeout(() => this.ask(), PAUSE);
  }

  /** From now on an empty prompt is told. */
  check() {
    this.checked = true;
    this.paint("check");
  }

  /** As tall as its text, up to a third of the window. */
  grow() {
    this.prompt.style.height = "auto";
    const most = Math.max(120, innerHeight / 3);
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight + 2, most)}px`;
  }

  async ask() {
    if (!this.version()) return; // no model is known yet
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    await Promise.all([this.askTokens(asking.signal), this.askEstimate(asking.signal)]);
  }

  /** @param {AbortSignal} signal */
  async askTokens(signal) {
    const prompt = String(this.inputs.values.prompt ?? "");
    if (prompt === this.lastTokens && this.tokens.textContent) return;
    if (!prompt.trim()) return this.showTokens(0, TOKEN_LIMIT, false, prompt);
    try {
      const { tokens, limit, cut } = await this.api.countTokens(this.version(), prompt, signal);
      if (!signal.aborted) this.showTokens(tokens, limit, cut, prompt);
    } catch {
      if (!signal.aborted) this.tokens.textContent = "";
    }
  }

  /** @param {number} tokens @param {number} limit @param {boolean} cut @param {string} prompt */
  showTokens(tokens, limit, cut, prompt) {
    this.lastTokens = prompt;
    const over = cut || tokens > limit;
    this.tokens.classList.toggle("is-over", over);
    // A count at each pause would be noise to a screen reader; a warning is not.
    this.tokens.setAttribute("aria-live", over ? "polite" : "off");
    this.tokens.textContent = over
      ? `${tokens} tokens: only the first ${limit} are read`
      : `${tokens} / ${limit} tokens`;
  }

  /** @param {AbortSignal} signal */
  async askEstimate(signal) {
    const input = this.inputs.input();
    if (Object.keys(this.inputs.errors()).some((name) => name !== "prompt")) return this.say("");
    // What a run takes does not hang on its words; without any, these stand in for them.
    const whole = { ...input, prompt: input.prompt ?? "a video" };
    try {
      const estimate = await this.api.estimate(this.version(), whole, signal);
      if (!signal.aborted) this.showEstimate(estimate);
    } catch (error) {
      if (signal.aborted) return;
      this.say("");
      if (error instanceof Problem && error.fields.length) this.inputs.blame(error.fields);
    }
  }

  /** So many videos at once. @param {number} count */
  many(count) {
    this.count = count;
    if (this.told) this.showEstimate(this.told);
  }

  /** @param {any} estimate */
  showEstimate(estimate) {
    this.told = estimate;
    const { seconds: time, memory_bytes: bytes, fits, price, queue, notes = [] } = estimate;
    const { count } = this;
    const whole = price && { ...price, amount: price.amount * count };
    const parts = [
      time ? `about ${seconds(time.p50 * count)}` : "time not measured yet",
      bytes ? memory(bytes / 2 ** 30) : "",
      costOf(whole),
      count > 1 && time ? `for ${count}, one after the other` : "",
      queue?.position > 1 ? `${plural(queue.position - 1, "run")} before it` : "",
    ];
    const line = h("span", {}, parts.filter(Boolean).join(" · "));
    const bad =
      fits === false &&
      h("span", { class: "estimate-bad" }, "More memory than is free: smaller settings will fit.");
    this.estimate.title = time ? `p90 ${seconds(time.p90)}` : "";
    fill(
      this.estimate,
      line,
      bad,
      notes.map((/** @type {string} */ note) => h("span", { class: "quiet" }, note)),
    );
  }

  /** @param {string} text */
  say(text) {
    this.told = null;
    fill(this.estimate, text);
  }
}
