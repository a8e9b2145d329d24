/**
 * Markdown as elements: headings, paragraphs, lists, tables, code, links, emphasis. Raw HTML stays
 * text, and a link goes to http, https or this page alone.
 */

import { h } from "./dom.js";

/** @typedef {import("./dom.js").Child} Child */

/** @param {string} text @returns {HTMLElement[]} */
export function markdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  /** @type {HTMLElement[]} */
  const blocks = [];
  let at = 0;
  // A model's card may begin with settings between lines of dashes.
  if (lines[0] === "---") at = Math.max(0, lines.indexOf("---", 1) + 1);
  while (at < lines.length) {
    if (!lines[at].trim()) at += 1;
    else at = block(lines, at, blocks);
  }
  return blocks;
}

/** @param {string[]} lines @param {number} at @param {HTMLElement[]} blocks @returns {number} */
function block(lines, at, blocks) {
  const line = lines[at];
  const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
  if (heading) {
    const level = /** @type {"h2"} */ (`h${Math.min(6, heading[1].length + 1)}`);
    blocks.push(h(level, {}, inline(heading[2])));
    return at + 1;
  }
  if (/^(```|~~~)/.test(line)) return fence(lines, at, blocks);
  if (/^( {4}|\t)/.test(line))
    return run(lines, at, /^( {4}|\t)|^\s*$/, (some) =>
      blocks.push(
        code(
          some
            .map((one) => one.replace(/^( {4}|\t)/, ""))
            .join("\n")
            .trimEnd(),
        ),
      ),
    );
  if (line.includes("|") && /^[\s|:-]+$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("-"))
    return table(lines, at, blocks);
  if (/^\s*([-*+]|\d+[.)])\s+/.test(line)) return list(lines, at, blocks);
  if (/^>/.test(line))
    return run(lines, at, /^>/, (some) =>
      blocks.push(
        h("blockquote", {}, markdown(some.map((one) => one.replace(/^> ?/, "")).join("\n"))),
      ),
    );
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
    blocks.push(h("hr"));
    return at + 1;
  }
  let end = at + 1;
  while (
    end < lines.length &&
    lines[end].trim() &&
    !/^(#{1,6}\s|```|~~~|>|\s*[-*+]\s)/.test(lines[end])
  )
    end += 1;
  blocks.push(h("p", {}, inline(lines.slice(at, end).join(" "))));
  return end;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExp} while_
 * @param {(some: string[]) => void} take
 */
function run(lines, at, while_, take) {
  let end = at;
  while (end < lines.length && while_.test(lines[end])) end += 1;
  take(lines.slice(at, end));
  return end;
}

/** @param {string} text */
function code(text) {
  return h("pre", { class: "code", tabindex: 0 }, text);
}

/** @param {string[]} lines @param {number} at @param {HTMLElement[]} blocks */
function fence(lines, at, blocks) {
  const mark = lines[at].slice(0, 3);
  let end = at + 1;
  while (end < lines.length && !lines[end].startsWith(mark)) end += 1;
  blocks.push(code(lines.slice(at + 1, end).join("\n")));
  return end + 1;
}

/** @param {string[]} lines @param {number} at @param {HTMLElement[]} blocks */
function table(lines, at, blocks) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const cells = (/** @type {string} */ line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => cell.trim());
  const head = h(
    "tr",
    {},
    cells(lines[at]).map((cell) => h("th", { scope: "col" }, inline(cell))),
  );
  const rows = lines.slice(at + 2, end).map((line) =>
    h(
      "tr",
      {},
      cells(line).map((cell) => h("td", {}, inline(cell))),
    ),
  );
  const inner = h("table", { class: "table" }, h("thead", {}, head), h("tbody", {}, rows));
  blocks.push(h("div", { class: "table-scroll" }, inner));
  return end;
}

/** @param {string[]} lines @param {number} at @param {HTMLElement[]} blocks */
function list(lines, at, blocks) {
  const ordered = /^\s*\d/.test(lines[at]);
  /** @type {string[]} */
  const items = [];
  let end = at;
  while (end < lines.length && lines[end].trim()) {
    const item = /^\s*(?:[-*+]|\d+[.)])\s+(.*)$/.exec(lines[end]);
    if (item) items.push(item[1]);
    else items[items.length - 1] += ` ${lines[end].trim()}`;
    end += 1;
  }
  blocks.push(
    h(
      ordered ? "ol" : "ul",
      {},
      items.map((item) => h("li", {}, inline(item))),
    ),
  );
  return end;
}

const INLINE =
  /`([^`]+)`|!\[([^\]]*)\]\([^)]*\)|\[([^\]]+)\]\(([^)\s]+)\)|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*/;

/** @param {string} text @returns {Child[]} */
function inline(text) {
  const match = INLINE.exec(text);
  if (!match) return [text];
  const [whole, mono, picture, words, link, strong, soft] = match;
  /** @type {Child} */
  let node = h("em", {}, soft);
  if (mono !== undefined) node = h("code", {}, mono);
  else if (picture !== undefined) node = picture;
  else if (strong !== undefined) node = h("strong", {}, inline(strong));
  else if (words !== undefined) {
    const safe = /^(https?:\/\/|#)/.test(link);
    node = safe ? h("a", { href: link, rel: "noopener noreferrer" }, words) : words;
  }
  return [text.slice(0, match.index), node, ...inline(text.slice(match.index + whole.length))];
}
