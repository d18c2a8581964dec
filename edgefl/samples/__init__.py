"""A device's local samples and their labels, read when they are needed; they never leave the device."""

from edgefl.samples.source import Samples, open_samples

__all__ = ["Samples", "open_samples"]
