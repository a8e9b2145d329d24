/** The playground: puts its parts together and says what happens when. */

import { byId, fill, h, toast } from "./dom.js";
import { pathOf, Problem } from "./api.js";
import { actionBar } from "./actions.js";
import { Batch } from "./batch.js";
import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { refusal, smaller } from "./failures.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { Presets } from "./presets.js";
import { isOver } from "./progress.js";
import { goTo } from "./shell.js";
import { Stage } from "./stage.js";
import { recall, remember } from "./storage.js";
import { Views } from "./views.js";

/**
 * @typedef {import("./api.js").Prediction} Prediction
 *
 * @typedef {object} World
 * @property {import("./api.js").Api} api
 * @property {import("./runs.js").Runs} runs
 * @property {import("./inputs.js").Inputs} inputs
 * @property {import("./shell.js").Notifier} notifier
 * @property {() => import("./snippets.js").Target} target
 * @property {() => string} version
 * @property {() => any} runner
 */

export class Playground {
  /** @param {World} world */
  constructor(world) {
    this.world = world;
    const { api, runs, inputs } = world;
    /** @type {Prediction | null} what is on the stage */
    this.shown = null;
    /** @type {any} */
    this.example = null;
    /** Whether the shown run is somebody else's, handed on as a link. */
    this.shared = false;
    /** The log as it stands on the page. @type {string} */
    this.logsOf = "";
    this.busy = false;
    this.stage = new Stage(byId("stage"), {
      oncancel: () => this.cancel(),
      onretry: (less) => this.retry(less),
    });
    this.form = new Form(byId("input-panel"), inputs);
    this.views = new Views(
      byId("views"),
      byId("input-panel"),
      byId("code-panel"),
      inputs,
      world.target,
    );
    this.composer = new Composer(inputs, api, world.version);
    this.presets = new Presets(byId("presets"), inputs);
    this.batch = new Batch(inputs, (label, count) => {
      byId("run-label").textContent = label;
      this.composer.many(count);
    });
    this.history = new History(byId("history"), runs, {
      open: (run) => goTo(`run/${run.id}`),
      tweak: (run) => this.tweak(run),
      compare: (a, b) => goTo(`compare/${a.id}/${b.id}`),
    });
    this.compare = new Compare(byId("compare"), () =>
      goTo(this.shown ? `run/${this.shown.id}` : ""),
    );
    this.listen();
  }

  listen() {
    const { runs } = this.world;
    byId("composer").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.run();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.run();
      } else if (event.key === "Escape" && this.history.picked) {
        this.history.pick(null);
      }
    });
    runs.addEventListener("run", (event) => {
      const { id } = /** @type {CustomEvent} */ (event).detail;
      if (id === this.shown?.id) this.draw();
    });
    runs.addEventListener("list", () => {
      if (this.shown && !this.shared) this.draw();
    });
    runs.addEventListener("away", () => this.shown && this.draw());
    const previews = /** @type {HTMLInputElement} */ (byId("previews"));
    previews.checked = recall("previews", true);
    runs.previews = previews.checked;
    previews.addEventListener("change", () => {
      remember("previews", previews.checked);
      runs.showPreviews(previews.checked);
    });
  }

  /** @param {Prediction} run */
  show(run, shared = false) {
    const { runs } = this.world;
    this.example = null;
    this.shared = shared;
    this.shown = run;
    this.logsOf = "";
    this.history.show(run.id);
    if (!shared) {
      runs.follow(run.id);
      remember("shown", run.id);
    }
    this.draw();
  }

  /** @param {any} example */
  showExample(example) {
    this.shown = null;
    this.example = example;
    this.shared = false;
    this.history.show(null);
    this.world.runs.follow(null);
    this.stage.showExample(example);
    byId("caption").textContent = example.input.prompt;
    fill(byId("actions"), actionBar(example, this.deeds(), { isExample: true }));
    byId("logs").hidden = true;
  }

  /** The run that was shown last, the newest one that goes on, or an example. @param {any[]} examples */
  showSomething(examples) {
    const { list } = this.world.runs;
    const going = list.find((run) => !isOver(run));
    const last = list.find((run) => run.id === recall("shown", null));
    const run = going ?? last ?? list[0];
    if (run) this.show(run);
    else if (examples.length) this.showExample(examples[0]);
  }

  draw() {
    const { runs, runner } = this.world;
    if (!this.shown) return;
    const run = this.shared ? this.shown : runs.find(this.shown.id);
    if (!run) return this.gone();
    const ended = !isOver(this.shown) && isOver(run);
    this.shown = { ...run };
    const progress = runs.progress(run.id);
    this.stage.show({ run, progress, runner: runner(), away: runs.isAway });
    byId("caption").textContent = run.input.prompt ?? "";
    this.drawLogs(run, progress.logs);
    const key = [run.id, run.status, Boolean(run.output), Boolean(run.variants), run.shared].join();
    const actions = byId("actions");
    if (actions.dataset.key !== key || !actions.children.length) {
      actions.dataset.key = key;
      fill(actions, actionBar(run, this.deeds(), { mayChange: !this.shared }));
    }
    if (ended) this.ended(run);
  }

  /** One more run was measured: estimates know more. @param {Prediction} run */
  ended(run) {
    this.world.notifier.done(run);
    this.composer.ask();
    this.world.api.presets(this.world.version()).then(
      (list) => this.presets.show(list),
      () => undefined,
    );
  }

  /** The run on the stage was deleted. */
  gone() {
    this.shown = null;
    fill(byId("actions"));
    byId("actions").dataset.key = "";
    byId("caption").textContent = "";
    byId("logs").hidden = true;
    this.stage.showWords("Deleted", "Every copy of this run is gone.");
    remember("shown", null);
  }

  /** @param {Prediction} run @param {string[]} live */
  drawLogs(run, live) {
    const text = logOf(run, live);
    const box = byId("logs");
    box.hidden = !text;
    const pre = byId("log-lines");
    if (this.logsOf === text) return;
    const follows = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
    this.logsOf = text;
    pre.textContent = text;
    if (follows) pre.scrollTop = pre.scrollHeight;
  }

  /** @returns {import("./actions.js").Deeds} */
  deeds() {
    const { runs } = this.world;
    return {
      tweak: (run) => this.tweak(run),
      compare: (run) => this.history.pick(run.id),
      remove: (run) => runs.remove(run.id),
      share: async (run) => new URL(pathOf(await runs.share(run.id)), location.href).href,
      unshare: (run) => runs.unshare(run.id),
      lastFrame: () => this.stage.player.lastFrame(),
    };
  }

  async run() {
    const { inputs, runs, version } = this.world;
    const batch = this.batch.all();
    if (this.busy) return;
    if (!version()) return toast("One moment: the server has not answered yet", "bad");
    if (batch && !batch.length) return toast("Write a prompt a line first", "bad");
    this.composer.check();
    const asked = Object.keys(inputs.errors()).filter(
      (name) => !(this.batch.mode === "prompts" && name === "prompt"),
    );
    if (asked.length && this.form.showErrors()) return;
    this.working(true);
    try {
      const made = batch
        ? await runs.startBatch(version(), batch)
        : [await runs.start(version(), inputs.input())];
      const first = made[0];
      if (!inputs.seedLocked && first.input.seed !== undefined)
        inputs.put("seed", first.input.seed, "drawn");
      goTo(`run/${first.id}`);
      byId("stage").scrollIntoView({ block: "nearest" });
      if (batch) toast(`${made.length} runs are in the queue`);
    } catch (error) {
      this.refused(error);
    } finally {
      this.working(false);
    }
  }

  /** @param {unknown} error */
  refused(error) {
    if (!(error instanceof Problem)) return;
    const rest = this.world.inputs.blame(error.fields);
    const placed = error.fields.length > rest.length;
    if (placed) this.form.showErrors();
    const words = [placed ? "" : refusal(error), ...rest].filter(Boolean).join(" ");
    if (words) toast(words, "bad");
    byId("run-error").textContent = words;
  }

  /** @param {boolean} busy */
  working(busy) {
    this.busy = busy;
    byId("run").setAttribute("aria-busy", String(busy));
    if (busy) byId("run-error").textContent = "";
  }

  async cancel() {
    if (!this.shown) return;
    try {
      await this.world.runs.cancel(this.shown.id);
    } catch (error) {
      this.refused(error);
    }
  }

  /** @param {boolean} less */
  retry(less) {
    if (!this.shown) return;
    const { inputs } = this.world;
    const { input } = this.shown;
    inputs.become(less ? smaller(input, inputs.fields) : input, "retry");
    this.run();
  }

  /** Start from the settings of a run, an example or a file. @param {any} run */
  tweak(run) {
    this.world.inputs.become(run.input, "tweak");
    if (location.hash.startsWith("#/examples") || this.shared) goTo("");
    const prompt = byId("prompt");
    prompt.focus();
    prompt.setSelectionRange(prompt.value.length, prompt.value.length);
    toast("These settings are in the form now, seed locked");
  }

  /** @param {string} a @param {string} b */
  async showCompare(a, b) {
    const { runs } = this.world;
    this.compare.show(await runs.fetch(a), await runs.fetch(b));
  }

  /** @param {any[]} presets */
  showPresets(presets) {
    this.presets.show(presets);
  }
}

/**
 * The whole log: what was said when the run was made (the seed, what was snapped), then what its
 * events say; once it is over, as the server keeps it.
 *
 * @param {Prediction} run
 * @param {string[]} live
 */
function logOf(run, live) {
  const kept = (run.logs ?? "").split("\n").filter(Boolean);
  const lines = isOver(run) ? [] : live;
  return [...kept, ...lines.filter((line) => !kept.includes(line))].join("\n");
}

/** The server's state, in the head of the page. @param {any} server @param {boolean} away */
export function drawServer(server, away) {
  const place = byId("server");
  const runner = server?.runners?.[0];
  const found = away || !server ? "away" : (runner?.state ?? "starting");
  const state = found === "idle" && server.trouble ? "stuck" : found;
  const waiting = server?.queue?.waiting ?? 0;
  /** @type {Record<string, string>} */
  const words = {
    away: "Server away",
    starting: "Loading the model",
    idle: "Ready",
    busy: waiting ? `Busy, ${waiting} waiting` : "Busy",
    failed: `Cannot start: ${runner?.reason ?? "see the server's log"}`,
    stuck: `Waiting: ${server?.trouble}`,
  };
  const device = runner?.device && runner.device !== "auto" ? ` on ${runner.device}` : "";
  const said = `${words[state]}${device}`;
  place.dataset.state = state;
  place.title = runner?.reason ?? "";
  if (place.textContent === said) return; // said once is enough, for those who listen
  const where = state !== "away" && h("span", { class: "quiet wide" }, device);
  fill(place, h("i", { class: "dot" }), words[state], where);
}
