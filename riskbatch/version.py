"""The version of this package. It stands here, because a frozen program has no metadata to ask."""

__version__ = "0.1.0"
