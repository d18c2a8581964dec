"""A stopped server finds all it needs in its checkpoint, and never half of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.errors import AdapterLayoutError
from edgefl_server.rounds.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.toy_bundle import toy_tensors, write_toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(write_toy_bundle(tmp_path / "toy"))


def test_adapter_momentum_and_round_come_back_as_they_were_saved(bundle: Bundle, tmp_path: Path) -> None:
    adapter = Adapter(bundle_id=bundle.manifest.bundle_id, version=6, round=8, tensors=toy_tensors(1))
    momentum = {"positions": toy_tensors(2)["positions"]}
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(round=9, adapter=adapter, momentum=momentum))

    loaded = load_checkpoint(tmp_path / "checkpoint", bundle)
    assert (loaded.round, loaded.adapter.version, loaded.adapter.round) == (9, 6, 8)
    assert list(loaded.adapter.tensors) == list(adapter.tensors)
    assert all(np.array_equal(loaded.adapter.tensors[name], array) for name, array in adapter.tensors.items())
    assert list(loaded.momentum) == ["positions"]
    assert np.array_equal(loaded.momentum["positions"], momentum["positions"])


def test_a_server_that_never_ran_starts_from_the_bundles_own_adapter(bundle: Bundle, tmp_path: Path) -> None:
    loaded = load_checkpoint(tmp_path / "checkpoint", bundle)
    assert (loaded.round, loaded.adapter.version, dict(loaded.momentum)) == (0, 0, {})
    assert np.array_equal(loaded.adapter.tensors["positions"], toy_tensors()["positions"])


def test_the_state_of_another_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle(write_toy_bundle(tmp_path / "other", seed=1))
    save_checkpoint(tmp_path / "checkpoint", load_checkpoint(tmp_path / "none", other))
    with pytest.raises(AdapterLayoutError, match=other.manifest.bundle_id):
        load_checkpoint(tmp_path / "checkpoint", bundle)


def test_a_checkpoint_with_other_tensors_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    tensors = toy_tensors() | {"positions": np.zeros((2, 2), dtype=np.float32)}
    adapter = Adapter(bundle_id=bundle.manifest.bundle_id, version=1, round=1, tensors=tensors)
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(round=1, adapter=adapter, momentum={}))
    with pytest.raises(AdapterLayoutError, match="another --state"):
        load_checkpoint(tmp_path / "checkpoint", bundle)
