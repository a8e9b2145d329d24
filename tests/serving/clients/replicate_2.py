"""Replicate's Python client, version 2: documented calls, unchanged. Words: base URL, token."""

import asyncio
import sys

from replicate import APIStatusError, AsyncReplicate, Replicate

url, token = sys.argv[1:]
client = Replicate(bearer_token=token, base_url=f"{url}/v1")
NAME, PROMPT = "genmoai/mochi-1", "a red circle moves left"

output = client.run(NAME, input={"prompt": PROMPT, "seed": 7})
assert output is not None
assert "/v1/files/" in str(output), output

model = client.models.get(model_owner="genmoai", model_name="mochi-1")
assert model.owner == "genmoai"
versions = client.models.versions.list(model_owner="genmoai", model_name="mochi-1")
version_id = client.models.versions.get(
    model_owner="genmoai", model_name="mochi-1", version_id="ab" * 32
).id
assert client.models.readme.get(model_owner="genmoai", model_name="mochi-1").startswith("# genmoai")
assert client.models.examples.list(model_owner="genmoai", model_name="mochi-1") is not None

made = client.predictions.create(version=version_id, input={"prompt": PROMPT})
assert made.status == "starting"
made = client.predictions.wait(made.id)
assert made.status == "succeeded", made.error
assert client.predictions.get(prediction_id=made.id).output

held = client.predictions.create(version=NAME, input={"prompt": PROMPT}, prefer="wait=20")
assert held.status == "succeeded"
endless = {"prompt": "circle /held"}
held = client.predictions.create(version=NAME, input=endless, prefer="wait=1")
assert held.status == "starting"
stopped = client.predictions.cancel(prediction_id=held.id)
assert stopped.status == "canceled"

by_model = client.models.predictions.create(
    model_owner="genmoai", model_name="mochi-1", input={"prompt": PROMPT}
)
assert by_model.id in [it.id for it in client.predictions.list()]

file = client.files.create(content=b"hello")
assert client.files.get(file_id=file.id).size == 5
assert file.id in [it.id for it in client.files.list()]
client.files.delete(file_id=file.id)

try:
    client.predictions.create(version=NAME, input={"prompt": ""})
except APIStatusError as error:
    assert error.status_code == 422
    assert error.response.json()["invalid_fields"][0]["field"] == "input.prompt"
else:
    raise AssertionError("a wrong input raises")

assert NAME in [f"{it.owner}/{it.name}" for it in client.models.list()]
assert list(client.trainings.list()) == []
raw = client.predictions.with_raw_response.create(version=NAME, input={"prompt": PROMPT})
assert raw.http_response.status_code in (201, 202)
assert client.files.download is not None


async def later() -> None:
    async with AsyncReplicate(bearer_token=token, base_url=f"{url}/v1") as other:
        assert await other.run(NAME, input={"prompt": PROMPT}) is not None
        found = [it.id async for it in other.predictions.list()]
        assert made.id in found


asyncio.run(later())
assert client.hardware.list()
assert client.account.get().username == "alice"
assert client.webhooks.default.secret.get().key
print("ok")
