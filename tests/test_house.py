"""The plan of the house: who may import whom, no cycle, nothing heavy at the door."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "atomvae"

# A room may import itself and the rooms below it.
MAY_IMPORT = {
    "movie": set(),
    "atoms": {"movie"},
    "patches": {"movie", "atoms"},
    "latent": set(),
    "datasets": {"movie", "atoms", "patches"},
    "model": {"latent", "patches", "atoms", "movie"},
    "maps": {"model", "latent", "patches", "atoms", "movie", "datasets"},
    "viewer": {"maps", "model", "latent", "patches", "atoms", "movie", "datasets"},
    "run": {"maps", "model", "latent", "patches", "atoms", "movie", "datasets"},
    "viewer.plugin": {
        "viewer", "run", "maps", "model", "latent", "patches", "atoms", "movie", "datasets",
    },
    "run.cli": {
        "viewer", "viewer.plugin", "run", "maps", "model", "latent", "patches", "atoms", "movie",
        "datasets",
    },
}  # fmt: skip
FOR_ALL = {"errors", "settings"}  # two small modules under the rooms
FORBIDDEN = {
    "latent": {"dask", "distributed", "napari", "matplotlib"},
    "model": {"dask", "distributed", "napari", "matplotlib"},
    "patches": {"torch", "napari", "matplotlib"},
    "atoms": {"torch", "napari", "matplotlib"},
    "movie": {"torch", "napari", "matplotlib"},
    "datasets": {"napari", "matplotlib"},
    "maps": {"napari", "dask"},
    "run": {"napari"},
    "viewer": {"napari"},  # viewer.plugin may
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of the code, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    parts = module.split(".")[1:]
    if parts[:2] in (["viewer", "plugin"], ["run", "cli"]):
        return ".".join(parts[:2])
    return parts[0] if parts else ""


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) and room(m) not in FOR_ALL])
def test_import_directions(module):
    here = room(module)
    for name in imports(MODULES[module]):
        if name.split(".")[0] == "atomvae" and (there := room(name)):
            # "atomvae.errors.InputError" lies in errors; names of functions lie in their module
            assert there in MAY_IMPORT[here] | {here} | FOR_ALL, f"{module} imports {name}"
        assert name.split(".")[0] not in FORBIDDEN.get(here, set()), f"{module} imports {name}"


def test_no_cycle():
    graph = {
        module: {name for name in imports(path) if name in MODULES} - {"atomvae", module}
        for module, path in MODULES.items()
        if module != "atomvae"
    }
    done, stack = set(), []

    def visit(module):
        assert module not in stack, f"cycle: {[*stack[stack.index(module) :], module]}"
        if module in done:
            return
        stack.append(module)
        for name in graph.get(module, ()):
            visit(name)
        done.add(stack.pop())

    for module in graph:
        visit(module)


def test_rooms_have_no_vague_names():
    vague = {"utils", "util", "core", "base", "common", "helpers", "misc"}
    assert not [m for m in MODULES if set(m.split(".")) & vague]


HEAVY = {"torch", "napari", "matplotlib", "atomai", "distributed", "qtpy", "zarr", "pandas", "dask"}
LIGHT = """
import sys, time, json
start = time.process_time()
{statement}
print(json.dumps([time.process_time() - start, sorted(sys.modules)]))
"""


def loaded(statement: str) -> tuple[float, set[str]]:
    out = subprocess.run(
        [sys.executable, "-c", LIGHT.format(statement=statement)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    seconds, modules = json.loads(out.splitlines()[-1])
    return seconds, {m.split(".")[0] for m in modules}


def test_import_is_light():
    seconds, modules = loaded("import atomvae")
    assert not modules & HEAVY
    assert seconds < 0.5  # CPU seconds of an empty package: far from the noise


def test_help_is_light():
    help_text = "import atomvae.run.cli as c; from typer.main import get_command as g; g(c.app)"
    _, modules = loaded(help_text)
    assert not modules & {"torch", "napari", "atomai", "matplotlib", "distributed"}


def test_every_public_name_resolves():
    statement = "import atomvae; [getattr(atomvae, n) for n in atomvae.__all__]"
    loaded(statement)


def sloc(node_or_tree, text: str) -> int:
    """Code lines without blanks, comments and docstrings."""
    skip = set()
    for node in ast.walk(node_or_tree):
        if isinstance(node, ast.Expr) and isinstance(getattr(node, "value", None), ast.Constant):
            skip |= set(range(node.lineno, node.end_lineno + 1))
    first = getattr(node_or_tree, "lineno", 1)
    last = getattr(node_or_tree, "end_lineno", len(text.splitlines()))
    lines = text.splitlines()
    return sum(
        1
        for i in range(first, last + 1)
        if i not in skip and lines[i - 1].strip() and not lines[i - 1].strip().startswith("#")
    )


def test_comfortable_rooms():
    """Sizes: 300 code lines a file, 50 a function, 8 arguments; a little over is tolerated."""
    offenders = defaultdict(list)
    for module, path in MODULES.items():
        text = path.read_text()
        tree = ast.parse(text)
        if sloc(tree, text) > 330:
            offenders["file"].append((module, sloc(tree, text)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if sloc(node, text) > 55:
                    offenders["function"].append((module, node.name, sloc(node, text)))
                count = len(node.args.args) + len(node.args.kwonlyargs)
                if count > 8 + (node.args.args[:1] != [] and node.args.args[0].arg == "self"):
                    offenders["arguments"].append((module, node.name, count))
                if node.args.kwarg and not node.name.startswith("_"):
                    offenders["**kwargs"].append((module, node.name))
    assert not offenders, dict(offenders)
