"""What is not made: by words at the door, by classifiers around the run, in three modes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.harness import PROMPT, Running, running
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mochi.core.errors import RequestError, WeightsError
from mochi.serving.examples import PAGE
from mochi.serving.runner.judges import Judges, RefusedError
from mochi.serving.safety import Safety
from mochi.serving.settings import read_settings
from mochi.text.classifiers import PictureClassifier, PromptClassifier, check_licence, licence_of

CLIP = PAGE / "examples" / "red-circle.mp4"
LORA = {"name": "csam", "source": "/nowhere.safetensors"}
FINE = {"name": "ink", "source": "/nowhere.safetensors"}


def card(folder: Path, licence: str | None) -> None:
    front = "" if licence is None else f"---\nlanguage: en\nlicense: {licence}\n---\n"
    (folder / "README.md").write_text(f"{front}# A classifier\n")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture classifier whose mind is made up: all is `red`."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = ViTConfig(**sizes, intermediate_size=8, image_size=32, patch_size=16)
    config.id2label, config.label2id = {0: "other", 1: "red"}, {"other": 0, "red": 1}
    model = ViTForImageClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(model.classifier.bias.new_tensor([0.0, 3.0]))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    card(folder, "apache-2.0")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text classifier that knows two words, and finds `gore` in one of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("texts")
    words = {"[UNK]": 0, "[PAD]": 1, "blood": 2, "circle": 3}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    sizes = {"hidden_size": 4, "num_hidden_layers": 0, "num_attention_heads": 1}
    config = BertConfig(vocab_size=4, **sizes, intermediate_size=4)
    config.id2label, config.label2id = {0: "fine", 1: "gore"}, {"fine": 0, "gore": 1}
    model = BertForSequenceClassification(config).eval()
    bert = model.bert
    for parameter in bert.embeddings.parameters():
        parameter.data.zero_()
    bert.embeddings.LayerNorm.weight.data.fill_(1.0)
    bert.embeddings.word_embeddings.weight.data[2] = bert.pooler.dense.bias.new_tensor(
        [3.0, -1.0, -1.0, -1.0]
    )
    bert.pooler.dense.weight.data.copy_(bert.pooler.dense.weight.new_ones(4).diag())
    bert.pooler.dense.bias.data.zero_()
    model.classifier.weight.data.zero_()
    model.classifier.weight.data[1, 0] = 8.0
    model.classifier.bias.data.copy_(model.classifier.bias.new_tensor([3.0, 0.0]))
    model.save_pretrained(folder)
    card(folder, "mit")
    return folder


def watch(source: Path, label: str, threshold: float = 0.9) -> dict[str, Any]:
    return {"source": str(source), "labels": [label], "threshold": threshold, "licence": None}


def lines(server: Running, action: str) -> list[dict[str, Any]]:
    return [dict(line) for line in server.services.audit.latest() if line["action"] == action]


@pytest.mark.parametrize(
    "text", ["CSAM", "c s a m is not", "ch1ld p0rn", "Nude--Child", "\uff43\uff53\uff41\uff4d"]
)
def test_terms_in_any_spelling(text: str) -> None:
    assert (Safety("block").look(text) is not None) == (text != "c s a m is not")
    assert Safety("off").look(text) is None


def test_a_word_within_a_word_is_none() -> None:
    assert Safety("block").look("a csample of underage nudes' history: Essex") is None


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "terms").write_text("purple\n\n  two words \n")
    own = Safety.of("block", tmp_path / "terms")
    assert own.look("a TWO-words thing") is not None
    assert own.look("csam") is None
    with pytest.raises(RequestError, match="safety_terms"):
        Safety.of("block", tmp_path / "none")


@pytest.mark.parametrize("mode", ["off", "log", "block"])
def test_three_modes_at_the_door(tmp_path: Path, mode: str) -> None:
    """A prompt and an adapter's name; the audit has the prompt's hash, never the prompt."""
    with running(tmp_path, safety=mode, loras=[LORA, FINE]) as server:
        for given, field in (
            ({"prompt": "a snuff film of my cat"}, "input.prompt"),
            ({"prompt": PROMPT, "loras": ["ink", "csam:0.5"]}, "input.loras"),
        ):
            answer = server.http.post("/v1/predictions", json={"input": given})
            assert answer.status_code == (422 if mode == "block" else 202)
            if mode == "block":
                (wrong,) = answer.json()["invalid_fields"]
                assert (wrong["type"], wrong["field"]) == ("refused", field)
                assert "csam" not in wrong["description"]
        action = {"off": "none", "log": "flagged", "block": "refused"}[mode]
        found = lines(server, action)
        points = [line["detail"]["point"] for line in found]
        assert points == ([] if mode == "off" else ["loras", "prompt"])
        assert "my cat" not in str([line["detail"] for line in found])
        assert all(len(line["detail"]["prompt_sha256"]) == 64 for line in found)
        answer = server.http.post("/v1/estimates", json={"input": {"prompt": "a snuff film"}})
        assert answer.status_code == (422 if mode == "block" else 200)


def test_a_refusal_in_the_runner_is_coded_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        job = server.ended(server.create("judged circle")["id"])
        assert job["status"] == "failed"
        assert job["error"].startswith("[refused] ")
        assert job["output"] is None
        assert server.services.blobs.keys() == []
        assert [line["prediction"] for line in lines(server, "refused")] == [job["id"]]
        job = server.ended(server.create("flagged circle")["id"])
        assert job["status"] == "succeeded"
        (line,) = lines(server, "flagged")
        assert line["detail"] == {"point": "frames", "label": "red", "score": 0.91}
        assert "judged" not in job["metrics"]


def test_frames_are_looked_at(pictures: Path) -> None:
    label, score = PictureClassifier(str(pictures), ["red"]).look([np.zeros((8, 8, 3), np.uint8)])
    assert label == "red"
    assert 0.95 < score < 0.96
    told = {"blocks": False, "prompt": None, "frames": watch(pictures, "red")}
    (verdict,) = Judges(told).frames(CLIP)
    assert (verdict["point"], verdict["label"]) == ("frames", "red")
    assert Judges(told | {"frames": watch(pictures, "red", 0.99)}).frames(CLIP) == []
    blocking = Judges(told | {"blocks": True})
    assert blocking.blocks_frames
    with pytest.raises(RefusedError, match="red"):
        blocking.frames(CLIP)


def test_prompts_are_looked_at(texts: Path) -> None:
    found = PromptClassifier(str(texts), ["gore"])
    assert found.look("blood blood")[1] > 0.9
    assert found.look("circle")[1] < 0.1
    judges = Judges({"blocks": True, "prompt": watch(texts, "gore"), "frames": None})
    assert judges.prompt("circle") == []
    assert judges.frames(CLIP) == []
    with pytest.raises(RefusedError, match="gore"):
        judges.prompt("blood")


def test_nothing_is_looked_at_without_classifiers() -> None:
    judges = Judges(None)
    judges.load()
    assert (judges.prompt("blood"), judges.frames(Path("/nowhere"))) == ([], [])


def test_a_classifier_that_cannot_be_used(pictures: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no label 'gore'; it has other, red"):
        PictureClassifier(str(pictures), ["gore"])
    card(tmp_path, "mit")
    with pytest.raises(WeightsError, match="cannot be used as a classifier"):
        PictureClassifier(str(tmp_path), ["red"])
    (tmp_path / "config.json").write_text((pictures / "config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(
        (pictures / "preprocessor_config.json").read_text()
    )
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(WeightsError, match="safetensors"):
        PictureClassifier(str(tmp_path), ["red"])


@pytest.mark.parametrize(
    ("licence", "agreed", "allowed"),
    [
        ("apache-2.0", None, True),
        ("MIT", None, True),
        ("agpl-3.0", None, False),
        ("agpl-3.0", "mit", False),
        ("agpl-3.0", "AGPL-3.0", True),
        (None, None, False),
        (None, "unknown", True),
    ],
)
def test_licences(tmp_path: Path, licence: str | None, agreed: str | None, allowed: bool) -> None:
    card(tmp_path, licence)
    assert licence_of(str(tmp_path)) == (licence and licence.lower())
    if allowed:
        check_licence(str(tmp_path), agreed)
    else:
        with pytest.raises(WeightsError, match="say licence="):
            check_licence(str(tmp_path), agreed)


def test_a_licence_in_the_text_is_not_the_cards(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Card\nlicense: mit\n---\n")
    assert licence_of(str(tmp_path)) is None


def test_settings_of_classifiers_reach_the_runner(tmp_path: Path) -> None:
    from mochi.serving.configured import model_entries

    (tmp_path / "serve.toml").write_text(
        'safety = "block"\n[frame_classifier]\nsource = "a/b"\nlabels = ["nsfw"]\n'
    )
    (entry,) = model_entries(read_settings(data=tmp_path))
    assert entry.checks.blocks
    assert entry.checks.prompt is None
    assert entry.checks.frames is not None
    assert entry.checks.frames.threshold == 0.8
    (entry,) = model_entries(read_settings(data=tmp_path, safety="off"))
    assert entry.checks.frames is None
