"""docs/equations.md and the code name each other: no name on the page is dead, no public function is off it."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import noisestep.reference
import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "equations.md").read_text()
MODULES = (
    "schedule",
    "betas",
    "forward",
    "posterior",
    "prediction",
    "reverse",
    "jumps",
    "loss",
    "bound",
    "samplers.loop",
    "noise",
)
# a heading of the third level is one equation, up to the next heading
EQUATIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def named(kind, text):
    """What the lists of one kind ("reference", "accelerated", "tests") name, continued on indented lines."""
    entries = re.findall(rf"^- {kind}:((?:.*\n)(?:  .*\n)*)", text, flags=re.MULTILINE)
    return [name for entry in entries for name in re.findall(r"`([^`]+)`", entry)]


def resolve(package, dotted):
    module, *attributes = dotted.split(".")
    if module == "samplers":
        # one sampler a file
        module = f"{module}.{attributes.pop(0)}"
    found = importlib.import_module(f"noisestep.{package}.{module}")
    for attribute in attributes:
        # a frozen table is set by the constructor, and annotated in the class
        if attribute in getattr(found, "__annotations__", {}):
            return
        found = getattr(found, attribute)


def public(module):
    """Public functions and classes that a module defines, and the public members of its classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for member, what in vars(value).items():
                if not member.startswith("_") and not isinstance(what, str | bool | int):
                    yield f"{name}.{member}", what


def test_the_page_has_equations():
    assert len(EQUATIONS) > 20


@pytest.mark.parametrize("title", EQUATIONS)
def test_every_equation_has_a_formula_a_function_and_a_test(title):
    text = EQUATIONS[title]
    assert "```math\n" in text
    assert named("reference", text)
    assert named("tests", text)


@pytest.mark.parametrize("name", sorted(set(named("reference", PAGE))))
def test_every_reference_function_on_the_page_exists(name):
    resolve("reference", name)


@pytest.mark.parametrize("name", sorted(set(named("accelerated", PAGE))))
def test_every_accelerated_op_on_the_page_exists(name):
    resolve("accelerated", name)


@pytest.mark.parametrize("name", sorted(set(named("tests", PAGE))))
def test_every_test_on_the_page_exists(name):
    file, test = name.split("::")
    # a name defined twice in a file would be collected once
    defined = [node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert test.startswith("test_")
    assert defined.count(test) == 1


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_is_on_the_page(module):
    on_the_page = set(named("reference", PAGE))
    defined = {f"{module}.{name}" for name, _ in public(importlib.import_module(f"noisestep.reference.{module}"))}
    assert defined - on_the_page == set()


def test_every_name_of_the_package_is_documented():
    undocumented = []
    for name in noisestep.reference.__all__:
        value = getattr(noisestep.reference, name)
        if not callable(value):
            continue
        text = inspect.getdoc(value) or ""
        # a class states its parameters, or where it is made by a function its attributes
        sections = ["Parameters", "Returns"] if inspect.isfunction(value) else ["Attributes"]
        undocumented += [(name, section) for section in sections if f"{section}\n{'-' * len(section)}" not in text]
        for parameter in inspect.signature(value).parameters if inspect.isfunction(value) else ():
            if not re.search(rf"^(?:\*\*|[\w, ]*\b){parameter}\b", text, flags=re.MULTILINE):
                undocumented.append((name, parameter))
    assert undocumented == []


def test_the_package_has_every_public_function_of_its_modules():
    for module in MODULES:
        if module == "noise":
            # the pieces that the noise is made of stay in their module
            continue
        for name, _ in public(importlib.import_module(f"noisestep.reference.{module}")):
            assert "." in name or name in noisestep.reference.__all__
