/**
 * The same input as a request in other languages. Each one runs as it stands against this host.
 *
 * @typedef {object} Target
 * @property {string} origin `http://127.0.0.1:8000`
 * @property {string} model `owner/name`
 * @property {boolean} auth whether the server wants a token
 */

/** @typedef {Record<string, any>} Input */

/** @param {Input} input @param {Target} target @returns {string} */
export function curl(input, { origin, model, auth }) {
  const body = JSON.stringify({ version: model, input }, null, 2).replaceAll("'", "'\\''");
  const lines = [
    `curl -s -X POST ${origin}/v1/predictions`,
    ...(auth ? ['  -H "Authorization: Bearer $REPLICATE_API_TOKEN"'] : []),
    '  -H "Content-Type: application/json"',
    '  -H "Prefer: wait"',
    `  -d '${body}'`,
  ];
  return lines.join(" \\\n");
}

/** @param {Input} input @param {Target} target @returns {string} */
export function python(input, { origin, model, auth }) {
  const token = auth ? 'os.environ["REPLICATE_API_TOKEN"]' : '"none"';
  return [
    "# pip install replicate==1.0.7",
    ...(auth ? ["import os", ""] : []),
    "import replicate",
    "",
    `client = replicate.Client(api_token=${token}, base_url=${literal(origin)})`,
    "output = client.run(",
    `    ${literal(model)},`,
    `    input=${pythonValue(input, 4)},`,
    ")",
    "print(output)  # the address of the video",
  ].join("\n");
}

/** @param {Input} input @param {Target} target @returns {string} */
export function node(input, { origin, model, auth }) {
  const token = auth ? "process.env.REPLICATE_API_TOKEN" : '"none"';
  const body = JSON.stringify(input, null, 2).replaceAll("\n", "\n  ");
  return [
    "// npm install replicate",
    'import Replicate from "replicate";',
    "",
    "const replicate = new Replicate({",
    `  auth: ${token},`,
    `  baseUrl: ${literal(`${origin}/v1`)},`,
    "  useFileOutput: false,",
    "});",
    `const output = await replicate.run(${literal(model)}, {`,
    `  input: ${body},`,
    "});",
    "console.log(output); // the address of the video",
  ].join("\n");
}

/** A string that Python and JavaScript both read. @param {string} text */
function literal(text) {
  return JSON.stringify(text);
}

/** @param {any} value @param {number} indent @returns {string} */
function pythonValue(value, indent) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map((one) => pythonValue(one, indent)).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  const lines = Object.entries(value).map(
    ([key, one]) => `${inner}${literal(key)}: ${pythonValue(one, indent + 4)},`,
  );
  return lines.length ? `{\n${lines.join("\n")}\n${" ".repeat(indent)}}` : "{}";
}
