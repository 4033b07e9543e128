import re
from html.parser import HTMLParser

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, png, row

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


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_name_in_a_headline_stays_text(name):
    page = Reader(render(comparison(row(name))))
    assert [tag for tag, _ in page.found].count("script") == 1
    assert not {"img", "i"} & {tag for tag, _ in page.found}
    assert not any("onmouseover" in a for _, a in page.found)
    assert re.sub(r"[\u201c\u201d]", "", name) in "".join(page.words)


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


def test_pictures_come_with_their_size_the_real_one_first():
    page = Reader(render(comparison(gan(picture=png()), real_picture=png(255))))
    images = [a for tag, a in page.found if tag == "img"]
    assert [image["alt"] for image in images] == ["held-out examples", "GAN"]
    assert {(image["width"], image["height"]) for image in images} == {("40", "20")}


def test_the_best_row_of_each_kind_is_shown_and_the_others_on_request():
    shown = {"picture": png(), "neighbours": png(90), "histogram": (5, 0, 9)}
    rows = [
        diffusion(4, quality=50.0, **shown),
        diffusion(8, quality=15.0, **shown),
        diffusion(16, quality=float("nan"), **shown),
        gan(**shown),
    ]
    text = render(comparison(*rows, real_picture=png(255), real_histogram=(1, 2, 3)))
    for section in ("samples", "classes", "neighbours"):
        part = text.split(f'id="{section}"')[1].split("</section>")[0]
        first, more = part.split("<details>")
        real = ["held-out examples"] * (section != "neighbours")
        names = re.findall(r"</svg>\s*<span>([^<]+)|<figcaption><span>([^<]+)", first)
        assert [a or b for a, b in names] == [*real, "diffusion, 8 calls", "GAN"]
        assert "<summary>2 more rows</summary>" in more
        assert "diffusion, 4 calls" in more
        assert "diffusion, 16 calls" in more
    assert "more row" not in render(comparison(gan(**shown), diffusion(8, **shown)))
