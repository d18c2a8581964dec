"""A bundle in use: anytime inference, and loss and gradient of the adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.program import with_knob
from edgefl.core.exits import check_exits
from edgefl.errors import ManifestError, SamplesError, UnknownProgramError
from edgefl.runtime.batch import Features, padded, pieces
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.interpreter import Interpreter
from edgefl.runtime.part import Part, feature_digests
from edgefl.runtime.prediction import Prediction
from edgefl.runtime.weights import FloatArray, Weights
from edgefl.samples.arrays import check_labels

__all__ = ["Mode", "Model", "load"]

Array = np.ndarray[Any, Any]
Mode = Literal["train", "infer"]

_FIXED = Part(stage="fixed")

_LEAN_MAPPED_BYTES = 8_000_000
"""One of DeiT-S's blocks and a little more."""


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

    def infer(
        self,
        images: Array,
        exit_index: int | None = None,
        wanted: Callable[[int], bool] = lambda _exit_index: True,
    ) -> Iterator[Prediction]:
        """Answer at every exit, each as soon as it is ready, or at one exit.

        Args:
            images: uint8 RGB, (H, W, 3) or (B, H, W, 3), of any size; or float32 samples, already normalised,
                (B, channels, height, width).
            exit_index: The exit; None for all of them, in one pass.  Stop iterating to stop computing.
            wanted: Of all of them, asked for each exit when it is reached: where it says no, that exit does not
                answer, which saves a little time.

        Raises:
            ExitsError: If the bundle does not have the exit.
            SamplesError: If the images do not fit.
        """
        samples = self.preprocess(images)
        if exit_index is None:
            name = with_knob("anytime", self.memory)
            exits = {f"logits_{e:02d}": e for e in self.exits}
            answers = self._interpreter.run(name, {"samples": samples}, wanted=lambda key: wanted(exits[key]))
            for key, logits in answers:
                yield Prediction(exit_index=exits[key], logits=logits)
        else:
            for _, logits in self._interpreter.run(self._named("infer", exit_index), {"samples": samples}):
                yield Prediction(exit_index=exit_index, logits=logits)

    def answer(self, samples: FloatArray | Features, exit_index: int) -> Prediction:
        """Answer at one exit.

        Args:
            samples: float32 (B, channels, height, width), or what `features` has made of them to answer at this exit.
            exit_index: The exit.

        Raises:
            ExitsError: If the bundle does not have the exit.
            SamplesError: If the samples do not fit.
        """
        if not isinstance(samples, Features):
            return next(self.infer(samples, exit_index))
        answered = self._interpreter.run(self._named("infer", exit_index), {}, Part(stage="rest"), samples.arrays)
        return Prediction(exit_index=exit_index, logits=next(logits for _, logits in answered))

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
        samples: FloatArray | Features,
        labels: Array,
        exit_index: int,
        weights: FloatArray | None = None,
    ) -> float:
        """Add the gradient of a batch of any size to buffers and return its loss.

        The batch is cut into micro-batches that the program takes at once, which changes no sum.

        Args:
            gradients: The buffers; for fewer tensors than the adapter has, only those gradients are made.
            samples: As for `train_step`, or what `features` has made of them at this exit.
            labels: As for `train_step`.
            exit_index: The exit to train.
            weights: As for `train_step`.

        Raises:
            ExitsError: If the bundle does not have the exit.
            UnknownProgramError: If it does not have the memory knob.
            SamplesError: If samples, labels and weights do not fit each other or the model.
            ManifestError: If a graph's answer has another shape than what it belongs to.
        """
        return self._accumulate(self._named("train", exit_index), gradients, samples, labels, weights)

    def feature_digests(self, exit_index: int, mode: Mode = "train") -> Mapping[str, str]:
        """Return what a program of an exit makes of samples without reading anything trained: names and digests.

        Features that have one digest are the same.  Empty where the first call reads something trained.
        """
        manifest = self.bundle.manifest
        program = self.bundle.program(self._named(mode, exit_index))
        return feature_digests(program, manifest.adapter.tensors, manifest.graphs)

    def features(self, samples: FloatArray, exit_index: int, mode: Mode = "train") -> Features:
        """Return what a program of an exit makes of samples before it reads anything trained.

        Args:
            samples: As for `train_step`.
            exit_index: The exit; one for which `feature_digests` has any.
            mode: To train there, or to answer.

        Raises:
            ExitsError: If the bundle does not have the exit.
            SamplesError: If the samples do not fit.
        """
        name, samples = self._named(mode, exit_index), self.preprocess(samples)
        made: dict[str, list[FloatArray]] = {}
        for piece, size in self._pieces(name, len(samples)):
            given = {"samples": padded(samples[piece], size)}
            for key, value in self._interpreter.run(name, given, _FIXED):
                made.setdefault(key, []).append(value[: piece.stop - piece.start])
        return Features({key: np.concatenate(values) for key, values in made.items()})

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
        self, name: str, gradients: Gradients, samples: Array | Features, labels: Array, weights: FloatArray | None
    ) -> float:
        own: dict[str, Array] = {} if isinstance(samples, Features) else {"samples": self.preprocess(samples)}
        features = samples.arrays if isinstance(samples, Features) else {}
        count = len(samples) if isinstance(samples, Features) else len(own["samples"])
        labels = check_labels(labels, count, self.bundle.manifest.model.classes)
        if weights is None:
            weights = np.full(count, 1.0 / count, np.float32)
        elif weights.shape != labels.shape:
            raise SamplesError(f"weights are of shape {weights.shape}, expected one for each of {count} samples")
        own |= {"labels": labels, "weights": weights}
        part = self._part(gradients.arrays.keys(), "rest" if features else "whole")
        loss = 0.0
        for piece, size in self._pieces(name, count):
            given, made = ({key: padded(a[piece], size) for key, a in arrays.items()} for arrays in (own, features))
            for key, value in self._interpreter.run(name, given, part, made):
                if key == "loss":
                    loss += _scalar(name, value)
                else:
                    gradients.add(key, value)
                del value  # or it would stay while the next one is made
        return loss

    def _pieces(self, name: str, count: int) -> Iterator[tuple[slice, int]]:
        """Yield the pieces in which a program takes so many samples, each with the size it must be padded to."""
        program = self.bundle.program(name)
        fixed = program.inputs["samples"].shape[0]
        for piece in pieces(count, fixed or program.batch or count, even=fixed is None):
            yield piece, fixed or piece.stop - piece.start

    def _part(self, trained: Collection[str], stage: Literal["whole", "rest"]) -> Part:
        every = len(trained) == len(self.adapter)
        return Part(trained=None if every else frozenset(trained), stage=stage)

    def _named(self, mode: Mode, exit_index: int) -> str:
        self._check_exit(exit_index)
        return with_knob(f"{mode}/{exit_index}", self.memory)

    def _check_exit(self, exit_index: int) -> None:
        check_exits((exit_index,), self.exits, f"bundle {self.bundle.folder.name}")


def _check_knob(bundle: Bundle, memory: str) -> None:
    programs = bundle.manifest.programs
    names = (name.rpartition("/") for name in (*programs, *bundle.manifest.variants))
    knobs = dict.fromkeys(knob for program, _, knob in names if program in programs)
    if memory not in knobs:
        raise UnknownProgramError(f"no memory knob {memory!r} in {bundle.folder}; it has {', '.join(knobs) or 'none'}")


def _scalar(name: str, loss: Array) -> float:
    if loss.shape:
        raise ManifestError(f"program {name}: the loss has shape {loss.shape}, expected one number; export it again")
    return float(loss)
