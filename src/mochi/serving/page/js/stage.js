/** The large screen: a finished video, one in the making, a failure, or an invitation. */

import { announce, fill, h, icon } from "./dom.js";
import { videoOf, pathOf } from "./api.js";
import { explain } from "./failures.js";
import { money, seconds } from "./format.js";
import { Player } from "./player.js";
import { Preview } from "./preview.js";
import { current, fraction, isOver, PHASE_WORDS, stateInWords } from "./progress.js";

/**
 * @typedef {import("./api.js").Prediction} Prediction
 * @typedef {import("./progress.js").Progress} Progress
 *
 * @typedef {object} Scene
 * @property {Prediction} run
 * @property {Progress} progress
 * @property {{state: string, reason?: string | null, trouble?: string | null} | null} runner
 * @property {boolean} away
 */

export class Stage {
  /**
   * @param {HTMLElement} place
   * @param {{oncancel: () => void, onretry: (smaller: boolean) => void}} acts
   */
  constructor(place, acts) {
    this.acts = acts;
    this.player = new Player();
    this.preview = new Preview((canvas) => this.player.spread(canvas));
    this.veil = h("div", { class: "veil" });
    this.player.screen.append(this.preview.canvas, this.veil);
    this.status = h("div", { class: "status" });
    fill(place, this.player.screen, this.player.transport.element, this.status);
    this.place = place;
    this.said = "";
  }

  /** @param {"video" | "making" | "words"} mode */
  mode(mode) {
    this.place.dataset.mode = mode;
    this.player.transport.element.inert = mode !== "video";
    this.player.screen.tabIndex = mode === "video" ? 0 : -1;
  }

  /** An example: nothing was asked of the server. @param {any} example */
  showExample(example) {
    this.leave();
    this.mode("video");
    this.player.show(clipOf(example));
    const note = h("span", { class: "quiet" }, "Example, made with ", example.model);
    fill(this.status, h("p", { class: "status-line" }, note));
    fill(this.veil);
  }

  /** @param {Scene} scene */
  show(scene) {
    const { run, progress } = scene;
    const words =
      scene.away && !isOver(run)
        ? "The server is away, trying again"
        : stateInWords(run, progress, scene.runner);
    if (run.status === "succeeded" && videoOf(run)) this.showVideo(run);
    else if (run.status === "failed") this.showFailure(run);
    else if (run.status === "canceled")
      this.showWords("Cancelled", "Nothing was kept of this run.");
    else if (run.status === "succeeded")
      this.showWords("Gone", "This run's video has been deleted.");
    else this.showMaking(scene, words);
    if (words !== this.said) {
      this.said = words;
      const said = words.replace(/, (step|frame) \d+ of \d+$/, "");
      if (!current(progress)?.done) announce(said);
    }
  }

  leave() {
    this.preview.clear();
    this.said = "";
  }

  /** @param {Prediction} run */
  showVideo(run) {
    this.leave();
    this.mode("video");
    this.player.show(clipOf(run));
    fill(this.veil);
    fill(this.status, factsOf(run));
  }

  /** @param {Prediction} run */
  showFailure(run) {
    const { title, text, said, smaller } = explain(run.error);
    this.showWords(title, text);
    const again = h(
      "button",
      { type: "button", class: "button", onclick: () => this.acts.onretry(false) },
      "Try again",
    );
    const less = h(
      "button",
      { type: "button", class: "button primary", onclick: () => this.acts.onretry(true) },
      "Try with smaller settings",
    );
    this.veil.append(
      h("p", { class: "said" }, said),
      h("div", { class: "veil-acts" }, smaller && less, again),
    );
  }

  /** @param {string} title @param {string} text */
  showWords(title, text) {
    this.leave();
    this.player.clear();
    this.mode("words");
    fill(this.veil, h("p", { class: "veil-title" }, title), text && h("p", {}, text));
    fill(this.status);
  }

  /** @param {Scene} scene @param {string} words */
  showMaking({ run, progress, away }, words) {
    if (this.place.dataset.mode !== "making") {
      this.player.clear();
      this.mode("making");
    }
    const { width, height } = run.input;
    if (progress.preview) {
      const aspect = width > 0 && height > 0 ? width / height : 16 / 9;
      this.preview.canvas.style.setProperty("aspect-ratio", String(aspect));
      this.preview.show(progress.preview.data, aspect).catch(() => undefined);
    } else {
      this.preview.clear();
    }
    this.preview.canvas.hidden = !progress.preview;
    fill(this.veil, !progress.preview && h("div", { class: "breath", "aria-hidden": "true" }));
    this.drawStatus(progress, words, away);
  }

  /** @param {Progress} progress @param {string} words @param {boolean} away */
  drawStatus(progress, words, away) {
    if (!this.cancelButton?.isConnected) {
      this.line = h("p", { class: "status-line" });
      this.bar = h("div", {
        class: "bar",
        role: "progressbar",
        "aria-label": "Progress",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      });
      this.rail = h("ol", { class: "rail", "aria-label": "Phases" });
      this.cancelButton = h(
        "button",
        { type: "button", class: "button small", onclick: () => this.acts.oncancel() },
        icon("stop"),
        "Cancel",
      );
      fill(
        this.status,
        h("div", { class: "status-head" }, this.line, this.cancelButton),
        this.bar,
        this.rail,
      );
    }
    if (!this.line || !this.bar || !this.rail) return;
    const share = Math.round(fraction(progress) * 100);
    fill(this.line, h("strong", {}, words), h("span", { class: "quiet" }, timing(progress)));
    this.line.classList.toggle("is-away", away);
    this.bar.setAttribute("aria-valuenow", String(share));
    this.bar.setAttribute("aria-valuetext", words);
    this.bar.style.setProperty("--share", `${share}%`);
    const phases = progress.phases.filter((phase) => phase.state !== "skipped");
    fill(this.rail, phases.map(phaseItem));
  }
}

/** @param {import("./progress.js").PhaseState} phase */
function phaseItem(phase) {
  const words = /** @type {Record<string, string>} */ (PHASE_WORDS)[phase.name] ?? phase.name;
  const now = phase.state === "now" && phase.total ? ` ${phase.done}/${phase.total}` : "";
  const given = {
    class: `phase is-${phase.state}`,
    "aria-current": phase.state === "now" && "step",
  };
  return h(
    "li",
    given,
    phase.state === "done" ? icon("check") : h("i", { class: "dot" }),
    words,
    now,
  );
}

/** @param {Progress} progress */
function timing(progress) {
  const parts = [];
  if (progress.secondsPerStep !== null && current(progress)?.name === "denoise") {
    parts.push(`${seconds(progress.secondsPerStep)}/step`);
  }
  const eta = progress.queue ? progress.queue.eta : progress.eta;
  if (eta !== null && eta > 0) parts.push(`about ${seconds(eta)} left`);
  return parts.join(" · ");
}

/** What is worth knowing of a finished run. @param {Prediction} run */
function factsOf(run) {
  const { metrics = {}, input } = run;
  const facts = [
    ["Seed", input.seed],
    ["Size", metrics.width && `${metrics.width}×${metrics.height}`],
    ["Frames", metrics.frames],
    ["Steps", metrics.steps],
    ["Time", metrics.predict_time !== undefined && seconds(metrics.predict_time)],
    ["Cost", costOf(metrics.price)],
  ];
  return h(
    "dl",
    { class: "facts" },
    facts
      .filter(
        ([, value]) => value !== undefined && value !== false && value !== "" && value !== null,
      )
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** @param {any} price a number, or `{amount, currency}` */
export function costOf(price) {
  if (price === null || price === undefined) return "";
  return typeof price === "object" ? money(price.amount, price.currency) : money(price);
}

/** @param {any} run @returns {import("./player.js").Clip} */
export function clipOf(run) {
  const { input, metrics = {} } = run;
  const poster = run.poster ?? run.variants?.thumbnail ?? null;
  return {
    src: run.src ?? videoOf(run),
    poster: poster && pathOf(poster),
    label: input.prompt ?? "a video",
    fps: metrics.fps ?? input.fps ?? 30,
    frames: metrics.frames ?? null,
  };
}
