"""The examples, loaded from their files as a user runs them: not as a package, each test its own."""

from __future__ import annotations

import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def load() -> Iterator[Callable[[str], ModuleType]]:
    """`load("hello")` is the module examples/hello.py, executed anew."""
    loaded: list[str] = []

    def load_example(name: str) -> ModuleType:
        unique = f"example_{name}_{uuid.uuid4().hex}"
        spec = importlib.util.spec_from_file_location(unique, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # dataclasses look their module up by name.
        sys.modules[unique] = module
        loaded.append(unique)
        spec.loader.exec_module(module)
        return module

    yield load_example
    for name in loaded:
        del sys.modules[name]
