"""The adapter made of integers, worked out by hand: whoever writes another client starts here."""

from __future__ import annotations

import numpy as np

from edgefl.bundle import Bundle
from edgefl.selftest.formula import formula_adapter, hashed
from tests.golden_bundle import GOLDEN

# MurmurHash3's last step of 0, 1 and 2, as published, and of 0x9E3779B9 and the integer after it.
FIRST = [0x00000000, 0x514E28B7, 0x30F4C306]
SECOND = [0x92CA2F0E, 0x96A0F96B]


def one(name: str, *shape: int) -> list[float]:
    values: list[float] = formula_adapter({name: shape})[name].reshape(-1).tolist()
    return values


def test_integers_are_the_hash_of_their_index_and_each_stream_starts_elsewhere() -> None:
    assert hashed(3, 0).tolist() == FIRST
    assert hashed(2, 1).tolist() == SECOND


def test_a_value_is_the_upper_half_of_its_integer_around_zero() -> None:
    # 0x0000 - 0x8000 = -32768; 0x514E - 0x8000 = 20814 - 32768 = -11954; 0x30F4 - 0x8000 = 12532 - 32768 = -20236.
    assert one("bias", 3) == [-32768 / 2**15, -11954 / 2**15, -20236 / 2**15]


def test_values_become_smaller_by_the_root_of_the_last_length() -> None:
    # 4**0 <= 3 < 4**1 <= 15 < 4**2 <= 16: halved not at all, once and twice.
    assert [one("w", 2, last)[0] for last in (3, 4, 15, 16, 63, 64)] == [-1.0, -0.5, -0.5, -0.25, -0.25, -0.125]


def test_the_weight_of_a_normalisation_lies_around_one_and_other_weights_around_zero() -> None:
    assert one("head.norm.weight", 3) == [1 - 1, 1 - 11954 / 2**15, 1 - 20236 / 2**15]
    assert one("head.mlp.weight", 1, 3)[1] == -11954 / 2**15
    assert one("head.norm.bias", 3)[1] == -11954 / 2**15


def test_the_second_tensor_has_the_second_stream() -> None:
    adapter = formula_adapter({"a": (3,), "b": (2,)})

    assert adapter["b"].tolist() == [(0x92CA - 2**15) / 2**15, (0x96A0 - 2**15) / 2**15]


def test_an_adapter_has_the_shapes_and_the_dtype_of_the_bundle_s_own() -> None:
    manifest = Bundle(GOLDEN).manifest
    shapes = {name: manifest.tensors[name].shape for name in manifest.adapter.tensors}

    adapter = formula_adapter(shapes)

    assert {name: list(array.shape) for name, array in adapter.items()} == shapes
    assert {array.dtype for array in adapter.values()} == {np.dtype(np.float32)}
    assert all(len(np.unique(array)) > 0.9 * array.size for array in adapter.values())
