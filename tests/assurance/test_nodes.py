"""The ONNX project's tests through a deployment: a few of each kind, and what would be wrong is found to be."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from assurance.campaigns.nodes import CAMPAIGN, Judged, counted, judged
from assurance.nodes.bare import Bare, Came, run_bare
from assurance.nodes.cases import BATCHES, CASES, Case, batch, cases
from assurance.nodes.comparison import AS_BARE, NO_LOCALE, NOT_TAKEN, Told, difference, judge, passes
from assurance.nodes.lending import backend
from tests.assurance.test_covers import noticing, uncovered
from tests.observations import Observed

#: One test or two of each kind, and what comes of it.
_FEW: Final = {
    "node/test_abs": "passes in both",
    "node/test_and_bcast4v4d": "passes in both",  # BOOL
    "node/test_cast_FLOAT_to_FLOAT16": "passes in both",
    "node/test_cast_DOUBLE_to_FLOAT": "passes in both",
    "node/test_clip_default_int8_inbounds": "passes in both",
    "node/test_clip": "passes in both",  # two of its inputs have no dimension
    "node/test_if": "passes in both",
    "node/test_isinf": "passes in both",  # infinities and NaN as inputs
    "node/test_lstm_defaults": "passes in both",
    "node/test_reduce_log_sum_empty_set": "passes in both",  # infinities as outputs, of an input without an element
    "node/test_scan9_sum": "passes in both",
    "node/test_split_variable_parts_2d_opset18": "passes in both",  # two outputs
    "node/test_string_concat": "passes in both",
    "node/test_top_k": "passes in both",  # INT64
    "pytorch-converted/test_Conv2d_depthwise": "passes in both",
    "light/squeezenet": "passes in both",
    "node/test_stft": "fails in both",
    "node/test_top_k_uint64": "not loaded in both",
    "node/test_adam": "not loaded in both",
    "node/test_reduce_max_empty_set_bool": "not run in both",
    "node/test_cast_FLOAT_to_FLOAT8E4M3FN": "not taken: model_refused: datatype",
    "node/test_identity_sequence": "not taken: model_refused: not_a_tensor",
    "node/test_constant": "not taken: model_refused: no_tensors",
    "node/test_compress_bfloat16": "not taken: model_not_served: unsupported_datatype",
    "node/test_regex_full_match_empty": "not taken: invalid_value: empty_input",
}


def _named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Judged], set[str]]]:
    """The few through one enclave, and what was played for it; and `abs` once more, with another model in its place."""
    swapped = replace(_named("node/test_abs"), name="swapped")
    tests = [*map(_named, _FEW), swapped]
    with backend(tmp_path_factory.mktemp("nodes") / "world") as lender, pytest.MonkeyPatch.context() as patch:
        lend, negative = lender.lend, _named("node/test_neg").model
        patch.setattr(lender, "lend", lambda case: lend(replace(case, model=negative) if case is swapped else case))
        with noticing() as files:
            results = judged(lender, tests)
        yield results, files


def test_a_few_of_each_kind_are_answered_as_by_onnx_runtime(
    played: tuple[list[Judged], set[str]], observed: Observed
) -> None:
    """Bit for bit, or refused for a known reason; each answer is charged once, and no refusal."""
    found = {case.name: (one.counted, one.wrong) for case, _, one in played[0] if case.name != "swapped"}
    assert found == {name: (kind, None) for name, kind in _FEW.items()}
    observed.figure("tests of the ONNX project", len(found))


def test_a_wrong_answer_of_an_enclave_is_reported(played: tuple[list[Judged], set[str]]) -> None:
    """It came all the way with a good receipt: whoever lends another model than is thought is found out."""
    figures = counted(0, played[0])
    (violation,) = figures.violations
    assert violation.what.startswith("swapped: passes: False, and by ONNX Runtime alone: True; y has other elements")
    assert "; swapped" not in violation.what
    assert CAMPAIGN.status(figures) == "BROKEN"


def test_what_is_played_voids_the_figures(played: tuple[list[Judged], set[str]]) -> None:
    """As far as it is in this process: the others run the product alone."""
    assert "src/aigovtool/consumer/inference.py" in played[1]
    assert uncovered(CAMPAIGN, played[1], ("tests/assurance/test_nodes.py",)) == set()


def test_the_few_are_of_every_kind() -> None:
    """Each reason that is known, and each way in which both are alike, is met in the short form."""
    kinds = {f"not taken: {reason}" for reason in NOT_TAKEN} | {"passes in both", "fails in both"}
    assert set(_FEW.values()) == kinds | {f"{came.value} in both" for came, reasons in AS_BARE.items() if reasons}


def test_all_tests_are_dealt_out_once() -> None:
    """As many as the target says; the parts are all of them, and each has room in one enclave."""
    dealt = [case.name for number in range(BATCHES) for case in batch(number)]
    assert sorted(dealt) == [case.name for case in cases()]
    assert len(set(dealt)) == CASES
    assert max(len(batch(number)) for number in range(BATCHES)) < 64


def _bare(*values: Any) -> Bare:
    return Bare(Came.ANSWERED, {f"y{number}": np.asarray(value) for number, value in enumerate(values)})


def _flipped(array: Any) -> Any:
    bits = bytearray(array.tobytes())
    bits[0] ^= 1
    return np.frombuffer(bytes(bits), array.dtype).reshape(array.shape)


def test_one_bit_is_a_difference_though_the_test_is_passed() -> None:
    """What is within the tolerance of a test is not the same."""
    case = _named("node/test_exp")
    bare = run_bare(case)
    assert judge(case, bare, Told(bare.outputs, charged=1)).counted == "passes in both"
    other = {name: _flipped(array) for name, array in bare.outputs.items()}
    assert passes(case, other)
    assert judge(case, bare, Told(other, charged=1)).wrong == "y has other elements"


@pytest.mark.parametrize(
    ("expected", "given", "wrong"),
    [
        (np.float32(0), np.float32(-0.0), "y0 has other elements"),
        (np.array([0x7FC00000], "<u4").view("<f4"), np.array([0x7FC00001], "<u4").view("<f4"), "y0 has other elements"),
        (np.ones(1, np.float32), np.ones(1), "y0 is float64[1], not float32[1]"),
        (np.ones(1, np.float32), np.float32(1), "y0 is float32[], not float32[1]"),
        (np.array(["a"], dtype=object), np.array([b"b"], dtype=object), "y0 has other elements"),
        (np.array(["a"], dtype=object), np.array([b"a"], dtype=object), None),
        (np.full(1, np.nan), np.full(1, np.nan), None),
    ],
)
def test_arrays_are_the_same_or_not(expected: Any, given: Any, wrong: str | None) -> None:
    """By their datatype, shape and bits; texts come as bytes."""
    assert difference(_bare(expected).outputs, {"y0": given}) == wrong


def test_outputs_are_the_same_and_in_their_order() -> None:
    """One too few, one too many, and two that are exchanged."""
    two, one = _bare(1, 2).outputs, _bare(1).outputs
    assert difference(two, two) is None
    assert difference(two, one) == "outputs ['y0'], not ['y0', 'y1']"
    assert difference(one, two) == "outputs ['y0', 'y1'], not ['y0']"
    assert difference(two, dict(reversed(two.items()))) == "outputs ['y1', 'y0'], not ['y0', 'y1']"


@pytest.mark.parametrize(
    ("bare", "told", "wrong"),
    [
        (
            _bare(1),
            Told(refusal="engine_failed: run_failed"),
            "engine_failed: run_failed; by ONNX Runtime alone answered",
        ),
        (_bare(1), Told(refusal="invalid_value: model_refused_input"), "alone answered"),
        (_bare(1), Told(refusal=NO_LOCALE), "alone answered"),
        (Bare(Came.NOT_LOADED, {}), Told(refusal="invalid_value: model_refused_input"), "alone not loaded"),
        (Bare(Came.NOT_LOADED, {}), Told(refusal="engine_failed: engine_died"), "alone not loaded"),
        (Bare(Came.NOT_RUN, {}), Told(refusal=NO_LOCALE), "alone not run"),
        (Bare(Came.NOT_RUN, {}), Told({"y0": np.float32(1)}, charged=1), "answered; by ONNX Runtime alone not run"),
        (Bare(Came.NOT_LOADED, {}), Told(refusal=NO_LOCALE, charged=1), "1 units are charged, not 0"),
        (_bare(1), Told(_bare(1).outputs), "0 units are charged, not 1"),
        (_bare(1), Told(_bare(1).outputs, charged=2), "2 units are charged, not 1"),
    ],
)
def test_what_is_told_otherwise_is_reported(bare: Bare, told: Told, wrong: str) -> None:
    """A reason that is not known, one that is not that of ONNX Runtime, an answer too many, and a wrong charge."""
    found = judge(Case("a", b"", {}, (np.asarray(1),)), bare, told)
    assert found.counted == "differs"
    assert found.wrong is not None
    assert found.wrong.endswith(wrong)


def test_a_model_that_needs_a_locale_is_not_taken() -> None:
    """ONNX Runtime alone opens the system's: an engine in its sandbox opens no file, also where there is one."""
    case = _named("node/test_strnormalizer_export_monday_casesensintive_lower")
    found = judge(case, _bare(1), Told(refusal=NO_LOCALE))
    assert (found.counted, found.wrong) == (f"not taken: {NO_LOCALE}", None)


def test_the_figure_says_how_many_for_which_reason() -> None:
    """And the table what each reason means, and how many ONNX Runtime alone would have answered."""
    case, reason = Case("a", b"", {}, (np.asarray(1),)), "model_refused: not_a_tensor"
    results = [
        (case, bare, judge(case, bare, told))
        for bare, told in [
            (_bare(1), Told(_bare(1).outputs, charged=1)),
            (_bare(1), Told(refusal=reason)),
            (Bare(Came.NOT_RUN, {}), Told(refusal=reason)),
            (Bare(Came.NOT_LOADED, {}), Told(refusal="model_refused: custom_operator")),
        ]
    ]
    figures = counted(3, results)
    assert CAMPAIGN.figure(figures) == (
        "4 tests: the same in both, bit for bit, 1 passes, 0 fails, 1 not loaded, 0 not run; not taken by design 2 "
        "(2 `model_refused: not_a_tensor`); 0 violations"
    )
    assert CAMPAIGN.table is not None
    assert CAMPAIGN.table(figures).rows == [[f"`{reason}`", NOT_TAKEN[reason], "2", "1"]]
