"""Where calls find the tensors of a bundle."""

from __future__ import annotations

from edgefl.bundle import Bundle
from edgefl.runtime.weights import Weights
from tests.golden_bundle import GOLDEN

BIAS = "blocks.0.mlp.fc1.bias"  # 48 floats


class Counting(Bundle):
    """A bundle that counts how often its pages are released."""

    releases = 0

    def release(self) -> None:
        """Count, and release them."""
        self.releases += 1
        super().release()


def test_pages_are_released_when_more_than_so_many_bytes_were_read_since_the_last_time() -> None:
    bundle = Counting(GOLDEN)
    weights = Weights(bundle, bundle.adapter().tensors, most_mapped_bytes=2 * 48 * 4)

    released = []
    for _ in range(6):
        weights.note_read(weights.mapped_bytes(BIAS))
        released.append(bundle.releases)

    assert released == [0, 0, 1, 1, 1, 2]


def test_trainable_tensors_and_weights_without_a_limit_release_nothing() -> None:
    bundle = Counting(GOLDEN)
    adapter = bundle.adapter().tensors
    limited = Weights(bundle, adapter, most_mapped_bytes=1)
    limited.note_read(limited.mapped_bytes("head.norm.weight"))
    unlimited = Weights(bundle, adapter)
    unlimited.note_read(unlimited.mapped_bytes(BIAS))

    assert bundle.releases == 0
