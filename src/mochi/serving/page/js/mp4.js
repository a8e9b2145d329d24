/**
 * The request inside a video that Mochi wrote (mochi/video/metadata.py): JSON in an envelope,
 * `{"mochi_request": {...}}`, kept as the file's comment. Read from mp4 boxes, GIF comments and
 * PNG text; any other file is searched for the envelope, because WebM keeps it as plain text too.
 * The file is somebody's upload: every length is checked, and nothing but JSON is read.
 */

const CONTAINERS = new Set(["moov", "udta", "meta", "ilst", "\u00a9cmt", "cmt "]);
const MAX_DEPTH = 8;
const ENVELOPE = '{"mochi_request"';

/**
 * @param {ArrayBuffer} buffer
 * @returns {Record<string, any> | null} the request; null where there is none
 */
export function readRequest(buffer) {
  const bytes = new Uint8Array(buffer);
  if (latin(bytes, 4, 8) === "ftyp") {
    for (const text of mp4Comments(bytes)) {
      const request = unpack(text);
      if (request) return request;
    }
  }
  return search(bytes);
}

/** @param {string} text @returns {Record<string, any> | null} */
function unpack(text) {
  try {
    const record = JSON.parse(text)?.mochi_request;
    // Beside the request, a record tells of the model and the machine.
    const request = record?.request ?? record;
    return request && typeof request === "object" && !Array.isArray(request) ? request : null;
  } catch {
    return null;
  }
}

/** @param {Uint8Array} bytes @param {number} from @param {number} to */
function latin(bytes, from, to) {
  return String.fromCharCode(...bytes.subarray(from, to));
}

/**
 * The texts of all `data` boxes below moov/udta/meta/ilst.
 *
 * @param {Uint8Array} bytes
 * @param {number} [start]
 * @param {number} [end]
 * @param {number} [depth]
 * @returns {Generator<string>}
 */
function* mp4Comments(bytes, start = 0, end = bytes.length, depth = 0) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start;
  while (at + 8 <= end && depth < MAX_DEPTH) {
    const name = latin(bytes, at + 4, at + 8);
    let size = view.getUint32(at);
    let header = 8;
    if (size === 1 && at + 16 <= end) {
      size = Number(view.getBigUint64(at + 8));
      header = 16;
    } else if (size === 0) {
      size = end - at;
    }
    if (size < header || at + size > end) return;
    if (name === "data" && size >= header + 8) {
      // Four bytes of type and four of locale stand before the text.
      yield new TextDecoder().decode(bytes.subarray(at + header + 8, at + size));
    } else if (CONTAINERS.has(name)) {
      // `meta` has four bytes of version and flags before its children.
      const inner = at + header + (name === "meta" ? 4 : 0);
      yield* mp4Comments(bytes, inner, at + size, depth + 1);
    }
    at += size;
  }
}

/** The envelope anywhere in the bytes: GIF, PNG and WebM keep it as it is. @param {Uint8Array} bytes */
function search(bytes) {
  const text = gifText(bytes) ?? new TextDecoder("latin1").decode(bytes);
  for (let at = text.indexOf(ENVELOPE); at >= 0; at = text.indexOf(ENVELOPE, at + 1)) {
    const request = unpack(text.slice(at, endOfObject(text, at)));
    if (request) return request;
  }
  return null;
}

/** A GIF cuts its comment into blocks of up to 255 bytes, each behind its length. */
/** @param {Uint8Array} bytes @returns {string | null} */
function gifText(bytes) {
  if (latin(bytes, 0, 4) !== "GIF8") return null;
  let text = "";
  for (let at = 0; at + 2 < bytes.length; at += 1) {
    if (bytes[at] !== 0x21 || bytes[at + 1] !== 0xfe) continue;
    let block = at + 2;
    while (block < bytes.length && bytes[block] !== 0) {
      text += latin(bytes, block + 1, block + 1 + bytes[block]);
      block += bytes[block] + 1;
    }
    if (text.includes(ENVELOPE)) return text;
  }
  return text;
}

/** Where the JSON object that begins at `start` ends. @param {string} text @param {number} start */
function endOfObject(text, start) {
  let depth = 0;
  let inString = false;
  for (let at = start; at < text.length; at += 1) {
    const letter = text[at];
    if (letter === "\\" && inString) at += 1;
    else if (letter === '"') inString = !inString;
    else if (!inString && letter === "{") depth += 1;
    else if (!inString && letter === "}" && (depth -= 1) === 0) return at + 1;
  }
  return text.length;
}
