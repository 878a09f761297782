"""Tars of captions."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from raw_files import jpeg, pairs, write_tar

from cases import Case, plain, prepared, refused
from mm1.prepare.pipeline import find_files
from mm1.prepare.sources.captions import Captions


def truncated(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(4))
    path.write_bytes(path.read_bytes()[:5000])
    return prepared("captions", path)


def no_end_mark(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(2))
    path.write_bytes(path.read_bytes().rstrip(b"\0"))
    return prepared("captions", path)


def damaged_header(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(4))
    data = bytearray(path.read_bytes())
    data[(at := data.index(b"0002.jpg")) : at + 300] = bytes([7]) * 300
    path.write_bytes(data)
    return prepared("captions", path)


def no_tar(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "a.tar").write_bytes(b"<html>not found</html>" * 100)
    return refused(lambda: prepared("captions", folder / "a.tar"), folder)


def zipped(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(2))
    path.write_bytes(gzip.compress(path.read_bytes()))
    return refused(lambda: prepared("captions", path), folder)


def empty(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "a.tar").touch()
    return refused(lambda: prepared("captions", folder / "a.tar"), folder)


def no_members(folder: Path, _: pytest.MonkeyPatch) -> str:
    return refused(
        lambda: prepared("captions", write_tar(folder / "a.tar", [])), folder
    )


def names_outside(folder: Path, _: pytest.MonkeyPatch) -> str:
    members = [(f"../../{name}", data) for name, data in pairs(1)] + [
        (f"/tmp/{n}", d) for n, d in pairs(1, start=1)
    ]
    outcome = prepared("captions", write_tar(folder / "a.tar", members))
    assert not (folder.parent.parent / "0000.jpg").exists()
    return f"{outcome}; nothing is unpacked, names are only keys"


def links_and_devices(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(1))
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("l.jpg", tarfile.SYMTYPE),
            ("h.jpg", tarfile.LNKTYPE),
            ("d.jpg", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            tar.addfile(member)
    return prepared("captions", path)


def any_bytes_as_name(folder: Path, _: pytest.MonkeyPatch) -> str:
    members = [
        (name.replace("0000", "caf\udce9"), data) for name, data in pairs(1)
    ]
    return prepared("captions", write_tar(folder / "a.tar", members))


def same_name_twice(folder: Path, _: pytest.MonkeyPatch) -> str:
    return (
        f"{prepared('captions', write_tar(folder / 'a.tar', pairs(1) + pairs(1)))};"
        " both are samples"
    )


def other_members(folder: Path, _: pytest.MonkeyPatch) -> str:
    members = [
        ("README", b"words"),
        *pairs(1),
        ("0000.npy", b"\x93NUMPY"),
        ("0000.JSON", b"{}"),
        (".hidden", b"x"),
        ("._0000.jpg", b"x"),
    ]
    return prepared("captions", write_tar(folder / "a.tar", members))


def dots_in_names(folder: Path, _: pytest.MonkeyPatch) -> str:
    members = [
        (name.replace("000", "plate 1."), data) for name, data in pairs(3)
    ]
    return prepared("captions", write_tar(folder / "a.tar", members))


def masks_beside_samples(folder: Path, _: pytest.MonkeyPatch) -> str:
    members = pairs(2)
    members.insert(1, ("0000.mask.png", jpeg(kind="PNG")))
    members.insert(1, ("0000.webp", jpeg(kind="WEBP")))
    return prepared("captions", write_tar(folder / "a.tar", members))


def one_tar_behind_another(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(2))
    more = write_tar(folder / "b.tar", pairs(2, start=2)).read_bytes()
    path.write_bytes(path.read_bytes() + more)
    return prepared("captions", path)


def junk_behind_the_end(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(2))
    path.write_bytes(path.read_bytes() + b"<html>" * 200)
    return prepared("captions", path)


def no_permission(folder: Path, patch: pytest.MonkeyPatch) -> str:
    path = write_tar(folder / "a.tar", pairs(1))
    opened = io.open

    # Patched rather than chmod: root may read everything.
    def closed(file: object, *arguments: object, **options: object) -> object:
        if os.fspath(file) == str(path):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied", str(path))
        return opened(file, *arguments, **options)  # type: ignore[call-overload]

    patch.setattr(io, "open", closed)
    return refused(lambda: prepared("captions", path), folder)


def no_file(folder: Path, _: pytest.MonkeyPatch) -> str:
    return refused(
        lambda: find_files(Captions, [folder / "nowhere.tar"]), folder
    )


def no_matching_file(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "a.parquet").write_bytes(b"")
    return plain(
        refused(lambda: find_files(Captions, [folder]), folder), folder
    )


CASES: dict[str, Case] = {
    "truncated in the middle": truncated,
    "without its end marker": no_end_mark,
    "damaged header in the middle": damaged_header,
    "HTML named .tar": no_tar,
    "gzipped, but named .tar": zipped,
    "empty file": empty,
    "no members": no_members,
    "names outside the folder": names_outside,
    "links and devices": links_and_devices,
    "a name that is not UTF-8": any_bytes_as_name,
    "two samples of the same name": same_name_twice,
    "members of other kinds": other_members,
    "dots in names": dots_in_names,
    "further pictures beside a sample": masks_beside_samples,
    "one tar behind another": one_tar_behind_another,
    "junk behind the end mark": junk_behind_the_end,
    "no permission to read": no_permission,
    "no such file": no_file,
    "a folder without tars": no_matching_file,
}
