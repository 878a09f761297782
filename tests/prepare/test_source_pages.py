"""Pages: OBELICS with URLs, MMC4, HTML, and whatever `datasets` opens."""

import base64
import gzip
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, write_lines

from mm1.config import ConfigError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import verify
from mm1.prepare.html import HtmlReader, ImageSource
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import DOT, Source, Unusable
from mm1.prepare.sources.html_pages import HtmlPages
from mm1.prepare.sources.hub import Hub
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.mmc4 import MMC4


def outcome(source: Source, path: Path) -> list[tuple[str, list[str]] | str]:
    """For each record the text and the reasons of lost images, or the reason why there
    is no document."""
    outcomes: list[tuple[str, list[str]] | str] = []
    for record in source.read(path):
        try:
            if isinstance(record.data, Unusable):
                raise record.data
            document, lost = verify.check_document(
                source.document(record.data),
                images_required=source.IMAGES_REQUIRED,
            )
            outcomes.append((document.text, [why.reason for why in lost]))
        except Unusable as why:
            outcomes.append(why.reason)
    return outcomes


# --- OBELICS


def test_urls_and_paths_of_obelics_are_looked_up(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    url = "https://x.org/1.jpg"
    (
        tmp_path / "pictures" / hashlib.sha256(url.encode()).hexdigest()
    ).write_bytes(jpeg())
    (tmp_path / "pictures" / "2.jpg").write_bytes(jpeg())
    pages = [
        {
            "images": [url, None, "2.jpg", "../2.jpg"],
            "texts": [None, "one", None, None],
        },
        {"images": ["https://x.org/2.jpg", None], "texts": [None, "two"]},
        {"images": [None, None], "texts": [None, None]},
        {"images": [url], "texts": [None, "x"]},
    ]
    pq.write_table(pa.Table.from_pylist(pages), tmp_path / "a.parquet")
    source = Interleaved.Config(
        folder=str(tmp_path / "pictures"), urls="sha256"
    ).build()
    assert outcome(source, tmp_path / "a.parquet") == [
        ("<image>one<image>", ["path out of the image folder"]),
        ("two", ["missing image file"]),
        "neither image nor text at one place",
        "lists of different length",
    ]
    record, *_ = source.read(tmp_path / "a.parquet")
    assert [image.url for image in source.document(record.data).images] == [
        url,
        "",
        "",
    ]


def test_an_article_ends_where_obelics_says(tmp_path: Path) -> None:
    """The marker stands at a place of its own, between paragraphs, in one, twice."""
    mark = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
    pages = [
        {
            "images": [None, jpeg(1), None, None, jpeg(2), None],
            "texts": ["a", None, f"b\n\n{mark}\n\nc", "d", None, mark],
        },
        {"images": [None, None], "texts": [f"{mark} e", f"f{mark}{mark}g"]},
        {"images": [None, jpeg(3)], "texts": [f"h {mark}", None]},
        {"images": [None], "texts": [mark]},
        {"images": [None], "texts": ["i"]},
    ]
    pq.write_table(pa.Table.from_pylist(pages), tmp_path / "a.parquet")
    source = Interleaved.Config().build()
    assert outcome(source, tmp_path / "a.parquet") == [
        ("a<image>b", []),
        ("c\n\nd<image>", []),
        ("e\n\nf", []),
        ("g", []),
        ("h", []),
        "no text",
        "no text",
        ("i", []),
    ]
    keys = [record.key for record in source.read(tmp_path / "a.parquet")]
    assert keys == ["0.1", "0.2", "1.1", "1.2", "2.1", "2.2", "3", "4"]


# --- MMC4


def mmc4(*infos: Any, sentences: Any = None) -> dict[str, Any]:
    return {
        "text_list": sentences or ["One.", "Two.", "Three."],
        "image_info": list(infos),
    }


def info(
    index: Any, sim: Any = 0.3, name: Any = "b.jpg", **fields: Any
) -> dict[str, Any]:
    return {
        "image_name": name,
        "matched_text_index": index,
        "matched_sim": sim,
        "raw_url": "http://x.org/b",
    } | fields


def test_images_of_mmc4_are_put_at_their_sentences(tmp_path: Path) -> None:
    (tmp_path / "a_images").mkdir()
    (tmp_path / "a_images" / "b.jpg").write_bytes(jpeg())
    encoded = base64.b64encode(jpeg()).decode()
    pages = [
        mmc4(info(2), info(1), info(1, None)),
        mmc4(
            info(0, 0.2),
            info(0, float("nan")),
            info(2, name=None, image_base64=encoded),
        ),
        mmc4(
            info(3),
            info("1"),
            info(-1),
            info(0, name="c.jpg"),
            info(0, name="../a.jsonl"),
            info(0, name=4),
        ),
        mmc4(info(0, image_base64="!"), sentences=["One.", " ", "Two."]),
        mmc4(3),
        mmc4(sentences="One."),
        mmc4(sentences=["One.", None]),
        {"text": "x"},
        [],
    ]
    write_lines(tmp_path / "a.jsonl", pages)
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress((tmp_path / "a.jsonl").read_bytes())
    )
    strict = MMC4.Config(min_sim=0.24).build()
    wanted = [
        ("One.<image><image>Two.<image>Three.", []),
        ("One.\n\nTwo.<image>Three.", ["image below min_sim"] * 2),
        (
            "One. Two. Three.",
            [
                "missing image file",
                "path out of the image folder",
                "no image path",
                *["no such sentence"] * 3,
            ],
        ),
        ("One. Two.", ["unreadable image"]),
        "no image_info",
        "no text_list and image_info",
        "no text",
        "no text_list and image_info",
        "no JSON object",
    ]
    assert outcome(strict, tmp_path / "a.jsonl") == outcome(
        strict, tmp_path / "a.jsonl.gz"
    )
    assert outcome(strict, tmp_path / "a.jsonl") == [
        ("One. Two.<image>Three.", wanted[1][1]) if page == wanted[1] else page
        for page in wanted
    ]
    after = MMC4.Config(
        order="after", between="\n", folder=str(tmp_path / "a_images")
    ).build()
    assert outcome(after, tmp_path / "a.jsonl")[0] == (
        "One.\nTwo.<image><image>Three.<image>",
        [],
    )
    assert strict.document(mmc4(info(0, image=DOT))).images[0].url == ""


# --- HTML

PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style>
<meta charset=utf-8></head><body>
<nav>Home <nav>x</nav> <b>About</b></nav><!-- <p>no --> <h1>Our  &lt;trip&gt;</h1>
<p>To the <b>la</b>ke &amp; back.<br>It was<img alt="a > b"
src='img/a%20b.jpg?w=3'> cold<script>a<b</p></script>.
<table><tr><td>1<td>2</table><pre> x
   y</pre><svg/><form>Sign up <select><option>1</select></form>
<ul><li>one<li>two</ul>1 < 2 <img src=""><IMG data-src=/0.jpg src=dot.gif></body>
</html>"""


def test_text_and_images_come_in_reading_order() -> None:
    assert HtmlReader().read(PAGE) == [
        "Our <trip>\n\nTo the lake & back.\nIt was",
        ImageSource("img/a%20b.jpg?w=3"),
        "cold.\n\n1 2\n\n x\n   y\n\none\n\ntwo\n\n1 < 2",
        ImageSource("/0.jpg"),
    ]


def test_unclosed_markup_is_read_in_one_pass() -> None:
    """The standard library's parser takes minutes for the first on Python 3.11.7."""
    for unending in ("<a ", "<a b='", "<!--", "<![CDATA[", "</a ", "<script>"):
        assert HtmlReader().read("<p>before</p>" + unending * 20_000) == [
            "before"
        ]
    with pytest.raises(Unusable, match="broken HTML"):
        HtmlPages.Config().build().document(
            {"html": f"&#{'1' * 5000};", "images": {}}
        )


def test_a_folder_of_pages_with_its_images(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub" / "img").mkdir(parents=True)
    for name in ("sub/img/a b.jpg", "0.jpg", "../secret.jpg"):
        (site / name).write_bytes(jpeg())
    inline = f"data:image/png;base64,{base64.b64encode(DOT).decode()}"
    sources = (
        "../0.jpg",
        inline,
        "../../secret.jpg",
        "http://x.org/1.jpg",
        "data:,x",
        "http://[x",
        "none.jpg",
        "file:///etc/passwd",
    )
    pages = {
        "sub/a.html": PAGE.encode(),
        "sub/b.htm": (
            b"<p>b</p>"
            + b"".join(f"<img src='{src}'>".encode() for src in sources)
        ),
        "sub/c.html": b"<meta charset='iso-8859-1'>caf\xe9 \x93x\x94",
        "sub/d.html": b"caf\xe9",
        "sub/e.html": b"<meta charset=no-such>e",
        "sub/f.html": b"<nav>f",
        "sub/g.html": b"",
        "sub/h.txt": b"no page",
    }
    for name, content in pages.items():
        (site / name).write_bytes(content)
    source = HtmlPages.Config().build()
    assert source.find(site) == [site]
    assert [record.key for record in source.read(site)] == list(pages)[:-1]
    first, *others = outcome(source, site)
    assert first == (
        (
            "Our <trip>\n\nTo the lake & back.\nIt was<image>cold.\n\n1 2\n\n x\n  "
            " y\n\none\n\ntwo\n\n1 < 2<image>"
        ),
        [],
    )
    lost = [
        "path out of the image folder",
        "image is a URL",
        "broken image address",
        "image is a URL",
    ]
    lost += ["missing image file"] * 2
    assert others == [
        ("b<image><image>", lost),
        ("caf\u00e9 \u201cx\u201d", []),
        "not UTF-8",
        "wrong encoding",
        "no text",
        "empty html",
    ]
    assert outcome(source, site / "sub" / "c.html") == [
        ("caf\u00e9 \u201cx\u201d", [])
    ]


def test_tables_of_pages_resolve_addresses(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (
        tmp_path
        / "pictures"
        / hashlib.sha256(b"https://x.org/p/i/1.jpg").hexdigest()
    ).write_bytes(jpeg())
    rows = [
        {
            "page": "<img src=i/1.jpg>one <img src=//x.org/p/i/1.jpg>",
            "at": "https://x.org/p/a.html",
        },
        {"page": None, "at": None},
    ]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "a.parquet")
    write_lines(tmp_path / "in" / "b.jsonl", [{"page": "two", "at": 3}, b"{"])
    source = HtmlPages.Config(
        html="page", url="at", folder=str(tmp_path / "pictures"), urls="sha256"
    ).build()
    assert outcome(source, tmp_path / "in") == [
        ("<image>one<image>", []),
        "no html",
        ("two", []),
        "broken JSON line",
    ]
    assert [record.key for record in source.read(tmp_path / "in")] == [
        "a.parquet#0",
        "a.parquet#1",
        "b.jsonl#1",
        "b.jsonl#2",
    ]
    record, *_ = source.read(tmp_path / "in")
    assert {image.url for image in source.document(record.data).images} == {
        "https://x.org/p/i/1.jpg"
    }


# --- whatever `datasets` opens


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import zipfile

    root = tmp_path_factory.mktemp("hub")
    table = (
        '{"file_name": "0.jpg", "caption": "zero"}\n{"file_name": "1.jpg", "caption":'
        ' "one"}\n'
    )
    for name in ("pictures", "zipped", "pages", "chats", "evil", "texts"):
        (root / name).mkdir()
    with zipfile.ZipFile(root / "zipped" / "a.zip", "w") as archive:
        archive.writestr("metadata.jsonl", table)
        for i in range(2):
            archive.writestr(f"{i}.jpg", jpeg(i))
            (root / "pictures" / f"{i}.jpg").write_bytes(jpeg(i))
    (root / "pictures" / "metadata.jsonl").write_text(table)
    page = {
        "images": [{"bytes": jpeg(), "path": None}, None],
        "texts": [None, "one"],
    }
    pq.write_table(pa.Table.from_pylist([page]), root / "pages" / "a.parquet")
    turns = [
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Good."},
    ]
    write_lines(
        root / "chats" / "a.jsonl",
        [{"messages": turns, "image": "../pictures/0.jpg"}],
    )
    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    "image": {
                        "bytes": None,
                        "path": str(root / "pictures" / "0.jpg"),
                    },
                    "text": "x",
                }
            ]
        ),
        root / "evil" / "a.parquet",
    )
    write_lines(root / "texts" / "a.jsonl", [{"text": "one"}, {"text": ""}])
    return root


def test_columns_of_any_local_data_set(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    captions = [("<image>zero", []), ("<image>one", [])]
    assert (
        outcome(Hub.Config(text="caption").build(), folders / "pictures")
        == captions
    )
    assert (
        outcome(Hub.Config(text="caption").build(), folders / "zipped")
        == captions
    )
    assert outcome(
        Hub.Config(image="images", text="texts").build(), folders / "pages"
    ) == [("<image>one", [])]
    assert outcome(
        Hub.Config(image="", messages="messages").build(), folders / "chats"
    ) == [("Well?\nGood.", [])]
    assert outcome(
        Hub.Config(image="image", messages="messages").build(),
        folders / "chats",
    ) == ["path out of the image folder"]
    assert outcome(Hub.Config().build(), folders / "evil") == [
        "path out of the image folder"
    ]
    assert outcome(Hub.Config(image="").build(), folders / "texts") == [
        ("one", []),
        "empty text",
    ]
    datasets.DatasetDict(
        {"val": datasets.Dataset.from_dict({"text": ["saved"]})}
    ).save_to_disk(str(folders / "saved"))
    assert outcome(
        Hub.Config(image="", split="val").build(), folders / "saved"
    ) == [("saved", [])]


def test_missing_columns_and_splits_are_named(
    folders: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match="no column 'captions'; did you mean 'caption'"
    ):
        list(Hub.Config(text="captions").build().read(folders / "pictures"))
    with pytest.raises(ConfigError, match="Bad split: val"):
        list(Hub.Config(split="val").build().read(folders / "pictures"))
    with pytest.raises(FileNotFoundError, match="not the name of a data set"):
        Hub.find(tmp_path / "nowhere")
    assert Hub.find(Path("owner/name")) == [Path("owner/name")]


def test_a_name_on_the_hub_is_opened_by_the_same_call(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: `load_dataset` gets the name and the revision, which are then
    in the manifest."""
    import datasets

    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": jpeg(), "path": None}], "text": ["one"]}
    )
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return rows.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train_tokenizer(["a text"], tmp_path / "t.json", vocab_size=300)
    manifest = prepare(
        Preparation.Config(source=Hub.Config(revision="0123abc")),
        [Path("owner/name")],
        tmp_path / "out",
        tmp_path / "t.json",
    )
    assert manifest["documents"] == manifest["images"] == 1
    assert manifest["inputs"][0]["file"] == "owner/name"
    assert manifest["config"]["revision"] == "0123abc"
    assert asked == [
        (
            ("owner/name", None),
            {"split": "train", "revision": "0123abc", "streaming": True},
        )
    ]
