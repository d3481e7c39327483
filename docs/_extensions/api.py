"""The pages of the API: every public name of a package, by the module that defines it, from the docstrings.

``<!-- api noisestep.reference -->`` on a page stands for all of them.
"""

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

from sources import ROOT, definitions
from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- api ([\w.]+) -->$", flags=re.MULTILINE)


def file_of(module: str) -> str:
    """The file below the repository that a module is."""
    parts = module.split(".")[1:]
    path = ROOT.joinpath(*parts)
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(ROOT).as_posix()


def names_of(package: ModuleType) -> dict[str, list[str]]:
    """The public names of a package by module: those that it hands out, and what its modules keep to themselves.

    ``noisestep.accelerated`` and its parts say in ``__all__`` what is public. In ``noisestep.reference`` that is every
    function and class without an underscore.
    """
    found: dict[str, list[str]] = {}
    if package.__name__ != "noisestep.reference":
        for name in package.__all__:
            # a scheduler for diffusers says that it is defined where it is handed out
            module = getattr(getattr(package, name), "__module__", None) or package.__name__
            home = module if module.startswith("noisestep.") else package.__name__
            found.setdefault(home, []).append(f"{package.__name__}.{name}")
        return found
    order = re.findall(r":mod:`\.(\w+)`", package.__doc__ or "")
    modules = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [name for name in modules if not name.split(".")[-1].startswith("_")]
    rank = {name: order.index(name) if name in order else len(order) for name in (m.split(".")[2] for m in modules)}
    for name in sorted(modules, key=lambda name: (rank[name.split(".")[2]], name)):
        module = importlib.import_module(name)
        lines = definitions(ROOT / file_of(name))
        for member in sorted(lines, key=lines.__getitem__):
            if member.startswith("_") or "." in member:
                continue
            value = getattr(module, member)
            if member in package.__all__ and getattr(package, member) is value:
                found.setdefault(name, []).append(f"{package.__name__}.{member}")
            elif inspect.isfunction(value) or inspect.isclass(value):
                found.setdefault(name, []).append(f"{name}.{member}")
    return found


def value_of(name: str) -> Any:
    module, attribute = name.rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)


def entry(name: str) -> str:
    value = value_of(name)
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:\n   :member-order: bysource\n"
    if callable(value):
        return f".. autofunction:: {name}\n"
    shown = f"   :value: {value}\n" if isinstance(value, int) else ""
    return f".. py:data:: {name}\n{shown}"


def page(package_name: str) -> str:
    parts = []
    for module, names in names_of(importlib.import_module(package_name)).items():
        title = module.removeprefix(f"{package_name}.")
        about = inspect.getdoc(importlib.import_module(module)) or ""
        # its first paragraph, as it stands
        about = re.sub(r"([_*`<\[\\$])", r"\\\1", re.sub(r":\w+:`\.?([^`]*)`", r"\1", about.split("\n\n")[0]))
        entries = "\n".join(map(entry, names))
        parts.append(f"## {title}\n\n{about} (`{file_of(module)}`)\n\n```{{eval-rst}}\n{entries}```\n")
    return "\n".join(parts)


def expand(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = MARK.sub(lambda match: page(match[1]), content[0])


def formulas(_: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """An indented paragraph of a docstring is a formula, and stands as it is typed."""
    made: list[str] = []
    in_text, in_block = True, False
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if re.fullmatch(r"-{3,}", following.strip()):
            in_text = False
        if line.startswith(".. "):
            in_block = True
        elif line.strip() and not line.startswith(" "):
            in_block = False
        elif in_text and line.startswith("    ") and not in_block:
            made += ["::", ""]
            in_block = True
        # an absolute value is no substitution of reStructuredText
        is_typed = in_block or line.lstrip().startswith((">>>", "..."))
        made.append(line if is_typed else line.replace("|", r"\|"))
    lines[:] = made


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The line of a documented name, as a link that ``sources`` makes one between pages."""
    if domain != "py" or not info["module"]:
        return None
    first = info["fullname"].split(".")[0]
    value = getattr(importlib.import_module(info["module"]), first)
    module = getattr(value, "__module__", None) or info["module"]
    file = file_of(module if module.startswith("noisestep.") else info["module"])
    lines = definitions(ROOT / file)
    line = lines.get(info["fullname"]) or lines.get(getattr(value, "__name__", first)) or 1
    return f"source:{file}#L-{line}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    # before napoleon, which takes the sections apart
    app.connect("autodoc-process-docstring", formulas, priority=100)
    app.setup_extension("sphinx.ext.napoleon")
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
