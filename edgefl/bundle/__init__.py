"""The folder a device trusts: manifest, graphs, frozen weights and adapter (see FORMAT.md beside this file)."""

from edgefl.bundle.adapter import Adapter
from edgefl.bundle.folder import Bundle

__all__ = ["Adapter", "Bundle"]
