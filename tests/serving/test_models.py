"""Several models and adapters by name: what is offered is listed, nothing else exists."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.serving.harness import PROMPT, Running, running

MODELS = [{"name": "genmoai/mochi-1"}, {"name": "mochi/small", "memory": "low"}]
LORAS = [
    {"name": "ink", "source": "/nowhere/ink.safetensors", "scale": 0.8, "models": ["mochi/small"]},
    {"name": "night", "source": "owner/night", "description": "after dark"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), models=MODELS, loras=LORAS) as server:
        yield server


def inputs_of(server: Running, name: str) -> dict[str, Any]:
    version = server.http.get(f"/v1/models/{name}").json()["latest_version"]
    return dict(version["openapi_schema"]["components"]["schemas"]["Input"]["properties"])


def test_each_model_has_its_own_adapters(server: Running) -> None:
    names = [
        f"{it['owner']}/{it['name']}" for it in server.http.get("/v1/models").json()["results"]
    ]
    assert names == ["genmoai/mochi-1", "mochi/small"]
    assert inputs_of(server, "mochi/small")["loras"]["x-scales"] == {"ink": 0.8, "night": 1.0}
    assert inputs_of(server, "genmoai/mochi-1")["loras"]["x-scales"] == {"night": 1.0}
    told = inputs_of(server, "mochi/small")["loras"]
    assert told["x-descriptions"] == {"night": "after dark"}
    assert "nowhere" not in str(told)


def test_a_run_of_the_second_model_with_adapters(server: Running) -> None:
    given = {"prompt": PROMPT, "loras": ["night:0.5", "ink"]}
    answer = server.http.post(
        "/v1/models/mochi/small/predictions", json={"input": given}, headers={"Prefer": "wait"}
    )
    assert answer.status_code == 201, answer.text
    job = server.services.store.get(answer.json()["id"])
    assert job is not None
    assert job.model == "mochi/small"
    assert job.request["loras"] == [["night", 0.5], ["ink", 0.8]]
    assert answer.json()["input"]["loras"] == ["night:0.5", "ink"]
    wrong = {"input": given, "version": "genmoai/mochi-1"}
    (field,) = server.http.post("/v1/predictions", json=wrong).json()["invalid_fields"]
    assert field["field"] == "input.loras"
    assert field["nearest"] == "night"


def test_the_videos_dialect_takes_them_as_parts(server: Running) -> None:
    parts = [("prompt", PROMPT), ("model", "small"), ("loras", "ink"), ("loras", "night:2")]
    files = [(name, (None, value)) for name, value in parts]
    answer = server.http.post("/v1/videos", files=files)
    assert answer.status_code == 200, answer.text
    job = server.services.store.get(answer.json()["id"])
    assert job is not None
    assert (job.model, job.request["loras"]) == ("mochi/small", [["ink", 0.8], ["night", 2.0]])


def test_an_unknown_model_is_answered_with_the_list(server: Running) -> None:
    for answer in (
        server.http.post("/v1/models/a/b/predictions", json={"input": {"prompt": PROMPT}}),
        server.http.post("/v1/estimates", json={"version": "a/b", "input": {"prompt": PROMPT}}),
        server.http.get("/v1/presets", params={"model": "a/b"}),
        server.http.get("/v1/models/a/b"),
    ):
        assert answer.status_code == 404
        assert answer.json()["models"] == ["genmoai/mochi-1", "mochi/small"]
    answer = server.http.post("/v1/videos", json={"prompt": PROMPT, "model": "/etc/passwd"})
    assert answer.status_code == 404
    assert "genmoai/mochi-1, mochi/small" in answer.json()["error"]["message"]


def test_the_description_of_the_routes_names_them(server: Running) -> None:
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert [it["title"] for it in schemas["Input"]["anyOf"]] == ["genmoai/mochi-1", "mochi/small"]
    assert schemas["Creation"]["properties"]["version"]["examples"] == [
        "genmoai/mochi-1",
        "mochi/small",
    ]
    body = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    for content in body.values():
        names = content["schema"]["properties"]["model"]["enum"]
        assert names == ["genmoai/mochi-1", "mochi/small", "mochi-1", "small"]


def test_presets_of_a_model(server: Running) -> None:
    found = server.http.get("/v1/presets", params={"model": "mochi/small"}).json()["results"]
    assert found[0]["name"] == "default"
