"""docs/dapr.md: the program on it prints what it says, and the examples that it names are all there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.dapr.test_examples import EXAMPLES, environment
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "dapr.md"


def test_the_program_prints_what_the_page_says(tmp_path: Path) -> None:
    program, printed = (
        next(block.text for block in blocks(PAGE) if block.info == info) for info in ("python run", "text")
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", printed)


def test_the_command_makes_a_program_for_dapr_one_for_perdure(tmp_path: Path) -> None:
    command = next(block.text for block in blocks(PAGE) if block.info == "sh").splitlines()[0]
    original = "import dapr.ext.workflow as wf\nfrom dapr.conf import Settings\nfrom daprs import x\nprint('import dapr')\n"
    (tmp_path / "order.py").write_text(original)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "order.py").read_text() == original.replace(
        "import dapr.ext", "import perdure.dapr.ext"
    ).replace("from dapr.conf", "from perdure.dapr.conf")


def test_every_example_is_named() -> None:
    named = set(re.findall(r"`examples/dapr/([\w.]+)`", PAGE.read_text()))
    assert named == {path.name for path in EXAMPLES.glob("*.py")}
