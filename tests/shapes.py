"""How shapes and types are checked while the tests run."""

from beartype import beartype


def check(function):
    """Check what a function takes and returns, but for one that is made inside another.

    The hooks of `models.observe`, for example: they are made, and would be compiled, at each call.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
