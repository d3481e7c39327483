"""The rooms of accelerated/ import what docs/architecture.md allows, in no circle."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ACCELERATED = ROOT / "accelerated"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def module_of(path: Path) -> str:
    parts = path.relative_to(ACCELERATED).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# the package itself hands out names, and may import every room; cli/noisestep is the package above it
FILES = {module_of(path): path for path in ACCELERATED.rglob("*.py") if module_of(path)}


def imports(module: str) -> set[str]:
    """The modules of accelerated/ that a module imports when it is loaded or later."""
    path, found = FILES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(path.read_text())
    # what a type checker alone imports
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in unseen:
            continue
        if node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        elif (node.module or "").startswith("noisestep.accelerated"):
            base = (node.module or "").split(".")[2:]
        else:
            continue
        name = ".".join(part for part in base if part)
        for alias in node.names:
            whole = f"{name}.{alias.name}" if name else alias.name
            found.add(whole if whole in FILES else name)
    return found - {module, ""}


def allowed() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, flags=re.MULTILINE)
    rooms = {room for room, _ in rows}
    table = {}
    for room, text in rows:
        names = set(re.findall(r"`(\w+)`", text))
        table[room] = rooms - names if text.startswith("all but") else names
    return table


ALLOWED = allowed()


def test_the_page_has_a_row_for_every_room():
    assert set(ALLOWED) == {module.split(".")[0] for module in FILES}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_the_page_allows(room):
    for module in FILES:
        if module.split(".")[0] == room:
            used = {name.split(".")[0] for name in imports(module)} - {room}
            assert used <= ALLOWED[room], f"{module} imports {used - ALLOWED[room]}"


def test_no_file_imports_itself_through_others():
    # an __init__ hands out the names of its room: what imports the room imports the files that it hands out
    graph = {module: imports(module) for module in FILES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way[way.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_reference_imports_numpy_alone():
    for path in (ROOT / "reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert "accelerated" not in (node.module or ""), path.name
                assert (node.module or "").split(".")[0] != "torch", path.name
