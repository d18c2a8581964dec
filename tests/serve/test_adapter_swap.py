"""A new adapter under a running service: no request is dropped, and one that cannot be used changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.personal import personal_path
from edgefl.serve.client import PredictClient
from tests.golden_bundle import copy_golden, random_samples, trained_adapter
from tests.serve.service import Service, served
from tests.toy_bundle import write_toy_bundle
from tests.waiting import wait_until

SAMPLE = random_samples(1)[0][0]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_golden(tmp_path)


@pytest.fixture
def service(bundle: Path) -> Iterator[Service]:
    with served(bundle=bundle) as running:
        yield running


def save(bundle: Path, scale: float, path: Path | None = None, version: int = 0) -> str:
    """Save an adapter and return its digest."""
    opened = Bundle(bundle)
    tensors = {name: np.float32(scale) * array for name, array in trained_adapter().items()}
    adapter = Adapter(bundle_id=opened.manifest.bundle_id, version=version, round=version, tensors=tensors)
    path = path or bundle / opened.manifest.adapter.file
    path.parent.mkdir(exist_ok=True)
    adapter.save(path, opened.manifest.adapter.header_bytes)
    return adapter.digest()


def in_use(client: PredictClient) -> str:
    return client.predict(SAMPLE).adapter_sha256


def test_adapters_change_while_many_ask_and_nobody_is_dropped(bundle: Path, service: Service) -> None:
    known, stop = {Bundle(bundle).adapter().digest()}, Event()

    def ask(client: PredictClient) -> set[str]:
        seen = set()
        while not stop.is_set():
            seen.add(in_use(client))
        return seen

    with PredictClient(service.address) as client, ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, client) for _ in range(4)]
        try:
            for version in range(1, 4):
                latest = save(bundle, 1.0 + version / 10, version=version)
                known.add(latest)
                wait_until(lambda latest=latest: in_use(client) == latest, 60, "the new adapter answers")  # type: ignore[misc]  # mypy knows no lambda with a default
        finally:
            stop.set()
        seen = set[str]().union(*(each.result(60) for each in asking))

    assert seen == known


def test_a_personal_adapter_answers_when_it_comes_and_the_global_one_when_it_goes(
    bundle: Path, service: Service
) -> None:
    own = Bundle(bundle).adapter().digest()
    with PredictClient(service.address) as client:
        assert in_use(client) == own
        path = personal_path(bundle, Bundle(bundle).adapter())
        personal = save(bundle, 1.5, path)
        wait_until(lambda: in_use(client) == personal, 60, "the personal adapter answers")
        path.unlink()
        wait_until(lambda: in_use(client) == own, 60, "the global adapter answers again")


@pytest.mark.parametrize("wrong", ["another bundle's", "damaged", "not finite"])
def test_an_adapter_that_cannot_be_used_changes_nothing_and_is_named(
    bundle: Path, service: Service, tmp_path: Path, wrong: str
) -> None:
    own, file = Bundle(bundle).adapter().digest(), bundle / "adapter.safetensors"
    if wrong == "another bundle's":
        other = write_toy_bundle(tmp_path / "other") / "adapter.safetensors"
        other.replace(file)
        fault = "belongs to bundle"
    elif wrong == "damaged":
        (tmp_path / "damaged").write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
        (tmp_path / "damaged").replace(file)
        fault = "does not have the data it was written with"
    else:
        save(bundle, np.inf)
        fault = "NaN or infinite values"
    assert service.process.stderr is not None

    said = ""
    while "the new adapter cannot be used, version 0 stays" not in said:
        said = service.process.stderr.readline()
        assert said, "the service has ended"

    assert fault in said
    with PredictClient(service.address) as client:
        assert in_use(client) == own
        good = save(bundle, 1.25, version=2)
        wait_until(lambda: in_use(client) == good, 60, "a good adapter answers")


def test_another_model_s_bundle_in_the_place_of_the_one_that_is_served_changes_nothing(
    bundle: Path, service: Service, tmp_path: Path
) -> None:
    own = Bundle(bundle).adapter().digest()
    bundle.rename(tmp_path / "aside")
    write_toy_bundle(bundle)
    assert service.process.stderr is not None

    said = ""
    while "the new adapter cannot be used" not in said:
        said = service.process.stderr.readline()
        assert said, "the service has ended"

    with PredictClient(service.address) as client:
        assert in_use(client) == own
        assert [answer.exit_index for answer in client.stream(SAMPLE)] == [0, 1, 2]
