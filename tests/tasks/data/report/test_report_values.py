"""Laws of the report's values: comparison, tables, differences, intervals, units, curves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import wcwidth
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import DataError, IntegrityError
from tasks.core.manifest import Manifest
from tasks.data.report import training, units
from tasks.data.report.columns import COST, TRAINED, Column
from tasks.data.report.comparison import Comparison, Row, best, compare, figures, read_comparison
from tasks.data.report.difference import segments
from tasks.data.report.evaluations import Evaluation, Measured
from tasks.data.report.headline import interval
from tasks.data.report.tables import as_markdown, as_text
from tasks.data.report.training import Point, smoothed

FIGURES = st.none() | st.floats(0, 1e6, allow_nan=False)
SIZES = st.none() | st.integers(0, 10**13)
METRICS = st.dictionaries(st.sampled_from(["exact_match", "token_f1", "chrf", "my_metric"]), FIGURES)
NOTES = st.none() | st.text(min_size=1, max_size=400) | st.text("日本語 ｆｕｌｌ", min_size=1, max_size=300)
LABELS = st.text(min_size=1) | st.text("日本語ｆｕｌｌ한국어é́👩‍👩‍👧\u0627", min_size=1, max_size=30)


def measured(target: str) -> st.SearchStrategy[Measured]:
    return st.builds(
        Measured, target=st.just(target), rows=st.just(9), loss=FIGURES, perplexity=FIGURES, metrics=METRICS,
        size_bytes=SIZES, generate_seconds=FIGURES, tokens_per_second=FIGURES, peak_memory_bytes=SIZES,
    )  # fmt: skip


def evaluation(measured: Measured) -> Evaluation:
    return Evaluation(Manifest(step="evaluate", inputs={}, params={}, facts={}, files={}), measured, ())


EVALUATED = st.tuples(*map(measured, ("base", "adapter", "merged", "nf4"))).map(lambda each: [*map(evaluation, each)])


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    columns = [
        Column(key=str(n), label=draw(LABELS), unit=draw(st.sampled_from(["share", "bytes", "s", "tokens/s", ""])))
        for n in range(draw(st.integers(1, 14)))
    ]
    values = st.none() | st.floats(-1e9, 1e9) | st.integers(-(10**15), 10**15)
    rows = [
        Row(
            target=target,
            note=draw(NOTES),
            values=(own := {column.key: draw(values) for column in columns}),
            difference=own,
        )
        for target in draw(st.lists(LABELS, min_size=1, max_size=5))
    ]
    return Comparison(tested=3, columns=tuple(columns), rows=tuple(rows))


@given(EVALUATED)
def test_differences_are_from_the_base(evaluations: list[Evaluation]) -> None:
    table = compare(evaluations)
    assert [row.target for row in table.rows] == ["base", "adapter", "merged", "nf4"]
    for row in table.rows:
        for key, value in row.values.items():
            base = table.base.values[key]
            assert row.difference[key] == (None if value is None or base is None else value - base)
    assert Comparison.model_validate_json(table.model_dump_json()) == table


@given(EVALUATED)
def test_values_are_the_measured_ones(evaluations: list[Evaluation]) -> None:
    """But the adapter's size, which is nothing without its base."""
    table = compare(evaluations)
    for row, each in zip(table.rows, evaluations, strict=True):
        known = {**each.measured.model_dump(), **each.measured.metrics}
        assert {key: value for key, value in row.values.items() if key != "size_bytes" or row.target != "adapter"} == {
            key: known.get(key) for key in row.values if key != "size_bytes" or row.target != "adapter"
        }
    base, adapter = (each.measured.size_bytes for each in evaluations[:2])
    assert table.rows[1].values["size_bytes"] == (None if base is None or adapter is None else base + adapter)


@given(EVALUATED)
def test_the_best_is_not_beaten(evaluations: list[Evaluation]) -> None:
    table = compare(evaluations)
    for column in table.columns:
        mark = best(table, column)
        found = [value for row in table.rows if (value := row.values[column.key]) is not None]
        if column.better is None or len(set(found)) < 2:
            assert mark is None
        else:
            assert mark in found
            assert not any(value > mark if column.better == "higher" else value < mark for value in found)


@given(EVALUATED)
def test_dvc_metrics_hold_quality_only(evaluations: list[Evaluation]) -> None:
    for values in figures(compare(evaluations).quality).values():
        assert values.keys() <= {"exact_match", "token_f1", "chrf", "my_metric", "loss", "perplexity"}
        assert None not in values.values()


TRAINING = dict.fromkeys(TRAINED, 7)


@given(EVALUATED)
def test_quality_and_efficiency_are_the_table_in_two(evaluations: list[Evaluation]) -> None:
    """And what the training took stands in the row of what was trained, wherever that is."""
    table = compare(evaluations, trained=TRAINING)
    assert table.efficiency and (*table.quality.columns, *table.efficiency.columns) == table.columns
    assert [column.key for column in table.efficiency.columns] == [*COST, *TRAINED]
    for row, good, cost in zip(table.rows, table.quality.rows, table.efficiency.rows, strict=True):
        assert (row.values, row.difference) == (good.values | cost.values, good.difference | cost.difference)
        assert {key: row.values[key] for key in TRAINED} == (
            TRAINING if row.target == "adapter" else dict.fromkeys(TRAINED)
        )
    without = compare([each for each in evaluations if each.target != "adapter"], trained=TRAINING)
    assert [row.target for row in without.rows if row.values["train_seconds"] == 7] == ["merged"]


@given(comparisons())
def test_text_is_aligned_and_narrow(table: Comparison) -> None:
    blocks = [block.split("\n") for block in as_text(table).split("\n\n")]
    notes = blocks.pop() if any(row.note for row in table.rows) else []
    assert all(wcwidth.width(line) <= 120 for line in notes)
    for block in blocks:
        assert len(block) == 1 + len(table.rows)
        widths = {wcwidth.width(line) for line in block}
        assert len(widths) == 1
        assert max(widths) <= 120
    assert "\x1b" not in as_text(table)


def test_columns_that_do_not_fit_follow_below() -> None:
    columns = tuple(Column(key=str(n), label=f"{n:02}" + "語" * 30) for n in range(7))
    row = Row(target="base", values=(own := dict.fromkeys(map(str, range(7)), 1)), difference=own)
    blocks = as_text(Comparison(tested=1, columns=columns, rows=(row,))).split("\n\n")
    assert [block.count("語…") for block in blocks] == [2, 2, 2, 1]
    assert all(block.startswith("target  ") and "\nbase    " in block for block in blocks)


def test_text_of_a_wide_script() -> None:
    column = Column(key="a", label="正解率", unit="share")
    rows = tuple(Row(target=name, values={"a": 0.5}, difference={"a": None}) for name in ("base", "量子化"))
    assert as_text(Comparison(tested=1, columns=(column,), rows=rows)) == (
        "target  正解率\nbase     50.0%\n量子化   50.0%"
    )


@given(comparisons())
def test_markdown_has_a_cell_a_column(table: Comparison) -> None:
    lines, _, notes = as_markdown(table).partition("\n\n")
    lines = lines.rstrip("\n").split("\n")
    assert len(lines) == 2 + len(table.rows)
    assert notes.count("\n") == sum(row.note is not None for row in table.rows)
    assert {line.replace(r"\\", "").replace(r"\|", "").count("|") for line in lines} == {2 + len(table.columns)}
    assert "<" not in as_markdown(table).replace(r"\<", "")


def test_a_file_that_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"has no comparison\.json.*dvc repro report"):
        read_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"tested": 1, "columns": [], "rows": []}')
    with pytest.raises(IntegrityError, match="is not a comparison"):
        read_comparison(tmp_path)


@given(st.text("ab {}\n\"'é日", max_size=60), st.text("ab {}\n\"'é日", max_size=60))
def test_segments_rebuild_both_texts(reference: str, answer: str) -> None:
    found = segments(reference, answer)
    assert "".join(each.text for each in found if each.kind != "extra") == reference
    assert "".join(each.text for each in found if each.kind != "missing") == answer
    assert (reference == answer) == all(each.kind == "same" for each in found)


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_interval_holds_the_share(counted: tuple[int, int]) -> None:
    hits, of = counted
    low, high = interval(hits, of)
    assert 0 <= low <= hits / of <= high <= 1
    assert low < high


def test_interval_is_wilsons() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "share", units.DASH), (0.0, "share", "0.0%"), (0.6249, "share", "62.5%"), (1, "share", "100.0%"),
        (0, "bytes", "0 B"), (999, "bytes", "999 B"), (269_060_000, "bytes", "269 MB"), (999_600, "bytes", "1 MB"),
        (4.1e9, "bytes", "4.1 GB"), (14.25, "s", "14.2 s"), (0.0123, "s", "12.3 ms"),
        (0.0996, "s", "0.10 s"), (0.0, "s", "0.00 s"), (59.96, "s", "1 min 00 s"), (3599.7, "s", "1 h 00 min"),
        (7384, "s", "2 h 03 min"), (131.52, "tokens/s", "131.5"), (1.5, "", "1.500"),
        (-1.5, "", "\N{MINUS SIGN}1.500"), (1234, "", "1,234"),
    ],
)  # fmt: skip
def test_units(value: float | None, unit: units.Unit, text: str) -> None:
    assert units.as_text(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", units.DASH), (0.625, "share", "+62.5 pt"), (-0.001, "share", "\N{MINUS SIGN}0.1 pt"),
        (-0.0001, "share", "0.0 pt"),
        (-159_660_000, "bytes", "\N{MINUS SIGN}160 MB"), (0, "bytes", "0 B"), (-90.0, "s", "\N{MINUS SIGN}1 min 30 s"),
    ],
)  # fmt: skip
def test_signed_differences(value: float | None, unit: units.Unit, text: str) -> None:
    assert units.as_difference(value, unit) == text


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 9))
def test_smoothing_stays_among_its_losses(losses: list[float], over: int) -> None:
    points = [Point(step=n, loss=loss) for n, loss in enumerate(losses, 1)]
    smooth = smoothed(points, over)
    assert [point.step for point in smooth] == [point.step for point in points]
    half = over // 2
    for place, point in enumerate(smooth):
        near = losses[max(0, place - half) : place + half + 1]
        assert math.isclose(point.loss, sum(near) / len(near), abs_tol=1e-9)


def test_history_of_another_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("step,loss\n1,2.5\n2,nan\n3,1.5\n")
    assert training.read(tmp_path) == training.History((Point(step=1, loss=2.5), Point(step=3, loss=1.5)), ())
    (tmp_path / "history.csv").write_text("step,accuracy\n1,0.5\n")
    with pytest.raises(DataError, match=r"history\.csv is no list of steps and losses: loss"):
        training.read(tmp_path)


def test_effective_ranks_are_read_where_there_are_any(tmp_path: Path) -> None:
    head = "step,grad_a,effective_rank,effective_rank_min\n"
    (tmp_path / "health.csv").write_text(f"{head}1,0.5,,\n2,0.5,3.5,2.5\n")
    ranks = training.Ranks(step=2, effective_rank=3.5, effective_rank_min=2.5)
    assert training.read(tmp_path) == training.History((), (), (ranks,))
    (tmp_path / "health.csv").write_text(f"{head}1,0.5,low,2.5\n")
    with pytest.raises(DataError, match=r"health\.csv is no list of steps and effective ranks: effective_rank"):
        training.read(tmp_path)
