"""`perdure completion`"""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.complete import SHELLS, shell_names
from perdure.cli.failures import usage

#: By this variable the program is asked for a script, and by that script for words.
VARIABLE = "_PERDURE_COMPLETE"


def completion(
    shell: Annotated[
        str, typer.Argument(metavar="|".join(SHELLS), help="For which shell.", autocompletion=shell_names)
    ],
) -> None:
    """Prints a script that makes Tab complete commands, options, instance ids and names.

    For bash: perdure completion bash > ~/.local/share/bash-completion/completions/perdure
    """
    if shell not in SHELLS:
        raise usage(f"there is no completion for {shell!r}; there is for {', '.join(SHELLS)}")
    import os

    from perdure.cli.main import app

    os.environ[VARIABLE] = f"source_{shell}"
    try:
        app(args=[], prog_name="perdure")
    finally:
        del os.environ[VARIABLE]
