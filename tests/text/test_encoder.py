"""Prompts to features: the empty prompt, truncation, precision, independence, leaving memory."""

import shutil
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi.core.errors import MochiError, RequestError, WeightsError
from mochi.text.encoder import TextEncoder, TruncatedPrompt, load_tokenizer
from mochi.text.features import TextFeatures
from mochi.text.runners import WholeT5
from mochi.text.t5 import T5Size, build_t5

LONG = "a red circle and a blue square on the BLACK  background, moves left"  # 14 tokens
CUT = "BLACK  background, moves left"  # 9 and </s> are read


@pytest.fixture(scope="module")
def encoder(tiny: Any) -> TextEncoder:
    loaded: TextEncoder = tiny.load()
    return loaded


def encode_quietly(encoder: TextEncoder, prompts: str | list[str]) -> TextFeatures:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedPrompt)
        return encoder.encode(prompts)


def test_equals_padded_and_masked_t5_where_it_matters(tiny: Any, encoder: TextEncoder) -> None:
    """The published way: pad to the full length, mask in the encoder, let the tokenizer cut."""
    from transformers import T5EncoderModel

    prompts = ["a red circle moves left", "blue!", LONG]
    tokens = load_tokenizer(tiny.tokenizer)(
        prompts, padding="max_length", truncation=True, max_length=10, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(tiny.encoder).eval()
    with torch.no_grad():
        theirs = model(tokens["input_ids"], attention_mask=tokens["attention_mask"])
    ours = encode_quietly(encoder, prompts)
    assert torch.equal(ours.mask, tokens["attention_mask"].bool())
    expected = theirs.last_hidden_state[ours.mask]
    assert torch.allclose(ours.features[ours.mask], expected, rtol=0, atol=1e-5)
    assert not ours.features[~ours.mask].any()
    assert ours.features.shape == (3, 10, 32)


def test_empty_prompts_have_no_valid_token_and_do_not_run(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(encoder, "_run", run)
    features = encoder.encode(["", "   ", "\n\t"])
    assert not features.mask.any()
    assert not features.features.any()
    assert features.token_counts == (0, 0, 0)
    assert features.features.shape == (3, 10, 32)


def test_a_prompt_of_marks_alone_is_not_empty(encoder: TextEncoder) -> None:
    assert encoder.encode("!").token_counts == (1,)  # </s>


def test_each_prompt_is_independent_of_those_beside_it(encoder: TextEncoder) -> None:
    prompts = ["a red circle", "", LONG, "blue"]
    together = encode_quietly(encoder, prompts)
    for row, prompt in enumerate(prompts):
        alone = encode_quietly(encoder, prompt)
        assert torch.equal(alone.features[0], together.features[row])
        assert alone.token_counts[0] == together.token_counts[row]


def test_truncation_warns_and_quotes_what_was_cut(encoder: TextEncoder) -> None:
    with pytest.warns(TruncatedPrompt, match=r'14 tokens, 10 are read.*"BLACK  ') as caught:
        features = encoder.encode(LONG)
    assert features.truncated == (CUT,)
    assert features.token_counts == (14,)
    assert bool(features.mask.all())
    warning = caught[0].message
    assert isinstance(warning, TruncatedPrompt)
    assert warning.cut == CUT
    assert caught[0].filename == __file__  # points at who asked
    kept = encoder.encode(LONG.removesuffix(CUT))
    assert torch.equal(features.features, kept.features)


def test_a_prompt_that_just_fits_is_not_cut(encoder: TextEncoder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = encoder.encode("a a a a a a a a a")
    assert features.token_counts == (10,)
    assert features.truncated == ("",)


def test_a_very_long_cut_is_quoted_at_both_ends(encoder: TextEncoder) -> None:
    with pytest.warns(TruncatedPrompt) as caught:
        features = encoder.encode("a " * 5000 + "zebra")
    message = str(caught[0].message)
    assert len(message) < 600
    assert "zebra" in message
    assert len(features.truncated[0]) > 9000


def test_token_counts_without_encoding(encoder: TextEncoder) -> None:
    assert encoder.token_count("a red circle") == 4
    assert encoder.token_count("") == 0
    assert encoder.token_count(LONG) == 14


def test_bfloat16_is_close(tiny: Any, encoder: TextEncoder) -> None:
    low = tiny.load(dtype=torch.bfloat16).encode("a red circle")
    high = encoder.encode("a red circle")
    assert low.features.dtype == torch.bfloat16
    difference = (low.features.float() - high.features).norm() / high.features.norm()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("bad", [[], [3], [None], ["a", b"b"]])
def test_what_is_no_text_is_refused(encoder: TextEncoder, bad: Any) -> None:
    with pytest.raises(RequestError, match="prompt"):
        encoder.encode(bad)


def test_no_graph_is_kept(encoder: TextEncoder) -> None:
    assert not encoder.encode("a").features.requires_grad


def test_damaged_weights_are_noticed(tiny: Any) -> None:
    damaged = tiny.load()
    damaged._runner._model.encoder.final_layer_norm.weight[3] = float("nan")
    with pytest.raises(WeightsError, match="NaN"):
        damaged.encode("a")


def test_closing_frees_the_model(tiny: Any) -> None:
    with tiny.load() as closing:
        seen = [weakref.ref(module) for module in closing._runner._model.modules()]
        seen += [weakref.ref(parameter) for parameter in closing._runner._model.parameters()]
        features = closing.encode("a red circle")
    assert not any(reference() is not None for reference in seen)
    assert closing.token_count("a red circle") == 4
    with pytest.raises(MochiError, match="closed"):
        closing.encode("a red circle")
    assert bool(features.mask.any())  # what was made lives on
    closing.close()  # twice is fine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closing_gives_memory_back_to_the_system(
    tiny: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Measured on the process: tens of MB come and go, whether mapped or converted."""
    sizes = T5Size(vocabulary=32, width=512, feed_forward=4096, depth=3, heads=8, head_dim=64)
    build_t5(sizes).save_pretrained(tmp_path / "text_encoder")
    # A process of its own: in this one, other tests' memory comes and goes meanwhile.
    found = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tiny.encoder), str(tiny.tokenizer), str(tmp_path)]
        + [str(dtype).removeprefix("torch.")],
        capture_output=True,
        text=True,
        check=True,
    )
    weights, grown, kept = (int(number) for number in found.stdout.split())
    assert weights > 40e6
    assert grown > 0.8 * weights
    assert kept < 0.25 * weights


_MEASURE = """
import gc, sys
import psutil, torch
from mochi.text.encoder import TextEncoder
tiny, tokenizer, folder, dtype = sys.argv[1:]
with TextEncoder.from_folders(tiny, tokenizer, getattr(torch, dtype)) as small:
    small.encode("a")  # what stays for other reasons is there already
gc.collect()
before = psutil.Process().memory_info().rss
large = TextEncoder.from_folders(folder + "/text_encoder", tokenizer, getattr(torch, dtype))
large.encode("a red circle")
weights = sum(p.numel() * p.element_size() for p in large._runner._model.parameters())
grown = psutil.Process().memory_info().rss - before
large.close()
print(weights, grown, psutil.Process().memory_info().rss - before)
"""


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(tiny: Any) -> None:
    small = build_t5(T5Size(vocabulary=8, width=8, feed_forward=8, depth=1, heads=2, head_dim=4))
    with pytest.raises(WeightsError, match="do not match"):
        TextEncoder(WholeT5(small), load_tokenizer(tiny.tokenizer))


def test_missing_and_broken_tokenizers_are_named(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(tiny.tokenizer, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text('{"version": ')
    shutil.copytree(tiny.encoder, tmp_path / "foreign")
    for name in ("absent", "empty", "broken", "foreign"):
        with pytest.raises(WeightsError, match="tokenizer") as caught:
            TextEncoder.from_folders(tiny.encoder, tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_max_tokens_below_two_is_refused(tiny: Any) -> None:
    with pytest.raises(RequestError, match="max_tokens"):
        tiny.load(max_tokens=1)


# --------------------------------------------------------------------- the tokenizer of full size


@pytest.fixture(scope="module")
def full_size(shared: Path) -> TextEncoder:
    """T5's own tokenizer before a small model with T5's whole vocabulary."""
    model = build_t5(T5Size(width=16, feed_forward=16, depth=1, heads=2, head_dim=8)).eval()
    return TextEncoder(WholeT5(model), load_tokenizer(shared / "t5_tokenizer"))


def test_published_ids(full_size: TextEncoder) -> None:
    tokens = full_size._tokenize("A cat sitting on a mat.")
    assert tokens.ids == (71, 1712, 3823, 30, 3, 9, 6928, 5, 1)


def test_truncation_at_256_as_the_tokenizer_itself_does(full_size: TextEncoder) -> None:
    prompt = "An émigré's “camera” drifts over ½ of the bay; 日本, " * 40
    theirs = full_size._tokenizer(prompt, truncation=True, max_length=256)["input_ids"]
    tokens = full_size._tokenize(prompt)
    assert list(tokens.ids) == theirs
    assert len(theirs) == 256
    assert tokens.cut
    assert prompt.strip().endswith(tokens.cut)
    kept = prompt.strip().removesuffix(tokens.cut)
    assert full_size._tokenize(kept).ids[:250] == tokens.ids[:250]
    features = encode_quietly(full_size, ["A cat sitting on a mat.", prompt])
    assert features.features.shape == (2, 256, 16)
    assert features.mask.sum(1).tolist() == [9, 256]


def test_a_tokenizer_that_comes_as_spiece_model_alone(shared: Path, tmp_path: Path) -> None:
    for name in ("spiece.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(shared / "t5_tokenizer" / name, tmp_path / name)
    converted = load_tokenizer(tmp_path)
    whole = load_tokenizer(shared / "t5_tokenizer")
    for prompt in ("A cat sitting on a mat.", "An émigré's “camera” drifts over ½ of the bay"):
        assert converted(prompt)["input_ids"] == whole(prompt)["input_ids"]
