"""Every error a user can meet, in one tree, each with the exit code its command ends with.

    EdgeFLError
    ├── BadInputError (3)            what was given cannot be used
    │   ├── ExitsError               exits that cannot be parsed or that a model does not have
    │   ├── TensorFileError          a safetensors file that breaks its own format
    │   ├── SamplesError             training or input data that does not fit the model
    │   ├── UnknownModelError        a model name edgefl cannot export
    │   └── BundleError              a folder that is no bundle edgefl can trust
    │       ├── NotABundleError      no manifest there
    │       ├── ManifestError        a manifest that breaks its schema or contradicts itself
    │       ├── NewerBundleError     written by a later edgefl
    │       ├── MissingFileError     the manifest names a file that is not there
    │       ├── HashError            a file is not the one that was exported
    │       ├── PathOutsideError     a path that leaves the bundle's folder
    │       ├── AdapterLayoutError   an adapter of another bundle or another shape
    │       ├── AdapterValueError    an adapter with NaN or infinite values
    │       ├── UnknownProgramError  a program this bundle does not have
    │       └── SelfTestFileError    golden values that do not fit the bundle
    ├── RefusedError (4)             a gate said no
    │   ├── ParityError              an exported graph does not compute what torch computes
    │   ├── SelfTestError            this device does not compute what the exporter computed
    │   └── InstructionError         a server's instruction this device will not follow
    ├── UnreachableError (5)         nobody answers at that address
    ├── MissingExtraError (6)        an optional package is not installed
    └── StorageError (7)             disk or permission

edgefl.fleet adds what a server or the network can do to a node (status, objects, delivery), below these classes.
Click's own usage errors end with 2, an interrupt with 130.  Codes are never reused.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeFLError(Exception):
    """Base of all errors edgefl raises on purpose; its message names the next action."""

    exit_code: ClassVar[int] = 1


class BadInputError(EdgeFLError):
    """What was given cannot be used."""

    exit_code = 3


class ExitsError(BadInputError):
    """Exits that cannot be parsed or that the model does not have."""


class TensorFileError(BadInputError):
    """A safetensors file that breaks its own format."""


class SamplesError(BadInputError):
    """Training or input data that does not fit the model."""


class UnknownModelError(BadInputError):
    """A model name edgefl cannot export."""


class BundleError(BadInputError):
    """A folder that is no bundle edgefl can trust."""


class NotABundleError(BundleError):
    """No manifest is there."""


class ManifestError(BundleError):
    """A manifest that breaks its schema or contradicts itself."""


class NewerBundleError(BundleError):
    """A bundle written by a later edgefl."""


class MissingFileError(BundleError):
    """The manifest names a file that is not there."""


class HashError(BundleError):
    """A file is not the one that was exported."""


class PathOutsideError(BundleError):
    """A path that leaves the bundle's folder."""


class AdapterLayoutError(BundleError):
    """An adapter of another bundle or of another shape."""


class AdapterValueError(BundleError):
    """An adapter with NaN or infinite values."""


class UnknownProgramError(BundleError):
    """A program this bundle does not have."""


class SelfTestFileError(BundleError):
    """Golden values that do not fit the bundle."""


class RefusedError(EdgeFLError):
    """A gate said no."""

    exit_code = 4


class ParityError(RefusedError):
    """An exported graph does not compute what torch computes."""


class SelfTestError(RefusedError):
    """This device does not compute what the exporter computed."""


class InstructionError(RefusedError):
    """A server's instruction that this device will not follow."""


class UnreachableError(EdgeFLError):
    """Nobody answers at that address."""

    exit_code = 5


class MissingExtraError(EdgeFLError):
    """An optional package is not installed."""

    exit_code = 6


class StorageError(EdgeFLError):
    """A folder or file cannot be read or written."""

    exit_code = 7
