"""The words of everyday prompts, as data: what people say for each value of the world.

The plainest phrase of every list comes first; `captions` picks it most often. A verb is written
as `base|finite|participle` ("rise|rises|rising"), so that one list serves every sentence.
"""

from collections.abc import Mapping
from types import MappingProxyType

Phrases = Mapping[str, tuple[str, ...]]


def comma_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated list, whatever its line breaks."""
    return tuple(" ".join(item.split()) for item in text.split(","))


COLOUR_WORDS: Phrases = MappingProxyType(
    {
        "red": comma_list("red, bright red, crimson, scarlet, ruby, ruby red, reddish"),
        "green": comma_list("green, bright green, emerald, emerald green, grass green, greenish"),
        "blue": comma_list("blue, bright blue, royal blue, cobalt, cobalt blue, sapphire"),
        "yellow": comma_list("yellow, bright yellow, lemon, lemon yellow, golden, canary yellow"),
        "purple": comma_list("purple, violet, bright purple, dark violet, plum"),
        "orange": comma_list("orange, bright orange, tangerine, pumpkin orange"),
    }
)

SHAPE_WORDS: Phrases = MappingProxyType(
    {
        "circle": comma_list(
            """
            circle, ball, disc, disk, dot, round shape, orb, sphere, bubble, circular shape,
            round thing, round ball, round dot, bouncy ball, spot
            """
        ),
        "square": comma_list(
            """
            square, box, block, cube, tile, square shape, square block, brick, square box,
            four sided shape, quadrilateral, rectangle
            """
        ),
        "triangle": comma_list(
            """
            triangle, pyramid, wedge, triangular shape, triangle shape, cone, three sided shape,
            upright triangle, tent, pointy triangle
            """
        ),
    }
)
ANY_SHAPE_WORDS = comma_list("shape, object, thing, figure")

GROUND_WORDS: Phrases = MappingProxyType(
    {
        "black": comma_list("black, pitch black, dark, plain black, solid black, jet black"),
        "white": comma_list("white, plain white, bright white, pure white, solid white, snowy"),
        "gray": comma_list("gray, grey, plain gray, medium grey, neutral gray, solid grey"),
        "teal": comma_list("teal, dark cyan, plain teal, blue-green, solid teal, dark teal"),
    }
)

# {} is one of GROUND_WORDS.
GROUND_PHRASES = comma_list(
    """
    on a {} background, on {}, over {}, against {}, over a {} background, against a {} background,
    in front of a {} background, with a {} background, on a {} backdrop, on the {},
    against a {} backdrop, upon a {} background, on top of {}, with {} behind it, on a {} screen,
    on a {} canvas, across a {} background, in front of {}, before a {} backdrop,
    with {} in the background, over a {} surface, on a {} field, against a {} wall, in a {} scene,
    in a {} room, with a {} bg, on a background of {}
    """
)
GROUND_TAGS = comma_list(
    "{} background, background {}, {} backdrop, {}, {} bg, the background is {}"
)

# A travelling verb is followed by one of WAYS: "drifts to the left".
TRAVEL_VERBS = comma_list(
    """
    move|moves|moving, fly|flies|flying, drift|drifts|drifting, glide|glides|gliding,
    slide|slides|sliding, travel|travels|traveling, go|goes|going, head|heads|heading,
    float|floats|floating, shift|shifts|shifting, travel|travels|travelling, roll|rolls|rolling,
    run|runs|running, sweep|sweeps|sweeping, pass|passes|passing
    """
)
WAYS: Phrases = MappingProxyType(
    {
        "moves left": comma_list(
            """
            left, to the left, leftward, leftwards, towards the left, toward the left,
            from right to left, from the right to the left, across to the left,
            left across the screen, to the left side
            """
        ),
        "moves right": comma_list(
            """
            right, to the right, rightward, rightwards, towards the right, toward the right,
            from left to right, from the left to the right, across to the right,
            right across the screen, to the right side
            """
        ),
        "moves up": comma_list(
            """
            up, upward, upwards, to the top, towards the top, toward the top, from bottom to top,
            from the bottom to the top, straight up, up the screen
            """
        ),
        "moves down": comma_list(
            """
            down, downward, downwards, to the bottom, towards the bottom, toward the bottom,
            from top to bottom, from the top to the bottom, straight down, down the screen
            """
        ),
    }
)
# These say the whole motion by themselves.
OTHER_VERBS: Phrases = MappingProxyType(
    {
        "moves up": comma_list(
            """
            rise|rises|rising, rise up|rises up|rising up, ascend|ascends|ascending,
            climb|climbs|climbing, climb up|climbs up|climbing up, lift|lifts|lifting,
            float up|floats up|floating up, fly up|flies up|flying up, soar|soars|soaring
            """
        ),
        "moves down": comma_list(
            """
            fall|falls|falling, fall down|falls down|falling down, drop|drops|dropping,
            drop down|drops down|dropping down, sink|sinks|sinking, descend|descends|descending,
            go down|goes down|going down
            """
        ),
        "grows": comma_list(
            """
            grow|grows|growing, expand|expands|expanding, swell|swells|swelling,
            get bigger|gets bigger|getting bigger, get larger|gets larger|getting larger,
            become bigger|becomes bigger|becoming bigger, enlarge|enlarges|enlarging,
            become larger|becomes larger|becoming larger, inflate|inflates|inflating,
            grow bigger|grows bigger|growing bigger, grow larger|grows larger|growing larger,
            increase in size|increases in size|increasing in size,
            grow in size|grows in size|growing in size, scale up|scales up|scaling up
            """
        ),
        "shrinks": comma_list(
            """
            shrink|shrinks|shrinking, contract|contracts|contracting,
            get smaller|gets smaller|getting smaller, shrink down|shrinks down|shrinking down,
            become smaller|becomes smaller|becoming smaller, deflate|deflates|deflating,
            grow smaller|grows smaller|growing smaller, dwindle|dwindles|dwindling,
            decrease in size|decreases in size|decreasing in size,
            get tiny|gets tiny|getting tiny, scale down|scales down|scaling down,
            shrink in size|shrinks in size|shrinking in size
            """
        ),
        "stays still": comma_list(
            """
            stay still|stays still|staying still, be still|is still|still,
            not move|does not move|not moving, not move|doesn't move|not moving,
            remain still|remains still|remaining still, stay|stays|staying,
            be stationary|is stationary|stationary, be motionless|is motionless|motionless,
            stay in place|stays in place|staying in place, stay put|stays put|staying put,
            remain in place|remains in place|remaining in place, remain|remains|remaining,
            stand still|stands still|standing still, sit still|sits still|sitting still,
            hold still|holds still|holding still, be static|is static|static,
            keep still|keeps still|keeping still, rest|rests|resting, sit|sits|sitting,
            stay where it is|stays where it is|staying where it is,
            remain stationary|remains stationary|remaining stationary,
            be at rest|is at rest|at rest,
            remain motionless|remains motionless|remaining motionless
            """
        ),
    }
)

# Before the noun: "a rising red ball".
MOTION_ADJECTIVES: Phrases = MappingProxyType(
    {
        "moves left": comma_list("left-moving, leftward moving"),
        "moves right": comma_list("right-moving, rightward moving"),
        "moves up": comma_list("rising, ascending, climbing, upward moving"),
        "moves down": comma_list("falling, sinking, descending, dropping, downward moving"),
        "grows": comma_list("growing, expanding, swelling"),
        "shrinks": comma_list("shrinking, contracting, dwindling"),
        "stays still": comma_list("still, motionless, stationary, static, unmoving"),
    }
)
