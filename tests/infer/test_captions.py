"""Prepared captions filtered by CLIP score, and rewritten by a model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from raw_files import jpeg, write_lines, write_tar

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared.shards import Shards, read_manifest
from mm1.data.render import Renderer
from mm1.infer import filter_captions as module
from mm1.infer.encoder import Encoder
from mm1.infer.filter_captions import filter_captions
from mm1.infer.recaption import recaption
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources.captions import Captions

WORDS = [
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "sun",
    "two",
    "three",
    "question",
    "answer",
]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Ten captions in two tars, with the tokenizer of the tiny models."""
    tiny.tokenizer(tmp_path)
    for tar in range(2):
        numbers = range(5 * tar, 5 * tar + 5)
        members = [
            m
            for n in numbers
            for m in (
                (f"{n}.jpg", jpeg(n)),
                (f"{n}.txt", f"{WORDS[n]} sun".encode()),
            )
        ]
        write_tar(tmp_path / f"{tar}.tar", members)
    prepare(
        Preparation.Config(source=Captions.Config(), validation=0.3),
        sorted(tmp_path.glob("*.tar")),
        tmp_path / "in",
        tmp_path / "tokenizer.json",
    )
    return tmp_path / "in"


def clip(folder: Path) -> Encoder:
    made = tiny.tokenizer(folder)
    torch.manual_seed(0)
    model = CLIP.Config(
        encoder=ViT.Config(
            image_size=8, patch_size=4, depth=1, dim=16, num_heads=2
        ),
        text=TextTower.Config(max_length=12, depth=1, dim=16, num_heads=2),
        dim=8,
    ).build(vocab_size=made.vocab_size)
    return Encoder(
        model.eval(),
        Renderer(made, ImageProcessor((8, 8))),
        torch.device("cpu"),
    )


class Oracle(Encoder):
    """The score of caption n is n tenths."""

    def images(self, images: Sequence[Image]) -> torch.Tensor:
        return torch.ones(len(images), 1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor(
            [[WORDS.index(text.split()[0]) / 10] for text in texts]
        )


def captions(folder: Path) -> set[str]:
    """The first word of each caption of a folder."""
    found = set()
    for split in ("train", "validation"):
        if Shards.has_split(folder, split):
            shards = Shards(folder, split)
            found |= {
                shards.document(i).text.removeprefix("<image>").split()[0]
                for i in range(len(shards))
            }
    return found


@pytest.mark.parametrize("options", [{"keep": 0.3}, {"min_score": 0.65}])
def test_the_best_pairs_are_kept(
    options: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    encoder = clip(tmp_path)
    oracle = Oracle(encoder.model, encoder.renderer, encoder.device)
    manifest = filter_captions(
        oracle, prepared, tmp_path / "out", model="oracle", **options
    )
    assert captions(tmp_path / "out") == {"three", "question", "answer"}
    assert (
        manifest["records_in"],
        manifest["documents"],
        manifest["drops"],
    ) == (
        10,
        3,
        {"low CLIP score": 7},
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "out" / "drops.jsonl").read_text().splitlines()
    ]
    scores = {line["key"].rpartition("#")[2]: line["detail"] for line in lines}
    assert scores == {str(n): f"{n / 10:.4f}" for n in range(7)}
    Shards(tmp_path / "out").check_tokenizer(
        read_manifest(prepared)["tokenizer"]
    )
    sides = [
        {s.key(i) for i in range(len(s))}
        for s in (Shards(prepared), Shards(tmp_path / "out"))
    ]
    assert sides[1] <= sides[0]
    assert (
        filter_captions(
            oracle, prepared, tmp_path / "out", model="oracle", **options
        )
        == manifest
    )
    with pytest.raises(ConfigError, match="prepared with captions"):
        filter_captions(
            oracle, prepared, tmp_path / "out", model="another", **options
        )


def test_scores_are_cosines_of_features(prepared: Path, tmp_path: Path) -> None:
    encoder = clip(tmp_path)
    shards = Shards(prepared)
    pairs = [(shards.key(i), shards.document(i)) for i in range(len(shards))]
    found = module.score_pairs(encoder, pairs)
    for (_, document), score in zip(pairs, found, strict=True):
        text = document.parts[1]
        assert isinstance(text, Text)
        alone = torch.cosine_similarity(
            encoder.images(document.images), encoder.texts([text.content])
        )
        # fp32 in batches of other sizes: the worst difference measured was 6e-8
        assert score == pytest.approx(alone.item(), abs=1e-6)


def test_scored_shards_are_not_scored_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = clip(tmp_path)
    asked = []
    score = module.score_pairs

    def interrupted(_: Encoder, pairs: Any) -> list[float]:
        asked.append(len(pairs))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return score(encoder, pairs)

    monkeypatch.setattr(module, "score_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filter_captions(
            encoder, prepared, tmp_path / "out", model="clip", keep=0.5
        )
    manifest = filter_captions(
        encoder, prepared, tmp_path / "out", model="clip", keep=0.5
    )
    assert manifest["documents"] == 5
    assert sum(asked) == 10 + asked[1]


def test_what_cannot_be_filtered_is_an_error(
    prepared: Path, tmp_path: Path
) -> None:
    encoder = clip(tmp_path)
    for wrong in ({}, {"keep": 0.5, "min_score": 0.1}, {"keep": 0.0}):
        with pytest.raises(ConfigError, match="either keep"):
            filter_captions(
                encoder, prepared, tmp_path / "out", model="clip", **wrong
            )  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no features of texts"):
        filter_captions(
            tiny.predictor(tmp_path),
            prepared,
            tmp_path / "out",
            model="mm1",
            keep=0.5,
        )
    write_lines(tmp_path / "a.jsonl", [{"text": "red"}])
    prepare(
        "text",
        [tmp_path / "a.jsonl"],
        tmp_path / "text",
        tmp_path / "tokenizer.json",
    )
    with pytest.raises(ConfigError, match=r"a\.jsonl#1 is not a pair"):
        filter_captions(
            encoder, tmp_path / "text", tmp_path / "out", model="clip", keep=0.5
        )


def test_the_threshold_keeps_ties() -> None:
    scores = np.array([0.5, 0.1, 0.5, 0.9], dtype=np.float32)
    assert [
        module._threshold(scores, keep, None) for keep in (0.25, 0.5, 0.75, 1.0)
    ] == [pytest.approx(score) for score in (0.9, 0.5, 0.5, 0.1)]


def test_images_are_recaptioned(prepared: Path, tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    counts = recaption(
        predictor,
        prepared,
        tmp_path / "new",
        model="tiny",
        prompt=" cat",
        max_tokens=4,
    )
    table = pq.read_table(tmp_path / "new")
    assert sorted(table.column("key").to_pylist()) == sorted(
        map(str, range(10))
    )
    assert {Path(file).name for file in table.column("file").to_pylist()} == {
        "0.tar",
        "1.tar",
    }
    assert counts["captions"] == 10
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {
        ".parquet"
    }
    found = dict(
        zip(
            table.column("key").to_pylist(),
            table.column("caption").to_pylist(),
            strict=True,
        )
    )
    for number in (0, 7):
        prompt = Document(
            (Image(jpeg(number), 12, 9), Text(" cat", loss=False))
        )
        assert (
            found[str(number)]
            == predictor.generate([prompt], max_tokens=4, stop=("\n",))[
                0
            ].strip()
        )
    with pytest.raises(ConfigError, match="clip cannot write text"):
        recaption(clip(tmp_path), prepared, tmp_path / "other", model="clip")
    with pytest.raises(ConfigError, match="not empty"):
        recaption(predictor, prepared, tmp_path / "new", model="tiny")
