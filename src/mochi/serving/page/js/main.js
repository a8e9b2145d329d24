/** The start: what the server offers, then the page that the address asks for. */

import { byId, fill, h, toast } from "./dom.js";
import { Api } from "./api.js";
import { takeFiles } from "./drop.js";
import { refusal } from "./failures.js";
import { Inputs } from "./inputs.js";
import { drawApi, drawExamples, drawReadme, drawVersions, shippedExamples } from "./pages.js";
import { drawServer, Playground } from "./playground.js";
import { Runs } from "./runs.js";
import { fieldsOf } from "./schema.js";
import { askForTokens, goTo, NoToken, Notifier, themeSwitch, whereAmI } from "./shell.js";
import { recall, remember } from "./storage.js";

const SERVER_EVERY = 4000;
const PAGES = ["playground", "examples", "api", "readme", "versions"];

const api = new Api(recall("token", null));
const runs = new Runs(api);
const inputs = new Inputs([]);
const notifier = new Notifier();

/** @type {any} */
let server = null;
/** @type {any} */
let model = null;
/** @type {any[]} */
let models = [];
/** @type {{examples: any[], machine: any}} */
let shipped = { examples: [], machine: null };

const nameOf = (/** @type {any} */ one) => `${one.owner}/${one.name}`;
const modelName = () => (model ? nameOf(model) : "");
const target = () => ({ origin: location.origin, model: modelName(), auth: Boolean(server?.auth) });
const runner = () => {
  const all = server?.runners ?? [];
  const one = all.find((/** @type {any} */ it) => it.model === modelName()) ?? all[0];
  return one ? { ...one, trouble: server.trouble } : null;
};

const playground = new Playground({
  api,
  runs,
  inputs,
  notifier,
  target,
  runner,
  version: modelName,
});

async function start() {
  themeSwitch();
  askForTokens(api);
  takeFiles((input, name) => {
    inputs.become(input, "file");
    goTo("");
    toast(`Settings restored from ${name}`);
  });
  for (const name of ["hashchange", "popstate"]) addEventListener(name, () => route());
  runs.addEventListener("away", () => drawServer(server, runs.isAway));
  byId("models").addEventListener("change", () => choose(byId("models").value));
  shipped = await shippedExamples().catch(() => shipped);
  drawExamples(byId("page-examples"), shipped.examples, shipped.machine, {
    open: (example) => goTo(`example/${example.id}`),
    tweak: (example) => playground.tweak(example),
  });
  await connect();
}

/** Ask the server for all it offers; ask again when it does not answer. */
async function connect() {
  const run = /** @type {HTMLButtonElement} */ (byId("run"));
  if (whereAmI().page === "shared") await route();
  run.disabled = !model; // until the form is there, a click would be lost
  try {
    await refresh();
    // Whoever was only handed a link sees the video, and is not asked for a token.
    if (server.auth && !api.token && whereAmI().page === "shared") {
      document.body.classList.add("is-guest");
      return;
    }
    if (server.auth && !api.token && whereAmI().page === "playground") showFirstExample();
    models = await api.models();
    drawModels();
    const wanted = models.find((one) => nameOf(one) === recall("model", null)) ?? models[0];
    await choose(nameOf(wanted));
    await runs.load();
    if (whereAmI().page === "playground") playground.example = null;
  } catch (error) {
    if (whereAmI().page !== "shared") showFirstExample();
    if (error instanceof NoToken) return drawSignIn();
    drawServer(null, true);
    byId("run-error").textContent = refusal(/** @type {any} */ (error));
    setTimeout(connect, SERVER_EVERY);
    return;
  } finally {
    run.disabled = false;
  }
  byId("run-error").textContent = "";
  await route();
  setInterval(() => !document.hidden && refresh().catch(() => undefined), SERVER_EVERY);
}

async function refresh() {
  try {
    server = await api.server();
    runs.away(false);
    playground.batch.limit = server.limits?.batch ?? playground.batch.limit;
    drawServer(server, false);
  } catch (error) {
    runs.away(true);
    throw error;
  }
}

/** Nothing is asked of the server until somebody has a token. */
function drawSignIn() {
  const onclick = () => connect();
  const button = h("button", { type: "button", class: "button small", onclick }, "Enter a token");
  byId("server").dataset.state = "away";
  fill(byId("server"), button);
}

function drawModels() {
  const place = byId("models");
  fill(
    place,
    models.map((one) => h("option", { value: nameOf(one) }, nameOf(one))),
  );
  byId("model-choice").hidden = models.length < 2;
}

/** @param {string} name */
async function choose(name) {
  model = await api.model(name);
  remember("model", name);
  byId("models").value = name;
  inputs.reshape(fieldsOf(model.latest_version?.openapi_schema));
  playground.showPresets(await api.presets(name).catch(() => []));
}

function showFirstExample() {
  if (!playground.shown && !playground.example && shipped.examples.length) {
    playground.showExample(shipped.examples[0]);
  }
}

async function route() {
  const { page, ids } = whereAmI();
  const isPage = PAGES.includes(page);
  const view = isPage ? page : page === "compare" ? "compare" : "playground";
  for (const name of [...PAGES, "compare"])
    byId(name === "compare" ? "compare" : `page-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const current =
      link.getAttribute("href") === `/#/${view === "playground" || view === "compare" ? "" : view}`;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view !== "compare") playground.compare.leave();
  try {
    await enter(page, ids);
  } catch (error) {
    toast(refusal(/** @type {any} */ (error)), "bad");
  }
}

/** @param {string} page @param {string[]} ids */
async function enter(page, ids) {
  if (page === "run") playground.show(await runs.fetch(ids[0]));
  else if (page === "shared") await enterShared(ids[0]);
  else if (page === "compare") await playground.showCompare(ids[0], ids[1]);
  else if (page === "example") {
    const example = shipped.examples.find((one) => one.id === ids[0]);
    if (example) playground.showExample(example);
  } else if (page === "api") drawApi(byId("page-api"), inputs.input(), target(), inputs.fields);
  else if (page === "readme" && model)
    drawReadme(byId("page-readme"), await api.readme(modelName()));
  else if (page === "versions" && model) {
    drawVersions(
      byId("page-versions"),
      model,
      await api.versions(modelName()),
      await api.runtimes(),
    );
  } else if (page === "playground" && !playground.shown && !playground.example) {
    playground.showSomething(shipped.examples);
  }
}

/** A link that was handed on; its owner may be looking at it too. @param {string} id */
async function enterShared(id) {
  if (playground.shown?.id === id) return;
  const found = await api.shared(id).catch(() => null);
  if (found) playground.show(found, true);
  else playground.show(await runs.fetch(id));
}

start();
