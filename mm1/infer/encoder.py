"""What a trained image encoder is asked for: features of pictures, and of texts where it was trained with them."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.data.pairs import caption, pad_captions
from mm1.infer.trained import Trained, cut, in_step
from mm1.nn.clip import CLIP

IMAGES_PER_BATCH = {"cpu": 32, "cuda": 256}
TEXTS_PER_BATCH = 256


class Encoder(Trained):
    """Features in fp32 on the CPU, in the order of the questions.

    In a distributed run each rank asks its own, and all ranks must call together.
    """

    def patches(self, images: Sequence[Image]) -> Iterator[Float[Tensor, "n P E"]]:
        """The features of patches, batch after batch: what a probe learns from.

        Raises:
            ConfigError: the model has no image encoder of its own.
            ImageError: a picture cannot be decoded.
        """
        return self._look(images, self._entry("encode_patches"))

    def images(self, images: Sequence[Image]) -> Float[Tensor, "N E"]:
        """Features of unit length, to be compared with those of texts. Errors as for `patches`."""
        return _join(self._look(images, self._entry("encode_images")))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """Features of unit length. Texts are read as captions are in training, up to the text tower's longest.

        Raises:
            ConfigError: the model was not trained with texts.
        """
        encode, model, tokenizer = self._entry("encode_texts"), self.model, self.renderer.tokenizer
        assert isinstance(model, CLIP)
        context, found = model.text.config.max_length, []
        for members in in_step(cut(texts, TEXTS_PER_BATCH)):
            captions = [caption(tokenizer.encode(text), tokenizer, context) for text in members or [""]]
            tokens, lengths = pad_captions(captions, tokenizer, context)
            found.append(encode(tokens.to(self.device), lengths.to(self.device))[: len(members)].float().cpu())
        return _join(found)

    def _entry(self, name: str) -> Callable[..., Tensor]:
        if not hasattr(self.model, name):
            raise ConfigError(f"{type(self.model).__name__} cannot be asked this benchmark: it has no {name}")
        return getattr(self.model, name)

    @torch.no_grad()
    def _look(self, images: Sequence[Image], encode: Callable[..., Tensor]) -> Iterator[Tensor]:
        for members in in_step(cut(images, IMAGES_PER_BATCH[self.device.type])):
            features = encode(self._views(members).to(self.device))
            yield features[: len(members)].float().cpu()

    def _views(self, images: Sequence[Image]) -> UInt8[Tensor, "n 3 H W"]:
        """Each picture whole, as one view; a blank one where there is none."""
        assert self.renderer.views is not None
        if not images:
            return torch.zeros(1, 3, *self.renderer.views.size, dtype=torch.uint8)
        return torch.stack([self.renderer.pixels(image)[0] for image in images])


def _join(features: Iterator[Tensor] | list[Tensor]) -> Tensor:
    """Nothing asked, nothing found: then there is not even a width."""
    found = list(features)
    return torch.cat(found) if found else torch.empty(0, 0)
