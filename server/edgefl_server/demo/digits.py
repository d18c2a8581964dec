"""scikit-learn's handwritten digits, split among clients and written as image folders."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["CLASSES", "Digits", "load_digits_split", "partition", "write_folder"]

CLASSES = 10
_MIN_SAMPLES = 20

UInt8Array = np.ndarray[Any, np.dtype[np.uint8]]
Int64Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Labelled images.

    Attributes:
        images: uint8 RGB, (N, 8, 8, 3).
        labels: (N,), 0 to 9.
    """

    images: UInt8Array
    labels: Int64Array

    def subset(self, indices: Int64Array) -> Digits:
        """Return some of the images."""
        return Digits(images=self.images[indices], labels=self.labels[indices])


def load_digits_split(seed: int) -> tuple[Digits, Digits]:
    """Return 80 % of the digits to train on and 20 % to test on, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    # The data set's pixels run from 0 to 16.
    grey = np.round(found.images * (255 / 16)).astype(np.uint8)
    digits = Digits(images=np.repeat(grey[..., None], 3, axis=-1), labels=found.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(digits.labels)), test_size=0.2, random_state=seed, stratify=digits.labels
    )
    return digits.subset(train), digits.subset(test)


def partition(labels: Int64Array, clients: int, alpha: float, seed: int) -> list[Int64Array]:
    """Split samples among clients, each class in Dirichlet(alpha) proportions, at least 20 samples a client.

    Args:
        labels: (N,).
        clients: How many.
        alpha: Concentration; small values leave a client with few classes.
        seed: Of the split.
    """
    from datasets import Dataset, disable_progress_bars
    from flwr_datasets.partitioner import DirichletPartitioner

    disable_progress_bars()
    partitioner = DirichletPartitioner(
        num_partitions=clients,
        partition_by="label",
        alpha=alpha,
        min_partition_size=_MIN_SAMPLES,
        self_balancing=False,
        seed=seed,
    )
    partitioner.dataset = Dataset.from_dict({"label": labels.tolist(), "index": list(range(len(labels)))})
    with warnings.catch_warnings():
        # It warns whenever it draws again because a client had too few samples, which is what is wanted here.
        warnings.filterwarnings("ignore", message="The specified min_partition_size")
        return [np.array(partitioner.load_partition(client)["index"], np.int64) for client in range(clients)]


def write_folder(digits: Digits, folder: Path) -> None:
    """Write images as PNG files, one subfolder for each class that occurs."""
    for number, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        subfolder = folder / str(label)
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(subfolder / f"{number:04d}.png")
