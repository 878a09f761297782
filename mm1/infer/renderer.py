"""Where a model and its documents meet: how this loader lays documents out for this
model.

Training, evaluation, pages and exports all take their renderer from here, so that they
cannot differ.
"""

from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.loader import Loader
from mm1.nn.model import Model


def make_renderer(
    model: Model, tokenizer: Tokenizer, loader: Loader.Config
) -> Renderer:
    """The model says how its encoder wants whole images, the loader how they are
    split.

    Raises:
        ConfigError: the two do not go together; the options are named.
    """
    wanted = model.image_input
    if wanted is None:
        return Renderer(tokenizer, None)
    # rounded down, as in LLaVA
    red, green, blue = (int(255 * part) for part in wanted.mean)
    whole = ImageProcessor(
        wanted.size,
        resize=wanted.resize,
        interpolation=wanted.interpolation,
        fill=(red, green, blue),
    )
    return Renderer(tokenizer, loader.image_processor(whole), model.tokens_per_image)
