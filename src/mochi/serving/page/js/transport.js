/**
 * Play, scrub and step one video or several as one. The first leads; the others are put right
 * when they are more than half a frame apart.
 */

import { fill, h, icon, iconButton } from "./dom.js";

const SPEEDS = [1, 0.5, 0.25];

export class Transport {
  /**
   * @param {HTMLVideoElement[]} videos
   * @param {{fps: number, frames: number | null}} about
   */
  constructor(videos, about) {
    this.videos = videos;
    this.about = about;
    this.looping = true;
    this.speed = 1;
    this.playButton = iconButton("play", "Play (space)", () => this.toggle());
    this.loopButton = iconButton("loop", "Loop (L)", () => this.setLoop(!this.looping));
    const onclick = () => this.nextSpeed();
    this.speedButton = h("button", { type: "button", class: "icon-button speed", onclick }, "1×");
    this.scrub = h("input", {
      type: "range",
      class: "scrub",
      min: 0,
      step: 1,
      "aria-label": "Frame",
    });
    this.readout = h("output", { class: "readout", "aria-hidden": "true" });
    this.element = this.build();
    this.leader.addEventListener("loadedmetadata", () => this.paint());
    for (const type of ["timeupdate", "play", "pause", "seeked"]) {
      this.leader.addEventListener(type, () => this.paint());
    }
    this.setLoop(true);
    this.leader.addEventListener("ended", () => this.again());
    this.everyFrame();
  }

  get leader() {
    return this.videos[0];
  }

  get fps() {
    return this.about.fps;
  }

  get frames() {
    const { duration } = this.leader;
    const measured = Number.isFinite(duration) ? Math.round(duration * this.fps) : 1;
    return Math.max(1, this.about.frames ?? measured);
  }

  get frame() {
    return Math.min(this.frames - 1, Math.floor(this.leader.currentTime * this.fps + 0.01));
  }

  /** @returns {HTMLElement} */
  build() {
    const back = iconButton("back", "One frame back (left arrow)", () => this.step(-1));
    const on = iconButton("forward", "One frame on (right arrow)", () => this.step(1));
    this.scrub.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    this.scrub.addEventListener("keydown", (event) => event.stopPropagation());
    return h(
      "div",
      { class: "transport", role: "group", "aria-label": "Player controls" },
      h("div", { class: "transport-keys" }, back, this.playButton, on),
      this.scrub,
      this.readout,
      h("div", { class: "transport-keys" }, this.speedButton, this.loopButton),
    );
  }

  /** @param {{fps: number, frames: number | null}} about */
  describe(about) {
    this.about = about;
    this.paint();
  }

  paint() {
    const { frame, frames } = this;
    const playing = !this.leader.paused;
    const name = playing ? "pause" : "play";
    if (this.playButton.dataset.now !== name) {
      this.playButton.dataset.now = name;
      fill(this.playButton, icon(name));
      this.playButton.setAttribute("aria-label", playing ? "Pause (space)" : "Play (space)");
    }
    this.scrub.max = String(frames - 1);
    this.scrub.value = String(frame);
    this.scrub.setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
    this.scrub.style.setProperty("--share", `${(frame / Math.max(1, frames - 1)) * 100}%`);
    this.readout.textContent = `${frame + 1} / ${frames}`;
    this.speedButton.textContent = `${this.speed}×`;
    this.speedButton.setAttribute("aria-label", `Speed ${this.speed}, change`);
  }

  toggle() {
    if (this.leader.paused) this.play();
    else this.pause();
  }

  play() {
    for (const video of this.videos) video.play().catch(() => undefined);
  }

  pause() {
    for (const video of this.videos) video.pause();
    this.align(0);
  }

  /** @param {number} by */
  step(by) {
    this.pause();
    this.seek((this.frame + by + this.frames) % this.frames);
  }

  /** To the middle of a frame, so that rounding shows no neighbour. @param {number} frame */
  seek(frame) {
    const time = (frame + 0.5) / this.fps;
    for (const video of this.videos) video.currentTime = Math.min(time, video.duration || time);
    this.paint();
  }

  /** @param {boolean} looping */
  setLoop(looping) {
    this.looping = looping;
    // One video loops by itself, without a gap; several start again together.
    this.leader.loop = looping && this.videos.length === 1;
    this.loopButton.setAttribute("aria-pressed", String(looping));
  }

  nextSpeed() {
    this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length];
    for (const video of this.videos) video.playbackRate = this.speed;
    this.paint();
  }

  again() {
    if (!this.looping || this.videos.length === 1) return this.paint();
    for (const video of this.videos) video.currentTime = 0;
    this.play();
  }

  /** @param {number} tolerance seconds */
  align(tolerance) {
    for (const video of this.videos.slice(1)) {
      const time = Math.min(this.leader.currentTime, video.duration || 0);
      if (Math.abs(video.currentTime - time) > tolerance) video.currentTime = time;
    }
  }

  everyFrame() {
    const leader = /** @type {any} */ (this.leader);
    if (!leader.requestVideoFrameCallback) return;
    leader.requestVideoFrameCallback(() => {
      if (!leader.paused) this.align(0.5 / this.fps);
      this.paint();
      this.everyFrame();
    });
  }

  /** @param {KeyboardEvent} event @returns {boolean} whether the key was for us */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.key === " " && target.tagName === "BUTTON") return false;
    /** @type {Record<string, () => void>} */
    const keys = {
      " ": () => this.toggle(),
      k: () => this.toggle(),
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      l: () => this.setLoop(!this.looping),
      Home: () => this.seek(0),
      End: () => this.seek(this.frames - 1),
    };
    const act = keys[event.key];
    if (!act) return false;
    event.preventDefault();
    act();
    return true;
  }
}
