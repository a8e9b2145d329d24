"""OpenAI's Python client: `client.videos`, unchanged. Words: base URL, token."""

import asyncio
import sys

from openai import APIStatusError, AsyncOpenAI, NotFoundError, OpenAI

url, token = sys.argv[1:]
client = OpenAI(api_key=token, base_url=f"{url}/v1")

made = client.videos.create(prompt="real circle", model="mochi-1", seconds="2", size="64x64")
assert made.object == "video"
assert made.status in ("queued", "in_progress")
done = client.videos.create_and_poll(
    prompt="real circle", model="genmoai/mochi-1", poll_interval_ms=100
)
assert done.status == "completed", done.error
assert done.progress == 100
assert client.videos.retrieve(made.id).id == made.id
content = client.videos.download_content(done.id)
assert content.read()[4:8] == b"ftyp"
for variant in ("thumbnail", "spritesheet"):
    picture = client.videos.download_content(done.id, variant=variant)
    assert picture.read().startswith(b"\x89PNG")
remixed = client.videos.remix(done.id, prompt="a square")
assert remixed.remixed_from_video_id == done.id
listed = [it.id for it in client.videos.list(limit=2)]
assert {made.id, done.id, remixed.id} <= set(listed)
more = {"num_inference_steps": 3, "seed": 5}
extra = client.videos.create(prompt="a circle", model="mochi-1", extra_body=more)
assert client.videos.retrieve(extra.id).prompt == "a circle"
assert client.videos.delete(extra.id).deleted
first = client.videos.list(limit=1, order="asc")
assert len(first.data) == 1
assert first.has_more
following = client.videos.list(limit=1, order="asc", after=first.data[0].id)
assert following.data[0].id != first.data[0].id
assert client.videos.poll(remixed.id, poll_interval_ms=100).status == "completed"
raw = client.videos.with_raw_response.retrieve(done.id)
assert raw.http_response.status_code == 200
with client.videos.with_streaming_response.download_content(done.id) as stream:
    assert b"".join(stream.iter_bytes()) == content.content
for refused in (  # what only the hosted product had is refused in words
    lambda: client.videos.edit(video=b"x", prompt="a square"),
    lambda: client.videos.extend(video=b"x", prompt="more", seconds="4"),
    lambda: client.videos.get_character("nobody"),
):
    try:
        refused()
    except APIStatusError as error:
        assert error.status_code in (404, 405), error
        assert error.message
    else:
        raise AssertionError("it is not there")


async def later() -> None:
    async with AsyncOpenAI(api_key=token, base_url=f"{url}/v1") as other:
        video = await other.videos.create_and_poll(
            prompt="real circle", model="mochi-1", poll_interval_ms=100
        )
        assert video.status == "completed"
        found = await other.videos.download_content(video.id, variant="thumbnail")
        assert found.content.startswith(b"\x89PNG")


asyncio.run(later())
try:
    client.videos.retrieve(extra.id)
except NotFoundError as error:
    assert "no such video" in str(error)
else:
    raise AssertionError("a deleted video is gone")
try:
    client.videos.create(prompt="a circle", model="mochi-1", size="65x64")
except APIStatusError as error:
    assert error.status_code == 422
    assert error.body["param"] == "width"
else:
    raise AssertionError("a wrong size raises")
print("ok")
