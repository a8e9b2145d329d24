"""transformers, imported whole before any name is taken from it."""


def import_transformers() -> None:
    """Import transformers; to be called before `from transformers import ...`.

    At the end of its import, transformers puts another object in its own place among the modules.
    A thread that waited for that end in a `from` statement is left with the first object, where it
    finds no names: a prompt that was counted beside a run that began ended that run with an
    ImportError. A thread that waits here looks for the names only afterwards, in the right object.
    """
    import transformers  # noqa: F401
