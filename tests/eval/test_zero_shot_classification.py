"""Zero-shot classification, on folders of classes and on the miniature world."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F

from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.eval.classes.folders import Folders
from mm1.eval.evaluate import evaluate
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.infer import encoder
from mm1.infer.encoder import Encoder
from mm1.miniature.benchmarks import Miniature
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def clip_encoder(folder: Path) -> Encoder:
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
    """Texts point along the axis of their class, whatever the template but "not";
    pictures of 3 are all seen as foxes.

    Picture n of `folders` is of class n % 6; picture 1 is seen between its own class
    and the next.
    """

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        axes = torch.eye(len(CLASSES))
        return torch.stack(
            [
                axes[[c in t for c in CLASSES].index(True)].roll(
                    3 * ("not" in t)
                )
                for t in texts
            ]
        )

    def images(self, images: Sequence[Any]) -> torch.Tensor:
        axes = torch.eye(len(CLASSES))
        known = [tiny.picture(n).data for n in range(12)]
        numbers = [known.index(image.data) for image in images]
        seen = torch.stack(
            [
                axes[5 if n % 6 == 3 else n % 6]
                + 0.9 * axes[(n + 1) % 6] * (n == 1)
                for n in numbers
            ]
        )
        return F.normalize(seen, dim=-1)


def folders(root: Path, num_classes: int = 6) -> Path:
    for n in range(12):
        if n % 6 < num_classes:
            (root / CLASSES[n % 6]).mkdir(parents=True, exist_ok=True)
            (root / CLASSES[n % 6] / f"{n:02}.PNG").write_bytes(
                tiny.picture(n).data
            )
    (root / "ant" / "notes.txt").touch()
    (root / ".cache").mkdir()
    return root


def asked(root: Path, **options: Any) -> ZeroShotClassification:
    return ZeroShotClassification.Config(
        data=Folders.Config(test=str(root)), **options
    ).build()


def test_the_nearest_text_is_the_class(tmp_path: Path) -> None:
    """The two dogs of 12 images are taken for foxes, so top-1 is 10 of 12."""
    base = clip_encoder(tmp_path)
    oracle = Oracle(base.model, base.renderer, base.device)
    scores = evaluate(
        oracle,
        {"zoo": asked(folders(tmp_path / "zoo"))},
        (0, 8),
        tmp_path,
        version="v",
    )
    assert (scores["zoo"]["metric"], scores["zoo"]["chance"]) == (
        "zero-shot accuracy",
        1 / 6,
    )
    assert list(scores["zoo"]["shots"]) == [
        "0"
    ]  # no demonstrations, whatever the run's shots
    found = scores["zoo"]["shots"]["0"]
    assert (found["score"], found["num_questions"]) == (10 / 12, 12)
    lines = [
        json.loads(line)
        for line in (
            (tmp_path / "predictions" / "zoo-0shot.jsonl")
            .read_text()
            .splitlines()
        )
    ]
    assert (
        found["top5"]
        == sum(line["top5"] for line in lines) / 12
        >= found["score"]
    )
    assert [line["id"] for line in lines[:3]] == [
        "ant/00.PNG",
        "ant/06.PNG",
        "bee/01.PNG",
    ]
    assert lines[2]["answers"] == ["bee"]
    assert lines[2]["prompt"] == "<image> a photo of a {}."
    wrong = [
        (line["answers"], line["prediction"])
        for line in lines
        if not line["score"]
    ]
    assert wrong == [(["dog"], "fox")] * 2
    assert (tmp_path / lines[0]["pictures"][0]).is_file()


def test_top_five_of_five_classes_is_not_reported(tmp_path: Path) -> None:
    base = clip_encoder(tmp_path)
    benchmark = asked(folders(tmp_path / "zoo", num_classes=5))
    oracle = Oracle(base.model, base.renderer, base.device)
    result = evaluate(oracle, {"zoo": benchmark}, (0,), tmp_path, version="v")[
        "zoo"
    ]["shots"]["0"]
    assert "top5" not in result


def test_a_classs_feature_is_the_mean_over_templates(tmp_path: Path) -> None:
    """A template that points to another class is outvoted, or outvotes the others."""
    base = clip_encoder(tmp_path)
    root = folders(tmp_path / "zoo")
    oracle = Oracle(base.model, base.renderer, base.device)
    for templates, right in (
        (("a {}", "the {}", "not a {}"), 10),
        (("a {}", "not a {}", "not the {}"), 0),
    ):
        lines = asked(root, templates=templates).evaluate(
            oracle, 0, lambda _: None
        )
        assert sum(line["score"] for line in lines) == right


class Ranked(Oracle):
    """Every picture is most like the first class, and less like each further one."""

    def images(self, images: Sequence[Any]) -> torch.Tensor:
        likeness = torch.arange(6.0, 0.0, -1.0)
        return F.normalize(likeness.expand(len(images), -1), dim=-1)


def test_top_five_are_the_five_nearest(tmp_path: Path) -> None:
    base = clip_encoder(tmp_path)
    oracle = Ranked(base.model, base.renderer, base.device)
    lines = asked(folders(tmp_path / "zoo")).evaluate(oracle, 0, lambda _: None)
    assert [(line["score"], line["top5"]) for line in lines[::2]] == [
        (1.0, 1.0),
        *[(0.0, 1.0)] * 4,
        (0.0, 0.0),
    ]


class Torn(Oracle):
    """The templates of the first class point to the first and the third axis; every
    picture is between these two, and a little nearer to them than to the second."""

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        features = super().texts(texts)
        features[[t == f"the {CLASSES[0]}" for t in texts]] = torch.eye(6)[2]
        return features

    def images(self, images: Sequence[Any]) -> torch.Tensor:
        seen = torch.tensor([0.8 / 2**0.5, 0.6, 0.8 / 2**0.5, 0.0, 0.0, 0.0])
        return seen.expand(len(images), -1)


def test_a_class_is_as_near_however_far_apart_its_templates(
    tmp_path: Path,
) -> None:
    """The mean of two features at right angles has length 0.7 until it is normed."""
    base = clip_encoder(tmp_path)
    torn = Torn(base.model, base.renderer, base.device)
    lines = asked(
        folders(tmp_path / "zoo"), templates=("a {}", "the {}")
    ).evaluate(torn, 0, lambda _: None)
    assert {line["prediction"] for line in lines} == {CLASSES[0]}


def test_features_do_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix products of other sizes sum in another order: 9e-8 at worst, measured."""
    encoder_under_test = clip_encoder(tmp_path)
    pictures = [tiny.picture(n) for n in range(5)]
    texts = [
        "red dog",
        "a",
        "blue cat sun question answer two three green red",
        "",
    ]
    whole = encoder_under_test.images(pictures), encoder_under_test.texts(texts)
    monkeypatch.setattr(encoder, "TEXTS_PER_BATCH", 1)
    monkeypatch.setattr(encoder, "IMAGES_PER_BATCH", {"cpu": 2})
    for together, apart in zip(
        whole,
        (encoder_under_test.images(pictures), encoder_under_test.texts(texts)),
        strict=True,
    ):
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
        torch.testing.assert_close(apart.norm(dim=-1), torch.ones(len(apart)))
    assert [len(batch) for batch in encoder_under_test.patches(pictures)] == [
        2,
        2,
        1,
    ]


def test_texts_are_tokenised_like_captions(tmp_path: Path) -> None:
    """Padded to the full length or not: 4e-7 at worst, measured."""
    encoder_under_test = clip_encoder(tmp_path)
    tokenizer = encoder_under_test.renderer.tokenizer
    model = encoder_under_test.model
    assert isinstance(model, CLIP)
    ids = [*tokenizer.encode("red cat"), tokenizer.end]
    wanted = model.encode_texts(torch.tensor([ids]), torch.tensor([len(ids)]))
    torch.testing.assert_close(
        encoder_under_test.texts(["red cat"]),
        wanted.detach(),
        rtol=0,
        atol=5e-6,
    )


@pytest.mark.parametrize(
    ("templates", "words"),
    [((), "templates is empty"), (("a cat",), "'a cat' needs one {}")],
)
def test_templates_need_one_place_for_the_name(
    templates: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ZeroShotClassification.Config(templates=templates).build()


def test_a_model_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    clip = clip_encoder(tmp_path)
    language_model = tiny.predictor(tmp_path)
    with pytest.raises(
        ConfigError,
        match="Miniature needs a language model; a run of CLIP does not train one",
    ):
        evaluate(
            clip,
            {"digit": Miniature.Config().build()},
            (0,),
            tmp_path,
            version="v",
        )
    with pytest.raises(
        ConfigError,
        match=r"needs an encoder that .*; a run of MM1 does not train one",
    ):
        evaluate(
            language_model,
            {"zoo": asked(folders(tmp_path / "zoo"))},
            (0,),
            tmp_path,
            version="v",
        )
