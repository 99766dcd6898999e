"""Finding the App object that `perdure run` is told to serve."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from perdure.cli.failures import CommandError, usage

if TYPE_CHECKING:
    from perdure.app import App


def load_app(target: str) -> App:
    """The App that `module:attribute` or `file.py:attribute` names; without an attribute, the module's only App."""
    from perdure.app import App

    place, colon, attribute = target.partition(":")
    if not place or (colon and not attribute):
        raise usage(f"{target!r} names no app: write module:app, or path/file.py:app")
    module = _file(place) if place.endswith(".py") or "/" in place else _module(place)
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    there = f"the App objects there are: {', '.join(apps)}" if apps else "there is no App object in it"
    if not attribute:
        if len({id(app) for app in apps.values()}) != 1:
            raise CommandError(f"{target} does not say which App to run, and {there}; write {place}:NAME")
        return next(iter(apps.values()))
    found: object = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise CommandError(f"{place} has no {attribute!r}; {there}")
        found = getattr(found, name)
    if not isinstance(found, App):
        raise CommandError(f"{target} is no perdure.App but {_kind(found)}; {there}")
    return found


def _kind(value: object) -> str:
    return "a class" if isinstance(value, type) else f"of type {type(value).__name__}"


def _file(name: str) -> ModuleType:
    path = Path(name)
    if not path.is_file():
        raise CommandError(f"there is no file {name}")
    module_name = path.stem if path.stem not in sys.modules else f"perdure_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise CommandError(f"{name} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # As Python does for a script: what lies beside it can be imported, and dataclasses find their module.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _broken(name, error) from error
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            hint = f"; for a file write {name}.py:app" if Path(f"{name}.py").exists() else ""
            raise CommandError(
                f"there is no module {error.name!r}, looked for in {Path.cwd()} and the installed packages{hint}"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> CommandError:
    """Says where the user's own code failed: the innermost line that is not of the import system."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_import(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}, line {error.lineno})"
        return CommandError(f"{name} cannot be loaded: {type(error).__name__}: {error.msg}{where}")
    return CommandError(f"{name} cannot be loaded: {type(error).__name__}: {error}{where}")


def _of_import(filename: str) -> bool:
    return filename.startswith("<frozen") or filename == __file__ or filename == importlib.__file__
