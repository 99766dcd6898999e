"""The front door is what it says it is."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import perdure

#: What users import; changed only with a deprecation.
PROMISED = {
    "ActivityContext",
    "Actor",
    "ActorProxy",
    "App",
    "RetryPolicy",
    "RuntimeStatus",
    "WorkflowClient",
    "WorkflowContext",
    "when_all",
    "when_any",
}


def test_promised_names_are_public() -> None:
    assert sorted(PROMISED - set(perdure.__all__)) == []


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert list(perdure.__all__) == sorted(set(perdure.__all__))


def test_every_name_in_all_exists_and_is_documented() -> None:
    for name in perdure.__all__:
        value = getattr(perdure, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__.split(".")[0] == "perdure", name
            assert inspect.getdoc(value), f"{name} has no docstring"


def test_nothing_public_is_left_out_of_all() -> None:
    """A name without an underscore that is not in __all__ is used by somebody sooner or later."""
    there = {name for name in vars(perdure) if not name.startswith("_")}
    modules = {name for name in there if isinstance(getattr(perdure, name), ModuleType)}
    assert sorted(there - modules - set(perdure.__all__) - {"annotations"}) == []


def test_the_front_door_has_no_logic() -> None:
    """It re-exports, so that whoever reads it sees the layout and nothing else."""
    assert perdure.__file__ is not None
    tree = ast.parse(Path(perdure.__file__).read_text())
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign, ast.If, ast.FunctionDef)
    assert [type(node).__name__ for node in tree.body if not isinstance(node, allowed)] == []
