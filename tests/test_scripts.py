"""Processes that tests start end in time, whatever one of them does."""

from pathlib import Path

import pytest

from tests import scripts

SCRIPT = "import os, sys, time\nos.write(1, f'done {{os.environ[\"RANK\"]}}\\n'.encode())\n{}\n"
"""Says so in one piece: two processes write to one file."""


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("", 0),
        ("time.sleep(100 * int(os.environ['RANK']))", 0),
        ("sys.exit(3 * int(os.environ['RANK'])) if os.environ['RANK'] == '1' else time.sleep(100)", 3),
    ],
    ids=["well", "one is behind", "one fails"],
)
def test_processes_end(last: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "BEHIND", 3.0)
    (tmp_path / "script.py").write_text(SCRIPT.format(last))
    finished = scripts.run(tmp_path / "script.py", processes=2)
    assert finished.returncode == code
    assert code or {"done 0", "done 1"} <= set(finished.stdout.splitlines())


def test_processes_that_take_too_long_are_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import time\ntime.sleep(100)\n")
    assert scripts.run(tmp_path / "script.py", timeout=1).returncode not in (0, 1)
