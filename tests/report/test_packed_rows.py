"""The first rows of a real loader, with split images and index tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import raw_files
import tiny
from worlds import pretrain

from mm1.prepare.pipeline import prepare
from mm1.report.packed_rows import open_loader, view_rows
from mm1.report.view import ViewImage, ViewText


def test_each_sub_image_follows_its_index(tmp_path: Path) -> None:
    tiny.tokenizer(tmp_path)
    raw = raw_files.write_tar(tmp_path / "a.tar", raw_files.pairs(6))
    prepare(
        "captions", [raw], tmp_path / "captions", tmp_path / "tokenizer.json"
    )
    config: Any = pretrain(tmp_path)
    config.model.encoder.resize = "pad"
    config.loader.sources = {"captions": str(tmp_path / "captions")}
    config.loader.weights = {"captions": 1.0}
    config.loader.split = "dynamic"
    config.loader.min_tiles = 2
    config.loader.max_tiles = 2
    config.loader.index_tokens = True
    config.loader.sequence_length = 128

    loader = open_loader(config)
    source = loader.sources["captions"]
    rendered = [
        loader.renderer(source.shards.document(i))
        for i in range(source.num_documents)
    ]
    num_tokens, _ = source.lengths(np.arange(source.num_documents))
    assert num_tokens.tolist() == [
        len(sequence.tokens) for sequence in rendered
    ]

    documents = [
        document for row in view_rows(config, 2) for document in row.documents
    ]
    assert documents
    for document in documents:
        kinds = [type(piece) for piece in document.pieces]
        assert kinds == [ViewText, ViewImage] * 3 + [ViewText]
        assert [p.text for p in document.pieces if isinstance(p, ViewText)][
            :3
        ] == [
            "(1,1,1)",
            "(1,1,2)",
            "(1,0,0)",
        ]
        assert document.num_images == 3
