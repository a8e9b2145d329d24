"""Prompts for scenes: the canonical sentence, and the many other ways people would say it.

`canonical` and `parse` are the world's grammar. `paraphrase` draws synonyms, word order, framing
("please", "a video of"), case and punctuation, and now and then leaves something out. What is
left out may be anything, except that a shape whose motion nobody mentions stands still.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from mochi.training.shapes import phrases, sentences
from mochi.training.shapes.world import AXES, Combo

_SYNONYMS = 0.5  # how often a word is not the plainest one
_NO_GROUND, _NO_MOTION, _NO_COLOUR, _NO_SHAPE = 0.08, 0.15, 0.015, 0.02
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
_STILL = "stays still"
_UNKNOWN_LETTERS = tuple("abdefghiklmnoprstuvz")
_SLOT = re.compile(r"\{\w*\}")
_CANONICAL = re.compile(
    r"an? ({}) ({}) ({}) on a ({}) background".format(*("|".join(axis) for axis in AXES))
)


class HasAttributes(Protocol):
    """What a prompt can speak of: a Scene or a Combo."""

    @property
    def colour(self) -> str:
        """One of COLOURS."""

    @property
    def shape(self) -> str:
        """One of SHAPES."""

    @property
    def motion(self) -> str:
        """One of MOTIONS."""

    @property
    def background(self) -> str:
        """One of BACKGROUNDS."""


def canonical(scene: HasAttributes) -> str:
    """The prompt of the world's grammar: `a red circle moves left on a black background`."""
    return f"a {scene.colour} {scene.shape} {scene.motion} on a {scene.background} background"


def parse(prompt: str) -> Combo | None:
    """The combination a canonical prompt names, or None for any other prompt.

    Case, punctuation, "an" and "grey" are forgiven; paraphrases are not understood here.
    """
    plain = " ".join("gray" if word == "grey" else word for word in words_of(prompt))
    match = _CANONICAL.fullmatch(plain)
    return Combo(*match.groups()) if match else None


def words_of(text: str) -> list[str]:
    """The words of a prompt as nano's tokenizer sees them: no case, accents or punctuation."""
    decomposed = unicodedata.normalize("NFKD", text).lower()
    plain = "".join(c for c in decomposed if not unicodedata.combining(c) and c not in _APOSTROPHES)
    return re.sub(r"[\W_]+", " ", plain).split()


def paraphrase(scene: HasAttributes, rng: np.random.Generator, complete: bool = False) -> str:
    """One of very many everyday prompts that this scene answers.

    Args:
        complete: say all four attributes; otherwise now and then one is left to the painter.
    """
    frames = sentences.WHOLE if complete else _frames(scene.motion, rng)
    text = _weighted(frames, rng).format_map(_slots(scene, rng, complete))
    if rng.random() < 0.2:
        text = f"{_any(sentences.OPENINGS, rng)} {text}"
    if rng.random() < 0.15:
        text = f"{text}{_any((' ', ', '), rng)}{_any(sentences.CLOSINGS, rng)}"
    if rng.random() < 0.08:
        text = _with_unknown_word(text, rng)
    return _typeset(text, rng)


def vocabulary() -> tuple[str, ...]:
    """Every word that `canonical` and `paraphrase` use, sorted; made-up filler words excepted."""
    texts: list[str] = [*phrases.ANY_SHAPE_WORDS, *phrases.TRAVEL_VERBS]
    texts += [*phrases.GROUND_PHRASES, *phrases.GROUND_TAGS]
    texts += [*sentences.SIZES, *sentences.OPENINGS, *sentences.CLOSINGS, "an"]
    for words in (phrases.COLOUR_WORDS, phrases.SHAPE_WORDS, phrases.GROUND_WORDS, phrases.WAYS):
        texts += _flat(words.values())
    texts += _flat(phrases.OTHER_VERBS.values()) + _flat(phrases.MOTION_ADJECTIVES.values())
    for frames in (sentences.WHOLE, sentences.THINGS):
        texts += frames
    texts += [word for axis in AXES for word in axis]
    return tuple(sorted({word for text in texts for word in words_of(_SLOT.sub(" ", text))}))


def _flat(rows: Iterable[Sequence[str]]) -> list[str]:
    return [item for row in rows for item in row]


def _any(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _plainest_or_any(options: Sequence[str], rng: np.random.Generator) -> str:
    return _any(options, rng) if rng.random() < _SYNONYMS else options[0]


def _weighted(frames: sentences.Frames, rng: np.random.Generator) -> str:
    place = rng.random() * sum(frames.values())
    for frame, weight in frames.items():
        place -= weight
        if place < 0:
            return frame
    return next(iter(frames))


def _frames(motion: str, rng: np.random.Generator) -> sentences.Frames:
    """Decide what the prompt leaves out."""
    no_ground = rng.random() < _NO_GROUND
    no_motion = motion == _STILL and rng.random() < _NO_MOTION
    if no_ground:
        return sentences.NEITHER if no_motion else sentences.NO_GROUND
    return sentences.NO_MOTION if no_motion else sentences.WHOLE


def _slots(scene: HasAttributes, rng: np.random.Generator, complete: bool) -> dict[str, str]:
    """The text of every slot of a sentence frame."""
    move, moves, moving = _verb(scene.motion, rng)
    ground = _plainest_or_any(phrases.GROUND_WORDS[scene.background], rng)
    slots = {"move": move, "moves": moves, "moving": moving}
    slots["kind"] = _any(phrases.MOTION_ADJECTIVES[scene.motion], rng)
    slots["ground"] = _plainest_or_any(phrases.GROUND_PHRASES, rng).format(ground)
    slots["tag"] = _plainest_or_any(phrases.GROUND_TAGS, rng).format(ground)
    noun = _plainest_or_any(phrases.SHAPE_WORDS[scene.shape], rng)
    if rng.random() < _NO_SHAPE and not complete:
        noun = _any(phrases.ANY_SHAPE_WORDS, rng)
    colour = _plainest_or_any(phrases.COLOUR_WORDS[scene.colour], rng)
    if rng.random() < _NO_COLOUR and not complete:
        slots |= {"name": noun, "thing": f"a {noun}"}
        return slots
    size = f"{_any(sentences.SIZES, rng)} " if rng.random() < 0.1 else ""
    slots["name"] = f"{size}{colour} {noun}"
    thing = _weighted(sentences.THINGS, rng)
    slots["thing"] = thing.format(name=slots["name"], noun=noun, colour=colour)
    return slots


def _verb(motion: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Base, finite and participle of one way to say a motion."""
    ways, others = phrases.WAYS.get(motion, ()), phrases.OTHER_VERBS.get(motion, ())
    if ways and (not others or rng.random() < 0.6):
        verb = _plainest_or_any(phrases.TRAVEL_VERBS, rng)
        way = _plainest_or_any(ways, rng)
        base, finite, participle = (f"{form} {way}" for form in verb.split("|"))
    else:
        base, finite, participle = _plainest_or_any(others, rng).split("|")
    return base, finite, participle


def _with_unknown_word(text: str, rng: np.random.Generator) -> str:
    """Put a made-up word somewhere: a model should shrug at words it does not know."""
    letters = rng.choice(_UNKNOWN_LETTERS, rng.integers(5, 10))
    words = text.split(" ")
    words.insert(int(rng.integers(len(words) + 1)), "".join(letters) + "q")
    return " ".join(words)


def _typeset(text: str, rng: np.random.Generator) -> str:
    """Spaces, articles, capitals and an end mark, as carefully or carelessly as people do."""
    text = re.sub(r"\s+", " ", text).strip()
    if rng.random() < 0.8:
        text = re.sub(r"\ba(?= [aeiou])", "an", text)
    case = rng.random()
    if case < 0.35:
        text = text[:1].upper() + text[1:]
    elif case < 0.39:
        text = text.upper()
    elif case < 0.43:
        text = text.title()
    mark = _any(("", "", ".", "!"), rng) if rng.random() < 0.6 else ""
    return text if text.endswith((".", "!")) else text + mark
