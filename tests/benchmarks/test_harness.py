"""The harness counts all that a contender uses and nothing else, gives each the same turns, and hides no failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Failure, Figure, Findings, Run, Unprepared
from benchmarks.measuring import checkout, child, figures, machine, table

MEGABYTE = 1_000_000
BURN = "import time; end = time.process_time() + 1\nwhile time.process_time() < end: pass"

positive = st.floats(1e-3, 1e6)
names = st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=6)


def python(code: str, name: str = "contender", **more: Any) -> Contender:
    return Contender(name, (sys.executable, "-c", code), Path.cwd(), **more)


def good(outcome: Run | Failure) -> Run:
    assert isinstance(outcome, Run), outcome
    return outcome


def bad(outcome: Run | Failure) -> str:
    assert isinstance(outcome, Failure), outcome
    return outcome.reason


def run(wall: float = 1.0, result: Mapping[str, Any] | None = None) -> Run:
    return Run(wall, wall, MEGABYTE, MEGABYTE, result or {})


# ---- turns, medians, ratios


def test_the_order_turns_round_every_round() -> None:
    assert figures.order("ABC", 3) == [["A", "B", "C"], ["C", "B", "A"], ["A", "B", "C"]]


@settings(deadline=None)
@given(names, st.integers(1, 4))
def test_everybody_has_the_same_turns(contenders: list[str], pairs: int) -> None:
    rounds = figures.order(contenders, 2 * pairs)
    assert all(sorted(one) == sorted(contenders) for one in rounds)
    flat = [name for one in rounds for name in one]
    sums = {name: sum(turn for turn, other in enumerate(flat) if other == name) for name in contenders}
    assert len(set(sums.values())) == 1


@settings(deadline=None)
@given(st.lists(positive, min_size=1))
def test_the_median_lies_within_the_spread(values: list[float]) -> None:
    figure = Figure.of(values)
    assert figure.low <= figure.median <= figure.high
    assert {figure.low, figure.high} <= set(values)


@settings(deadline=None)
@given(st.lists(positive, min_size=1, max_size=9), st.sampled_from([0.5, 2.0, 4.0, 1024.0]))
def test_a_ratio_is_that_of_the_rounds_whatever_the_machine_did_between_them(walls: list[float], factor: float) -> None:
    runs = {"base": [run(wall) for wall in walls], "other": [run(factor * wall) for wall in walls]}
    ratios = figures.ratios(runs, "base", "wall_seconds")
    assert ratios == {"base": Figure(1, 1, 1), "other": Figure(factor, factor, factor)}
    differences = figures.differences(runs, "base", "wall_seconds")
    assert differences["base"] == Figure(0, 0, 0)
    assert differences["other"] == Figure.of([(factor - 1) * wall for wall in walls])


# ---- tables


@settings(deadline=None)
@given(st.lists(st.lists(st.text(st.characters(codec="ascii"), min_size=1), min_size=3, max_size=3), min_size=1))
def test_a_table_has_straight_edges_and_a_line_for_every_row(rows: list[list[str]]) -> None:
    title, empty, *lines = table.table("title", ["one", "two", "three"], rows).split("\n")
    assert (title, empty) == ("title", "")
    assert len(lines) == 2 + len(rows)
    assert len({len(line) for line in lines}) == 1
    assert all(line.count("|") == 4 for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.012"), (0.9996, "1.00"), (1.005, "1.00"), (9.996, "10.0"), (99.96, "100"), (-1.5, "-1.50"),
     (123456.7, "123,457")],
)  # fmt: skip
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert table.number(value) == text


def test_a_single_round_has_no_spread() -> None:
    assert table.spread(Figure.of([2.0])) == "2.00"
    assert table.spread(Figure.of([1.0, 2.0, 4.0])) == "2.00 (1.00 to 4.00)"


# ---- what a child prints


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.text(), st.dictionaries(st.text(), json_values), st.sampled_from([None, 1, 4]), st.booleans())
def test_the_last_json_object_is_the_result(
    before: str, value: dict[str, Any], indent: int | None, ascii: bool
) -> None:
    text = before + "\n" + json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert child.result_of(text) == value
    assert child.result_of(text + "\n\n") == value


@pytest.mark.parametrize("text", ["", "\n", "done", "3", "[1]", '"{}"', '{"a": 1}\ndone', "{\n", "{\n}\n}"])
def test_anything_else_is_no_result(text: str) -> None:
    assert child.result_of(text) is None


# ---- one run


def test_what_the_child_prints_last_comes_back() -> None:
    found = good(harness.measure(python("print('words'); print('{\"tokens\": 7}')", made=lambda: "abc")))
    assert found.result == {"tokens": 7}
    assert found.made == "abc"


def test_a_childs_memory_counts_and_that_of_whoever_measures_does_not() -> None:
    ballast = b"x" * (300 * MEGABYTE)
    small, large = good(harness.measure(python("pass"))), good(harness.measure(python("x = b'x' * 200_000_000")))
    assert len(ballast) > large.peak_rss_bytes > 200 * MEGABYTE
    assert small.peak_rss_bytes < 100 * MEGABYTE
    assert small.tree_rss_bytes >= small.peak_rss_bytes


def test_the_tree_is_more_than_its_largest_process() -> None:
    """Two children hold their memory at the same time until both have it and it has been looked at."""
    hold = "x = b'x' * 100_000_000; print(flush=True); input()"
    code = f"""
import subprocess, sys, time
both = [subprocess.Popen([sys.executable, "-c", {hold!r}], stdin=-1, stdout=-1) for _ in range(2)]
for one in both: one.stdout.readline()
time.sleep({10 * child.SAMPLE_SECONDS})
for one in both: one.communicate(b"\\n")
"""
    found = good(harness.measure(python(code)))
    assert 100 * MEGABYTE < found.peak_rss_bytes < 190 * MEGABYTE
    assert found.tree_rss_bytes > 200 * MEGABYTE


@pytest.mark.parametrize("apart", [False, True], ids=["in its group", "in a session of its own"])
def test_processor_time_of_descendants_counts_also_when_nobody_waits_for_them(apart: bool) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session={apart})"
    assert good(harness.measure(python(code))).cpu_seconds >= 1


def test_the_environment_is_the_given_one_and_the_folder_too(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps({'folder': os.getcwd(), 'all': dict(os.environ)}))"
    found = good(harness.measure(Contender("it", (sys.executable, "-c", code), tmp_path, {"ONLY": "1"})))
    assert Path(found.result["folder"]) == tmp_path
    assert {name for name in found.result["all"] if not name.startswith("LC_")} == {"ONLY"}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('ready'); print('first\\n last words \\n', file=sys.stderr); sys.exit(3)", "exit code 3: last words"),
        ("print('only this'); raise SystemExit(1)", "exit code 1: only this"),
        ("raise SystemExit(4)", "exit code 4: no output"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9: no output"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_the_childs_last_words(code: str, says: str) -> None:
    assert bad(harness.measure(python(code))) == says


def test_one_that_must_answer_and_does_not_is_a_failure() -> None:
    assert good(harness.measure(python("print('{}')", answers=True))).result == {}
    assert bad(harness.measure(python("print('done')", answers=True))) == "printed no JSON object last, but: done"


def test_a_program_that_is_not_there_is_named() -> None:
    reason = bad(harness.measure(Contender("it", ("no-such-program",), Path.cwd())))
    assert reason == "exit code 127: no-such-program can't be started: No such file or directory"


def test_a_state_that_can_t_be_made_is_a_failure() -> None:
    def fresh() -> None:
        raise Unprepared("no base model")

    assert bad(harness.measure(python("pass", fresh=fresh))) == "not prepared: no base model"


SLEEPER = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"


def test_a_run_that_takes_too_long_is_ended_with_its_descendants(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}, {str(file)!r}])"
    assert bad(harness.measure(python(code, limit_seconds=5))) == "ran longer than 5 s and was ended"
    assert not psutil.pid_exists(int(file.read_text()))


def test_what_a_run_leaves_behind_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 5.0)
    file = tmp_path / "pid"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}, {str(file)!r}], start_new_session=True)"
    good(harness.measure(python(code)))
    assert not psutil.pid_exists(int(file.read_text()))


# ---- comparisons


def test_contenders_take_turns_and_one_that_fails_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def contender(name: str, more: str = "") -> Contender:
        return python(f"open({str(log)!r}, 'a').write({name!r}); {more}", name)

    once = f"import os, pathlib; pathlib.Path({str(log)!r}).read_text().count('C') == 2 and exit('too often')"
    comparison = harness.compare([contender("A"), contender("B"), contender("C", once)], 4)
    assert log.read_text() == "ABC" + "CBA" + "AB" + "BA"
    assert {name: len(series) for name, series in comparison.runs.items()} == {"A": 4, "B": 4}
    assert comparison.failures == {"C": "exit code 1: too often"}
    assert comparison.baseline == "A"


def test_one_that_makes_something_else_is_not_compared() -> None:
    same, other = python("pass", "A", made=lambda: "same"), python("pass", "B", made=lambda: "other")
    comparison = harness.compare([same, other], 2)
    assert comparison.failures == {"B": "made 'other' where the first run made 'same'"}
    assert len(comparison.runs["A"]) == 2


def test_findings_hold_a_ratio_to_the_baseline_and_every_failure() -> None:
    found = harness.findings("title", Comparison("A", {"A": [run(2), run(4)], "B": [run(3), run(4)]}, {"C": "why"}))
    assert found.ratios["B / A"]["wall_seconds"] == {"median": 1.25, "low": 1.0, "high": 1.5}
    assert list(found.ratios) == ["B / A"]
    assert found.absolute["A"]["wall_seconds"]["median"] == 3
    assert found.failures == {"C": "why"}


def test_without_its_baseline_a_comparison_has_no_ratios() -> None:
    found = harness.findings("title", Comparison("A", {"B": [run(3)]}, {"A": "why"}))
    assert not found.ratios
    assert found.absolute["B"]["wall_seconds"]["median"] == 3
    assert "| B " in found.tables[0]


# ---- scripts


def test_a_script_writes_its_five_keys_and_nothing_of_where_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "QUICK_CEILING_SECONDS", 0.01)
    file = tmp_path / "figures.json"

    def measured(options: harness.Options) -> Findings:
        assert options == harness.Options(quick=True, rounds=2)
        return Findings({"b / a": 2}, {"a": 1}, ["a table"])

    argv = ["--quick", "--rounds", "2", "--json", str(file)]
    assert harness.main("script", "about", measured, rounds=9, quick_rounds=5, argv=argv) == 0
    value = json.loads(file.read_text())
    assert list(value) == ["name", "ratios", "absolute", "machine", "command"]
    assert (value["name"], value["ratios"], value["absolute"]) == ("script", {"b / a": 2}, {"a": 1})
    assert value["command"] == "python benchmarks/script.py --quick --rounds 2"
    assert not {"node", "host", "name", "user"} & set(value["machine"])
    assert str(tmp_path) not in file.read_text() and str(checkout.ROOT) not in file.read_text()
    assert set(harness.NAMES) < set(value["machine"]["ceilings"])
    assert all(value["machine"]["ceilings"][ceiling] > 0 for ceiling in harness.NAMES)
    printed = capsys.readouterr().out
    assert "a table" in printed
    assert all(label in printed for label in harness.NAMES.values())


def test_a_script_with_a_hole_in_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "QUICK_CEILING_SECONDS", 0.01)
    file = tmp_path / "figures.json"
    found = Findings(failures={"peer": "exit code 1: no module"})
    assert harness.main("script", "about", lambda _: found, 1, 1, ["--quick", "--json", str(file)]) == 1
    assert json.loads(file.read_text())["absolute"] == {"peer": {"failed": "exit code 1: no module"}}
    assert "left out: peer: exit code 1: no module" in capsys.readouterr().out


def test_a_script_that_can_t_begin_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "QUICK_CEILING_SECONDS", 0.01)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)

    def measured(_: harness.Options) -> Findings:
        return Findings(absolute={"place": str(checkout.make(tmp_path / "place"))})

    assert harness.main("script", "about", measured, 1, 1, ["--quick"]) == 1
    assert "left out: everything: git ls-files failed: fatal: not a git repository" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"), [(["--rounds", "0"], "expected 1 or more"), (["--json", "no/f"], "no folder no")]
)
def test_wrong_flags_are_refused_before_anything_is_measured(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(_: harness.Options) -> Findings:
        pytest.fail("it was measured")

    with pytest.raises(SystemExit) as caught:
        harness.main("script", "about", measured, 1, 1, flags)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_sigterm_ends_the_contender_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"""
import sys
from pathlib import Path
from benchmarks import harness
def measured(_):
    harness.measure(harness.Contender("it", (sys.executable, "-c", {SLEEPER!r}, {str(file)!r}), Path.cwd()))
harness.QUICK_CEILING_SECONDS = 0.01
harness.main("script", "about", measured, 1, 1, ["--quick"])
"""
    environment = {**os.environ, "PYTHONPATH": str(checkout.ROOT), "TMPDIR": str(tmp_path)}
    script = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        while not (file.exists() and file.read_text()):
            assert script.poll() is None
            time.sleep(0.05)
        script.terminate()
        assert script.wait() == 128 + 15
    finally:
        script.kill()
    assert not psutil.pid_exists(int(file.read_text()))
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_the_better_ceiling_counts_and_a_failure_is_kept() -> None:
    assert machine.highest({"a": 1, "b": 4}, {"a": 2, "b": 3}) == {"a": 2, "b": 4}
    assert machine.highest({"a": 1}, Failure("why")) == machine.highest(Failure("why"), {"a": 1}) == Failure("why")


def test_the_scripts_are_found_and_explain_themselves(tmp_path: Path) -> None:
    """As `make bench` starts them, and from another folder."""
    scripts = sorted(path for path in (checkout.ROOT / "benchmarks").glob("*.py") if path.name != "__init__.py")
    assert {"demo.py", "harness.py", "overhead.py"} <= {path.name for path in scripts}
    for script in scripts:
        shown = subprocess.run(
            [sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert all(flag in shown.stdout for flag in ("--quick", "--json FILE"))
