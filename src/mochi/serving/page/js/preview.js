/** The video as it stands while it is made: a strip of small frames, shown one after another. */

import { h } from "./dom.js";
import { calm } from "./player.js";

const FRAMES_A_SECOND = 5;

export class Preview {
  /** @param {(canvas: HTMLCanvasElement) => void} ondraw */
  constructor(ondraw) {
    this.ondraw = ondraw;
    this.canvas = h("canvas", {
      class: "preview",
      role: "img",
      "aria-label": "The video as it stands",
    });
    /** @type {ImageBitmap | null} */
    this.strip = null;
    this.count = 1;
    this.at = 0;
    this.data = "";
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.clock = undefined;
  }

  /**
   * @param {string} data base64 of a PNG, frames side by side
   * @param {number} aspect width over height of the video
   */
  async show(data, aspect) {
    if (data === this.data) return;
    this.data = data;
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const strip = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    if (data !== this.data) return strip.close(); // a newer one came meanwhile
    this.strip?.close();
    this.strip = strip;
    this.count = Math.max(1, Math.round(strip.width / (strip.height * aspect)));
    this.canvas.width = Math.round(strip.width / this.count);
    this.canvas.height = strip.height;
    this.canvas.dataset.count = String(this.count);
    this.draw();
    if (!calm()) this.clock ??= setInterval(() => this.next(), 1000 / FRAMES_A_SECOND);
  }

  next() {
    if (document.hidden) return;
    this.at += 1;
    this.draw();
  }

  draw() {
    if (!this.strip) return;
    const { width, height } = this.canvas;
    const frame = calm() ? Math.floor(this.count / 2) : this.at % this.count;
    const context = this.canvas.getContext("2d");
    context?.drawImage(this.strip, frame * width, 0, width, height, 0, 0, width, height);
    this.ondraw(this.canvas);
  }

  clear() {
    clearInterval(this.clock);
    this.clock = undefined;
    this.strip?.close();
    this.strip = null;
    this.data = "";
    this.at = 0;
  }
}
