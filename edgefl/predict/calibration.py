"""`calibration.json`, beside a bundle: how sure each exit must be to answer, as `edgefl calibrate` found it.

It belongs to one adapter: another one has other logits, and then it is not used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.core.atomic import write_atomically
from edgefl.errors import BadInputError, StorageError

__all__ = [
    "TEMPERATURES",
    "Calibration",
    "ExitCalibration",
    "FrontierPoint",
    "calibration_path",
    "confidence",
    "read_calibration",
]

logger = logging.getLogger(__name__)

TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest temperature there may be: beyond them a confidence tells nothing about a sample."""

_REMEDY = "remove it, or run edgefl calibrate again"
_MAX_BYTES = 16 * 1024 * 1024
_SURE = float(np.nextafter(1.0, 0.0))

_Exit = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Amount = Annotated[float, msgspec.Meta(ge=0.0)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class ExitCalibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One exit: it answers where `confidence(logits, temperature) >= threshold`.

    Attributes:
        exit_index: The exit.
        temperature: What its logits are divided by (temperature scaling, Guo et al. 2017, arXiv 1706.04599, §4.2).
        threshold: Confidence from which on it answers; 1 is never, and the deepest exit's is 0, always.
        accuracy: Share of all held-out samples that it answers right.
        calibration_error_before: Its expected calibration error (ibid., §2) at temperature 1.
        calibration_error_after: The same at temperatures fitted on other samples than they are applied to.
    """

    exit_index: _Exit
    temperature: Annotated[float, msgspec.Meta(ge=TEMPERATURES[0], le=TEMPERATURES[1])]
    threshold: _Share
    accuracy: _Share
    calibration_error_before: _Share
    calibration_error_after: _Share


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one choice of thresholds comes to, on samples they were not fitted on.

    Attributes:
        cost_ms: Mean time of an answer, in milliseconds, on the device that calibrated.
        accuracy: Share of right answers.
    """

    cost_ms: _Amount
    accuracy: _Share


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `calibration.json` holds.

    Attributes:
        schema: Name and version of this layout.
        bundle_id: The bundle.
        adapter_sha256: `Adapter.digest` of the adapter that answered.
        num_samples: Held-out samples.
        max_loss: Accuracy that could be given up against always answering at the deepest exit.
        chosen: What the thresholds come to.
        deepest: What the deepest exit alone comes to.
        frontier: All choices that no other one beats in both, cost rising.
        exits: The bundle's exits, rising.
    """

    schema: Literal["edgefl.calibration/1"] = "edgefl.calibration/1"
    bundle_id: _Sha256
    adapter_sha256: _Sha256
    num_samples: Annotated[int, msgspec.Meta(ge=1)]
    max_loss: _Share
    chosen: FrontierPoint
    deepest: FrontierPoint
    frontier: list[FrontierPoint]
    exits: Annotated[list[ExitCalibration], msgspec.Meta(min_length=1)]

    @property
    def temperatures(self) -> dict[int, float]:
        """The temperature of each exit."""
        return {each.exit_index: each.temperature for each in self.exits}

    @property
    def thresholds(self) -> dict[int, float]:
        """The confidence from which on each exit answers."""
        return {each.exit_index: each.threshold for each in self.exits}

    def write(self, folder: Path) -> None:
        """Write it beside a bundle, whole or not at all.

        Raises:
            StorageError: If the folder cannot be written.
        """
        write_atomically(calibration_path(folder), [msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"])


def calibration_path(folder: Path) -> Path:
    """Return where the calibration of a bundle's folder lies."""
    return folder / "calibration.json"


def read_calibration(bundle: Bundle, adapter: Adapter) -> Calibration | None:
    """Return the calibration beside a bundle; None where there is none for this adapter.

    Raises:
        BadInputError: If the file is damaged, belongs to another bundle or has other exits.
        StorageError: If it cannot be read.
    """
    path = calibration_path(bundle.folder)
    if not path.exists():
        return None
    calibration = _decode(path)
    if calibration.bundle_id != bundle.manifest.bundle_id:
        raise BadInputError(
            f"{path} belongs to bundle {calibration.bundle_id}, expected {bundle.manifest.bundle_id}; {_REMEDY}"
        )
    exits = [each.exit_index for each in calibration.exits]
    if exits != bundle.manifest.exits:
        raise BadInputError(f"{path} has the exits {exits}, the bundle has {bundle.manifest.exits}; {_REMEDY}")
    if calibration.exits[-1].threshold != 0.0:
        raise BadInputError(
            f"{path} has threshold {calibration.exits[-1].threshold} at the deepest exit, expected 0; {_REMEDY}"
        )
    if calibration.adapter_sha256 != adapter.digest():
        logger.warning("%s: calibrated for another adapter; run edgefl calibrate again", path)
        return None
    return calibration


def _decode(path: Path) -> Calibration:
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise BadInputError(f"{path} is no file; {_REMEDY}")
        if path.stat().st_size > _MAX_BYTES:
            raise BadInputError(f"{path} is larger than {_MAX_BYTES} bytes; {_REMEDY}")
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    # msgspec lets Python's own error through where bytes are no UTF-8.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged: {error}; {_REMEDY}") from error


def confidence(logits: np.ndarray[Any, Any], temperature: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the largest probability of each sample, softmax of logits / temperature.

    Args:
        logits: (B, C), finite.
        temperature: One of `TEMPERATURES`' range.

    Returns:
        (B,), float64, at least 1 / C and always below 1, as in exact arithmetic: a threshold of 1 stays out of reach.
    """
    scaled = logits.astype(np.float64) / temperature
    others = np.exp(scaled - scaled.max(-1, keepdims=True)).sum(-1)
    largest: np.ndarray[Any, np.dtype[np.float64]] = np.minimum(1.0 / others, _SURE)
    return largest
