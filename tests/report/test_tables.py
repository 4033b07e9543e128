import re
from dataclasses import replace

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, hybrid, refined, row

from hybridgen.report import markdown
from hybridgen.report.findings import headline
from hybridgen.report.tables import changes_table, cost_table, quality_table, two_sample_table


def cells(table, name):
    column = list(table.columns).index(name)
    return {r[0].text: r[column] for r in (*table.fixed, *table.rows)}


def test_the_quality_table_is_bold_only_where_the_best_is_told_apart_from_every_other():
    near = [row("a", quality=10), row("b", quality=11.3), row("c", quality=20)]
    column = cells(quality_table(comparison(*near)), "Fr\u00e9chet distance")
    assert [name for name, cell in column.items() if cell.best] == []
    apart = [row("a", quality=10), row("b", quality=20)]
    column = cells(quality_table(comparison(*apart)), "Fr\u00e9chet distance")
    assert [name for name, cell in column.items() if cell.best] == ["a"]
    assert column["a"].small == "9.0 to 11.0"


def test_floor_and_ideal_stand_above_the_rows():
    one = row("a", figures={"frechet_distance": estimate(12, floor=10.0, ideal=0.0)})
    column = cells(quality_table(comparison(one)), "Fr\u00e9chet distance")
    assert [cell.text for cell in column.values()] == ["10", "0", "12.0"]


def test_the_cost_table_counts_every_network_and_states_the_batch():
    rows = [gan(seconds=1e-3), guided(8, seconds=4e-3), row("silent")]
    table = cost_table(comparison(*rows))
    assert [cell.text for cell in table.rows[1][1:5]] == ["8", "0", "8", "8"]
    assert table.rows[1][7].text == "4"
    assert [cell.text for cell in table.rows[2][1:5]] == ["?"] * 4
    assert table.rows[0][8].text == "1.00 MiB / 64"


def test_the_markdown_has_a_line_for_every_row_and_as_many_cells_everywhere():
    text = markdown(full("a | b <i>\nc"))
    lines = text.splitlines()
    assert len(lines) == 4 + 8
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert lines[2].startswith("| real samples (floor) | 10 ")
    assert lines[3].startswith("| perfect samples | 0 ")
    assert "<i>" not in text


def test_the_markdown_shows_interval_cost_and_the_best():
    text = markdown(comparison(gan(), guided(8, quality=10)))
    assert (
        "| **10.0 (9.0 to 11.0)** | 8 | 0 | 8 | 8 | 2.00 M | 1.00 ms | 100 | 1.00 MiB / 64 |"
        in text
    )
    assert "| GAN | 30.0 (29.0 to 31.0) | 0 | 1 | 0 | 0 |" in text


def test_the_two_sample_test_has_a_table_of_its_own():
    more = {name: estimate(0.6, 0.1) for name in ("c2st_accuracy", "tv_bound", "jsd_bound")}
    one = row("a", figures=more | {"c2st_p": estimate(4e-22, 0.0, floor=0.04)})
    other = row("b", figures={"c2st_p": estimate(0.3123, 0.0, floor=0.04)})
    both = comparison(one, other)
    assert list(quality_table(both).columns) == ["method", "Fr\u00e9chet distance"]
    table, bounds = two_sample_table(both), ["TV bound", "JSD bound"]
    assert list(table.columns) == ["method", "C2ST accuracy", "C2ST p-value", *bounds]
    assert [c.text for c in cells(table, "C2ST p-value").values()] == ["0.04", "< 0.001", "0.31"]
    assert list(two_sample_table(comparison(row("a"))).columns) == ["method"]
    chosen = replace(both, quality="c2st_p")
    assert list(quality_table(chosen).columns)[1] == "C2ST p-value"
    assert "| &lt; 0.001 |" in markdown(chosen)


@pytest.mark.parametrize(
    ("quality", "outcome"), [(10.0, "better"), (20.5, "cannot be told apart"), (40.0, "worse")]
)
@pytest.mark.parametrize(
    ("change", "changed", "base"),
    [
        ("guidance", lambda **q: guided(8, **q), diffusion(8, quality=20.0)),
        ("refinement", lambda **q: refined(5, **q), gan(quality=20.0)),
        ("training", lambda **q: hybrid(8, **q), diffusion(8, quality=20.0)),
    ],
)
def test_a_change_is_called_what_its_figures_show(change, changed, base, quality, outcome):
    after = changed(quality=quality, seconds=base.cost.seconds.value * 3)
    (line,) = changes_table(comparison(base, after)).rows
    assert [cell.text for cell in line] == [
        *(after.method, change, f"{quality:.1f}", "20.0", outcome, "3 times as long")
    ]
    assert (line[2].small, line[3].small) == (
        f"{quality - 1:.1f} to {quality + 1:.1f}",
        f"19.0 to 21.0; {base.name}",
    )


def test_without_equal_calls_or_a_finite_figure_nothing_is_said_of_a_change():
    rows = [diffusion(7), guided(8), hybrid(16), gan(), row("refined", baseline="none")]
    broken = [diffusion(4), guided(4, quality=float("nan"))]
    assert changes_table(comparison(*rows, *broken)).rows == []


def test_every_changed_row_has_a_line_and_the_time_is_about_equal_if_it_cannot_be_told():
    base = [diffusion(n, quality=q) for n, q in ((4, 80.0), (8, 40.0), (16, 20.0))]
    trained = [hybrid(n, quality=q) for n, q in ((4, 50.0), (8, 40.5), (16, 30.0))]
    table = changes_table(comparison(*base, *trained))
    assert [line[0].small for line in table.rows] == ["4 calls", "8 calls", "16 calls"]
    assert [line[4].text for line in table.rows] == ["better", "cannot be told apart", "worse"]
    assert {line[5].text for line in table.rows} == {"about as long"}
    assert list(table.columns) == [
        *("method", "change", "Fr\u00e9chet distance", "without", "outcome", "a sample takes")
    ]


def test_the_verdict_on_a_guide_that_failed_its_validation_says_so():
    failed = guided(8, quality=10.0, validation_note="its guide failed validation")
    (line,) = changes_table(comparison(diffusion(8, quality=20.0), failed)).rows
    assert (line[4].text, line[4].small) == ("better", "its guide failed validation")


def test_a_pair_has_one_verdict_on_a_page():
    """Of all pairs of ten rows the change would be no evidence, of the changes alone it is."""
    others = [diffusion(n, quality=60.0) for n in range(1, 7)]
    rows = [diffusion(8, quality=20.0), guided(8, quality=18.3), gan(), row("b", quality=19.0)]
    one = comparison(*rows, *others)
    assert changes_table(one).rows[0][4].text == "better"
    assert "than which guided is better" in headline(one)[0]


def test_a_failed_validation_stands_beside_every_name():
    failed = guided(8, quality=10.0, validation_note="its guide failed validation")
    one = comparison(diffusion(8, quality=20.0), failed)
    assert quality_table(one).rows[1][0].small.endswith("; its guide failed validation")
    assert "guided, 8 calls, scale 1 (its guide failed validation) |" in markdown(one)


def test_changes_are_judged_together():
    """Of one change p is .02, of ten it is no evidence."""
    base, after = diffusion(8, quality=20.0), guided(8, quality=18.3)
    assert changes_table(comparison(base, after)).rows[0][4].text == "better"
    others = [guided(8, n, quality=20.0) for n in range(2, 11)]
    rows = changes_table(comparison(base, after, *others)).rows
    assert [line[4].text for line in rows] == ["cannot be told apart"] * 10
