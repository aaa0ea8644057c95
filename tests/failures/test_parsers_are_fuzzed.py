"""Whatever is read from outside ends in a value or in one line: no traceback, no hang, nothing evaluated."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from conftest_failures import ENVIRONMENT, failure
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bscheck.checks import all_checks
from bscheck.cli import main
from bscheck.errors import BscheckError
from bscheck.options import OPTIONS, field, read, variable
from bscheck.reproduce.files import place
from bscheck.results.compare import as_markdown, as_text, compare_runs, read_run
from bscheck.results.failure import Place, render
from bscheck.results.known_issues import read_known_issues
from bscheck.results.record import read_record
from bscheck.results.reference import find
from bscheck.results.verdict import Result

FUZZED = settings(
    max_examples=150, deadline=2000, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CASES = sorted({check.case for check in all_checks().values()}, key=lambda case: case.__name__)

TEXT = st.text(max_size=12) | st.sampled_from(
    ["inf", "nan", "../x", "sgd", "on", "failed", "passed", "known issue", "\x00"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)

RECORD = {
    "program": "bscheck", "schema": 1, "version": "0", "environment": dict(ENVIRONMENT), "options": {}, "started": "",
    "finished": "", "interrupted": False, "results": [failure(), failure(verdict="passed", failure=None)],
    "known_issues": [],
}  # fmt: skip


def one_line(function, *arguments):
    """Call the function; a `BscheckError` of one line is as good as a value."""
    try:
        return function(*arguments)
    except BscheckError as error:
        told = str(error)
    assert len(told.splitlines()) == 1, told
    return None


@st.composite
def damaged(draw, document) -> object:
    """Return a copy of a JSON document with a few of its parts replaced, removed or added."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        node = copy
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            if draw(st.booleans()) or isinstance(node, list):
                node[key] = draw(JSON)
            else:
                del node[key]
            break
        if isinstance(copy, dict) and draw(st.booleans()):
            copy[draw(TEXT)] = draw(JSON)
    return copy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file's name."""
    return tmp_path / "given.json"


def use(path: Path, number: int) -> None:
    """Do with a record what commands do, as far as no Keras is needed."""
    one_line(read_record, path)
    run = one_line(read_run, str(path))
    if run is not None:
        other = compare_runs(run, run)
        assert list(as_text(other))
        assert list(as_markdown(other))
    for recorded in one_line(find, f"{path}#{number}") or ():
        render(recorded.result, "promise", recorded.environment, Place("run.json", number, "repro", "x"))
    one_line(find, str(path))


@FUZZED
@given(document=damaged(RECORD), number=st.integers(0, 3))
def test_damaged_record(file: Path, document: object, number: int) -> None:
    file.write_text(json.dumps(document))
    use(file, number)


@FUZZED
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")))
@example(content=b"[" * 100_000)
@example(content=b'{"a":' * 50_000)
@example(content=b"1" * 10_000)
@example(content=b"NaN")
@example(content=b"\xff\xfe")
def test_file_that_is_no_record(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    use(file, 0)
    one_line(read_known_issues, file, all_checks())


@FUZZED
@given(data=st.data())
def test_result_from_json(data: st.DataObject) -> None:
    result = one_line(Result.from_json, data.draw(damaged(failure()) | JSON))
    if result is not None:
        assert Result.from_json(json.loads(json.dumps(result.to_json()))).to_json() == result.to_json()


@FUZZED
@given(data=st.data())
def test_case_from_json(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(CASES))
    known = kind().to_json()
    given_fields = data.draw(damaged(known) | JSON | st.fixed_dictionaries(dict.fromkeys(known, JSON)))
    case = one_line(kind.from_json, given_fields)
    if case is not None:
        assert kind.from_json(case.to_json()) == case
        assert str(case) is not None


TOML = """
[[issue]]
id = "a"
check = "weight_decay_acts_once_per_update"
reason = "r"
link = "l"
expires = 2027-01-31

[issue.when]
keras = ">=3.15,<3.16"
decay = ["on", "exclude_bias"]
updates = {min = 1}

[issue.param]
optimizer = "sgd"

[issue.case]
decay = "on"
"""


@FUZZED
@given(
    start=st.integers(0, len(TOML)),
    length=st.integers(0, 25),
    put=st.text(string.printable + "é\x00", max_size=20)
    | st.sampled_from(
        ["[", "[[issue]]\n", "inf", "nan", "1979-05-27T07:32:00Z", "9" * 400, '"""', "{", "\\u0000", "0x1F"]
    ),
)
def test_damaged_known_issues(file: Path, start: int, length: int, put: str) -> None:
    file.write_text(TOML[:start] + put + TOML[start + length :], encoding="utf-8")
    for issue in one_line(read_known_issues, file, all_checks()) or ():
        issue.covers(issue.check, {"optimizer": "sgd", "decay": "on", "updates": 1}, ENVIRONMENT)
        issue.covers(issue.check, {"optimizer": 3, "decay": None}, {"keras": "nightly"})


@FUZZED
@given(values=st.dictionaries(st.sampled_from([name for name, *_ in OPTIONS]), st.text(max_size=20), max_size=4))
def test_options_of_the_environment(values: dict[str, str]) -> None:
    one_line(read, {}, {variable(name): value for name, value in values.items()})


@FUZZED
@given(values=st.dictionaries(st.sampled_from([name for name, *_ in OPTIONS]), st.text(max_size=20), max_size=4))
def test_options_of_the_command_line(values: dict[str, str]) -> None:
    repeatable = {name for name, _, several, _ in OPTIONS if several}
    one_line(read, {field(name): [text] if name in repeatable else text for name, text in values.items()}, {})


@FUZZED
@given(
    name=st.text(max_size=30) | st.sampled_from(["#", "##", "a#0", "#1", "x#" + "9" * 30, "\x00#1", "/#0", "." + "#3"])
)
def test_name_of_a_recorded_result(name: str) -> None:
    one_line(find, name)


@FUZZED
@given(check=st.text(max_size=200), param=st.text(max_size=200))
def test_names_of_programs_stay_in_their_folder(check: str, param: str) -> None:
    path = place(Path("/tmp/folder"), check, param)
    assert path.parent == Path("/tmp/folder")
    assert path.name not in (".py", "..py")
    assert len(path.name.encode()) < 200


@settings(max_examples=40, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
@given(document=damaged(RECORD), number=st.integers(0, 2))
def test_waive_on_a_damaged_record(tmp_path: Path, capsys, document: object, number: int) -> None:
    record, toml = tmp_path / "given.json", tmp_path / "known.toml"
    record.write_text(json.dumps(document))
    toml.unlink(missing_ok=True)
    code = main(["waive", f"{record}#{number}", "--reason", "r", "--expires", "2999-01-01", "--file", str(toml)])
    told = capsys.readouterr()
    assert code in (0, 4)
    assert toml.exists() == (code == 0)
    if code:
        assert len(told.err.splitlines()) == 1
    else:
        assert len(read_known_issues(toml, all_checks())) == 1
