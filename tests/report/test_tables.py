import re
from dataclasses import replace

from comparisons import comparison, estimate, full, gan, guided, row

from hybridgen.evaluation.results import TrainingSummary
from hybridgen.report import markdown
from hybridgen.report.palette import looks
from hybridgen.report.remarks import counted, unequal_trainings
from hybridgen.report.tables import cost_table, quality_table, two_sample_table


def cells(table, name):
    columns = [title for title, _ in table.columns]
    return {r[0].text: r[columns.index(name)] for r in (*table.fixed, *table.rows)}


def test_the_quality_table_is_bold_only_where_intervals_are_apart():
    rows = full().rows
    found = cells(quality_table(full(), looks(r.kind for r in rows)), "Fr\u00e9chet distance")
    assert [name for name, cell in found.items() if cell.best] == []
    apart = [row("a", quality=10), row("b", quality=20)]
    found = cells(quality_table(comparison(*apart), looks("ab")), "Fr\u00e9chet distance")
    assert [name for name, cell in found.items() if cell.best] == ["a"]
    assert found["a"].small == "9.0 to 11.0"


def test_floor_and_truth_stand_above_the_rows():
    one = row("a", figures={"frechet_distance": estimate(12, floor=10.0, ideal=0.0)})
    found = cells(quality_table(comparison(one), looks("a")), "Fr\u00e9chet distance")
    assert [cell.text for cell in found.values()] == ["10", "0", "12.0"]


def test_the_cost_table_counts_every_network_and_states_the_batch():
    rows = [gan(seconds=1e-3), guided(8, seconds=4e-3), row("silent")]
    table = cost_table(rows, looks(r.kind for r in rows))
    assert [cell.text for cell in table.rows[1][1:5]] == ["8", "0", "8", "8"]
    assert table.rows[1][7].text == "4"
    assert [cell.text for cell in table.rows[2][1:5]] == ["?"] * 4
    assert table.rows[0][8].small == "batch of 64"


def trained(**seconds):
    return tuple(
        TrainingSummary(name=n, command="", facts={"seconds": s}) for n, s in seconds.items()
    )


def test_trainings_of_different_length_are_spoken_of():
    rows = [row("GAN", models=("gan",)), row("guided", models=("diffusion", "guide"))]
    equal = comparison(*rows, models=trained(gan=100.0, diffusion=80.0, guide=40.0))
    assert unequal_trainings(equal) == ""
    more = unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=90.0, guide=40.0)))
    assert "100 s behind what takes gan, 130 s behind what takes diffusion and guide" in more
    assert unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=900.0))) == ""


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
    assert "| **10.0 (9.0 to 11.0)** | 8 | 0 | 8 | 8 | 2.00 M | 1.00 ms | 1 MiB / 64 |" in text
    assert "| GAN | 30.0 (29.0 to 31.0) | 0 | 1 | 0 | 0 |" in text


def test_the_two_sample_test_has_a_table_of_its_own():
    more = {name: estimate(0.6, 0.1) for name in ("c2st_accuracy", "tv_bound", "jsd_bound")}
    one = row("a", figures=more | {"c2st_p": estimate(4e-22, 0.0, floor=0.04)})
    other = row("b", figures={"c2st_p": estimate(0.3123, 0.0, floor=0.04)})
    both, looked = comparison(one, other), looks("ab")
    assert [name for name, _ in quality_table(both, looked).columns] == [
        "method",
        "Fr\u00e9chet distance",
    ]
    table = two_sample_table(both, looked)
    assert [name for name, _ in table.columns] == [
        "method",
        "C2ST accuracy",
        "C2ST p-value",
        "TV bound",
        "JSD bound",
    ]
    assert [c.text for c in cells(table, "C2ST p-value").values()] == ["0.04", "< 0.001", "0.31"]
    assert two_sample_table(comparison(row("a")), looked).columns == (("method", ""),)
    chosen = replace(both, quality="c2st_p")
    assert [name for name, _ in quality_table(chosen, looked).columns][1] == "C2ST p-value"
    assert "| &lt; 0.001 |" in markdown(chosen)


def test_recall_and_coverage_come_with_how_many_were_compared():
    both = row("a", figures={"recall": estimate(0.8, 0.1), "coverage": estimate(0.5, 0.1)})
    limit = "With fewer samples than held-out examples coverage cannot reach 1"
    for text in ("10000", "10 000", "10\u202f000", "10,000"):
        said = counted(comparison(both, data={"held-out examples": text}))
        assert said.startswith(
            "1\u202f000 samples against 10\u202f000 held-out examples: recall and coverage "
            "depend on"
        )
        assert limit in said
    said = counted(comparison(both, data={"held-out examples": "360"}))
    assert "360 held-out examples" in said
    assert limit not in said
    only = row("a", figures={"recall": estimate(0.8, 0.1)})
    said = counted(comparison(only, data={"held-out examples": "10000"}))
    assert "recall depends on" in said
    assert limit not in said
    for data in ({}, {"held-out examples": "many"}, {"held-out examples": "\u00b2"}):
        assert counted(comparison(both, data=data)) == ""
    assert counted(comparison(row("a"), data={"held-out examples": "360"})) == ""
