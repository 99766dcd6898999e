"""What `perdure run` says about an app that it cannot find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure import App
from perdure.cli.load import load_app

ONE = "from perdure import App\nalias = app = App('one')\nthing = 5\nclass Holder:\n    app = app\n"
TWO = "from perdure import App\na, b = App('a'), App('b')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    unique = tmp_path.name.replace("-", "_")
    for name, text in {
        f"one_{unique}.py": ONE,
        f"two_{unique}.py": TWO,
        f"none_{unique}.py": "",
        f"broken_{unique}.py": "import os\n\nmissing_name\n",
        f"syntax_{unique}.py": "def f(:\n",
        f"needs_{unique}.py": "import no_such_thing\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("attribute", ["", ":app", ":alias", ":Holder.app"])
@pytest.mark.parametrize("place", ["one_{}", "one_{}.py", "./one_{}.py"])
def test_an_app_that_is_there(folder: Path, place: str, attribute: str) -> None:
    found = load_app(place.format(folder.name.replace("-", "_")) + attribute)
    assert isinstance(found, App)
    assert found.app_id == "one"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("one_{}:none", "has no 'none'; the App objects there are: alias, app"),
        ("one_{}:thing", "is no perdure.App but of type int; the App objects there are: alias, app"),
        ("one_{}:Holder", "is no perdure.App but a class"),
        ("two_{}", "does not say which App to run, and the App objects there are: a, b; write two_{}:NAME"),
        ("none_{}.py", "there is no App object in it"),
        ("none_{}:app", "has no 'app'; there is no App object in it"),
        (
            "broken_{}.py:app",
            "NameError: name 'missing_name' is not defined (",
        ),
        ("broken_{}:app", "broken_{}.py, line 3)"),
        ("syntax_{}:app", "syntax_{}.py, line 1)"),
        ("needs_{}:app", "ModuleNotFoundError: No module named 'no_such_thing' ("),
        ("nothing_{}:app", "there is no module 'nothing_{}', looked for in "),
        ("no.such:app", "there is no module 'no'"),
        ("nothing.py:app", "there is no file nothing.py"),
        ("folder/nothing:app", "there is no file folder/nothing"),
    ],
)
def test_an_app_that_is_not(perdure: Any, folder: Path, target: str, said: str) -> None:
    unique = folder.name.replace("-", "_")
    result = perdure("run", target.replace("{}", unique))
    assert result.status == 1
    assert said.replace("{}", unique) in result.error
