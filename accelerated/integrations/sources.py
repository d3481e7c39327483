"""Which functions of other libraries are known here, by their source, and what an object has in their place."""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


def digest(function: object) -> str | None:
    """A hash of a function's code, and of the functions and classes of its module that it names.

    Comments, docstrings and layout do not count, and neither does the module's name. A vendored copy has the hash of
    the original; a copy with one line changed has another.

    Parameters
    ----------
    function : object
        As it stands in its class: what is no function has no hash. Decorators of PyTorch are looked through: their
        text is part of the source.

    Returns
    -------
    str or None
        16 hexadecimal digits; None for what has no Python source.
    """
    return _digest(function) if inspect.isfunction(function) else None


@functools.cache
def _digest(function: Callable[..., Any]) -> str | None:
    function = _undecorated(function)
    code = _code(function)
    if code is None:
        return None
    namespace, helpers, waiting = function.__globals__, dict[str, str](), [code]
    while waiting:
        tree = ast.parse(waiting.pop())
        for name in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & namespace.keys():
            if getattr(namespace[name], "__module__", None) == function.__module__ and name not in helpers:
                # a named tuple has no source: its name stands for it
                helpers[name] = _code(namespace[name]) or name
                waiting.append(helpers[name])
    return hashlib.sha256("\n".join([code, *(helpers[name] for name in sorted(helpers))]).encode()).hexdigest()[:16]


def _undecorated(function: Callable[..., Any]) -> Any:
    """The function below PyTorch's decorators, each of which is a function of PyTorch that wraps the next."""
    while hasattr(function, "__wrapped__"):
        if getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0] != torch.__name__:
            break
        function = function.__wrapped__
    return function


def _code(part: object) -> str | None:
    """The source of a function or class without comments, docstrings and layout; of a wrapper, its own."""
    if not inspect.isfunction(part) and not inspect.isclass(part):
        return None
    try:
        # of a function, its code's: `getsource` would look through every decorator
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(part, "__code__", part))))
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def changed(target: object, names: Iterable[str], known: Mapping[str, frozenset[str]]) -> str | None:
    """The first of a target's methods that is not the library's own, in words; None if there is none.

    Parameters
    ----------
    target : object
    names : iterable of str
        Methods. Those that no class of the target has are passed over.
    known : mapping of str to frozenset of str
        Digests of the library's own, by name.
    """
    for name in names:
        if name in vars(target):
            return f"{name} is set on the object"
        # in every class, since one may call the next
        for owner in type(target).__mro__:
            if name in vars(owner) and digest(vars(owner)[name]) not in known[name]:
                return f"{owner.__name__}.{name} is not the library's own"
    return None
