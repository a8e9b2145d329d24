"""How everyday prompts are put together, as data: sentence frames, openings, closings.

Slots of a frame: {thing} "a red ball", {name} "red ball"; {moves}, {moving}, {move} the forms of
a verb with its way ("drifts to the left"), {kind} the motion before the noun ("growing");
{ground} "over white", {tag} "white background". The number is how often a frame is drawn,
relative to the others of its table.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mochi.training.shapes.phrases import comma_list

Frames = Mapping[str, int]

WHOLE: Frames = MappingProxyType(
    {
        "{thing} {moves} {ground}": 10,
        "{thing} {moving} {ground}": 5,
        "{thing} is {moving} {ground}": 3,
        "{thing} that {moves} {ground}": 1,
        "{thing} which is {moving} {ground}": 1,
        "{thing} {ground} {moves}": 2,
        "{thing} {ground} {moving}": 1,
        "{thing} {ground}, {moving}": 1,
        "{thing} {ground} that {moves}": 1,
        "{thing} {ground}. It {moves}.": 1,
        "{ground}, {thing} {moves}": 2,
        "{ground} {thing} is {moving}": 2,
        "{tag}, {name}, {moving}": 1,
        "{tag}, {name} {moving}": 2,
        "{tag}. {thing} {moves}": 1,
        "{name} {moving}, {tag}": 2,
        "{name}, {moving}, {tag}": 1,
        "{name}, {tag}, {moves}": 1,
        "{thing} {moves}, {tag}": 1,
        "{thing} {moves} and {tag}": 1,
        "there is {thing} {moving} {ground}": 1,
        "there is {thing} {ground} and it {moves}": 1,
        "we see {thing} {moving} {ground}": 1,
        "make {thing} {move} {ground}": 1,
        "let {thing} {move} {ground}": 1,
        "i want {thing} to {move} {ground}": 1,
        "{ground}, {moving}, {thing}": 1,
        "{moving} {ground}, {thing}": 1,
        "a {kind} {name} {ground}": 2,
        "{kind} {name} {ground}": 1,
        "{tag}, {kind} {name}": 1,
    }
)
NO_GROUND: Frames = MappingProxyType(
    {
        "{thing} {moves}": 6,
        "{thing} {moving}": 2,
        "{thing} is {moving}": 2,
        "{name} {moves}": 1,
        "{name}, {moving}": 1,
        "a {kind} {name}": 1,
        "{kind} {name}": 1,
        "make {thing} {move}": 1,
        "there is {thing} {moving}": 1,
    }
)
NO_MOTION: Frames = MappingProxyType(
    {
        "{thing} {ground}": 6,
        "{name}, {tag}": 1,
        "{tag}, {name}": 1,
        "there is {thing} {ground}": 1,
        "{ground} there is {thing}": 1,
    }
)
NEITHER: Frames = MappingProxyType({"{thing}": 2, "{name}": 1})

THINGS: Frames = MappingProxyType(
    {
        "a {name}": 16,
        "the {name}": 6,
        "one {name}": 1,
        "{name}": 2,
        "this {name}": 1,
        "a single {name}": 1,
        "my {name}": 1,
        "a {noun} that is {colour}": 1,
        "a {noun} which is {colour}": 1,
        "a {noun} of {colour} colour": 1,
        "a {colour} coloured {noun}": 1,
        "a {colour} colored {noun}": 1,
        "a {noun} in {colour}": 1,
        "a {colour}, {noun}": 1,
    }
)

# Size is not a choice in this world: these words are to be heard and ignored.
SIZES = comma_list(
    """
    big, small, little, large, simple, nice, lonely, flat, solid, medium, cute, tiny, lovely,
    beautiful, perfect, plain, huge
    """
)
OPENINGS = comma_list(
    """
    a video of, show, show me, please show, please make a video of, video of, a clip of,
    an animation of, animation of, generate, create, draw, render, can you show, please draw,
    i would like to see, a short video of, a movie of, generate a video of,
    create an animation of, a film of, imagine, footage of, a video in which, a scene with,
    a short clip where, a simple animation where
    """
)
CLOSINGS = comma_list(
    """
    please, slowly, smoothly, quickly, steadily, gently, thanks, thank you, in the middle,
    in the center, in the centre, simple animation, over time, high quality, 4k, flat colors,
    minimal, sharp edges, very slowly, a little, during the clip, at constant speed, all the time,
    in the video
    """
)
