"""Programs and the adapter they read: which one, since when, and for how long it is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgefl.bundle import Bundle
from edgefl.errors import AdapterLayoutError
from edgefl.runtime.interpreter import Interpreter
from edgefl.runtime.weights import Weights
from tests.golden_bundle import GOLDEN, random_samples

Array = np.ndarray[Any, Any]


def opened() -> Interpreter:
    bundle = Bundle(GOLDEN)
    return Interpreter(bundle, Weights(bundle, bundle.adapter().tensors), lambda: None)


def changed(adapter: Mapping[str, Array]) -> dict[str, Array]:
    """Return an adapter in which the logit of class 0 is one more."""
    copies = {name: np.array(array) for name, array in adapter.items()}
    copies["head.mlp.fc2.bias"][0] += np.float32(1)
    return copies


def logits(interpreter: Interpreter) -> Array:
    return dict(interpreter.run("infer/2", {"samples": random_samples(1)[0]}))["logits"]


def test_the_same_mapping_with_other_arrays_is_another_adapter() -> None:
    interpreter = opened()
    adapter = {name: np.array(array) for name, array in interpreter.weights.adapter.items()}
    interpreter.use_adapter(adapter)
    before = logits(interpreter)
    adapter["head.mlp.fc2.bias"] = changed(adapter)["head.mlp.fc2.bias"]

    interpreter.use_adapter(adapter)

    np.testing.assert_allclose(logits(interpreter) - before, [[1, 0, 0, 0, 0]], atol=1e-6)


def test_a_run_that_has_begun_ends_with_the_adapter_it_began_with() -> None:
    interpreter = opened()
    inputs = {"samples": random_samples(1)[0]}
    before = dict(interpreter.run("anytime", inputs))

    found = {}
    for key, value in interpreter.run("anytime", inputs):
        found[key] = value
        interpreter.use_adapter(changed(interpreter.weights.adapter))

    assert all(np.array_equal(found[key], before[key]) for key in before)
    np.testing.assert_allclose(logits(interpreter)[0, 0] - before["logits_02"][0, 0], len(before), atol=1e-5)


def test_nothing_keeps_an_adapter_that_is_no_longer_used() -> None:
    interpreter = opened()
    old = changed(interpreter.weights.adapter)
    interpreter.use_adapter(old)
    for name in ("infer/0", "infer/2", "anytime"):
        list(interpreter.run(name, {"samples": random_samples(1)[0]}))
    alive = weakref.ref(old["head.mlp.fc1.weight"])

    interpreter.use_adapter(changed(old))
    del old
    gc.collect()

    assert alive() is None


def test_threads_see_one_adapter_or_the_other_and_never_a_mixture() -> None:
    interpreter = opened()
    one = {name: np.array(array) for name, array in interpreter.weights.adapter.items()}
    other = {name: np.array(array) * np.float32(2) for name, array in one.items()}
    expected = []
    for adapter in (one, other):
        interpreter.use_adapter(adapter)
        expected.append(logits(interpreter))

    def swap() -> None:
        for turn in range(200):
            interpreter.use_adapter((one, other)[turn % 2])

    with ThreadPoolExecutor(3) as pool:
        swapping = pool.submit(swap)
        found = list(pool.map(lambda _: logits(interpreter), range(100)))
        swapping.result()

    assert all(any(np.array_equal(each, known) for known in expected) for each in found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda adapter: adapter.pop("head.norm.bias"), "'head.norm.bias' is missing or unknown"),
        (lambda adapter: adapter.update(other=np.zeros(1, np.float32)), "'other' is missing or unknown"),
        (lambda adapter: adapter.update({"head.norm.bias": np.zeros(24)}), "is float64 of shape"),
        (
            lambda adapter: adapter.update({"head.norm.bias": np.zeros(23, np.float32)}),
            r"expected float32 of shape \(24,\)",
        ),
        (
            lambda adapter: adapter.update({"head.mlp.fc2.weight": np.asfortranarray(adapter["head.mlp.fc2.weight"])}),
            "not in C order",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_the_old_one_stays(
    change: Callable[[dict[str, Array]], object], fault: str
) -> None:
    interpreter = opened()
    before = logits(interpreter)
    adapter = changed(interpreter.weights.adapter)
    change(adapter)

    with pytest.raises(AdapterLayoutError, match=fault):
        interpreter.use_adapter(adapter)

    assert np.array_equal(logits(interpreter), before)
