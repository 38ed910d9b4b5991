"""Look into networks that were trained elsewhere, or into features that never saw torch."""

from kdlib.foreign.reading import look

__all__ = ["look"]
