/** Settings out of a video that is dropped on the page, pasted, or chosen. It is not uploaded. */

import { byId, toast } from "./dom.js";
import { readRequest } from "./mp4.js";

const MOST_BYTES = 512 * 2 ** 20;

/** @param {(input: Record<string, any>, name: string) => void} onrequest */
export function takeFiles(onrequest) {
  const cover = byId("drop");
  const chooser = /** @type {HTMLInputElement} */ (byId("restore-file"));
  let depth = 0;

  /** @param {DragEvent} event */
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

  addEventListener("dragenter", (event) => {
    if (hasFile(event)) cover.hidden = ++depth < 1;
  });
  addEventListener("dragleave", (event) => {
    if (hasFile(event)) cover.hidden = --depth < 1;
  });
  addEventListener("dragover", (event) => {
    if (hasFile(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    cover.hidden = true;
    take(event.dataTransfer?.files[0]);
  });
  byId("restore").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    take(chooser.files?.[0]);
    chooser.value = "";
  });

  /** @param {File | undefined} file */
  async function take(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) return toast(`${file.name} is too large to look into`, "bad");
    const request = readRequest(await file.arrayBuffer());
    if (request) onrequest(request, file.name);
    else toast(`${file.name} holds no settings of Mochi`, "bad");
  }
}
