import re
from html.parser import HTMLParser

import pytest
import torch
from comparisons import comparison, diffusion, estimate, full, gan, guided, png, row

from hybridgen.metrics.two_sample import two_sample_test
from hybridgen.report import write_page
from hybridgen.report.page import render

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
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_text_stays_text_wherever_it_stands(name):
    page, plain = Reader(render(full(name))), Reader(render(full("x" * len(name))))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in plain.elements]
    words = " ".join("".join(page.words).split())
    bold = name.replace("\u201c", "").replace("\u201d", "")
    assert words.count(" ".join(name.split())) + words.count(" ".join(bold.split())) > 15


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_name_in_a_headline_stays_text(name):
    page = Reader(render(comparison(row(name))))
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not {"img", "i"} & {tag for tag, _ in page.elements}
    assert not any("onmouseover" in a for _, a in page.elements)
    assert re.sub(r"[\u201c\u201d]", "", name) in "".join(page.words)


def test_the_page_asks_for_nothing_from_elsewhere():
    page = Reader(render(full()))
    policy = next(a["content"] for tag, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            assert (attributes.get(name) or "#")[:5] in ("data:", "#") or attributes[name][0] == "#"
    assert not re.search(r"https?:|url\((?!#)|@import", render(full()))


def test_every_picture_has_a_text_and_every_id_is_there_once():
    elements = Reader(render(full())).elements
    assert all(a["alt"] for tag, a in elements if tag == "img")
    assert all(a["aria-label"] for tag, a in elements if tag == "svg" and "aria-hidden" not in a)
    assert all(a["aria-label"] for _, a in elements if "tabindex" in a)
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in elements if tag in ("a", "use")]
    clips = [a["clip-path"][5:-1] for _, a in elements if "clip-path" in a]
    assert {*links, *clips} <= set(ids)


def test_what_there_is_nothing_to_show_of_is_left_out():
    bare = render(comparison(row("only")))
    for name in ("calls", "samples", "classes", "neighbours", "training", "changes"):
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
        write_page(comparison(row("x", histogram=("no", "no")), real_histogram=(1, 1)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_twenty_rows_of_every_figure_stay_small():
    pictures = {"picture": bytes(5_000), "neighbours": bytes(5_000), "histogram": (1,) * 10}
    more = {name: estimate(0.5) for name in ("kid", "recall", "precision", "density", "coverage")}
    more |= {name: estimate(0.5) for name in ("tv_bound", "jsd_bound", "memorisation", "c2st_p")}
    rows = [diffusion(n, figures=more, **pictures) for n in range(1, 21)]
    assert len(render(comparison(*rows)).encode()) < 1_200_000


def test_pictures_come_with_their_size_the_real_one_first():
    page = Reader(render(comparison(gan(picture=png()), real_picture=png(255))))
    images = [a for tag, a in page.elements if tag == "img"]
    assert [image["alt"] for image in images] == ["held-out examples", "GAN"]
    assert {(image["width"], image["height"]) for image in images} == {("40", "20")}


def test_the_best_row_of_each_kind_is_shown_and_the_others_on_request():
    pictures = {"picture": png(), "neighbours": png(90), "histogram": (5, 0, 9)}
    rows = [
        diffusion(4, quality=50.0, **pictures),
        diffusion(8, quality=15.0, **pictures),
        diffusion(16, quality=float("nan"), **pictures),
        gan(**pictures),
    ]
    text = render(comparison(*rows, real_picture=png(255), real_histogram=(1, 2, 3)))
    for section in ("samples", "classes", "neighbours"):
        part = text.split(f'id="{section}"')[1].split("</section>")[0]
        first, more = part.split("<details>")
        real = ["held-out examples"] * (section != "neighbours")
        names = re.findall(r"<figcaption>(?:<span.*?</span> )?([^<]+)", first)
        assert names == [*real, "diffusion, 8 calls", "GAN"]
        assert "<summary>2 more rows, not the best of their kind</summary>" in more
        assert "diffusion, 4 calls" in more
        assert "diffusion, 16 calls" in more
        assert "diffusion, 8 calls" not in more
    assert "more row" not in render(comparison(gan(**pictures), diffusion(8, **pictures)))


def test_every_chart_has_a_floor_and_the_further_ones_are_on_request():
    one = {name: estimate(0.8, 0.01, floor=0.9) for name in ("frechet_distance", "recall")}
    text = render(comparison(diffusion(4, figures=one), diffusion(8, figures=one)))
    for section in ("front", "calls"):
        part = text.split(f'id="{section}"')[1].split("</section>")[0]
        first, more = part.split("<details>")
        assert first.count('class="floor"') == 2  # for wide and for narrow screens
        assert more.count('class="floor"') == 1
        assert "recall (higher is better)</summary>" in more
        assert [s.count("real samples (floor) 0.9") for s in (first, more)] == [1, 1]
    assert "real samples (floor)" in text.split('id="quality"')[1]


def test_the_page_says_what_a_discriminator_did_beside_every_change():
    text = render(comparison(diffusion(8, quality=20.0), guided(8, quality=10.0)))
    part = text.split('id="changes"')[1].split("</section>")[0]
    cells = [" ".join(re.sub("<[^>]+>", " ", c).split()) for c in re.findall("<td.*?</td>", part)]
    assert cells == [
        *("guidance", "10.0 9.0 to 11.0", "20.0 19.0 to 21.0; diffusion, 8 calls", "better"),
        "about as long",
    ]


def test_the_page_says_that_two_sample_tests_are_not_compared_part_by_part_and_they_are_not():
    text = render(comparison(diffusion(8, quality=20.0), guided(8, quality=10.0)))
    assert "others, and the figures of the two-sample test (C2ST), each from a classifier" in text
    figures = two_sample_test(*torch.randn(2, 60, 2))
    assert all(figure.deviations == () for figure in figures.values())
