/** Numbers and times in words that people read. */

/**
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) {
    const whole = Math.round(value);
    const minutes = Math.floor(whole / 60);
    const rest = whole % 60;
    return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
  }
  return `${(value / 3600).toFixed(1)} h`;
}

/**
 * @param {number | null | undefined} amount
 * @param {string} [currency]
 * @returns {string}
 */
export function money(amount, currency = "USD") {
  if (amount === null || amount === undefined || !Number.isFinite(amount)) return "";
  const digits = amount >= 0.1 || amount === 0 ? 2 : amount >= 0.001 ? 4 : 6;
  try {
    const shape = { style: "currency", currency, maximumFractionDigits: digits };
    return new Intl.NumberFormat("en", /** @type {any} */ (shape)).format(amount);
  } catch {
    return `${amount.toFixed(digits)} ${currency}`;
  }
}

/**
 * @param {number | null | undefined} gib
 * @returns {string}
 */
export function memory(gib) {
  if (gib === null || gib === undefined || !Number.isFinite(gib)) return "";
  return gib < 1 ? `${Math.round(gib * 1024)} MiB` : `${gib.toFixed(gib < 10 ? 1 : 0)} GiB`;
}

/**
 * How long ago, in words.
 *
 * @param {string | null | undefined} stamp an ISO time
 * @param {number} [now] milliseconds
 * @returns {string}
 */
export function ago(stamp, now = Date.now()) {
  const then = stamp ? Date.parse(stamp) : NaN;
  if (Number.isNaN(then)) return "";
  const minutes = Math.round((now - then) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 60 * 24) return `${Math.round(minutes / 60)} h ago`;
  return new Date(then).toLocaleDateString("en-GB", {
    day: "numeric",
    month: "short",
    year: "numeric",
  });
}

/** @param {number} count @param {string} word @returns {string} */
export function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

/** A field's name as a label: `guidance_scale` is "Guidance scale". @param {string} name */
export function title(name) {
  const words = name.replaceAll("_", " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/**
 * A value as one short line.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
