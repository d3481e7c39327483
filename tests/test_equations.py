"""docs/equations.md and the code name each other: no name on the page is dead, no public function is off it."""

import ast
import doctest
import importlib
import inspect
import re
from functools import cached_property
from pathlib import Path

import noisestep.reference
import pytest
from noisestep.reference._arguments import FloatArray

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
    "guidance",
    "multistep",
    "likelihood",
    "samplers.loop",
    "samplers.editing",
    "flow",
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
    if module in ("samplers", "evaluation"):
        # packages that hand out no names: one sampler a file
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


def entries(text, heading):
    """What the entries of a section of a docstring name, up to the next heading or the first line of prose."""
    section = re.search(rf"^{heading}\n-+\n(.*?)(?=^\w+\n---|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(\*{0,2}\w+(?:, \w+)*)(?: : .*)?$", section.group(1) if section else "", flags=re.MULTILINE)
    return {name.lstrip("*") for line in lines for name in line.split(", ")}


CONVENTIONS = entries(noisestep.reference.__doc__, "Conventions")


def test_the_conventions_say_what_the_symbols_are():
    assert {"schedule", "T", "t", "x_0", "x_t", "eps", "z", "output", "model", "seed", "stream", "step"} <= CONVENTIONS


@pytest.mark.parametrize("name", noisestep.reference.__all__)
def test_every_name_of_the_package_is_documented(name):
    value = getattr(noisestep.reference, name)
    if not inspect.isfunction(value) and not inspect.isclass(value):
        return
    text = inspect.getdoc(value)
    assert text
    # a parameter is explained where it stands, or once for all
    if inspect.isfunction(value) or value.__init__ is not object.__init__:
        sections = entries(text, "Parameters") | entries(text, "Attributes") | CONVENTIONS
        # some hold for one module
        sections |= entries(inspect.getmodule(value).__doc__, "Conventions")
        assert set(inspect.signature(value).parameters) - sections == set()
    if inspect.isfunction(value) and value.__annotations__["return"] not in (FloatArray, None):
        assert "Returns\n-------" in text
    for member, what in vars(value).items() if inspect.isclass(value) else ():
        if not member.startswith("_") and (inspect.isfunction(what) or isinstance(what, property | cached_property)):
            assert inspect.getdoc(what), member


def test_the_package_has_every_public_name_of_its_modules():
    found = {name for name in noisestep.reference.__all__ if name.isupper()}
    for module in (*MODULES, "network", "optimizer", "digits", "picture"):
        members = dict(public(importlib.import_module(f"noisestep.reference.{module}")))
        # the pieces that the noise is made of stay in their module
        found |= {name for name in members if "." not in name} - {"fma", "radius", "direction"}
    assert found == set(noisestep.reference.__all__)
    assert len(found) == len(noisestep.reference.__all__)
    everything: dict[str, object] = {}
    exec("from noisestep.reference import *", everything)
    assert found <= set(everything)


def test_the_order_of_reading_names_every_module():
    folder = Path(noisestep.reference.__file__).parent
    modules = {path.stem for path in folder.iterdir() if not path.stem.startswith("_") and path.suffix in ("", ".py")}
    listed = re.search(r"Order of reading\n-+\n(.*?)Conventions", noisestep.reference.__doc__, re.DOTALL).group(1)
    # the images and the picture are no part of the method
    assert modules - set(re.findall(r":mod:`\.(\w+)`", listed)) == {"digits", "picture"}


@pytest.mark.parametrize("module", [*MODULES, "network", "optimizer"])
def test_the_examples_of_a_module_run(module):
    failed, _ = doctest.testmod(importlib.import_module(f"noisestep.reference.{module}"))
    assert failed == 0
