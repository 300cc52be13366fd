"""Plug-in specs: every form resolves, and every failure says what was looked for, where, and what is near."""

import functools
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rlft.plugins import PluginError, resolve, spec_of

SOURCE = """
def double(x, times=2):
    return x * times

class Scale:
    @staticmethod
    def triple(x):
        return 3 * x

LIMIT = 7
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "my_plugin.py"
    file.write_text(SOURCE)
    return file


def find(spec, names=None):
    return resolve(spec, kind="reward", names=names)


def test_the_forms(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    assert find("math:sqrt") is math.sqrt
    assert find(f"{plugin}:double")(4) == 8
    assert find("./my_plugin.py:double")(4) == 8
    assert find(f"{plugin}:Scale.triple")(4) == 12
    assert find("twice", {"twice": f"{plugin}:double"})(4) == 8
    assert find("twice:Scale.triple", {"twice": f"{plugin}:double"})(4) == 12
    assert find(math.sqrt) is math.sqrt


def test_a_module_in_the_working_directory_is_importable(tmp_path, monkeypatch):
    (tmp_path / "cwd_only_plugin.py").write_text("def f(): return 'cwd'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert find("cwd_only_plugin:f")() == "cwd"


def test_a_file_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "beside_helper.py").write_text("VALUE = 5")
    (tmp_path / "uses_helper.py").write_text("import beside_helper\ndef f(): return beside_helper.VALUE")
    assert find(f"{tmp_path}/uses_helper.py:f")() == 5


def test_settings_are_bound(plugin):
    bound = find(f"{plugin}:double(times=5)")
    assert isinstance(bound, functools.partial)
    assert bound(4) == 20
    assert find(f"{plugin}:double(times=(1, 2))")(2) == (1, 2, 1, 2)


@pytest.mark.parametrize("settings", ["5", "times=", "times=open('x')", "**{'times': 3}", "times=1)(times=2"])
def test_settings_that_are_not_literal_keywords(plugin, settings):
    with pytest.raises(PluginError, match="keyword arguments with literal values"):
        find(f"{plugin}:double({settings})")


def test_a_file_is_loaded_once_per_absolute_path(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    first = find(f"{plugin}:double")
    assert find("my_plugin.py:double") is first
    assert sys.modules[first.__module__].__file__ == str(plugin)
    other = plugin.parent / "sub" / "my_plugin.py"
    other.parent.mkdir()
    other.write_text(SOURCE)
    assert find(f"{other}:double") is not first


def test_unknown_name_says_what_is_near():
    with pytest.raises(PluginError, match=r"'exact_mach'.*Did you mean 'exact_match'.*Ready-made: code, exact_match"):
        find("exact_mach", {"exact_match": "a.py:exact_match", "code": "b.py:code"})


@pytest.mark.parametrize("spec", ["", "my_reward.py", "some/dir/reward", "package.module.attr", ":attr", "a:b c"])
def test_malformed_specs_name_the_forms(spec):
    with pytest.raises(PluginError, match=r"package\.module:attr nor path/to/file\.py:attr"):
        find(spec)


def test_unknown_attribute_says_what_is_near(plugin):
    with pytest.raises(PluginError, match=r"my_plugin\.py has no 'doubel'\. Did you mean 'double'"):
        find(f"{plugin}:doubel")
    with pytest.raises(PluginError, match="has no 'zzz'. It has: Scale, double"):
        find(f"{plugin}:zzz")


def test_missing_file_says_what_is_near(plugin):
    with pytest.raises(PluginError, match=r"no file .*my_plugn\.py\. Did you mean 'my_plugin\.py'"):
        find(f"{plugin.parent}/my_plugn.py:double")
    with pytest.raises(PluginError, match="no file"):
        find("/nowhere/at/all.py:double")


def test_missing_module():
    with pytest.raises(PluginError, match="no module 'no_such_package'"):
        find("no_such_package.rewards:f")
    with pytest.raises(PluginError, match="no module 'math.rewards'"):
        find("math.rewards:f")
    with pytest.raises(PluginError, match="sys has no 'exi'. Did you mean 'exit'"):
        find("sys:exi")


def test_not_callable(plugin):
    with pytest.raises(PluginError, match="'LIMIT' in .* is a int, not callable"):
        find(f"{plugin}:LIMIT")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("1 / 0", ZeroDivisionError),
        ("def f(:", SyntaxError),
        ("import missing_dependency", ModuleNotFoundError),
        ("raise SystemExit(2)", SystemExit),
    ],
)
def test_a_file_that_fails_while_imported_keeps_its_cause(tmp_path, source, cause):
    file = tmp_path / "broken.py"
    file.write_text(source)
    for _ in range(2):  # nothing half-loaded stays behind
        with pytest.raises(PluginError, match=r"broken\.py failed while it was imported") as caught:
            find(f"{file}:f")
        assert isinstance(caught.value.__cause__, cause)
    file.write_text("def f(): return 1")
    assert find(f"{file}:f")() == 1


def test_a_module_that_fails_while_imported_keeps_its_cause(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_module.py").write_text("import missing_dependency")
    with pytest.raises(PluginError, match="broken_module failed while it was imported.*missing_dependency"):
        find("broken_module:f")


def test_spec_of_finds_the_same_function():
    assert find(spec_of(math.sqrt)) is math.sqrt
    assert spec_of(spec_of) == "rlft.plugins:spec_of"


def test_spec_of_a_file_plugin_holds_in_another_process(plugin):
    spec = spec_of(find(f"{plugin}:double"))
    assert find(spec) is find(f"{plugin}:double")
    program = f"from rlft.plugins import resolve; print(resolve({spec!r}, kind='reward')(21))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert (done.stdout.strip(), done.stderr) == ("42", "")


def test_spec_of_a_function_of_the_running_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from rlft.plugins import resolve, spec_of\n"
        "def f(): return __name__\n"
        "if __name__ == '__main__':\n"
        "    print(spec_of(f), resolve(spec_of(f), kind='reward')().startswith('rlft_plugin_script'))\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env)
    assert (done.stdout.strip(), done.stderr) == (f"{script}:f True", "")


def test_spec_of_refuses_what_has_no_address():
    def nested():
        pass

    for fn in (lambda: 0, nested, functools.partial(math.sqrt, 4), object()):
        with pytest.raises(PluginError, match="top level of a module"):
            spec_of(fn)


def test_no_torch_is_imported():
    program = "import sys, rlft.plugins, rlft.rewards; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "False"
