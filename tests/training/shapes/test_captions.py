"""What prompts say about a scene: the grammar exactly, the paraphrases truthfully."""

import numpy as np
import pytest

from mochi.training.shapes import phrases, sentences
from mochi.training.shapes.captions import canonical, paraphrase, parse, vocabulary, words_of
from mochi.training.shapes.world import Combo, Scene, all_combinations, random_scene

RISING = Combo("red", "circle", "moves up", "white")
MADE_UP = "q"  # ends every filler word, and no word of the vocabulary


def test_canonical_sentences():
    scene = Scene("orange", "triangle", "stays still", "gray", radius=9.0)
    assert canonical(scene) == "a orange triangle stays still on a gray background"
    assert canonical(scene.combo) == canonical(scene)
    assert canonical(RISING) == "a red circle moves up on a white background"


def test_parse_undoes_canonical():
    for combo in all_combinations():
        assert parse(canonical(combo)) == combo


@pytest.mark.parametrize(
    "prompt",
    [
        "A RED circle moves up on a white background.",
        "  a red   circle, moves up on a white background!\n",
        "an red circle moves up on a white background",
    ],
)
def test_parse_forgives_looks(prompt):
    assert parse(prompt) == RISING


def test_parse_takes_both_greys():
    wanted = Combo("blue", "square", "grows", "gray")
    assert parse("a blue square grows on a grey background") == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red circle",
        "a red ball moves up on a white background",
        "a red circle moves up on a white background and a blue square",
        "a pink circle moves up on a white background",
        "a red circle moves up moves up on a white background",
        "x" * 100_000,
        "\x00\ud800",
    ],
)
def test_parse_knows_nothing_else(prompt):
    assert parse(prompt) is None


def test_paraphrases_vary_and_repeat():
    texts = [paraphrase(RISING, np.random.default_rng(seed)) for seed in range(400)]
    assert len(set(texts)) > 390
    again = [paraphrase(RISING, np.random.default_rng(seed)) for seed in range(400)]
    assert texts == again


def test_paraphrases_know_the_usual_variations():
    rng = np.random.default_rng(5)
    text = "\n".join(paraphrase(random_scene(rng), rng) for _ in range(2500))
    lower = text.lower()
    for piece in (
        *("ball", "box", "pyramid", "flies up", "over white", "on black", "against a teal"),
        *("in front of", "that is", "black background,", "does not move", "doesn't move"),
        *("bigger", "smaller", "rises", "falls", "drifts", "glides", "slides", "travels"),
        *("floats", "is moving", "expands", "stationary", "please", "video of", "grey"),
        *("the red", "from left to right", "an orange", "a orange", "crimson"),
    ):
        assert piece in lower, piece
    assert any(line.isupper() for line in text.splitlines())
    assert any(line.islower() for line in text.splitlines())


def words_in(table, value):
    return {word for phrase in table.get(value, ()) for word in words_of(phrase.replace("|", " "))}


def words_only_of(table, value):
    """Words that the phrases of one value use and those of the other values do not."""
    others = set().union(*(words_in(table, other) for other in table if other != value))
    return words_in(table, value) - others - NEUTRAL


MOTION_TABLES = phrases.WAYS, phrases.OTHER_VERBS, phrases.MOTION_ADJECTIVES
MOTIONS = {
    motion: tuple(phrase for table in MOTION_TABLES for phrase in table.get(motion, ()))
    for motion in phrases.MOTION_ADJECTIVES
}
TABLES = {
    "colour": phrases.COLOUR_WORDS,
    "shape": phrases.SHAPE_WORDS,
    "motion": MOTIONS,
    "background": phrases.GROUND_WORDS,
}
NEUTRAL = {
    word
    for table in (
        *(sentences.WHOLE, sentences.THINGS, sentences.SIZES, sentences.OPENINGS),
        *(sentences.CLOSINGS, phrases.ANY_SHAPE_WORDS, phrases.GROUND_PHRASES),
        phrases.TRAVEL_VERBS,
    )
    for phrase in table
    for word in words_of(phrase.replace("|", " "))
}


def test_paraphrases_tell_the_truth():
    rng = np.random.default_rng(6)
    words = {f: {v: words_in(t, v) for v in t} for f, t in TABLES.items()}
    only = {f: {v: words_only_of(t, v) for v in t} for f, t in TABLES.items()}
    silent = dict.fromkeys(TABLES, 0)
    for _ in range(2000):
        scene = random_scene(rng)
        text = paraphrase(scene, rng)
        said = set(words_of(text))
        own = set().union(*(words[field][getattr(scene, field)] for field in TABLES))
        for field in TABLES:
            value = getattr(scene, field)
            for other in set(TABLES[field]) - {value}:
                assert not said & only[field][other] - own, (scene, text)
            silent[field] += not said & words[field][value]
    assert silent["colour"] < 0.04 * 2000
    assert silent["shape"] < 0.04 * 2000
    assert 0.04 * 2000 < silent["background"] < 0.13 * 2000
    assert 0.01 * 2000 < silent["motion"] < 0.05 * 2000


def test_only_stillness_goes_unsaid():
    rng = np.random.default_rng(7)
    for motion in set(MOTIONS) - {"stays still"}:
        for _ in range(100):
            said = set(words_of(paraphrase(Combo("red", "circle", motion, "white"), rng)))
            assert said & words_in(MOTIONS, motion)


@pytest.mark.parametrize(
    ("motion", "end", "start"),
    [
        *[("moves left", "left", "right"), ("moves right", "right", "left")],
        *[("moves up", "top", "bottom"), ("moves down", "bottom", "top")],
    ],
)
def test_paths_run_the_right_way(motion, end, start):
    rng = np.random.default_rng(8)
    both = 0
    for _ in range(400):
        text = paraphrase(Combo("red", "circle", motion, "white"), rng)
        said = words_of(text.lower().replace("on top of", ""))
        ends = [word for word in said if word in (start, end)]
        assert ends in ([], [end], [start, end])
        both += len(ends) == 2
    assert both > 5  # "from right to left"


def test_vocabulary_is_what_paraphrases_use():
    rng = np.random.default_rng(8)
    used = set()
    for _ in range(12_000):
        scene = random_scene(rng)
        used.update(words_of(canonical(scene)), words_of(paraphrase(scene, rng)))
    known = vocabulary()
    assert list(known) == sorted(set(known))
    assert all(word.endswith(MADE_UP) for word in used - set(known))
    assert not [word for word in known if word.endswith(MADE_UP)]
    assert len(set(known) - used) <= 3  # rare words that so few draws may miss
    assert 250 < len(known) < 600


def test_prompts_are_short():
    rng = np.random.default_rng(9)
    assert max(len(words_of(paraphrase(random_scene(rng), rng))) for _ in range(3000)) <= 32


def test_words_are_those_of_the_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    from mochi.text.wordlevel import build_word_tokenizer

    folder = build_word_tokenizer(vocabulary(), tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(10)
    known = set(vocabulary())
    for _ in range(300):
        text = paraphrase(random_scene(rng), rng)
        wanted = [word if word in known else "<unk>" for word in words_of(text)]
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == [*wanted, "</s>"]
