/** What can be done with a finished run: tweak, download, share, compare, delete. */

import { h, icon, iconButton, toast, copy } from "./dom.js";
import { pathOf, videoOf } from "./api.js";
import { refusal } from "./failures.js";
import { isOver } from "./progress.js";

/** @typedef {import("./api.js").Prediction} Prediction */

/**
 * @typedef {object} Deeds
 * @property {(run: any) => void} tweak
 * @property {(run: Prediction) => void} compare
 * @property {(run: Prediction) => Promise<void>} remove
 * @property {(run: Prediction) => Promise<string>} share
 * @property {(run: Prediction) => Promise<void>} unshare
 * @property {() => Promise<Blob | null>} lastFrame
 */

/**
 * @param {any} run a prediction or an example
 * @param {Deeds} deeds
 * @param {{isExample?: boolean, mayChange?: boolean}} how
 * @returns {HTMLElement}
 */
export function actionBar(run, deeds, { isExample = false, mayChange = true }) {
  const video = run.src ?? videoOf(run);
  const kept = !isExample && mayChange;
  return h(
    "div",
    { class: "actions", role: "group", "aria-label": "What to do with this run" },
    h(
      "button",
      { type: "button", class: "button small", onclick: () => deeds.tweak(run) },
      icon("tweak"),
      "Tweak it",
    ),
    video && downloads(run, video, deeds),
    kept && video && iconButton("share", "Copy a link to share", () => share(run, deeds)),
    kept && video && run.shared && unshareButton(run, deeds),
    kept && video && iconButton("compare", "Compare with another run", () => deeds.compare(run)),
    kept && isOver(run) && deleteButton(run, deeds),
  );
}

/** @param {Prediction} run @param {Deeds} deeds */
async function share(run, deeds) {
  try {
    await copy(await deeds.share(run), "Link");
  } catch (error) {
    toast(refusal(/** @type {any} */ (error)), "bad");
  }
}

/** Whoever has the link sees nothing any more. @param {Prediction} run @param {Deeds} deeds */
function unshareButton(run, deeds) {
  const onclick = async () => {
    try {
      await deeds.unshare(run);
      toast("The link no longer works");
    } catch (error) {
      toast(refusal(/** @type {any} */ (error)), "bad");
    }
  };
  return h("button", { type: "button", class: "button small", onclick }, "Stop sharing");
}

/** The second press deletes; the question goes away by itself. */
/** @param {Prediction} run @param {Deeds} deeds */
export function deleteButton(run, deeds) {
  const button = iconButton("trash", "Delete", async () => {
    if (button.dataset.armed) {
      button.disabled = true;
      try {
        await deeds.remove(run);
        toast("Deleted");
      } catch (error) {
        button.disabled = false;
        toast(refusal(/** @type {any} */ (error)), "bad");
      }
      return;
    }
    button.dataset.armed = "yes";
    button.setAttribute("aria-label", "Press again to delete");
    button.append(h("span", { class: "sure" }, "Sure?"));
    setTimeout(() => {
      delete button.dataset.armed;
      button.setAttribute("aria-label", "Delete");
      button.querySelector(".sure")?.remove();
    }, 3000);
  });
  return button;
}

/** @param {any} run @param {string} video @param {Deeds} deeds */
function downloads(run, video, deeds) {
  const name = fileName(run);
  const link = (
    /** @type {string} */ address,
    /** @type {string} */ label,
    /** @type {string} */ ending,
  ) =>
    h(
      "a",
      { class: "menu-item", href: asAttachment(address), download: `${name}${ending}` },
      label,
    );
  const { variants } = run;
  const still = variants?.last_frame
    ? link(variants.last_frame, "Last frame (PNG)", "-last.png")
    : h(
        "button",
        { type: "button", class: "menu-item", onclick: () => saveFrame(deeds, name) },
        "Last frame (PNG)",
      );
  const items = [
    link(video, "Video (MP4)", ".mp4"),
    variants?.gif && link(variants.gif, "Animation (GIF)", ".gif"),
    still,
  ];
  const menu = h(
    "details",
    { class: "menu" },
    h("summary", { class: "button small" }, icon("download"), "Download"),
    h("div", { class: "menu-items" }, items),
  );
  menu.addEventListener("click", (event) => {
    if (/** @type {HTMLElement} */ (event.target).closest(".menu-item")) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    menu.open = false;
    menu.querySelector("summary")?.focus();
  });
  menu.addEventListener("focusout", (event) => {
    const to = /** @type {Node | null} */ (event.relatedTarget);
    if (to && !menu.contains(to)) menu.open = false;
  });
  return menu;
}

/** @param {Deeds} deeds @param {string} name */
async function saveFrame(deeds, name) {
  const blob = await deeds.lastFrame();
  if (!blob) return;
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: `${name}-last.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A signed address is sent for saving when it is asked to be. @param {string} address */
function asAttachment(address) {
  const path = pathOf(address);
  if (!path.startsWith("/v1/")) return path;
  return `${path}${path.includes("?") ? "&" : "?"}attachment=1`;
}

/** @param {any} run */
export function fileName(run) {
  const words = String(run.input?.prompt ?? "video")
    .toLowerCase()
    .match(/[a-z0-9]+/g) ?? ["video"];
  const seed = run.input?.seed === undefined ? "" : `-${run.input.seed}`;
  return words.slice(0, 8).join("-").slice(0, 60) + seed;
}
