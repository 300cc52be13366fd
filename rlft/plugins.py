"""Find a plug-in (a reward, a credit function, ...) from the text that names it.

A spec has one of three forms, each of which may end in keyword settings:

    exact_match                            a ready-made plug-in
    package.module:attr                    an importable module; the working directory counts as importable
    path/to/file.py:attr                   a Python file, loaded once per absolute path
    length(max_length=512, buffer=128)     any form with literal keyword arguments, bound by functools.partial

`spec_of` goes the other way, so that a child process can find the same function again. No torch is imported.
"""

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_SPEC = re.compile(r"(?:(?P<where>.+?):)?(?P<attr>[A-Za-z_][\w.]*)(?:\((?P<settings>.*)\))?", re.DOTALL)
_FILE_MODULE = "rlft_plugin_"


class PluginError(ValueError):
    """A plug-in spec that cannot be resolved; the message says what was looked for, where, and what is near."""


def resolve(spec: str | Callable[..., Any], *, kind: str, names: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Turn a spec into the callable that it names.

    Args:
        spec: One of the forms in the module docstring. A callable comes back unchanged.
        kind: What is being looked for (`"reward"`, `"credit"`), for messages.
        names: Ready-made plug-ins: name -> fuller spec (`module:attr` or `file.py:attr`). `name:attr` finds a
            second function beside the ready-made one.

    Returns:
        The callable, or a `functools.partial` of it where the spec carries settings.

    Raises:
        PluginError: if the spec is malformed, or nothing callable is found. A module that fails while it is
            imported is the error's `__cause__`.
    """
    if callable(spec):
        return spec
    names = names or {}
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise PluginError(_malformed(spec, kind, names))
    where, attr = match["where"], match["attr"]
    if where is None:
        if attr not in names:
            raise PluginError(_malformed(spec, kind, names, attr))
        where, _, attr = names[attr].rpartition(":")
    elif where in names:
        where = names[where].rpartition(":")[0]
    found = _attribute(_module(where, spec, kind), attr, spec, kind)
    return found if match["settings"] is None else _bind(found, match["settings"], spec, kind)


def spec_of(fn: Callable[..., Any]) -> str:
    """Spec under which `resolve` finds `fn` again, in another process as well.

    Args:
        fn: A function defined with `def` at the top level of a module, of a plug-in file or of the running script.

    Returns:
        `module:qualname`, or `/absolute/file.py:qualname` for a plug-in file or the running script.

    Raises:
        PluginError: for a lambda, a nested function, a partial or any other object that has no such address.
    """
    qualname, module_name = getattr(fn, "__qualname__", None), getattr(fn, "__module__", None)
    if qualname is None or module_name is None or "<" in qualname:
        raise PluginError(
            f"{fn!r} cannot be found again in a child process: it is a lambda, a nested function, a partial or an "
            "object. Define it with `def` at the top level of a module."
        )
    if module_name not in ("__main__", "__mp_main__") and not module_name.startswith(_FILE_MODULE):
        return f"{module_name}:{qualname}"
    file = getattr(sys.modules[module_name], "__file__", None)
    if file is None:
        raise PluginError(
            f"{qualname!r} was typed into an interactive session, where a child process cannot find it. "
            "Save it in a file and import it from there."
        )
    return f"{Path(file).resolve()}:{qualname}"


def _module(where: str, spec: str, kind: str) -> ModuleType:
    if where.endswith(".py"):
        return _load_file(Path(where).expanduser().resolve(), spec, kind)
    _importable(Path.cwd())
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not (where + ".").startswith(error.name + "."):
            raise PluginError(_import_failed(where, spec, kind, error)) from error
        raise PluginError(
            f"{kind} {spec!r}: there is no module {error.name!r} on sys.path or in {Path.cwd()}. "
            "For a file, write its path with the ending: path/to/file.py:attr."
        ) from error
    except (Exception, SystemExit) as error:
        raise PluginError(_import_failed(where, spec, kind, error)) from error


def _load_file(path: Path, spec: str, kind: str) -> ModuleType:
    # The name depends on nothing but the path, so a child process that loads the file gives it the same one.
    name = f"{_FILE_MODULE}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise PluginError(f"{kind} {spec!r}: there is no file {path}.{_near(path.name, beside)}")
    loader_spec = importlib.util.spec_from_file_location(name, path)
    assert loader_spec is not None
    assert loader_spec.loader is not None
    module = importlib.util.module_from_spec(loader_spec)
    _importable(path.parent)
    sys.modules[name] = module
    try:
        loader_spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            raise PluginError(_import_failed(str(path), spec, kind, error)) from error
        raise
    return module


def _importable(folder: Path) -> None:
    """Let plug-ins import what lies beside them; last on the path, so that nothing installed is shadowed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _attribute(module: ModuleType, attr: str, spec: str, kind: str) -> Callable[..., Any]:
    found: Any = module
    place = getattr(module, "__file__", module.__name__)
    for part in attr.split("."):
        if not hasattr(found, part):
            public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            raise PluginError(f"{kind} {spec!r}: {place} has no {attr!r}.{_near(attr, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise PluginError(f"{kind} {spec!r}: {attr!r} in {place} is a {type(found).__name__}, not callable.")
    return found


def _bind(found: Callable[..., Any], settings: str, spec: str, kind: str) -> Callable[..., Any]:
    try:
        call = ast.parse(f"f({settings})", mode="eval").body
        simple = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        if not isinstance(call, ast.Call) or not simple or any(k.arg is None for k in call.keywords):
            raise ValueError("only keyword arguments are allowed")
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise PluginError(
            f"{kind} {spec!r}: the settings ({settings}) must be keyword arguments with literal values, "
            'as in length(max_length=512) or bm25(corpus="corpus.jsonl"); texts stand in quotes.'
        ) from error
    return functools.partial(found, **keywords)


def _import_failed(where: str, spec: str, kind: str, error: BaseException) -> str:
    return f"{kind} {spec!r}: {where} failed while it was imported, with {type(error).__name__}: {error}"


def _malformed(spec: str, kind: str, names: Mapping[str, str], name: str | None = None) -> str:
    near = "" if name is None else _near(name, names)
    return (
        f"{kind} {spec!r} is neither a ready-made name nor package.module:attr nor path/to/file.py:attr.{near} "
        f"Ready-made: {', '.join(sorted(names)) or 'none'}."
    )


def _near(name: str, candidates: Iterable[str]) -> str:
    candidates = sorted(candidates)
    close = difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(repr(c) for c in close)}?"
    return f" It has: {', '.join(candidates[:10])}." if candidates else ""
