"""The version, below everything else so that every folder may name it."""

__version__ = "0.1.0"
