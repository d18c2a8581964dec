"""What edgefl offers: `__all__` is the truth, in the package and in every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import TypeVar

import pytest

import edgefl
from tests.golden_bundle import GOLDEN, random_samples

SOURCE = Path(edgefl.__file__).parent
FILES = {
    ".".join(("edgefl", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
MODULES = {name: path for name, path in FILES.items() if not name.endswith(("_pb2", "__main__"))}


def test_the_package_offers_what_the_readme_uses() -> None:
    assert set(edgefl.__all__) == {"Adapter", "Bundle", "Model", "Prediction", "__version__", "load"}
    assert dir(edgefl) == sorted(edgefl.__all__)


def test_every_name_of_the_package_is_there_and_comes_from_where_it_is_made() -> None:
    for name, home in {
        "Adapter": "edgefl.bundle.adapter",
        "Bundle": "edgefl.bundle.folder",
        "Model": "edgefl.runtime.model",
        "Prediction": "edgefl.runtime.prediction",
        "load": "edgefl.runtime.model",
    }.items():
        assert getattr(edgefl, name) is getattr(import_module(home), name)


def test_a_star_import_brings_exactly_these_names() -> None:
    names: dict[str, object] = {}
    exec("from edgefl import *", names)  # noqa: S102  # the statement is what is tested

    assert set(names) - {"__builtins__"} == set(edgefl.__all__)


def test_a_name_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgefl' has no attribute 'lod'"):
        edgefl.lod  # noqa: B018  # asking is what is tested


def test_the_package_is_used_as_its_docstring_says() -> None:
    samples, labels = random_samples(2)

    model = edgefl.load(str(GOLDEN))

    assert [prediction.exit_index for prediction in model.infer(samples)] == [0, 1, 2]
    loss, gradients = model.train_step(samples, labels, exit_index=1)
    assert loss > 0
    assert gradients.keys() == model.adapter.keys()


def test_importing_the_package_loads_nothing_else() -> None:
    script = (
        "import sys, edgefl; print(edgefl.__version__); print(*[m for m in sys.modules if m.startswith('edgefl.')])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.splitlines() == [edgefl.__version__, "edgefl.version"]


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_offers_is_there_and_documented(name: str) -> None:
    module = import_module(name)

    assert (module.__doc__ or "").strip()
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if isinstance(value, type | FunctionType):
            assert value.__doc__, f"{name}.{public}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_takes_from_another_only_what_that_one_offers(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.module not in MODULES:
            continue
        source = import_module(node.module)
        for taken in (alias.name for alias in node.names):
            if f"{node.module}.{taken}" not in FILES and not isinstance(getattr(source, taken), TypeVar):
                assert taken in getattr(source, "__all__", dir(source)), f"{name} takes {taken} from {node.module}"
