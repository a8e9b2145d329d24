/** Two runs side by side, frame by frame, with where their inputs differ. */

import { fill, h, iconButton } from "./dom.js";
import { plain, seconds } from "./format.js";
import { difference, labelOf } from "./schema.js";
import { clipOf } from "./stage.js";
import { calm } from "./player.js";
import { Transport } from "./transport.js";

/** @typedef {import("./api.js").Prediction} Prediction */

export class Compare {
  /** @param {HTMLElement} place @param {() => void} onclose */
  constructor(place, onclose) {
    this.place = place;
    this.onclose = onclose;
  }

  /** @param {Prediction} a @param {Prediction} b */
  show(a, b) {
    const clips = [clipOf(a), clipOf(b)];
    const videos = clips.map((clip) => {
      const video = h("video", {
        playsinline: true,
        preload: "auto",
        src: clip.src,
        poster: clip.poster,
        "aria-label": clip.label,
      });
      video.muted = true;
      return video;
    });
    const transport = new Transport(videos, clips[0]);
    const pair = h(
      "div",
      {
        class: "pair",
        tabindex: 0,
        role: "group",
        "aria-label": "Two videos in step",
        onkeydown: (/** @type {KeyboardEvent} */ event) => transport.key(event),
      },
      videos.map((video, index) =>
        h(
          "figure",
          {},
          video,
          h("figcaption", {}, h("b", {}, "AB"[index]), " ", clips[index].label),
        ),
      ),
    );
    fill(
      this.place,
      h(
        "div",
        { class: "compare-head" },
        h("h1", { tabindex: -1 }, "Compare"),
        iconButton("cross", "Close the comparison", this.onclose),
      ),
      h("div", { class: "compare-stage" }, pair, transport.element),
      differences(a, b),
    );
    this.transport = transport;
    if (!calm()) whenReady(videos).then(() => transport.play());
    this.place.querySelector("h1")?.focus();
  }

  leave() {
    this.transport?.pause();
    this.transport = undefined;
    fill(this.place);
  }
}

/** @param {HTMLVideoElement[]} videos */
function whenReady(videos) {
  const ready = (/** @type {HTMLVideoElement} */ video) =>
    new Promise((done) => {
      if (video.readyState >= 3) done(null);
      else video.addEventListener("canplay", () => done(null), { once: true });
    });
  return Promise.all(videos.map(ready));
}

/** @param {Prediction} a @param {Prediction} b */
function differences(a, b) {
  const rows = difference(a.input, b.input);
  const changed = rows.filter((row) => !row.same).length;
  const caption = changed
    ? `${changed} of ${rows.length} settings differ`
    : "The settings are the same";
  const time = (/** @type {Prediction} */ run) => seconds(run.metrics?.predict_time);
  return h(
    "table",
    { class: "table diff" },
    h("caption", {}, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Setting", "A", "B"].map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) =>
        h(
          "tr",
          { class: row.same ? "is-same" : "is-changed" },
          h("th", { scope: "row" }, labelOf(row.name)),
          h("td", {}, plain(row.a)),
          h("td", {}, plain(row.b)),
        ),
      ),
      h(
        "tr",
        { class: "is-same" },
        h("th", { scope: "row" }, "Time"),
        h("td", {}, time(a)),
        h("td", {}, time(b)),
      ),
    ),
  );
}
