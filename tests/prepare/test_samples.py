"""Files that make a sample, in tars and in folders: none vanishes without a count."""

import tarfile
from pathlib import Path

import pytest
from raw_files import jpeg, pairs, write_tar

from mm1.data.document import Document
from mm1.prepare.sources import Record, Unusable
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.synthetic_captions import SyntheticCaptions

Files = list[tuple[str, bytes]]


def read(path: Path, **config: str) -> tuple[Captions, dict[str, object]]:
    """The source, and what became of each sample: the caption or the reason."""
    source = Captions.Config(**config).build()
    assert isinstance(source, Captions)
    return source, {r.key: outcome(source, r) for r in source.read(path)}


def outcome(source: Captions, record: Record) -> str:
    try:
        if isinstance(record.data, Unusable):
            raise record.data
        document: Document = source.document(record.data)
    except Unusable as why:
        return f"dropped: {why.reason}"
    return document.text.removeprefix("<image>")


def names(source: Captions) -> dict[str, list[str]]:
    counts = source.skipped.to_json()
    assert all(e["count"] == len(e["names"]) for e in counts.values())
    return {kind: each["names"] for kind, each in counts.items()}


def sample(name: str, suffix: str = "jpg") -> Files:
    return [
        (f"{name}.{suffix}", jpeg()),
        (f"{name}.txt", f"the caption of {name}".encode()),
    ]


def write(where: str, folder: Path, files: Files) -> Path:
    if where == "tar":
        return write_tar(folder / "a.tar", files)
    root = folder / "files"
    for name, data in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


everywhere = pytest.mark.parametrize("where", ["tar", "folder"])


@everywhere
def test_names_up_to_the_last_dot_are_samples(
    where: str, tmp_path: Path
) -> None:
    keys = ["a.1", "a.2", "a", "v1.0/b", "v1.0/b.x.y", "c d.3"]
    files = [file for key in sorted(keys) for file in sample(key)]
    source, found = read(write(where, tmp_path, files))
    assert found == {key: f"the caption of {key}" for key in keys}
    assert names(source) == {}


@everywhere
def test_what_webdataset_puts_beside_a_sample_is_counted(
    where: str, tmp_path: Path
) -> None:
    files = [
        ("a.depth.png", jpeg(kind="PNG")),
        *sample("a"),
        ("a.seg.mask.png", jpeg(kind="PNG")),
        ("a.cls", b"3"),
        *sample("b"),
    ]
    source, found = read(write(where, tmp_path, sorted(files)))
    assert found.keys() == {"a", "b"}
    assert names(source) == {
        ".cls file": ["a.cls"],
        "file beside a sample": ["a.depth.png", "a.seg.mask.png"],
    }


@everywhere
@pytest.mark.parametrize(
    "suffix", ["JPG", "Jpeg", "jfif", "gif", "bmp", "TIFF", "tif", "avif"]
)
def test_images_of_all_formats_in_any_case_of_letters(
    where: str, suffix: str, tmp_path: Path
) -> None:
    _, found = read(write(where, tmp_path, sample("a", suffix)))
    assert found == {"a": "the caption of a"}


@everywhere
def test_dotted_names_without_a_caption_are_dropped_by_name(
    where: str, tmp_path: Path
) -> None:
    files: Files = [(f"fig.{n:02}.jpg", jpeg()) for n in range(40)]
    _, found = read(write(where, tmp_path, files))
    assert found == {f"fig.{n:02}": "dropped: no caption" for n in range(40)}


@everywhere
def test_the_field_or_the_txt_that_is_not_used_is_counted(
    where: str, tmp_path: Path
) -> None:
    files = sorted([*sample("a"), ("a.json", b'{"more": "other words"}')])
    path = write(where, tmp_path, files)
    source, found = read(path)
    assert found == {"a": "the caption of a"}
    assert names(source) == {".json file": ["a.json"]}
    source, found = read(path, field="more")
    assert found == {"a": "other words"}
    assert names(source) == {".txt file": ["a.txt"]}


def test_links_and_folders_of_a_tar_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", sample("a"))
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("b.jpg", tarfile.SYMTYPE),
            ("c.jpg", tarfile.LNKTYPE),
            ("more", tarfile.DIRTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "a.jpg"
            tar.addfile(member)
    source, found = read(path)
    assert found == {"a": "the caption of a"}
    assert names(source) == {
        "symbolic link": ["b.jpg"],
        "hard link": ["c.jpg"],
        "folder": ["more"],
        "special file": ["pipe"],
    }


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_in_both_forms(form: int, tmp_path: Path) -> None:
    key = f"{'folder/' * 40}ünïcode {'long' * 40}"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for name, data in sample(key):
            file = tmp_path / "file"
            file.write_bytes(data)
            tar.add(file, name)
    assert read(tmp_path / "a.tar")[1] == {key: f"the caption of {key}"}


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 100])
def test_a_tar_ends_with_any_number_of_empty_blocks(
    blocks: int, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("a"), *sample("b")])
    data = path.read_bytes().rstrip(b"\0")
    size = -(-len(data) // 512) * 512
    path.write_bytes(data.ljust(size, b"\0") + bytes(512 * blocks))
    source, found = read(path)
    assert found == {key: f"the caption of {key}" for key in "ab"}
    assert dict(source.noted) == (
        {} if blocks else {"tar without an end mark": 1}
    )


def test_every_cut_of_a_tar_is_counted(tmp_path: Path) -> None:
    """Cut anywhere, the samples before the cut are kept, and only where a member ends
    may the cut look like an end."""
    path = write_tar(tmp_path / "a.tar", pairs(3))
    data = path.read_bytes().rstrip(b"\0")
    whole = {"0000", "0001", "0002"}
    for cut in range(1, len(data), 97):
        path.write_bytes(data[:cut])
        source, found = read(path)
        kept = {key for key, what in found.items() if "dropped" not in what}
        assert kept <= whole
        assert len(found) > len(kept) or source.noted, cut


def test_linked_and_hidden_folders_are_named(tmp_path: Path) -> None:
    root = write("folder", tmp_path, [*sample("a"), *sample(".git/b")])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    (root / "c.jpg").symlink_to(tmp_path / "nowhere")
    source, found = read(root)
    assert found == {"a": "the caption of a"}
    assert names(source) == {
        "hidden folder": [".git"],
        "linked folder": ["link"],
        "link to nothing": ["c.jpg"],
    }


def test_folders_with_tars_are_searched_for_tars(tmp_path: Path) -> None:
    root = write("folder", tmp_path, sample("a"))
    assert Captions.find(root) == [root]
    assert SyntheticCaptions.find(root) == [root]
    assert not Captions.skipped_in(root).counts
    tar = write_tar(root / "b.tar", sample("b"))
    assert Captions.find(root) == [tar]
    assert Captions.skipped_in(root).counts == {".jpg file": 1, ".txt file": 1}
