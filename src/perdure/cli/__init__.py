"""The command `perdure`.

`main` says which commands there are and how they end; `run` serves an app; `workflow`, `steering`, `state` and
`actor` ask a node over HTTP (`remote`) or read a store that no node has open (`offline`); `show` is how answers look.

Everything heavy is imported by the command that needs it, so that the command line answers at once.
"""

from perdure.cli.main import main

__all__ = ["main"]
