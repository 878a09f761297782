"""A finished run for Python: questions, captions, likelihoods and features.

m = mm1.load("runs/demo/finetune")
m.ask("what colour ?", photo)
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Document, Image
from mm1.eval.captioning_and_vqa import CAPTION_PROMPT_IN_CHAT
from mm1.infer.dialogue import STOP, Message, PromptLayout, lay_out
from mm1.infer.encoder import Encoder
from mm1.infer.pictures import Picture, encoded_image
from mm1.infer.predictor import Predictor
from mm1.infer.quantization import Quantization
from mm1.infer.sampling import Sampling
from mm1.infer.trained_model import TrainedModel
from mm1.nn.decoder import LanguageModel
from mm1.runs.description import read_config
from mm1.runs.layout import distinct_names
from mm1.runs.weights import load_trained
from mm1.storage.remote_path import as_path

CONVERSATIONS = "instructions"
"""The name that fine-tuning recipes give their source of conversations."""

Question = str | Sequence[str | Picture]
Shot = tuple[Picture | Sequence[Picture] | None, Question, str]
"""(picture or pictures, question, answer)."""


class LoadedRun:
    """A finished run's model, ready to be asked. `load` makes one.

    A question is laid out as in a conversation (`layout="chat"`) where the run was
    fine-tuned on a source named `instructions`, as the recipes name it. Elsewhere the
    model continues the words as they are (`"plain"`): write them as the data it was
    trained on have them, and show with `shots` what an answer looks like.

    Examples:
        >>> m = mm1.load("runs/demo/finetune")
        >>> answer = m.ask("what colour ?", photo)
        >>> shots = [(photo, "what shape ?", "circle")]
        >>> answer = m.ask("what shape ?", other_photo, shots=shots)
        >>> answer = m.ask(["is", photo, "like", other_photo, "?"], max_tokens=4)
        >>> sampling = mm1.Sampling(temperature=0.8, seed=1)
        >>> drawn = m.ask("is it red ?", photo, sampling=sampling)
        >>> caption = m.caption("photo.png")
        >>> nats = m.log_likelihood("what colour ?", photo, answer="red")
        >>> nats < 0
        True
        >>> m.embed([photo, other_photo]).shape
        torch.Size([2, 16])
    """

    def __init__(
        self, trained: TrainedModel, config: Any, *, layout: PromptLayout
    ) -> None:
        self.trained = trained
        self.config = config
        self.layout: PromptLayout = layout

    def ask(
        self,
        question: Question,
        pictures: Picture | Sequence[Picture] | None = None,
        *,
        shots: Sequence[Shot] = (),
        max_tokens: int = 64,
        stop: str | Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """The answer, up to the end token, a stop string (in the plain layout a line
        break, too) or `max_tokens`: the most likely one, or one that is drawn.

        Args:
            question: text, or texts and pictures in the order in which they are read.
            pictures: one or several that stand before the question.
            shots: demonstrations, the nearest last: (pictures, question, answer).
            max_tokens: at least 1.
            stop: one string, or several.
            sampling: such as `mm1.Sampling(temperature=0.8, seed=1)`.

        Raises:
            ConfigError: the run's model is not a language model, what is given is no
                picture, nothing is asked, or an argument is not what it should be.
            ImageError: a picture cannot be decoded.
            UserError: a text has a lone surrogate.
        """
        document = self._document(pictures, question, shots)
        stop = (*STOP[self.layout], *_stop_strings(stop))
        if not isinstance(max_tokens, int) or max_tokens < 1:
            raise ConfigError(
                f"max_tokens={max_tokens!r}: give a whole number, 1 or more"
            )
        if not isinstance(sampling, Sampling | None):
            raise ConfigError(
                f"sampling={sampling!r}: give mm1.Sampling(temperature=...), or None"
            )
        if sampling is None:
            answers = self.predictor.generate(
                [document], max_tokens=max_tokens, stop=stop
            )
            return answers[0].strip()
        drawn = self.predictor.stream(
            document, max_tokens=max_tokens, stop=stop, sampling=sampling
        )
        return "".join(token.text for token in drawn).strip()

    def caption(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        prompt: str | None = None,
        shots: Sequence[Shot] = (),
        max_tokens: int = 64,
    ) -> str:
        """A caption: what follows the picture and the `prompt`, which is by default
        LLaVA-1.5's request in the chat layout and nothing in the plain one, as in
        pre-training on captions. Arguments and errors as in `ask`.
        """
        if pictures is None or not _images(pictures):
            raise ConfigError("nothing to describe: give at least one picture")
        if prompt is None:
            prompt = CAPTION_PROMPT_IN_CHAT if self.layout == "chat" else ""
        return self.ask(prompt, pictures, shots=shots, max_tokens=max_tokens)

    def log_likelihood(
        self,
        question: Question,
        pictures: Picture | Sequence[Picture] | None = None,
        *,
        answer: str,
        shots: Sequence[Shot] = (),
    ) -> float:
        """The log-likelihood of the answer in nats, with the token that ends it: the
        end token in the chat layout, a line break in the plain one. Other arguments
        and errors as in `ask`.
        """
        document = self._document(pictures, question, shots, answer)
        return self.predictor.log_likelihood([document])[0]

    def embed(
        self, pictures: Picture | Sequence[Picture]
    ) -> Float[Tensor, " E"] | Float[Tensor, "N E"]:
        """A feature of unit length, fp32 on the CPU, for a picture or for each of
        several: CLIP's own, else the mean of the encoder's patches.

        Raises:
            ConfigError: the run's model has no image encoder, or there is no picture.
            ImageError: a picture cannot be decoded.
        """
        if self.trained.renderer.image_processor is None:
            raise ConfigError("the run's model has no image encoder")
        several = not isinstance(pictures, Picture)
        if not (images := _images(pictures)):
            raise ConfigError("no pictures to embed: give at least one")
        features = Encoder.of(self.trained).pooled(images)
        return features if several else features[0]

    @property
    def predictor(self) -> Predictor:
        """What generates and scores; takes batches of documents.

        Raises:
            ConfigError: the run's model is not a language model.
        """
        model = self.trained.model
        if not isinstance(model, LanguageModel):
            raise ConfigError(
                f"a {type(model).__name__} gives features (`embed`), not text"
            )
        self.trained = Predictor.of(self.trained)
        return self.trained

    def _document(
        self,
        pictures: Picture | Sequence[Picture] | None,
        question: Question,
        shots: Sequence[Shot],
        answer: str | None = None,
    ) -> Document:
        messages = []
        if not isinstance(shots, Iterable):
            raise ConfigError(
                "shots are a list of (pictures, question, answer), not a value of type"
                f" {type(shots).__name__}"
            )
        for shot in shots:
            if not isinstance(shot, Sequence) or len(shot) != 3:
                has = (
                    f"has {len(shot)} items"
                    if isinstance(shot, Sequence)
                    else f"is of type {type(shot).__name__}"
                )
                raise ConfigError(
                    f"a shot is (pictures, question, answer); one {has}"
                )
            messages += [
                _user_message(shot[0], shot[1]),
                _assistant_message(shot[2]),
            ]
        messages.append(_user_message(pictures, question))
        if answer is not None:
            messages.append(_assistant_message(answer))
        document = lay_out(messages, self.layout)
        if not document.parts:
            raise ConfigError("nothing is asked: give a question or a picture")
        return document


def load(
    run: Path | str,
    *,
    layout: PromptLayout | None = None,
    quantization: Quantization | None = None,
) -> LoadedRun:
    """A finished run, or an imported model, on the GPU if there is one.

    Args:
        run: the run folder, here or at an object store.
        layout: `chat` or `plain`; by default as `LoadedRun` says.
        quantization: `int8` holds the weights of linear maps in 8 bits.

    Raises:
        FileNotFoundError: there is no such run, or it has not finished.
        ConfigError: its files are damaged, there is no such layout, or quantisation
            needs an extra that is not installed.

    Examples:
        >>> m = mm1.load("runs/demo/finetune")
        >>> m.layout
        'chat'
    """
    if layout not in (None, *get_args(PromptLayout)):
        raise ConfigError(
            f"layout={layout!r}: it must be {' or '.join(get_args(PromptLayout))}"
        )
    folder = as_path(run)
    config = read_config(folder)
    trained, _ = load_trained(folder, quantization=quantization)
    return LoadedRun(trained, config, layout=layout or prompt_layout(config))


def load_runs(
    folders: Sequence[Path], *, quantization: Quantization | None = None
) -> dict[str, LoadedRun]:
    """The runs by the names of their folders, or by their paths where those are the
    same.

    Raises:
        ConfigError: a run has no language model, or is given twice.
    """
    names = distinct_names(folders)
    runs = {
        name: load(folder, quantization=quantization)
        for name, folder in zip(names, folders, strict=True)
    }
    for name, run in runs.items():
        try:
            _ = run.predictor
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return runs


def prompt_layout(config: Any) -> PromptLayout:
    """The layout of a run with this config: that of conversations if it was trained on
    some."""
    sources = getattr(config.loader, "sources", ())
    return "chat" if CONVERSATIONS in sources else "plain"


def _user_message(
    pictures: Picture | Sequence[Picture] | None, question: Question
) -> Message:
    before = () if pictures is None else _images(pictures)
    if not isinstance(question, str | Sequence):
        raise ConfigError(
            "a question is text, or texts and pictures, not a value of type"
            f" {type(question).__name__}"
        )
    words = [question] if isinstance(question, str) else question
    parts = [p if isinstance(p, str) else encoded_image(p) for p in words]
    return Message("user", (*before, *parts))


def _assistant_message(answer: str) -> Message:
    if not isinstance(answer, str):
        raise ConfigError(
            f"an answer is text, not a value of type {type(answer).__name__}"
        )
    return Message("assistant", (answer,))


def _stop_strings(stop: str | Sequence[str]) -> Sequence[str]:
    several = [stop] if isinstance(stop, str) else stop
    if not isinstance(several, Sequence) or not all(
        isinstance(each, str) and each for each in several
    ):
        raise ConfigError(
            f"stop={stop!r}: give a text, or a list of texts, none of them empty"
        )
    return several


def _images(pictures: Picture | Sequence[Picture]) -> list[Image]:
    several = (
        pictures
        if isinstance(pictures, Iterable) and not isinstance(pictures, Picture)
        else [pictures]
    )
    return [encoded_image(picture) for picture in several]
