/** The video itself; its edges go on, softly, to the sides of a wider screen. */

import { h, iconButton } from "./dom.js";
import { Transport } from "./transport.js";

/**
 * @typedef {object} Clip
 * @property {string} src
 * @property {string | null} poster
 * @property {string} label
 * @property {number} fps
 * @property {number | null} frames
 */

const GLOW_WIDTH = 24;
const GLOW_HEIGHT = 14;
/** How much of a picture's width is its edge. */
const EDGE = 0.04;

export class Player {
  constructor() {
    this.video = h("video", {
      playsinline: true,
      muted: true,
      preload: "auto",
      disablepictureinpicture: true,
    });
    this.video.muted = true;
    this.glow = h("canvas", {
      class: "glow",
      "aria-hidden": "true",
      width: GLOW_WIDTH,
      height: GLOW_HEIGHT,
    });
    this.transport = new Transport([this.video], { fps: 30, frames: null });
    const full = iconButton("full", "Full screen (F)", () => this.full());
    this.transport.element.lastElementChild?.append(full);
    this.screen = h("div", { class: "screen", tabindex: 0, role: "group" }, this.glow, this.video);
    this.screen.addEventListener("keydown", (event) => {
      if (event.key === "f" && !event.ctrlKey && !event.metaKey) this.full();
      else this.transport.key(event);
    });
    this.video.addEventListener("click", () => this.transport.toggle());
    this.shine();
  }

  /** @param {Clip} clip */
  show(clip) {
    this.screen.setAttribute("aria-label", `Video: ${clip.label}`);
    this.video.setAttribute("aria-label", clip.label);
    this.transport.describe(clip);
    if (this.video.getAttribute("src") === clip.src) return;
    if (clip.poster) this.video.poster = clip.poster;
    else this.video.removeAttribute("poster");
    this.video.src = clip.src;
    this.video.playbackRate = this.transport.speed;
    if (!calm()) this.transport.play();
  }

  clear() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.removeAttribute("poster");
    this.video.load();
    this.glow.getContext("2d")?.clearRect(0, 0, GLOW_WIDTH, GLOW_HEIGHT);
  }

  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.video.requestFullscreen?.().catch(() => undefined);
  }

  shine() {
    const video = /** @type {any} */ (this.video);
    const draw = () => {
      this.spread();
      video.requestVideoFrameCallback?.(draw);
    };
    video.requestVideoFrameCallback?.(draw);
    this.video.addEventListener("loadeddata", () => this.spread());
  }

  /**
   * Carry the left and right edges on to the sides; the style sheet blurs them.
   *
   * @param {HTMLCanvasElement | null} [canvas] a picture in the video's place
   */
  spread(canvas = null) {
    const source = canvas ?? this.video;
    const width = canvas ? canvas.width : this.video.videoWidth;
    const height = canvas ? canvas.height : this.video.videoHeight;
    const context = this.glow.getContext("2d");
    if (!context || !width) return;
    const edge = Math.max(1, Math.round(width * EDGE));
    const half = GLOW_WIDTH / 2;
    context.drawImage(source, 0, 0, edge, height, 0, 0, half, GLOW_HEIGHT);
    context.drawImage(source, width - edge, 0, edge, height, half, 0, half, GLOW_HEIGHT);
  }

  /** The last frame as a PNG, for videos whose server makes none. @returns {Promise<Blob | null>} */
  async lastFrame() {
    const { video, transport } = this;
    transport.pause();
    const there = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    transport.seek(transport.frames - 1);
    await there;
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d")?.drawImage(video, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

/** Whether this person asked for less motion. */
export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
