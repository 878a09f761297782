"""`import mm1`: what it gives, that it is quick, and that its examples run."""

import doctest
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import raw_files
import tiny
import torch
import worlds
from PIL import Image as Pillow

import mm1
from mm1 import api, dist, loaded_run
from mm1.config import ConfigError, to_json
from mm1.data.document import Document, Text
from mm1.eval.benchmarks import Benchmark
from mm1.infer.dialogue import PLAIN_ANSWER, Message, lay_out
from mm1.infer.pictures import encoded_image
from mm1.miniature.benchmarks import Miniature
from mm1.nn.clip import CLIP
from mm1.nn.decoder import LanguageModel
from mm1.prepare.conversation import parse_conversation
from mm1.train.trainer import Trainer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tiny.write_run(tmp_path / "run")


@pytest.fixture
def examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, object]]:
    """The names and files that examples in docstrings use, in a folder of their
    own."""
    tiny.write_run(
        tmp_path / "runs/demo/finetune",
        benchmarks={"colour": Miniature.Config(num_questions=3)},
    )
    # The example of `mm1.prepare`, which runs before, makes the data.
    loader = worlds.packed(Path("data"), captions=1.0)
    config = Trainer.Config(
        model=tiny.config(), loader=loader, precision="fp32"
    )
    (tmp_path / "tiny.json").write_text(json.dumps(to_json(config)))
    tiny.tokenizer(tmp_path)
    (tmp_path / "raw").mkdir()
    raw_files.write_tar(tmp_path / "raw/a.tar", raw_files.pairs(20))
    photo = Pillow.effect_noise((40, 30), 60)
    photo.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    yield {"mm1": mm1, "photo": photo, "other_photo": photo.rotate(90)}
    dist.stop()


def test_importing_it_imports_neither_torch_nor_anything_large() -> None:
    code = (
        "import sys, mm1\n"
        "mm1.__version__, dir(mm1), mm1.prepare, mm1.train\n"
        "print(len([n for n in sys.modules if n.startswith('mm1.')]))\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["3", "False", "False"]


def test_its_names_stay_after_the_packages_of_the_same_name_are_imported() -> (
    None
):
    import mm1.prepare.pipeline
    import mm1.train.trainer

    assert callable(mm1.prepare)
    assert callable(mm1.train)
    assert mm1.prepare.pipeline.prepare is not mm1.prepare
    assert {"ask", "caption", "embed", "log_likelihood"} <= set(
        dir(mm1.LoadedRun)
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mm1.nothing  # noqa: B018


@pytest.mark.parametrize("module", [api, loaded_run])
def test_examples_run(module: object, examples: dict[str, object]) -> None:
    found = doctest.DocTestFinder(exclude_empty=True).find(
        module, extraglobs=examples
    )
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in found:
        runner.run(example)
    failed, attempted = runner.summarize()
    assert not failed
    assert attempted >= 4


def test_an_answer_is_that_of_the_predictor(run: Path) -> None:
    m = mm1.load(run)
    picture = tiny.picture(3)
    shot = (tiny.picture(4), "red cat", "sun")
    said = m.ask("two dog", picture, shots=[shot], max_tokens=6)
    document = Document(
        (
            shot[0],
            Text("red cat\n", loss=False),
            Text("sun", loss=False, end=True),
            picture,
            Text("two dog\n", loss=False),
        )
    )
    (wanted,) = m.predictor.generate([document], max_tokens=6)
    assert said == wanted.strip()
    nats = m.log_likelihood("two dog", picture, shots=[shot], answer="blue")
    scored = document + Document((Text("blue", end=True),))
    assert nats == m.predictor.log_likelihood([scored])[0]
    assert nats < 0


def test_a_conversation_is_laid_out_as_in_training() -> None:
    pictures = [tiny.picture(1), tiny.picture(2)]
    trained = parse_conversation(
        {
            "messages": [
                {"role": "system", "content": "Be brief.\n"},
                {"role": "user", "content": "<image>\nIs it red?"},
                {"role": "assistant", "content": " Yes. "},
                {"role": "user", "content": "And <image> this?\n"},
                {"role": "assistant", "content": "No."},
            ]
        },
        pictures,
    )
    asked = lay_out(
        [
            Message("system", ("Be brief.\n",)),
            Message("user", (pictures[0], "\nIs it red?")),
            Message("assistant", (" Yes. ",)),
            Message("user", ("And ", pictures[1], " this?\n")),
            Message("assistant", ("No.",)),
        ],
        "chat",
    )

    def layout(document: Document) -> list[object]:
        return [
            (p.content, p.end) if isinstance(p, Text) else p
            for p in document.parts
        ]

    assert layout(asked) == layout(trained)
    losses = [p.loss for p in asked.parts if isinstance(p, Text)]
    assert losses == [False, False, False, False, False, True]


def test_a_model_that_was_not_tuned_gets_the_words_as_they_are(
    tmp_path: Path,
) -> None:
    m = mm1.load(tiny.write_run(tmp_path / "base", source="captions"))
    assert m.layout == "plain"
    assert Benchmark.ANSWER == PLAIN_ANSWER
    shots = [(tiny.picture(1), "red", "cat")]
    document = m._document(tiny.picture(2), "red", shots)
    assert document.text == "<image>red cat\n<image>red"
    assert mm1.load(tmp_path / "base", layout="chat").layout == "chat"
    said = m.ask("red", tiny.picture(2), shots=shots, max_tokens=9)
    assert "\n" not in said


def test_pictures_come_in_any_form(tmp_path: Path, run: Path) -> None:
    m = mm1.load(run)
    pixels = torch.arange(30 * 20 * 3).reshape(30, 20, 3) % 251
    pil = Pillow.fromarray(pixels.to(torch.uint8).numpy())
    pil.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    forms = [pil, tmp_path / "a.png", str(tmp_path / "a.png"), data]
    features = m.embed([*forms, encoded_image(pil)])
    assert features.shape == (5, 16)
    assert all(torch.equal(each, features[0]) for each in features)
    assert torch.equal(m.embed(pil), m.embed([pil])[0])
    assert features[0].norm() == pytest.approx(1)
    clear = pil.convert("RGBA")
    clear.putalpha(0)
    white = Pillow.new("RGB", pil.size, "white")
    assert torch.equal(m.embed(clear), m.embed(white))


def test_mistakes_are_named(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = mm1.load(run)
    with pytest.raises(ConfigError, match=r"https://x/a\.png: download"):
        m.ask("red", "https://x/a.png")
    with pytest.raises(ConfigError, match="of type int: give a PIL image"):
        inspect.unwrap(encoded_image)(3)  # type: ignore[arg-type]
    unchecked = inspect.unwrap(encoded_image)
    monkeypatch.setattr(loaded_run, "encoded_image", unchecked)
    images = inspect.unwrap(loaded_run._images)
    with pytest.raises(ConfigError, match="of type int: give a PIL image"):
        images(5)
    message = inspect.unwrap(loaded_run._user_message)
    with pytest.raises(ConfigError, match=r"a question is text.* of type int"):
        message(None, 5)
    with pytest.raises(ConfigError, match="no pictures to embed"):
        m.embed([])
    with pytest.raises(ConfigError, match="'foo': it must be chat or plain"):
        inspect.unwrap(mm1.load)(run, layout="foo")  # type: ignore[arg-type]
    document = inspect.unwrap(mm1.LoadedRun._document)
    with pytest.raises(ConfigError, match="one is of type int"):
        document(m, None, "red", [5])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="one has 2 items"):
        document(m, None, "red", [("cat", "dog")])  # type: ignore[list-item]
    with pytest.raises(
        ConfigError, match=r"shots are a list of .* of type int"
    ):
        document(m, None, "red", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing is asked"):
        m.ask("")
    with pytest.raises(ConfigError, match="nothing to describe"):
        m.caption([])
    answer = inspect.unwrap(loaded_run._assistant_message)
    with pytest.raises(ConfigError, match=r"an answer is text, .* of type int"):
        answer(5)
    stop_strings = inspect.unwrap(loaded_run._stop_strings)
    for stop in (5, [5], ["", "."], [""], ""):
        with pytest.raises(ConfigError, match="none of them empty"):
            stop_strings(stop)
    ask = inspect.unwrap(mm1.LoadedRun.ask)
    for number in (0, -1, 2.5, "3"):
        with pytest.raises(ConfigError, match="give a whole number, 1 or more"):
            ask(m, "red", max_tokens=number)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sampling=3: give mm1\.Sampling"):
        ask(m, "red", sampling=3)  # type: ignore[arg-type]
    evaluate = inspect.unwrap(mm1.evaluate)
    for shots in ([], [2.5], ["2"], "2", 2.5):
        with pytest.raises(
            ConfigError, match="give a number, or a list of some"
        ):
            evaluate(run, shots=shots)
    for names in ([], 3, [3]):
        with pytest.raises(ConfigError, match="give a name, or a list of some"):
            evaluate(run, benchmarks=names)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png: not an image"):
        m.caption(tmp_path / "text.png")
    whole = encoded_image(Pillow.new("RGB", (60, 60), "red")).data
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"cut\.png: damaged image"):
        m.caption(tmp_path / "cut.png")
    with pytest.raises(FileNotFoundError):
        m.caption(tmp_path / "missing.png")
    with pytest.raises(ConfigError, match="steps=3: change the config itself"):
        mm1.train(m.config, out=tmp_path / "out", steps=3)
    with pytest.raises(ConfigError, match=r"optimizer\.peak_lr"):
        mm1.train(run, out=tmp_path / "out", optimizer__peak_l=1.0)


def test_one_is_as_good_as_a_list_of_one(run: Path, tmp_path: Path) -> None:
    m = mm1.load(run)
    plain = m.ask("red", max_tokens=8)
    assert m.ask("red", max_tokens=8, stop=plain[1:3]) == m.ask(
        "red", max_tokens=8, stop=[plain[1:3]]
    )
    for names, shots in (("colour", 0), (["colour"], [0])):
        scores = mm1.evaluate(
            run,
            benchmarks=names,
            shots=shots,
            out=tmp_path / "out",
            benchmarks__colour="miniature",
            benchmarks__colour__num_questions=2,
        )
        assert list(scores) == ["colour"]
        assert list(scores["colour"]["shots"]) == ["0"]


def test_values_of_numpy_and_paths_are_changes_as_any_other() -> None:
    changes = {
        "optimizer__peak_lr": np.float64(1e-3),
        "steps": np.int64(3),
        "loader__sources": {"captions": Path("data/a")},
        "init": (Path("a"), [np.bool_(True)]),
        "tokenizer__path": Path("t.json"),
        "model__connector": "average_pool",
    }
    assert api._assignments(changes) == [
        "optimizer.peak_lr=0.001",
        "steps=3",
        "loader.sources={'captions': 'data/a'}",
        "init=('a', [True])",
        "tokenizer.path=t.json",
        "model.connector=average_pool",
    ]


def test_an_evaluation_may_be_of_quantised_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"int8 weights .* \(out\)"):
        mm1.evaluate(run, quantization="int8")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    asked = tiny.write_run(
        tmp_path / "asked",
        benchmarks={"colour": Miniature.Config(num_questions=3)},
    )
    with pytest.raises(ConfigError, match=r"^int8 quantization needs torchao"):
        mm1.evaluate(asked, quantization="int8", out=tmp_path / "out")


def test_a_language_model_has_no_features_and_an_encoder_no_answers(
    tmp_path: Path,
) -> None:
    text = LanguageModel.Config(decoder=worlds.decoder())
    m = mm1.load(tiny.write_run(tmp_path / "text", model=text))
    assert m.log_likelihood("red", answer="cat") < 0
    with pytest.raises(ConfigError, match="has no image encoder"):
        m.embed(tiny.picture(1))
    clip = CLIP.Config(
        encoder=worlds.encoder(), text=worlds.text_tower(), dim=16
    )
    m = mm1.load(tiny.write_run(tmp_path / "clip", model=clip))
    assert m.embed(tiny.picture(1)).shape == (16,)
    with pytest.raises(ConfigError, match="a CLIP gives features"):
        m.ask("red", tiny.picture(1))
    with pytest.raises(
        ConfigError, match="a CLIP gives features, no"
    ) as caught:
        mm1.evaluate(tmp_path / "clip")
    assert "coco" not in str(caught.value)
