"""A model ready for inference: with the renderer it was trained with, on its device."""

from typing import TypeVar

import torch

from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer, UnitFlops
from mm1.data.tokenizer import Tokenizer
from mm1.loader.loader import Loader
from mm1.nn.decoder import LanguageModel
from mm1.nn.model import Model

Kind = TypeVar("Kind", bound="TrainedModel")


class TrainedModel:
    """Subclasses add what a caller wants from the model: `Predictor` text, `Encoder`
    features."""

    def __init__(
        self, model: Model, renderer: Renderer, device: torch.device
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.device = device

    @classmethod
    def of(cls: type[Kind], trained: "TrainedModel") -> Kind:
        """The same model as this class, e.g. `Predictor.of(trained)`."""
        if isinstance(trained, cls):
            return trained
        return cls(trained.model, trained.renderer, trained.device)


def make_renderer(
    model: Model, tokenizer: Tokenizer, loader: Loader.Config
) -> Renderer:
    """The renderer for this model with this loader's options.

    Training, evaluation, reports and exports all use it, so they cannot disagree. The
    model's encoder decides how an image is resized, the loader into how many sub-images
    it may be split.

    Raises:
        ConfigError: the loader's image options do not fit the model.
    """
    image_input = model.image_input
    length = getattr(loader, "sequence_length", None)
    unit_flops = (
        UnitFlops(**model.unit_flops())
        if isinstance(model, LanguageModel)
        else UnitFlops()
    )
    if image_input is None:
        return Renderer(
            tokenizer, None, trained_length=length, unit_flops=unit_flops
        )
    # rounded down, as in LLaVA
    red, green, blue = (int(255 * part) for part in image_input.mean)
    whole = ImageProcessor(
        image_input.size,
        resize=image_input.resize,
        interpolation=image_input.interpolation,
        fill=(red, green, blue),
    )
    return Renderer(
        tokenizer,
        loader.image_processor(whole),
        model.tokens_per_image,
        trained_length=length,
        unit_flops=unit_flops,
    )
