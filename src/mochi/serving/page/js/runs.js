/**
 * All runs this page knows of. The server keeps them, so a reload or a restart of either loses
 * nothing: the list is asked for again, and a run in the middle is followed from where it was.
 *
 * One run at a time is followed event by event (browsers allow six connections to a host); others
 * that are not over are asked after every two seconds.
 *
 * Emits `list` (another run, or one less), `run` (`detail.id` changed) and `away` (`detail.away`).
 */

import { Problem, wait } from "./api.js";
import { advance, isOver, nothingYet } from "./progress.js";
import { events } from "./sse.js";

/**
 * @typedef {import("./api.js").Prediction} Prediction
 * @typedef {import("./progress.js").Progress} Progress
 */

const POLL = 2000;
const FIRST_PAUSE = 400;
const LONGEST_PAUSE = 4000;

export class Runs extends EventTarget {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
    /** @type {Prediction[]} newest first */
    this.list = [];
    /** @type {Map<string, Progress>} */
    this.progresses = new Map();
    /** @type {string | null} the address of the next page */
    this.next = null;
    this.previews = true;
    this.isAway = false;
    /** @type {{id: string, control: AbortController} | null} */
    this.following = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.poll = undefined;
  }

  /** @param {string} id @returns {Prediction | undefined} */
  find(id) {
    return this.list.find((run) => run.id === id);
  }

  /** @param {string} id @returns {Progress} */
  progress(id) {
    return this.progresses.get(id) ?? nothingYet();
  }

  async load() {
    const page = await this.api.predictions();
    const seen = new Set(page.results.map((/** @type {Prediction} */ run) => run.id));
    const older = this.list.filter((run) => !seen.has(run.id));
    const oldest = page.results.at(-1)?.created_at ?? "";
    // What is newer than the page's oldest and not on the page has been deleted elsewhere.
    this.list = [...page.results, ...older.filter((run) => run.created_at < oldest)];
    if (!older.length) this.next = page.next;
    this.say("list");
    this.watch();
  }

  async more() {
    if (!this.next) return;
    const page = await this.api.predictions(this.next);
    const known = new Set(this.list.map((run) => run.id));
    this.list.push(...page.results.filter((/** @type {Prediction} */ run) => !known.has(run.id)));
    this.next = page.next;
    this.say("list");
  }

  /** The run with this id, wherever it is kept. @param {string} id @returns {Promise<Prediction>} */
  async fetch(id) {
    return this.find(id) ?? this.keep(await this.api.prediction(id));
  }

  /** @param {Prediction} run */
  keep(run) {
    const at = this.list.findIndex((one) => one.id === run.id);
    if (at >= 0) {
      this.list[at] = run;
      this.say("run", { id: run.id });
    } else {
      this.list.push(run);
      this.list.sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
      this.say("list");
    }
    return run;
  }

  /** @param {string} version @param {Record<string, any>} input */
  async start(version, input) {
    const run = this.keep(await this.api.create(version, input));
    this.watch();
    return run;
  }

  /** @param {string} version @param {Record<string, any>[]} inputs */
  async startBatch(version, inputs) {
    const runs = await this.api.createBatch(version, inputs);
    for (const run of runs) this.keep(run);
    this.watch();
    return runs;
  }

  /** @param {string} id */
  async cancel(id) {
    this.keep(await this.api.cancel(id));
  }

  /** @param {string} id */
  async remove(id) {
    await this.api.remove(id);
    this.forget(id);
  }

  /** @param {string} id @returns {Promise<string>} the address to hand on */
  async share(id) {
    const address = await this.api.share(id);
    this.keep(await this.api.prediction(id));
    return address;
  }

  /** @param {string} id */
  async unshare(id) {
    await this.api.unshare(id);
    this.keep(await this.api.prediction(id));
  }

  /** @param {string} id */
  forget(id) {
    this.list = this.list.filter((run) => run.id !== id);
    this.progresses.delete(id);
    this.say("list");
  }

  /** Follow this run, and no other. @param {string | null} id */
  follow(id) {
    if (this.following?.id === id) return;
    this.following?.control.abort();
    this.following = null;
    const run = id ? this.find(id) : undefined;
    if (!run || isOver(run)) return;
    const control = new AbortController();
    this.following = { id: run.id, control };
    this.listen(run.id, control.signal).catch(() => undefined);
  }

  /** @param {boolean} on */
  showPreviews(on) {
    this.previews = on;
    const id = this.following?.id;
    if (!id) return;
    this.follow(null);
    this.follow(id);
  }

  /** @param {string} id @param {AbortSignal} signal */
  async listen(id, signal) {
    let pause = FIRST_PAUSE;
    while (!signal.aborted) {
      try {
        if (await this.readEvents(id, signal)) break;
        pause = FIRST_PAUSE;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Problem && error.status === 404) return this.forget(id);
        this.away(true);
      }
      await wait(pause);
      pause = Math.min(LONGEST_PAUSE, pause * 1.6);
    }
    if (this.following?.id === id) this.following = null;
  }

  /** @param {string} id @param {AbortSignal} signal @returns {Promise<boolean>} whether it is over */
  async readEvents(id, signal) {
    const { lastId } = this.progress(id);
    const response = await this.api.events(id, { lastId, previews: this.previews, signal });
    this.away(false);
    for await (const { event, data, id: eventId } of events(response)) {
      if (signal.aborted) return true;
      this.take(id, event, JSON.parse(data), eventId);
      if (event === "done") break;
    }
    if (signal.aborted) return true;
    return isOver(this.keep(await this.api.prediction(id)));
  }

  /** @param {string} id @param {string} event @param {any} data @param {string} eventId */
  take(id, event, data, eventId) {
    const before = this.progress(id);
    const progress = advance(before, event, data);
    this.progresses.set(id, { ...progress, lastId: eventId || before.lastId });
    const run = this.find(id);
    if (run && event === "phase") run.status = "processing";
    if (run && event === "retry") run.status = "starting";
    this.say("run", { id });
  }

  /** @param {boolean} away */
  away(away) {
    if (this.isAway === away) return;
    this.isAway = away;
    this.say("away", { away });
  }

  /** Ask after the runs that are not over, as long as there are any. */
  watch() {
    clearTimeout(this.poll);
    if (!this.list.some((run) => !isOver(run))) return;
    this.poll = setTimeout(async () => {
      const open = this.list.filter((run) => !isOver(run) && run.id !== this.following?.id);
      try {
        if (open.length) await this.load();
        if (open.length) this.away(false);
      } catch {
        this.away(true);
      }
      this.watch();
    }, POLL);
  }

  /** @param {string} type @param {any} [detail] */
  say(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
