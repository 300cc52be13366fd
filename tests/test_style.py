"""House rules that a machine can check: sizes, where TRL's private names may stand, which room may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for folder in ("rlft", "rewards", "recipes") for file in sorted((ROOT / folder).rglob("*.py"))]
TREES = {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
LONGEST_FILE, LONGEST_FUNCTION = 300, 80

PRIVATE_IN_TRL = {
    "_buffered_inputs",
    "_calculate_rewards",
    "_compute_loss",
    "_determine_best_metric",
    "_finalize_training",
    "_generate_and_score_completions",
    "_generate_single_turn",
    "_get_per_token_logps_and_entropies",
    "_get_train_sampler",
    "_load_rng_state",
    "_logs",
    "_metrics",
    "_save_checkpoint",
    "_set_signature_columns_if_needed",
    "_signature_columns",
    "_tokenize_prompts",
    "_tool_call_loop",
    "_tr_loss",
}

# From the ground up; a room imports from lower layers, or from its own layer where no circle results.
LAYERS: list[set[str]] = [
    {"assets", "processes", "saved", "stream"},
    {"tiny", "data", "plugins", "compat"},
    {"rollouts", "retrieval", "rewards", "record", "run_folder", "evaluate", "resume"},
    {"credit", "em", "reward_models", "replay", "pair_folder", "health"},
    {"trainers", "report"},
    {"pair", "export"},
    {
        "arguments",
        "check",
        "checks",
        "configure",
        "disk",
        "limits",
        "preflight",
        "preflight_prompts",
        "prepare",
        "prepare_continual",
        "prepare_em",
        "prepare_lists",
        "prepare_personal",
        "prepare_prlm",
        "prepare_scorer",
        "prepare_search",
        "prepare_stoc",
        "set_aside",
        "start",
        "finish",
        "finish_em",
        "finish_lists",
        "finish_prlm",
        "finish_scorer",
        "finish_search",
        "finish_stoc",
        "launch",
        "cli",
        "__main__",
    },
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


@pytest.mark.parametrize("file", TREES, ids=str)
def test_files_and_functions_stay_short(file: Path) -> None:
    long = [
        node.name
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long, f"longer than {LONGEST_FUNCTION} lines; split them"
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("file", [file for file in TREES if file.parts[:2] != ("rlft", "compat")], ids=str)
def test_private_trl_names_stand_in_compat_only(file: Path) -> None:
    deep = [name for name in imported(TREES[file]) if name.startswith("trl.") and name.count(".") > 1]
    used = {node.attr for node in ast.walk(TREES[file]) if isinstance(node, ast.Attribute)}
    defined = {node.name for node in ast.walk(TREES[file]) if isinstance(node, ast.FunctionDef)}
    assert not deep
    assert not PRIVATE_IN_TRL & (used | defined)


def test_rooms_import_downwards_and_in_no_circle() -> None:
    edges = {
        (room_of(file), room)
        for file, tree in TREES.items()
        if file.parts[0] == "rlft" and file != Path("rlft/__init__.py")
        for name in imported(tree)
        if (room := imported_room(name)) and room != room_of(file)
    }
    assert edges
    assert {room for edge in edges for room in edge} <= LEVEL.keys(), "give the new room a layer above"
    assert [edge for edge in edges if LEVEL[edge[0]] < LEVEL[edge[1]]] == []
    graph: dict[str, set[str]] = {}
    for above, below in edges:
        graph.setdefault(above, set()).add(below)
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_ready_made_rewards_import_nothing_of_rlft() -> None:
    rewards = [file for file in TREES if file.parts[0] == "rewards"]
    assert rewards
    assert [file for file in rewards if any(name.startswith("rlft") for name in imported(TREES[file]))] == []


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that a module imports, anywhere in it: `a.b.c` for `from a.b import c`, else `a.b.*`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{alias.name}.*" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_room(name: str) -> str | None:
    """Room of rlft that a dotted name belongs to; None for other packages and rlft's lazy public names."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    known = {Path(file).stem if len(file.parts) == 2 else file.parts[1] for file in TREES if file.parts[0] == "rlft"}
    return room if package == "rlft" and room in known else None


def room_of(file: Path) -> str:
    """`rlft/credit/shear.py` -> `credit`; `rlft/cli.py` -> `cli`."""
    return file.with_suffix("").parts[1]
