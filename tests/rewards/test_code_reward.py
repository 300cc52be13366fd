"""The code reward: a solution that passes scores 1.0; every way to cheat, hang or fill the machine scores 0.0."""

import os
import socket
import sys
import textwrap

import pytest

from rlft.rewards import load_rewards

(code,) = load_rewards(["code(cpu_seconds=1, wall_seconds=5.0, memory_mb=512)"])
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
ADD = "def add(a, b):\n    return a + b\n"


def score(solution, tests=TESTS, reward=code):
    return reward(completions=[solution], answer=[tests])[0]


@pytest.mark.parametrize(
    "completion",
    [
        ADD,
        f"```python\n{ADD}```",
        f"First\n```python\nwrong(\n```\nbetter:\n```py\n{ADD}```\nDone.",
        [{"role": "assistant", "content": f"```python\n{ADD}```"}],
        f"{ADD}if __name__ == '__main__':\n    raise SystemExit(input())",
        f"print('x' * 10**6)\n{ADD}",
    ],
)
def test_a_solution_that_passes(completion):
    assert score(completion) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        TESTS,
        "Write add(a, b).",
        "def add(a, b):\n    return a - b",
        "def add(",
        "```python\n```",
        "\0",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'passed')\n    except OSError: pass\n" + ADD,
    ],
)
def test_wrong_and_cheating_solutions(completion):
    assert score(completion) == 0.0


@pytest.mark.parametrize(
    "attack",
    [
        "while True: pass",
        "x = bytearray(2**32)",
        "x = [0]\nwhile True: x += x",
        "with open('big', 'wb') as f:\n    for _ in range(64): f.write(bytes(2**20))",
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "def f(): f()\nf()",
    ],
    ids=["loop", "memory", "memory by growth", "file", "fork bomb", "subprocess", "system", "recursion"],
)
def test_limits(attack):
    assert score(f"{attack}\n{ADD}") == 0.0


BEYOND = {
    "connection": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "address": "import socket\nsocket.getaddrinfo('localhost', 80)",
    "listening": "import socket\nsocket.socket().bind(('127.0.0.1', 0))",
    "another program": "import os\nos.execv('/bin/true', ['true'])",
    "datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "file of others": "open({file!r}, 'w').write('changed')",
    "file of others, without open": "import os\nos.truncate({file!r}, 0)",
    "file of others, by a link": "import os\nos.symlink({file!r}, 'link')\nopen('link', 'w').write('changed')",
    "removal": "import os\nos.remove({file!r})",
    "renaming": "import os\nos.rename({file!r}, 'mine')",
    "removal of all": "import shutil\nshutil.rmtree({folder!r})",
    "folder": "import os\nos.mkdir({folder!r} + '/new')",
    "parent killed": "import os\nos.kill(os.getppid(), 9)",
    "environment of the parent": "import os\nprint(open(f'/proc/{{os.getppid()}}/environ').read())",
    "environment of another": "print(open('/proc/{pid}/environ').read())",
    "many files": "for i in range(1000): open(f'{{i}}', 'wb').write(bytes(1024))",
}


@pytest.mark.parametrize("attack", BEYOND)
def test_what_reaches_beyond_the_folder_is_refused(attack, tmp_path):
    """The refusal is an exception in the solution, so that one which survives it passes."""
    file = tmp_path / "kept.txt"
    file.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        values = {"port": server.getsockname()[1], "file": str(file), "folder": str(tmp_path), "pid": os.getppid()}
        attempt = BEYOND[attack].format(**values)
        with_handler = f"try:\n{textwrap.indent(attempt, '    ')}\nexcept PermissionError:\n    refused = True\n{ADD}"
        assert score(with_handler, f"assert refused\n{TESTS}") == 1.0
        with pytest.raises(BlockingIOError):
            server.accept()
    assert file.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_files_of_its_own_are_a_solution_s_to_write():
    uses = "import os\nos.mkdir('a')\nwith open('a/b', 'w') as file: file.write('3')\nos.rename('a/b', 'c')\n"
    ends = "import json, math, datetime, collections\nread = open('c').read()\nos.remove('c')\nos.rmdir('a')\n"
    assert score(uses + ends, "assert read == '3' and os.listdir() == []") == 1.0


def test_the_wall_limit_ends_what_uses_no_processor():
    (quick,) = load_rewards(["code(wall_seconds=1.0)"])
    assert score(f"import time; time.sleep(60)\n{ADD}", reward=quick) == 0.0


def test_it_starts_in_an_empty_folder_without_the_environment(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    sees = "import os\nseen = (sorted(os.listdir()), 'SECRET_TOKEN' in os.environ)\n"
    assert score(sees, "assert seen == ([], False), seen") == 1.0


def test_solutions_do_not_see_each_other():
    writes = "import os\nfound = os.path.exists('mark')\nopen('mark', 'w').close()\n"
    assert code(completions=[writes] * 4, answer=["assert not found"] * 4) == [1.0] * 4


def test_a_batch_keeps_its_order():
    assert code(completions=[ADD, "", ADD], answer=[TESTS, TESTS, "assert add(2, 2) == 5"]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("tests", "why"), [("", "empty"), ("# nothing", "empty"), ("assert (", "no Python"), (None, "no P")]
)
def test_tests_that_prove_nothing_are_refused(tests, why):
    with pytest.raises(ValueError, match=f"row 1 of the batch has an.*{why}"):
        code(completions=[ADD, ADD], answer=[TESTS, tests])


def test_a_child_that_cannot_start_is_never_a_score(monkeypatch):
    (starved,) = load_rewards(["code(memory_mb=1)"])
    with pytest.raises(RuntimeError, match=r"(?s)could not start .*MemoryError.*Raise wall_seconds or memory_mb"):
        score(ADD, reward=starved)
    monkeypatch.setattr(sys, "executable", os.devnull)
    with pytest.raises(OSError, match="Permission denied|Exec format"):
        score(ADD)
