"""The drawn error tree is the real one: programs rely on its codes, people on its words."""

import ast
import inspect
import pickle
import re

import pytest

from aigovtool import errors
from aigovtool.errors import AIGovToolError

# `│   ├── MalformedError            cannot be parsed                           400 malformed`
LINE_RE = re.compile(r"^(?P<indent>[│ ]*)(?:[├└]── )?(?P<name>\w+)(?: {2,}(?P<words>.*?))?(?: {2,}(?P<end>\d.*))?$")


def all_classes() -> list[type[AIGovToolError]]:
    found: list[type[AIGovToolError]] = []
    waiting: list[type[AIGovToolError]] = [AIGovToolError]
    while waiting:
        found.append(waiting.pop())
        # A test of somebody else may define a class of its own; the tree is what errors.py has.
        waiting.extend(cls for cls in found[-1].__subclasses__() if cls.__module__ == errors.__name__)
    return found


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Return name -> (parent's name, what stands at the end of the line) of the docstring's drawing."""
    drawing = (errors.__doc__ or "").split("```")[1].strip("\n").splitlines()
    path: list[str] = []
    tree: dict[str, tuple[str | None, str | None]] = {}
    for line in drawing:
        match = LINE_RE.match(line)
        assert match is not None, line
        depth = 0 if not tree else len(match["indent"]) // 4 + 1
        del path[depth:]
        tree[match["name"]] = (path[-1] if path else None, match["end"])
        path.append(match["name"])
    return tree


ALL = all_classes()
LEAVES = [cls for cls in ALL if not cls.__subclasses__()]


def test_the_drawing_shows_every_class_under_its_parent() -> None:
    """A class that is added, moved or removed must be added, moved or removed in the drawing."""
    real = {cls.__name__: None if cls is AIGovToolError else cls.__bases__[0].__name__ for cls in ALL}
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == real


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_the_drawing_shows_status_and_code(cls: type[AIGovToolError]) -> None:
    """The numbers people read are the numbers programs get."""
    assert drawn_tree()[cls.__name__][1] == f"{cls.status} {cls.code}"


def test_codes_are_unique_and_stable_in_form() -> None:
    """A program can tell every class by its code, and use the code in a URN."""
    codes = [cls.code for cls in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z][a-z_]*", code) for code in codes)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_class_says_what_it_means_in_both_worlds(cls: type[AIGovToolError]) -> None:
    """Each has its own sentence, a status that is an error, and an exit code that is a failure."""
    assert cls.__doc__
    assert cls.__doc__ != AIGovToolError.__doc__ or cls is AIGovToolError
    assert 400 <= cls.status <= 599
    assert 1 <= cls.exit_code <= 63
    assert "code" in vars(cls)


def test_every_class_of_the_module_is_in_the_tree() -> None:
    """There is one tree, and nothing beside it."""
    members = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__}
    assert members == set(ALL)


def test_faults_of_the_caller_are_told_apart_from_ours() -> None:
    """Whose fault it was can be read from the exit code, and 5xx is never the caller's."""
    branches = AIGovToolError.__subclasses__()
    assert len({cls.exit_code for cls in branches}) == len(branches)
    for cls in LEAVES:
        if cls.status >= 500:
            assert issubclass(cls, errors.FaultError)


def test_a_refusal_is_not_an_input_error() -> None:
    """`except InputError` never swallows a refusal of governance, nor the other way round."""
    assert not issubclass(errors.RefusalError, (errors.InputError, errors.FaultError, errors.VerificationError))


def test_an_error_carries_what_a_reader_needs() -> None:
    """Message, reason, fix and waiting time are attributes, and absent means None."""
    error = errors.OverloadedError("queue full", reason="connections", fix="wait", retry_after_s=3)
    assert (str(error), error.message, error.reason, error.fix, error.retry_after_s) == (
        "queue full",
        "queue full",
        "connections",
        "wait",
        3,
    )
    bare = errors.NotFoundError("no such model")
    assert (bare.reason, bare.fix, bare.retry_after_s) == (None, None, None)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_survives_the_way_between_two_processes(cls: type[AIGovToolError]) -> None:
    """A child process can hand its error to the parent without losing the reason."""
    copy = pickle.loads(pickle.dumps(cls("x", reason="r", fix="f", retry_after_s=1)))
    assert (type(copy), copy.message, copy.reason, copy.fix, copy.retry_after_s) == (cls, "x", "r", "f", 1)


def test_the_module_holds_nothing_but_the_tree() -> None:
    """The lowest layer has no imports of ours and no functions."""
    tree = ast.parse(inspect.getsource(errors))
    kinds = {type(node) for node in tree.body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.ClassDef}
