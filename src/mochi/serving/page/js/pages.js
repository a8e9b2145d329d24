/** The pages beside the playground: examples, API, readme, versions. */

import { copy, fill, h, icon } from "./dom.js";
import { ago, plain, seconds } from "./format.js";
import { pictureOf, playOnHover } from "./history.js";
import { markdown } from "./markdown.js";
import { curl, node, python } from "./snippets.js";
import { costOf } from "./stage.js";
import { snippet } from "./views.js";

const EXAMPLES = "/static/examples/";

/**
 * The clips that ship with the page: they need no model, no GPU and no run.
 *
 * @returns {Promise<{examples: any[], machine: any}>}
 */
export async function shippedExamples() {
  const response = await fetch(`${EXAMPLES}examples.json`);
  if (!response.ok) return { examples: [], machine: null };
  const { examples, machine } = await response.json();
  for (const example of examples) {
    example.src = EXAMPLES + example.output;
    example.poster = EXAMPLES + example.poster;
  }
  return { examples, machine };
}

/**
 * @param {HTMLElement} place
 * @param {any[]} examples
 * @param {any} machine
 * @param {{open: (example: any) => void, tweak: (example: any) => void}} acts
 */
export function drawExamples(place, examples, machine, acts) {
  const cards = examples.map((example) => {
    const card = h(
      "li",
      { class: "card" },
      h(
        "button",
        { type: "button", class: "card-face", onclick: () => acts.open(example) },
        pictureOf(example),
        h(
          "span",
          { class: "card-text" },
          h("span", { class: "card-prompt" }, example.input.prompt),
          h(
            "span",
            { class: "card-meta" },
            `seed ${example.input.seed} · ${seconds(example.metrics.predict_time)}`,
          ),
        ),
      ),
      h(
        "button",
        { type: "button", class: "button small card-tweak", onclick: () => acts.tweak(example) },
        icon("tweak"),
        "Tweak it",
      ),
    );
    playOnHover(card);
    return card;
  });
  const where = machine && measuredOn(machine);
  fill(
    place,
    h("h1", {}, "Examples"),
    h(
      "p",
      { class: "lead" },
      "Made by nano, the small model that comes with Mochi. Open one to watch it, or start from its settings.",
    ),
    h("ul", { class: "grid", "aria-label": "Examples" }, cards),
    where && h("p", { class: "quiet" }, where),
  );
}

/** @param {any} machine @returns {string} */
function measuredOn({ cores, processor, threads, versions, date }) {
  const used = threads === 1 ? "one thread" : `${threads} threads`;
  const where = `${cores} cores of an ${processor}, ${used}, torch ${versions.torch}`;
  return `Times were measured on ${where}, ${date}.`;
}

/**
 * @param {HTMLElement} place
 * @param {Record<string, any>} input
 * @param {import("./snippets.js").Target} target
 * @param {import("./schema.js").Field[]} fields
 */
export function drawApi(place, input, target, fields) {
  const given = { prompt: "a red circle moves left on a black background", ...input };
  const auth = target.auth
    ? h(
        "p",
        {},
        "This server wants a token: put yours into ",
        h("code", {}, "REPLICATE_API_TOKEN"),
        ".",
      )
    : h("p", {}, "This server takes requests from this machine without a token.");
  const live = `curl -N ${target.origin}/v1/predictions/ID/events`;
  fill(
    place,
    h("h1", {}, "API"),
    h(
      "p",
      { class: "lead" },
      "The same input as in the playground, as a request to ",
      h("code", {}, target.origin),
      ". Clients made for Replicate work unchanged.",
    ),
    auth,
    h("h2", {}, "curl"),
    snippet(curl(given, target), "curl"),
    h("h2", {}, "Python"),
    snippet(python(given, target), "Python"),
    h("h2", {}, "Node"),
    snippet(node(given, target), "Node"),
    h("h2", {}, "Progress and previews"),
    h(
      "p",
      {},
      "Server-sent events: the place in the queue, the phase, each step with the time that is left, pictures on the way.",
    ),
    snippet(
      target.auth ? `${live} \\\n  -H "Authorization: Bearer $REPLICATE_API_TOKEN"` : live,
      "curl for events",
    ),
    h("h2", {}, "Input"),
    h("div", { class: "table-scroll" }, inputTable(fields)),
    h("p", {}, "All routes: ", h("a", { href: "/openapi.json" }, "openapi.json"), "."),
  );
}

/** @param {import("./schema.js").Field[]} fields */
function inputTable(fields) {
  const rows = fields.map((field) => {
    const range = [field.minimum, field.maximum].map((end) => end ?? "");
    const rule = field.choices.length
      ? field.choices.join(", ")
      : range.join("") && range.join(" to ");
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, field.name)),
      h("td", {}, field.kind),
      h("td", {}, plain(field.default)),
      h("td", {}, rule),
      h("td", {}, field.description),
    );
  });
  const head = ["Field", "Kind", "Default", "Rule", ""].map((name) =>
    h("th", { scope: "col" }, name || h("span", { class: "visually-hidden" }, "Meaning")),
  );
  return h("table", { class: "table" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

/** @param {HTMLElement} place @param {string} text */
export function drawReadme(place, text) {
  const blocks = markdown(text);
  const hasTitle = blocks[0]?.tagName === "H2";
  const head = h("h1", {}, hasTitle ? blocks[0].textContent : "Readme");
  fill(place, head, h("div", { class: "prose" }, hasTitle ? blocks.slice(1) : blocks));
}

/**
 * @param {HTMLElement} place
 * @param {any} model
 * @param {any[]} versions
 * @param {any[]} runtimes
 */
export function drawVersions(place, model, versions, runtimes) {
  const name = `${model.owner}/${model.name}`;
  fill(
    place,
    h("h1", {}, "Versions"),
    h("p", { class: "lead" }, model.description ?? name),
    h(
      "ul",
      { class: "versions" },
      versions.map((version, index) => versionItem(name, version, index === 0)),
    ),
    h("h2", { id: "runtimes" }, "Run time and cost"),
    h("p", {}, "Measured on this machine, from runs that were done."),
    h("div", { class: "table-scroll" }, runtimeTable(runtimes)),
  );
}

/** @param {string} name @param {any} version @param {boolean} latest */
function versionItem(name, version, latest) {
  const id = `${name}:${version.id}`;
  return h(
    "li",
    { class: "version" },
    h("code", { title: id }, String(version.id).slice(0, 12)),
    latest && h("span", { class: "tag" }, "latest"),
    h("span", { class: "quiet" }, ago(version.created_at)),
    h(
      "button",
      {
        type: "button",
        class: "button small",
        "aria-label": `Copy the version ${String(version.id).slice(0, 12)}`,
        onclick: () => copy(id, "Version"),
      },
      icon("copy"),
      "Copy",
    ),
  );
}

/** @param {any[]} runtimes */
function runtimeTable(runtimes) {
  if (!runtimes.length)
    return h("p", { class: "quiet" }, "Nothing was measured yet: run something first.");
  const head = ["Model", "Size", "Frames", "Steps", "Runs", "Median", "p10 to p90", "Cost"];
  const rows = runtimes.map((one) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, one.model),
      [
        `${one.width}×${one.height}`,
        one.frames,
        one.steps,
        one.count,
        seconds(one.p50_seconds),
        `${seconds(one.p10_seconds)} to ${seconds(one.p90_seconds)}`,
        costOf(one.price) || "–",
      ].map((cell) => h("td", {}, cell)),
    ),
  );
  return h(
    "table",
    { class: "table" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        head.map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h("tbody", {}, rows),
  );
}
