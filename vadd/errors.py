"""The one exception that a user's input can cause."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence with the value and the remedy.

    The command line prints the sentence to stderr and exits with code 2.
    """
