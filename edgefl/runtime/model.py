"""A bundle in use: anytime inference, and loss and gradient of the adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.program import with_knob
from edgefl.core.exits import check_exits
from edgefl.errors import ManifestError, SamplesError, UnknownProgramError
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.interpreter import Interpreter
from edgefl.runtime.weights import FloatArray, Weights

__all__ = ["Model", "Prediction", "load"]

Array = np.ndarray[Any, Any]

_LEAN_MAPPED_BYTES = 8_000_000
"""One of DeiT-S's blocks and a little more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one exit answers.

    Attributes:
        exit_index: The exit.
        logits: (B, C).
    """

    exit_index: int
    logits: FloatArray

    @property
    def probabilities(self) -> FloatArray:
        """Softmax of the logits, (B, C)."""
        shifted = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        probabilities: FloatArray = shifted / shifted.sum(-1, keepdims=True)
        return probabilities

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The most probable class of each sample, (B,)."""
        labels: np.ndarray[Any, np.dtype[np.int64]] = self.logits.argmax(-1)
        return labels

    @property
    def confidence(self) -> FloatArray:
        """The largest probability of each sample, (B,), in [0, 1]."""
        confidence: FloatArray = self.probabilities.max(-1)
        return confidence


def load(folder: str | Path, adapter: str | Path | None = None, *, memory: str | None = None) -> Model:
    """Open a bundle for use.

    Args:
        folder: The bundle's folder.
        adapter: Another adapter of the same bundle; None for its own.
        memory: What inference and training may take: `lean`, `balanced` (as None) or `fast`.

    Raises:
        BundleError: If the folder is no bundle edgefl can trust, or does not have the knob.
    """
    bundle = Bundle(Path(folder))
    return Model(bundle, bundle.adapter(Path(adapter) if adapter is not None else None), memory=memory)


class Model:
    """A bundle in use.

    Attributes:
        bundle: The bundle.
        exits: The exits it has, rising.
        memory: The memory knob.  `fast` packs frozen weights, in memory of its own, and trains as many samples at once
            as the bundle plans for; `balanced` maps weights and trains half of them; `lean` too, saving less for the
            backward pass and letting go of frozen weights that it has read.  None is `balanced`.
    """

    def __init__(
        self,
        bundle: Bundle,
        adapter: Adapter,
        *,
        memory: str | None = None,
        between_calls: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a bundle into use.

        Args:
            bundle: The bundle.
            adapter: Its adapter.
            memory: The memory knob.
            between_calls: Called between the calls of a program; an exception it raises stops the program there.

        Raises:
            UnknownProgramError: If the bundle does not have the knob.
        """
        self.bundle = bundle
        self.exits = tuple(bundle.manifest.exits)
        self.memory = memory
        if memory is not None:
            _check_knob(bundle, memory)
        self._weights = Weights(bundle, adapter.tensors, _LEAN_MAPPED_BYTES if memory == "lean" else math.inf)
        self._interpreter = Interpreter(bundle, self._weights, between_calls)

    @property
    def adapter(self) -> Mapping[str, FloatArray]:
        """The trainable tensors in use, by name."""
        return self._weights.adapter

    def use_adapter(self, tensors: Mapping[str, FloatArray]) -> None:
        """Use other trainable tensors in all that begins from now on; arrays changed in place are seen at once.

        Other threads may infer meanwhile: what has begun ends with the tensors it began with.

        Raises:
            AdapterLayoutError: If they are not the bundle's adapter tensors, float32 in C order.
        """
        self._interpreter.use_adapter(tensors)

    def infer(self, images: Array, exit_index: int | None = None) -> Iterator[Prediction]:
        """Answer at every exit, each as soon as it is ready, or at one exit.

        Args:
            images: uint8 RGB, (H, W, 3) or (B, H, W, 3), of any size; or float32 samples, already normalised,
                (B, channels, height, width).
            exit_index: The exit; None for all of them, in one pass.  Stop iterating to stop computing.

        Raises:
            ExitsError: If the bundle does not have the exit.
            SamplesError: If the images do not fit.
        """
        samples = self.preprocess(images)
        if exit_index is None:
            for key, logits in self._interpreter.run(with_knob("anytime", self.memory), {"samples": samples}):
                yield Prediction(exit_index=int(key.removeprefix("logits_")), logits=logits)
        else:
            self._check_exit(exit_index)
            name = with_knob(f"infer/{exit_index}", self.memory)
            for _, logits in self._interpreter.run(name, {"samples": samples}):
                yield Prediction(exit_index=exit_index, logits=logits)

    def preprocess(self, images: Array) -> FloatArray:
        """Return samples (B, channels, height, width) for images as `infer` takes them.

        Raises:
            SamplesError: If they are neither uint8 images nor float32 samples.
        """
        if images.dtype == np.uint8 and images.ndim in {3, 4}:
            batch = images if images.ndim == 4 else images[None]
            return next(value for _, value in self._interpreter.run("preprocess", {"images": batch}))
        if images.dtype == np.float32 and images.ndim == 4:
            return images
        raise SamplesError(
            f"images are {images.dtype} of shape {images.shape}; expected uint8 (H, W, 3) or (B, H, W, 3), "
            "or float32 samples (B, channels, height, width)"
        )

    def prepare(self, images: Sequence[Array]) -> FloatArray:
        """Return samples (B, channels, height, width) for single images or samples, which may differ in size.

        Args:
            images: Each uint8 RGB (H, W, 3), or float32 (channels, height, width).

        Raises:
            SamplesError: If they are neither, or do not fit the model.
        """
        if not images:
            raise SamplesError("there are no images; expected one or more")
        if len({(image.shape, image.dtype) for image in images}) == 1:
            return self._sized(self.preprocess(np.stack(images)))
        return np.concatenate([self._sized(self.preprocess(image[None])) for image in images])

    def _sized(self, samples: FloatArray) -> FloatArray:
        facts = self.bundle.manifest.model
        wanted = (facts.channels, facts.image_size, facts.image_size)
        if samples.shape[1:] != wanted:
            raise SamplesError(f"samples are of shape {samples.shape[1:]}, expected {wanted} (channels, height, width)")
        return samples

    def train_step(
        self, samples: FloatArray, labels: Array, exit_index: int, weights: FloatArray | None = None
    ) -> tuple[float, dict[str, FloatArray]]:
        """Return the loss and its gradient for each adapter tensor; nothing is changed.

        Args:
            samples: float32 (B, channels, height, width), or uint8 images.
            labels: (B,), integers in [0, C).
            exit_index: The exit to train.
            weights: Of the samples' losses, (B,); None for their mean.

        Returns:
            The weighted sum of the samples' cross-entropies, and arrays of the adapter's shapes, 0 where the exit
            does not reach.
        """
        gradients = Gradients(self.adapter)
        loss = self.accumulate(gradients, samples, labels, exit_index, weights)
        return loss, gradients.arrays

    def accumulate(
        self,
        gradients: Gradients,
        samples: FloatArray,
        labels: Array,
        exit_index: int,
        weights: FloatArray | None = None,
    ) -> float:
        """Add the gradient of a batch of any size to buffers and return its loss.

        The batch is cut into micro-batches that the program takes at once, which changes no sum.

        Args:
            gradients: The buffers.
            samples: As for `train_step`.
            labels: As for `train_step`.
            exit_index: The exit to train.
            weights: As for `train_step`.

        Raises:
            ExitsError: If the bundle does not have the exit.
            UnknownProgramError: If it does not have the memory knob.
            SamplesError: If samples, labels and weights do not fit each other or the model.
            ManifestError: If a graph's answer has another shape than what it belongs to.
        """
        self._check_exit(exit_index)
        name = with_knob(f"train/{exit_index}", self.memory)
        return self._accumulate(name, gradients, samples, labels, weights)

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any program of the bundle and return all it answers.

        Args:
            name: The program.
            inputs: `samples` or `images`; for training also `labels`, and `weights` where the loss is not the mean.

        Returns:
            `samples`, `logits`, `logits_00` and so on; or `loss` and each gradient by its adapter tensor's name.

        Raises:
            UnknownProgramError: If the bundle has no such program.
            SamplesError: If an input is missing, unknown or does not fit.
        """
        program = self.bundle.program(name)
        given = dict(inputs)
        known = program.inputs.keys() | ({"images"} if "samples" in program.inputs else set())
        if (unknown := sorted(given.keys() - known)) or {"samples", "images"} <= given.keys():
            what = f"was given {', '.join(unknown)}" if unknown else "was given samples and images, which are one input"
            raise SamplesError(f"program {name} {what}; it takes {', '.join(sorted(known))}")
        if "samples" in program.inputs and "images" in given:
            given["samples"] = self.preprocess(given.pop("images"))
        if program.mode != "train":
            return dict(self._interpreter.run(name, given))
        if missing := {"samples", "labels"} - given.keys():
            raise SamplesError(
                f"program {name} needs {' and '.join(sorted(missing))}; it was given {', '.join(inputs)}"
            )
        gradients = Gradients(self.adapter)
        loss = self._accumulate(name, gradients, given["samples"], given["labels"], given.get("weights"))
        return {"loss": np.array(loss, np.float32), **gradients.arrays}

    def _accumulate(
        self, name: str, gradients: Gradients, samples: Array, labels: Array, weights: FloatArray | None
    ) -> float:
        samples = self.preprocess(samples)
        self._check_labels(labels, len(samples))
        if weights is None:
            weights = np.full(len(samples), 1.0 / len(samples), np.float32)
        elif weights.shape != labels.shape:
            raise SamplesError(f"weights are of shape {weights.shape}, expected one for each of {len(labels)} samples")
        loss = 0.0
        program = self.bundle.program(name)
        fixed = program.inputs["samples"].shape[0]
        for piece in _pieces(len(samples), fixed or program.batch or len(samples), even=fixed is None):
            size = fixed or piece.stop - piece.start
            given = {
                "samples": _padded(samples[piece], size),
                "labels": _padded(labels[piece].astype(np.int64), size),
                "weights": _padded(weights[piece], size),
            }
            for key, value in self._interpreter.run(name, given):
                if key == "loss":
                    loss += _scalar(name, value)
                else:
                    gradients.add(key, value)
                del value  # or it would stay while the next one is made
        return loss

    def _check_exit(self, exit_index: int) -> None:
        check_exits((exit_index,), self.exits, f"bundle {self.bundle.folder.name}")

    def _check_labels(self, labels: Array, count: int) -> None:
        classes = self.bundle.manifest.model.classes
        if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
            raise SamplesError(f"labels are {labels.dtype} of shape {labels.shape}, expected {count} integers")
        if count == 0 or labels.min() < 0 or labels.max() >= classes:
            found = f"from {labels.min()} to {labels.max()}" if count else "none"
            raise SamplesError(f"labels are {found}; the bundle has classes 0 to {classes - 1}")


def _check_knob(bundle: Bundle, memory: str) -> None:
    programs = bundle.manifest.programs
    names = (name.rpartition("/") for name in (*programs, *bundle.manifest.variants))
    knobs = dict.fromkeys(knob for program, _, knob in names if program in programs)
    if memory not in knobs:
        raise UnknownProgramError(f"no memory knob {memory!r} in {bundle.folder}; it has {', '.join(knobs) or 'none'}")


def _pieces(count: int, largest: int, *, even: bool) -> Iterator[slice]:
    """Cut so many samples into as few pieces as possible, of one size where nothing else is asked."""
    size = -(-count // -(-count // largest)) if even else largest
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _scalar(name: str, loss: Array) -> float:
    if loss.shape:
        raise ManifestError(f"program {name}: the loss has shape {loss.shape}, expected one number; export it again")
    return float(loss)


def _padded(array: Array, size: int) -> Array:
    """Return the array with zeros after it, so that its first axis has a given size."""
    missing = size - len(array)
    return np.pad(array, [(0, missing), *((0, 0) for _ in array.shape[1:])]) if missing else array
