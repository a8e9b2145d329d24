"""Names of models: nano, folders, the hub's cache; and what is said about names that are none."""

import shutil
from pathlib import Path

import pytest

import mochi
from mochi.core.errors import DownloadError, RequestError, WeightsError
from mochi.core.events import Event, Notice
from mochi.pipeline import models
from mochi.pipeline.models import Hub, find_model, present_models
from mochi.weights import hub as weights_hub


@pytest.fixture
def cache(tmp_path: Path, tiny_model: Path) -> Hub:
    """A cache as Hugging Face programs lay it out, with one model and one repository of others."""
    for name, commit in (("someone--tiny", "a" * 40), ("someone--dataset", "b" * 40)):
        root = tmp_path / "hub" / f"models--{name}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(commit)
        (root / "snapshots" / commit).mkdir(parents=True)
    shutil.copytree(
        tiny_model,
        tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40),
        dirs_exist_ok=True,
    )
    return Hub(cache=tmp_path / "hub")


def test_a_folder_is_found_as_it_is(tiny_model: Path) -> None:
    assert find_model(str(tiny_model)).folder == tiny_model


def test_a_cached_model_is_found_without_the_network(
    cache: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_hub, "download", lambda *_, **__: pytest.fail("network"))
    files = find_model("someone/tiny", cache)
    assert files.folder.name == "a" * 40
    pipe = mochi.load("someone/tiny", hub=cache)
    assert pipe.request("a red circle").model == "someone/tiny"


def test_what_is_present_is_listed_and_what_is_no_model_is_not(cache: Hub) -> None:
    present = present_models(cache)
    assert "someone/tiny" in present
    assert "someone/dataset" not in present


def test_a_name_that_is_nothing_lists_what_exists(cache: Hub) -> None:
    for name in ("nanoo", "/no/such/folder", "./models/x", "a/b/c", ""):
        with pytest.raises((RequestError, WeightsError)) as caught:
            find_model(name, cache)
        if isinstance(caught.value, RequestError):
            assert "someone/tiny" in str(caught.value)


def test_an_unknown_hub_name_is_asked_for_and_the_answer_is_one_line(
    cache: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **options: object) -> Path:
        assert options["revision"] is None
        raise DownloadError(f"{name}: there is no such repository")

    monkeypatch.setattr(weights_hub, "download", refuse)
    with pytest.raises(DownloadError, match=r"models/x is no folder here.*no such repository"):
        find_model("models/x", cache)


class Plan:
    """As much of a plan as a listener looks at."""

    absent = ("text_encoder",)

    def __str__(self) -> str:
        return "1 file, licence apache-2.0"


def test_a_download_tells_its_plan_and_its_progress(
    cache: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(name: str, **options) -> Path:  # type: ignore[no-untyped-def]
        options["on_plan"](Plan())
        for done in range(1001):
            options["on_progress"](weights_hub.DownloadProgress("dit.safetensors", done, 1000))
        return tiny_model

    monkeypatch.setattr(weights_hub, "download", deliver)
    heard: list[Event] = []
    assert find_model("other/model", cache, heard.append).folder == tiny_model
    messages = [event.message for event in heard if isinstance(event, Notice)]
    assert "licence apache-2.0" in messages[0]
    assert messages[-2].endswith("100 %")
    assert messages[-1].startswith("other/model: dit in dit.safetensors (original, float32)")
    assert len(messages) < 30


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"dit\.safetensors"):
        find_model(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="file: is empty"):
        find_model(str(tmp_path / "file"))


def test_nano_lies_in_the_package() -> None:
    assert models.nano_folder() == Path(mochi.__file__).parent / "nano"


@pytest.mark.parametrize(
    ("option", "value"), [("device", "tpu"), ("dtype", "float8"), ("text_dtype", "int8")]
)
def test_unknown_devices_and_dtypes_list_what_exists(
    tiny_model: Path, option: str, value: str
) -> None:
    with pytest.raises(RequestError, match=option) as caught:
        mochi.load(str(tiny_model), **{option: value})  # type: ignore[arg-type]
    assert "auto" in str(caught.value)
