"""The one exception that a user's input can cause; and how to tell that memory was wanting."""

__all__ = ["InputError", "too_large"]


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence with the value and the remedy.

    The command line prints the sentence to stderr and exits with code 2.
    """


def too_large(error: Exception) -> bool:
    """Whether it says that memory was wanting, or never going to be enough. torch has no exception of its own for that on
    a CPU."""
    said = ("allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )
