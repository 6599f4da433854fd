"""A page of results: one file, with every text escaped."""

import re

from PIL import Image

from rcnn.view.page import Page


def full_page(name: str = "<script>alert(1)</script>") -> str:
    page = Page(f"Data set {name}")
    page.heading(name)
    page.paragraph(name)
    page.code(name)
    page.table(["class", "objects"], [[name, "1,200"], ["cup", "30 "]], mark=0)
    page.bars(("class", "objects"), [(name, 3.0), ("cup", 0.0)])
    page.details(name, [name])
    page.scatter([(3.0, 4.0, 1), (0.1, 100.0, 2)], [name, "cup"], boxes=[(32.0, 32.0)])
    page.picture(Image.new("RGBA", (900, 300)), name)
    return page.html()


def test_text_of_the_data_is_never_markup() -> None:
    html = full_page()
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert len(re.findall("<script>", html)) == 1


def test_the_page_needs_no_other_file_and_no_network() -> None:
    html = full_page("cell")
    assert not re.search(r"https?://", html)
    sources = re.findall(r'src="([^"]*)"', html)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_numbers_are_set_to_the_right_and_marked_words_get_their_style() -> None:
    page = Page("Findings")
    page.table(["", "what", "images"], [["error", "broken", "1,200"]], mark=0)
    html = page.html()
    assert '<td class="error">error</td>' in html
    assert '<td class="number">1,200</td>' in html
    assert '<td class="word">broken</td>' in html


def test_the_longest_bar_is_the_largest_number_and_nothing_is_no_difficulty() -> None:
    page = Page("Classes")
    page.bars(("class", "objects"), [("cell", 50.0), ("cup", 25.0)])
    assert re.findall(r"width: (\d+\.\d)%", page.html()) == ["100.0", "50.0"]
    empty = Page("Nothing")
    empty.bars(("class", "objects"), [])
    empty.scatter([], [])
    empty.table([], [])
    assert "<svg" in empty.html()
