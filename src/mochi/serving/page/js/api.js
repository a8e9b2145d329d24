/**
 * The server's routes (docs/serving.md), and nothing else: no element is touched here.
 *
 * @typedef {"starting" | "processing" | "succeeded" | "failed" | "canceled"} Status
 *
 * @typedef {Record<string, any>} Input
 *
 * @typedef {object} Prediction
 * @property {string} id
 * @property {string} model
 * @property {string} [version]
 * @property {Status} status
 * @property {Input} input
 * @property {string | string[] | null} output
 * @property {Record<string, string> | null} [variants]
 * @property {string | null} [error]
 * @property {string} [logs]
 * @property {string | null} [batch]
 * @property {boolean} [shared]
 * @property {string} created_at
 * @property {string | null} [started_at]
 * @property {string | null} [completed_at]
 * @property {Record<string, any>} [metrics]
 *
 * @typedef {{field: string, description: string, nearest?: string}} InvalidField
 */

/** What the server refused, in its own words; `status` 0 means it did not answer. */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   * @param {InvalidField[]} [fields]
   * @param {number | null} [retryAfter] seconds
   */
  constructor(status, detail, fields = [], retryAfter = null) {
    super(detail);
    this.status = status;
    this.fields = fields;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  /** @param {string | null} token */
  constructor(token) {
    this.token = token;
    /** Called when the server wants a token; resolves once there is a new one. */
    /** @type {(wrong: boolean) => Promise<void>} */
    this.onTokenNeeded = () => Promise.reject(new Problem(401, "a token is needed"));
  }

  /**
   * One request; asks for a token and repeats it when the server wants one.
   *
   * @param {string} method
   * @param {string} path
   * @param {{body?: unknown, headers?: Record<string, string>, signal?: AbortSignal}} [more]
   * @returns {Promise<Response>}
   */
  async send(method, path, { body, headers = {}, signal } = {}) {
    const given = { ...headers };
    const { token } = this;
    if (token) given.Authorization = `Bearer ${token}`;
    if (body !== undefined) given["Content-Type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await answer(path, { method, headers: given, body: text, signal });
    if (response.status === 401) {
      // Another request may have been given a new token meanwhile.
      if (this.token === token) await this.onTokenNeeded(Boolean(token));
      return this.send(method, path, { body, headers, signal });
    }
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  /** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
  async get(path, signal) {
    return (await this.send("GET", path, { signal })).json();
  }

  server() {
    return this.get("/v1/server");
  }

  /** @returns {Promise<any[]>} */
  async models() {
    return (await this.get("/v1/models")).results;
  }

  /** @param {string} model `owner/name` @returns {Promise<any>} */
  model(model) {
    return this.get(`/v1/models/${model}`);
  }

  /** @param {string} model @returns {Promise<any[]>} */
  async versions(model) {
    return (await this.get(`/v1/models/${model}/versions`)).results;
  }

  /** @param {string} model @returns {Promise<string>} */
  async readme(model) {
    return (await this.send("GET", `/v1/models/${model}/readme`)).text();
  }

  /** @param {string} model @returns {Promise<any[]>} */
  async presets(model) {
    return (await this.get(`/v1/presets?model=${encodeURIComponent(model)}`)).results;
  }

  /** @returns {Promise<any[]>} */
  async runtimes() {
    return (await this.get("/v1/runtimes")).results;
  }

  /** @param {string} version @param {Input} input @param {AbortSignal} signal */
  async estimate(version, input, signal) {
    const body = { version, input };
    return (await this.send("POST", "/v1/estimates", { body, signal })).json();
  }

  /** @param {string} version @param {string} prompt @param {AbortSignal} signal */
  async countTokens(version, prompt, signal) {
    const body = { version, prompt };
    return (await this.send("POST", "/v1/count-tokens", { body, signal })).json();
  }

  /** @param {string | null} [next] the address of a further page */
  predictions(next = null) {
    return this.get(next ? pathOf(next) : "/v1/predictions?limit=24");
  }

  /** @param {string} id @returns {Promise<Prediction>} */
  prediction(id) {
    return this.get(`/v1/predictions/${encodeURIComponent(id)}`);
  }

  /** @param {string} id @returns {Promise<Prediction>} */
  shared(id) {
    return this.get(`/v1/shared/${encodeURIComponent(id)}`);
  }

  /**
   * The same key makes a repeat find the first run, so a lost answer never makes two.
   *
   * @param {string} version
   * @param {Input} input
   * @returns {Promise<Prediction>}
   */
  async create(version, input) {
    return this.post("/v1/predictions", { version, input });
  }

  /** @param {string} version @param {Input[]} inputs @returns {Promise<Prediction[]>} */
  async createBatch(version, inputs) {
    return (await this.post("/v1/predictions/batch", { version, inputs })).predictions;
  }

  /** @param {string} path @param {unknown} body @returns {Promise<any>} */
  async post(path, body) {
    const headers = { "Idempotency-Key": randomKey() };
    try {
      return await (await this.send("POST", path, { body, headers })).json();
    } catch (error) {
      if (!(error instanceof Problem) || ![0, 503].includes(error.status)) throw error;
      await wait(800);
      return (await this.send("POST", path, { body, headers })).json();
    }
  }

  /** @param {string} id @returns {Promise<Prediction>} */
  async cancel(id) {
    return (await this.send("POST", `/v1/predictions/${encodeURIComponent(id)}/cancel`)).json();
  }

  /** @param {string} id */
  async remove(id) {
    await this.send("DELETE", `/v1/predictions/${encodeURIComponent(id)}`);
  }

  /** @param {string} id @returns {Promise<string>} the address to hand on */
  async share(id) {
    const path = `/v1/predictions/${encodeURIComponent(id)}/share`;
    return (await (await this.send("PUT", path)).json()).url;
  }

  /** @param {string} id */
  async unshare(id) {
    await this.send("DELETE", `/v1/predictions/${encodeURIComponent(id)}/share`);
  }

  /**
   * The events of a run, from behind the one that was seen last.
   *
   * @param {string} id
   * @param {{lastId: string, previews: boolean, signal: AbortSignal}} how
   */
  events(id, { lastId, previews, signal }) {
    const query = previews ? "" : "?previews=0";
    /** @type {Record<string, string>} */
    const headers = { Accept: "text/event-stream" };
    if (lastId) headers["Last-Event-ID"] = lastId;
    const path = `/v1/predictions/${encodeURIComponent(id)}/events${query}`;
    return this.send("GET", path, { headers, signal });
  }
}

/** @param {string} path @param {RequestInit} init @returns {Promise<Response>} */
async function answer(path, init) {
  try {
    return await fetch(path, { ...init, cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.");
  }
}

/** @param {Response} response @returns {Promise<Problem>} */
async function problemOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  /** @type {any} */
  let body = {};
  try {
    body = await response.json();
  } catch {
    // No problem+json: a proxy's page, say. The status has to do.
  }
  const detail = typeof body.detail === "string" ? body.detail : body.title;
  const fields = Array.isArray(body.invalid_fields) ? body.invalid_fields : [];
  return new Problem(
    response.status,
    detail || `The server answered ${response.status}.`,
    fields,
    retryAfter,
  );
}

/** The server's addresses may name its public host; the page stays on the one it came from. */
/** @param {string} address @returns {string} */
export function pathOf(address) {
  const url = new URL(address, location.href);
  return url.pathname + url.search;
}

/** The video of a run as an address on this host. @param {Prediction} run */
export function videoOf(run) {
  const output = Array.isArray(run.output) ? run.output[0] : run.output;
  return output ? pathOf(output) : null;
}

/** @param {number} milliseconds @returns {Promise<void>} */
export function wait(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

/** Plain http pages have no randomUUID. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
