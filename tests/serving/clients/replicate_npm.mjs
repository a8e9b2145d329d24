// Replicate's client for Node, unchanged. Words: folder with node_modules, base URL, token.
import assert from "node:assert";
import { createRequire } from "node:module";

const [folder, url, token] = process.argv.slice(2);
const Replicate = createRequire(`${folder}/`)("replicate");
const replicate = new Replicate({ auth: token, baseUrl: `${url}/v1` });
const name = "genmoai/mochi-1";
const prompt = "a red circle moves left";

let bar = 0;
const output = await replicate.run(name, { input: { prompt, seed: 7 } }, (prediction) => {
  bar = prediction.logs?.match(/(\d+)%/g)?.length ?? 0;
});
assert(String(output).includes("/v1/files/"), String(output));

const model = await replicate.models.get("genmoai", "mochi-1");
const version = model.latest_version.id;
const versions = await replicate.models.versions.list("genmoai", "mochi-1");
assert.equal(versions.results[0].id, version);

const made = await replicate.predictions.create({ version, input: { prompt } });
assert.equal(made.status, "starting");
const done = await replicate.wait(made, { interval: 100 });
assert.equal(done.status, "succeeded");
assert.equal((await replicate.predictions.get(done.id)).output, done.output);

const slow = await replicate.predictions.create({
  model: name,
  input: { prompt: "circle /held" },
});
assert.equal((await replicate.predictions.cancel(slow.id)).status, "canceled");

const listed = await replicate.predictions.list();
assert(listed.results.some((one) => one.id === slow.id));

const file = await replicate.files.create(new Blob(["hello"]), { a: 1 });
assert.equal((await replicate.files.get(file.id)).size, 5);
assert(await replicate.files.delete(file.id));

await assert.rejects(replicate.run(name, { input: { prompt: "" } }), /422/);
await assert.rejects(replicate.run(name, { input: { prompt: "fail please" } }), /went wrong/);
assert.equal((await replicate.accounts.current()).username, "alice");
assert((await replicate.hardware.list()).length > 0);
assert((await replicate.webhooks.default.secret.get()).key.startsWith("whsec_"));
console.log("ok");
