/**
 * Server-sent events over fetch, because EventSource cannot send a token.
 *
 * @typedef {object} ServerEvent
 * @property {string} event
 * @property {string} data
 * @property {string} id
 */

/** Cuts a stream of text into events, however its chunks fall. */
export class EventParser {
  constructor() {
    this.rest = "";
    this.event = "message";
    /** @type {string[]} */
    this.data = [];
    this.id = "";
  }

  clear() {
    this.event = "message";
    this.data = [];
    this.id = "";
  }

  /**
   * @param {string} text the next chunk
   * @returns {ServerEvent[]}
   */
  push(text) {
    /** @type {ServerEvent[]} */
    const found = [];
    // A carriage return at the end may be half of a line break; it waits for the next chunk.
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") this.take(line);
      else if (this.data.length || this.event !== "message") {
        found.push({ event: this.event, data: this.data.join("\n"), id: this.id });
        this.clear();
      }
    }
    return found;
  }

  /** @param {string} line */
  take(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the server keeps the line open
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.event = value;
    else if (name === "data") this.data.push(value);
    else if (name === "id") this.id = value;
  }
}

/**
 * Each event of a response, until it ends.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* events(response) {
  if (!response.body) return;
  const parser = new EventParser();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
