/** Past runs, newest first, as the server keeps them. */

import { fill, h, icon } from "./dom.js";
import { pathOf, videoOf } from "./api.js";
import { ago, seconds } from "./format.js";
import { isOver, stateInWords } from "./progress.js";
import { calm } from "./player.js";

/**
 * @typedef {import("./api.js").Prediction} Prediction
 * @typedef {import("./runs.js").Runs} Runs
 */

export class History {
  /**
   * @param {HTMLElement} place
   * @param {Runs} runs
   * @param {object} acts
   * @param {(run: Prediction) => void} acts.open
   * @param {(run: Prediction) => void} acts.tweak
   * @param {(a: Prediction, b: Prediction) => void} acts.compare
   */
  constructor(place, runs, acts) {
    this.place = place;
    this.runs = runs;
    this.acts = acts;
    /** @type {Map<string, HTMLElement>} */
    this.cards = new Map();
    /** @type {string | null} the run on the stage */
    this.shown = null;
    /** @type {string | null} the first of two to compare */
    this.picked = null;
    this.grid = h("ul", { class: "grid", "aria-label": "Past runs" });
    this.hint = h("p", { class: "hint", role: "status" });
    this.moreButton = h(
      "button",
      { type: "button", class: "button", onclick: () => runs.more().catch(() => undefined) },
      "Show older runs",
    );
    fill(place, this.hint, this.grid, this.moreButton);
    runs.addEventListener("list", () => this.draw());
    runs.addEventListener("run", (event) =>
      this.redraw(/** @type {CustomEvent} */ (event).detail.id),
    );
    this.draw();
  }

  draw() {
    const { list } = this.runs;
    const kept = new Set(list.map((run) => run.id));
    for (const [id, card] of this.cards) {
      if (kept.has(id)) continue;
      card.remove();
      this.cards.delete(id);
    }
    list.forEach((run, index) => {
      const card = this.cards.get(run.id) ?? this.card(run);
      if (this.grid.children[index] !== card)
        this.grid.insertBefore(card, this.grid.children[index] ?? null);
      this.redraw(run.id);
    });
    this.moreButton.hidden = !this.runs.next;
    this.drawHint();
  }

  drawHint() {
    const { list } = this.runs;
    this.place.classList.toggle("is-picking", this.picked !== null);
    if (this.picked)
      this.hint.textContent = "Now choose the run to compare it with. Escape leaves.";
    else if (!list.length) this.hint.textContent = "Your runs will be kept here.";
    else this.hint.textContent = "";
  }

  /** @param {Prediction} run @returns {HTMLElement} */
  card(run) {
    const face = h("button", {
      type: "button",
      class: "card-face",
      onclick: () => this.choose(run.id),
    });
    const tweak = h(
      "button",
      {
        type: "button",
        class: "button small card-tweak",
        onclick: () => this.acts.tweak(this.runs.find(run.id) ?? run),
      },
      icon("tweak"),
      "Tweak it",
    );
    const card = h("li", { class: "card", "data-id": run.id }, face, tweak);
    this.cards.set(run.id, card);
    playOnHover(card);
    return card;
  }

  /** @param {string} id */
  redraw(id) {
    const run = this.runs.find(id);
    const card = this.cards.get(id);
    const face = card?.firstElementChild;
    if (!run || !card || !face) return;
    card.classList.toggle("is-shown", id === this.shown);
    card.classList.toggle("is-picked", id === this.picked);
    face.setAttribute("aria-current", String(id === this.shown));
    const words = isOver(run) ? "" : stateInWords(run, this.runs.progress(id), null);
    const key = [run.status, videoOf(run) ? "video" : "", words].join("|");
    if (card.dataset.key === key) return;
    card.dataset.key = key;
    fill(
      face,
      pictureOf(run),
      h(
        "span",
        { class: "card-text" },
        h("span", { class: "card-prompt" }, run.input.prompt ?? "(deleted)"),
        h("span", { class: "card-meta" }, metaOf(run, words)),
      ),
    );
  }

  /** @param {string | null} id */
  show(id) {
    const before = this.shown;
    this.shown = id;
    for (const one of [before, id]) if (one) this.redraw(one);
  }

  /** Choose the other one to compare with. @param {string | null} id */
  pick(id) {
    const before = this.picked;
    this.picked = id;
    for (const one of [before, id]) if (one) this.redraw(one);
    this.drawHint();
    if (id) this.place.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" });
  }

  /** @param {string} id */
  choose(id) {
    const run = this.runs.find(id);
    if (!run) return;
    const first = this.picked ? this.runs.find(this.picked) : undefined;
    if (!first) return this.acts.open(run);
    if (first.id === id || !videoOf(run)) return;
    this.pick(null);
    this.acts.compare(first, run);
  }
}

/** @param {Prediction} run @param {string} words */
function metaOf(run, words) {
  if (words) return words;
  if (run.status === "failed") return "Failed";
  if (run.status === "canceled") return "Cancelled";
  const time = run.metrics?.predict_time;
  const parts = [
    `seed ${run.input.seed ?? "–"}`,
    time !== undefined && seconds(time),
    ago(run.created_at),
  ];
  return parts.filter(Boolean).join(" · ");
}

/** @param {any} run @returns {HTMLElement} */
export function pictureOf(run) {
  const video = run.src ?? videoOf(run);
  if (run.status && run.status !== "succeeded") {
    const name = isOver(run) ? "cross" : "clock";
    return h("span", { class: `card-picture is-${isOver(run) ? "over" : "going"}` }, icon(name));
  }
  if (!video) return h("span", { class: "card-picture is-over" }, icon("cross"));
  const poster = run.poster ?? run.variants?.thumbnail;
  const given = {
    muted: true,
    loop: true,
    playsinline: true,
    preload: poster ? "none" : "metadata",
    tabindex: -1,
  };
  const element = h("video", {
    ...given,
    "aria-hidden": "true",
    src: video,
    poster: poster && pathOf(poster),
  });
  element.muted = true;
  const backdrop =
    poster && h("img", { class: "backdrop", src: pathOf(poster), alt: "", loading: "lazy" });
  return h("span", { class: "card-picture" }, backdrop, element);
}

/** @param {HTMLElement} card */
export function playOnHover(card) {
  const play = () =>
    !calm() &&
    card
      .querySelector("video")
      ?.play()
      .catch(() => undefined);
  const rest = () => card.querySelector("video")?.pause();
  card.addEventListener("mouseenter", play);
  card.addEventListener("focusin", play);
  card.addEventListener("mouseleave", rest);
  card.addEventListener("focusout", rest);
}
