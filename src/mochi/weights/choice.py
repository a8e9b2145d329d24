"""Which of the files that were found make one model, and what is said where that is not clear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.candidates import Candidate, Found
from mochi.weights.checkpoint import PARTS, Checkpoint
from mochi.weights.names import Part
from mochi.weights.networks import ARTICLES

Given = Mapping[Part, tuple[Path, ...]]

_NEEDED: tuple[Part, ...] = ("dit", "decoder")
_OF_A_MODEL: tuple[Part, ...] = ("dit", "decoder", "encoder")
_OPTIONS: Mapping[Part, str] = {
    "dit": "--dit",
    "decoder": "--vae",
    "encoder": "--vae",
    "t5": "--text-encoder",
}
_LOOKED_FOR = (
    "looked for files with a DiT and a VAE decoder (original, diffusers, ComfyUI or GGUF names), "
    "such as dit.safetensors and decoder.safetensors, here and in the folders transformer, vae, "
    "diffusion_models"
)


@dataclass(frozen=True)
class Choice:
    """The files of each part, what they are in one line, and which files could not be used."""

    paths: Given
    layout: str
    description: str
    problems: tuple[str, ...]


def choose_parts(
    root: Path,
    here: Found,
    below: Found,
    text: Found,
    given: Given,
    opened: Mapping[tuple[Path, ...], Checkpoint],
) -> Choice:
    """Take one file for each part.

    Args:
        root: the folder.
        here, below: what lies in it, and in the folders of diffusers and ComfyUI inside it.
        text: what lies in `text_encoder`.
        given: files that were named.
        opened: what is in these.

    Raises:
        WeightsError: nothing fits, or more than one thing does; says what to name.
    """
    needed = tuple(part for part in _NEEDED if part not in given)
    chosen, notice = _model(root, here, below, needed, given)
    picked: dict[Part, Candidate] = {}
    for part in _OF_A_MODEL:
        if part not in given and (part in needed or chosen.has(part)):
            picked[part] = only(root, part, chosen.candidates[part])
    if "t5" not in given:
        picked |= _text_encoder(root, chosen, here, below, text)
    checkpoints = {part: opened[paths] for part, paths in given.items()}
    checkpoints |= {part: candidate.checkpoint for part, candidate in picked.items()}
    return Choice(
        paths={part: checkpoints[part].contents.paths for part in PARTS if part in checkpoints},
        layout=checkpoints["dit"].part("dit").layout,
        description=_described(root, checkpoints) + notice,
        problems=tuple(str(error) for error in here.errors + below.errors + text.errors),
    )


def _model(
    root: Path, here: Found, below: Found, needed: Sequence[Part], given: Given
) -> tuple[Found, str]:
    """The set of files that the model is taken from, and what else there would be."""
    published, beneath = here.of_layout(False), below.of_layout(False)
    theirs = Found().extend(here.of_layout(True)).extend(below.of_layout(True))
    if not published.has(*needed):
        published = _united(published, beneath)
    if published.has(*needed):
        return published, _other(theirs, given)
    if theirs.has(*needed):
        strays = [part for part in _OF_A_MODEL if part not in given and published.has(part)]
        if not strays:
            return theirs, ""
        listed = _listed([c for part in strays for c in published.candidates[part]])
        raise WeightsError(
            f"mixes layouts: {listed} beside a whole diffusers model; name what you mean with "
            f"{_options(strays)}",
            root,
        )
    every = Found().extend(published).extend(theirs)
    raise WeightsError(_nothing_whole(root, every, needed, given, here.errors + below.errors), root)


def _united(first: Found, second: Found) -> Found:
    """What lies in the folder goes before what lies below it, part by part."""
    candidates = {
        part: first.candidates.get(part) or second.candidates.get(part, []) for part in PARTS
    }
    kept = {part: found for part, found in candidates.items() if found}
    return Found(defaultdict(list, kept), first.errors + second.errors)


def _other(theirs: Found, given: Given) -> str:
    if theirs.has(*_NEEDED) and not given:
        return "; a diffusers model, which is here as well, was not taken"
    return ""


def _nothing_whole(
    root: Path, found: Found, needed: Sequence[Part], given: Given, problems: Sequence[WeightsError]
) -> str:
    if problems:
        return f"holds no whole model, and of its files {problems[0]}"
    if not found.candidates and not given:
        return f"holds no model: {_LOOKED_FOR}; found {_contents(root)}"
    named = {path for paths in given.values() for path in paths}
    every = [c for found_ in found.candidates.values() for c in found_ if named.isdisjoint(c.paths)]
    missing = [part for part in needed if not found.has(part)]
    if not missing:
        return (
            f"mixes layouts, and none is whole: {_listed(every)}; name the files with "
            f"{_options(needed)}"
        )
    lacking = " and no ".join(ARTICLES[part].split(" ", 1)[1] for part in missing)
    only = f", only {_listed(every)}" if every else ""
    beside = f" beside {', '.join(sorted(path.name for path in named))}" if named else ""
    return f"holds no {lacking}{beside}{only}; name a file with {_options(missing)}"


def only(root: Path, part: Part, candidates: Sequence[Candidate]) -> Candidate:
    """The one candidate there is.

    Raises:
        WeightsError: there are several; lists them.
    """
    if len(candidates) == 1:
        return candidates[0]
    raise WeightsError(
        f"holds {len(candidates)} files with {ARTICLES[part]}: {_listed(candidates)}; name the one "
        f"you mean with {_OPTIONS[part]}",
        root,
    )


def _text_encoder(
    root: Path, chosen: Found, here: Found, below: Found, text: Found
) -> dict[Part, Candidate]:
    """The folder `text_encoder` goes first; without any, prompts cannot be read, but embeddings."""
    for found in (text, chosen, here, below):
        if found.has("t5"):
            return {"t5": only(root, "t5", found.candidates["t5"])}
    return {}


# ----------------------------------------------------------------------------------------- wording


def _described(root: Path, checkpoints: Mapping[Part, Checkpoint]) -> str:
    by_files: dict[tuple[Path, ...], list[Part]] = defaultdict(list)
    for part in PARTS:
        if part in checkpoints:
            by_files[checkpoints[part].contents.paths].append(part)
    lines = []
    for paths, parts in by_files.items():
        style = checkpoints[parts[0]].description.rpartition(":")[0]
        lines.append(f"{', '.join(parts)} in {_name(root, paths)} ({style})")
    return "; ".join(lines)


def _name(root: Path, paths: Sequence[Path]) -> str:
    inside = paths[0].is_relative_to(root)
    name = paths[0].relative_to(root).as_posix() if inside else paths[0].name
    return f"{name} and {len(paths) - 1} more" if len(paths) > 1 else name


def _listed(candidates: Sequence[Candidate]) -> str:
    names = {candidate.name: candidate for candidate in candidates}
    return ", ".join(f"{name} ({c.checkpoint.description})" for name, c in names.items())


def _options(parts: Sequence[Part]) -> str:
    return " and ".join(dict.fromkeys(_OPTIONS[part] for part in parts))


def _contents(root: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "nothing"
