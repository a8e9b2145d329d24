"""Replicate's Python client, version 1: documented calls, unchanged. Words: base URL, token."""

import asyncio
import io
import sys

import replicate
from replicate.exceptions import ModelError, ReplicateError

url, token = sys.argv[1:]
client = replicate.Client(api_token=token, base_url=url)
NAME, PROMPT = "genmoai/mochi-1", "a red circle moves left"

output = client.run(NAME, input={"prompt": PROMPT, "seed": 7})
text = output if isinstance(output, str) else output.url
assert "/v1/files/" in text, output

model = client.models.get(NAME)
assert (model.owner, model.name) == ("genmoai", "mochi-1")
assert model.latest_version is not None
version = model.latest_version
assert "prompt" in version.openapi_schema["components"]["schemas"]["Input"]["properties"]
assert [it.id for it in model.versions.list()] == [version.id]
assert model.versions.get(version.id).id == version.id

output = client.run(f"{NAME}:{version.id}", input={"prompt": PROMPT})
assert output is not None

made = client.predictions.create(version=version.id, input={"prompt": PROMPT})
assert made.status == "starting"
made.wait()
assert made.status == "succeeded", made.error
assert made.progress is not None
assert made.progress.percentage == 1.0
assert "100%|" in (made.logs or "")
assert client.predictions.get(made.id).output == made.output
assert made.metrics["predict_time"] > 0

made = client.models.predictions.create(NAME, input={"prompt": "circle /held"}, wait=False)
made.cancel()
made.reload()
assert made.status == "canceled"

by_model = client.models.predictions.create(NAME, input={"prompt": PROMPT}, wait=True)
assert by_model.status == "succeeded"

assert made.id in [it.id for it in client.predictions.list()]

with_file = client.files.create(io.BytesIO(b"hello"))
assert client.files.get(with_file.id).size == 5
assert with_file.id in [it.id for it in client.files.list()]
client.files.delete(with_file.id)

failed = client.predictions.create(version=version.id, input={"prompt": "fail please"})
failed.wait()
assert (failed.status, failed.error) == ("failed", "[sampling] it went wrong")
try:
    client.run(NAME, input={"prompt": "fail please"})
except ModelError as error:
    assert "it went wrong" in str(error)
else:
    raise AssertionError("a failed run raises")
try:
    client.run(NAME, input={"prompt": PROMPT, "num_frames": 10_000})
except ReplicateError as error:
    assert error.status == 422
    assert "num_frames" in str(error)
else:
    raise AssertionError("a wrong input raises")

assert client.hardware.list()
assert client.accounts.current().username == "alice"
assert client.webhooks.default.secret().key.startswith("whsec_")
streamed = client.predictions.create(version=version.id, input={"prompt": PROMPT}, stream=True)
names = [str(event.event.value) for event in streamed.stream()]
assert names[-1] == "done", names
names = [str(event.event.value) for event in client.stream(NAME, input={"prompt": PROMPT})]
assert names[-1] == "done", names

hooked = client.predictions.create(version=version.id, input={"prompt": PROMPT}, wait=20)
assert hooked.status == "succeeded"
assert client.predictions.cancel(hooked.id).status == "succeeded"  # too late
model.reload()
assert NAME in [f"{it.owner}/{it.name}" for it in client.models.list()]
assert client.trainings.list().results == []

pages = list(replicate.paginate(client.predictions.list))
assert hooked.id in [it.id for page in pages for it in page]


async def later() -> None:
    output = await client.async_run(NAME, input={"prompt": PROMPT})
    assert output is not None
    made = await client.predictions.async_create(version=version.id, input={"prompt": PROMPT})
    await made.async_wait()
    assert made.status == "succeeded"
    assert (await client.predictions.async_get(made.id)).id == made.id
    assert (await client.models.async_get(NAME)).owner == "genmoai"
    slow = await client.predictions.async_create(
        version=version.id, input={"prompt": "circle /held"}
    )
    assert (await client.predictions.async_cancel(slow.id)).status == "canceled"


asyncio.run(later())
print("ok")
