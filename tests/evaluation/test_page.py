import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, png, row

from hybridgen.evaluation.comparison import Trained
from hybridgen.evaluation.page import markdown, render, write_page
from hybridgen.evaluation.page.calls import calls_chart
from hybridgen.evaluation.page.front import front_chart
from hybridgen.evaluation.page.palette import looks
from hybridgen.evaluation.page.small import curves, histograms
from hybridgen.evaluation.page.tables import cost_table, quality_table, unequal_trainings

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></script><img src=x onerror=alert(1)>",
    "\"'><b onmouseover='alert(1)'>",
    "]]> --> <!-- {{ 7 * 7 }} {% raw %}",
    "a\u201cb\u201d<i>c & d | e `f` \ud800\x00",
]
VOID = {"meta", "link", "img"}


class Reader(HTMLParser):
    """Elements with their attributes, in order; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_text_stays_text_wherever_it_stands(name):
    page, plain = Reader(render(full(name))), Reader(render(full("x" * len(name))))
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    assert [sorted(a) for _, a in page.found] == [sorted(a) for _, a in plain.found]
    shown = " ".join("".join(page.words).split())
    bold = name.replace("\u201c", "").replace("\u201d", "")
    assert shown.count(" ".join(name.split())) + shown.count(" ".join(bold.split())) > 15


def test_the_page_asks_for_nothing_from_elsewhere():
    page = Reader(render(full()))
    policy = next(a["content"] for tag, a in page.found if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for _, attributes in page.found:
        for name in ("src", "href", "data", "action", "srcset"):
            assert (attributes.get(name) or "#")[:5] in ("data:", "#") or attributes[name][0] == "#"
    assert not re.search(r"https?:|url\(|@import", render(full()))


def test_every_picture_has_a_text_and_every_id_is_there_once():
    found = Reader(render(full())).found
    assert all(a["alt"] for tag, a in found if tag == "img")
    for tag, a in found:
        if tag == "svg" and a.get("aria-hidden") is None and "viewbox" not in a and "x" not in a:
            assert a["aria-label"]
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in found if tag == "a"]
    assert set(links) <= set(ids)


def test_what_there_is_nothing_to_show_of_is_left_out():
    bare = render(comparison(row("only")))
    for name in ("calls", "samples", "classes", "neighbours", "training"):
        assert f'id="{name}"' not in bare
        assert f'href="#{name}"' not in bare
        assert f'id="{name}"' in render(full())
    assert "Not equal" not in bare
    Reader(render(comparison()))


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_page(full(HOSTILE[-1]), path)
    assert path.read_text().rstrip().endswith("</html>")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_page(comparison(row("x", histogram=("no", "number"))), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_twenty_rows_of_every_figure_stay_small():
    shown = {"picture": bytes(20_000), "neighbours": bytes(20_000), "histogram": (1,) * 10}
    more = {name: estimate(0.5) for name in ("kid", "recall", "precision", "density", "coverage")}
    more |= {name: estimate(0.5) for name in ("tv_bound", "jsd_bound", "memorisation", "c2st_p")}
    rows = [diffusion(n, figures=more, **shown) for n in range(1, 21)]
    assert len(render(comparison(*rows)).encode()) < 1_900_000


def chart_of(*rows, metric="frechet_distance", make=front_chart):
    return make(rows, metric, looks(row.kind for row in rows))


def test_better_and_faster_is_lower_and_further_left():
    good, bad = row("good", quality=10, seconds=1e-3), row("bad", quality=50, seconds=1e-2)
    chart = chart_of(good, bad)
    marks = {point.facts[0]: point for point in chart.points}
    assert marks["good"].x < marks["bad"].x
    assert marks["good"].y > marks["bad"].y
    assert (marks["good"].faded, marks["bad"].faded) == (False, True)
    for mark in marks.values():
        assert mark.x_ends[0] < mark.x < mark.x_ends[1]
        assert mark.y_ends[0] > mark.y > mark.y_ends[1]


@pytest.mark.parametrize(
    ("metric", "values", "log"),
    [
        ("frechet_distance", (1.0, 9.0), True),
        ("frechet_distance", (1.0, 7.0), False),
        ("kid", (-0.1, 9.0), False),
        ("recall", (0.01, 0.9), False),
        ("mode_std", (0.1, 2.0), False),
    ],
)
def test_small_distances_are_told_apart_beside_large_ones(metric, values, log):
    figures = [estimate(value, 0.5, floor=value / 2, truth=0.0) for value in values]
    chart = chart_of(*(row(str(f), figures={metric: f}) for f in figures), metric=metric)
    levels = {reference.style for reference in chart.references}
    assert levels == ({"floor"} if log else {"floor", "truth"})
    assert all(0 <= end <= 100 for point in chart.points for end in (*point.y_ends, *point.x_ends))


def test_a_mark_tells_name_figure_interval_seconds_and_calls():
    (mark,) = chart_of(guided(8, quality=12.0)).points
    assert mark.facts == (
        "guided, 8 calls, scale 1",
        "Fr\u00e9chet distance 12.0 (11.0 to 13.0)",
        "1.00 ms (990 \u00b5s to 1.01 ms) a sample",
        "calls: 8 denoiser, 8 critic forward, 8 critic backward",
    )


def test_rows_that_cannot_be_drawn_are_named():
    chart = chart_of(row("fine"), row("broken", quality=float("inf")))
    assert len(chart.points) == 1
    assert chart.notes == ("Not drawn, because a figure is not finite: broken.",)
    assert chart_of(row("broken", quality=float("nan"))) is None


def test_the_stairs_step_down_the_front_and_never_up():
    rows = [
        row(str(i), quality=q, seconds=s) for i, (q, s) in enumerate([(30, 1), (20, 2), (25, 3)])
    ]
    stairs = chart_of(*rows).stairs
    heights = [float(h) for h in re.findall(r"V([\d.]+)", stairs)]
    assert len(heights) == 1
    assert heights[0] > float(stairs.split()[1].split("H")[0])


def test_methods_are_lines_over_calls_and_a_single_pass_is_a_line_across():
    rows = [diffusion(4, quality=50), diffusion(8, quality=20), gan(quality=30)]
    steered = [guided(8, scale, quality=q) for scale, q in ((1, 15), (2, 18))]
    chart = chart_of(*rows, *steered, guided(4, quality=40), make=calls_chart)
    assert [len(line.places) for line in chart.lines] == [2, 2]
    best = min(steered, key=lambda row: row.figures["frechet_distance"].value)
    mark = next(point for point in chart.points if point.facts[0] == best.name)
    assert (mark.x, mark.y) in chart.lines[1].places
    (across,) = chart.references
    assert across.texts[0] == "GAN 30.0"
    assert across.ends[0] != across.ends[1]
    assert chart_of(diffusion(4), gan(), make=calls_chart) is None


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
    one = row("a", figures={"frechet_distance": estimate(12, floor=10.0, truth=0.0)})
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
    return tuple(Trained(name=n, command="", facts={"seconds": s}) for n, s in seconds.items())


def test_trainings_of_different_length_are_spoken_of():
    rows = [row("GAN", models=("gan",)), row("guided", models=("diffusion", "guide"))]
    equal = comparison(*rows, models=trained(gan=100.0, diffusion=80.0, guide=40.0))
    assert unequal_trainings(equal) == ""
    more = unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=90.0, guide=40.0)))
    assert "100 s behind what takes gan, 130 s behind what takes diffusion and guide" in more
    assert unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=900.0))) == ""


def test_histograms_share_one_scale_with_the_held_out_classes():
    rows = [gan(histogram=(1, 3)), diffusion(4, histogram=(0, 0)), guided(4, histogram=(1, 2, 3))]
    both = comparison(*rows, real_histogram=(20, 20))
    real, drawn = histograms(both, looks(r.kind for r in rows))
    assert [bar.height for bar in drawn.bars] == pytest.approx([100 / 3, 100])
    assert [bar.height for bar in real.bars] == pytest.approx([200 / 3] * 2)
    assert drawn.bars[1].text == "1: 75.0 %"
    assert histograms(comparison(real_histogram=(1, 2)), {}) == []


def test_a_curve_breaks_where_it_is_not_finite():
    values = (1.0, float("nan"), 4.0, 2.0)
    model = Trained(name="x", command="", facts={}, curves={"loss": ((0, 1, 2, 3), values)})
    (drawn,) = curves(model)
    assert drawn.path == "M0.0 100.0M66.7 0.0L100.0 66.7"
    assert (drawn.bottom, drawn.top, drawn.last) == ("1", "4", "2")


def test_a_long_curve_ends_where_its_training_ended():
    steps = tuple(float(i) for i in range(1001))
    (drawn,) = curves(Trained(name="x", command="", facts={}, curves={"loss": (steps, steps)}))
    assert drawn.path.endswith("L100.0 0.0")
    assert drawn.path.count("L") < 300


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


def test_pictures_come_with_their_size_the_real_one_first():
    page = Reader(render(comparison(gan(picture=png()), real_picture=png(255))))
    images = [a for tag, a in page.found if tag == "img"]
    assert [image["alt"] for image in images] == ["held-out examples", "GAN"]
    assert {(image["width"], image["height"]) for image in images} == {("40", "20")}
