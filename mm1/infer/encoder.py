"""What a trained image encoder is asked for: features of pictures, and of texts where
it was trained with them."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mm1.data.document import Image
from mm1.infer.trained import Trained, cut, in_step
from mm1.loader.pairs import caption, pad_captions
from mm1.nn.clip import CLIP

IMAGES_PER_BATCH = {"cpu": 32, "cuda": 256}
TEXTS_PER_BATCH = 256


class Encoder(Trained):
    """Features in fp32 on the CPU, in the order of the questions.

    In a distributed run each rank asks its own, and all ranks must call together, at
    least one of them with something.
    """

    def patches(self, images: Sequence[Image]) -> Iterator[Float[Tensor, "n P E"]]:
        """The features of patches, batch after batch: what a probe learns from.

        Raises:
            ImageError: a picture cannot be decoded.
        """
        return self._look(images, self.model.encode_patches)  # type: ignore[arg-type]

    def images(self, images: Sequence[Image]) -> Float[Tensor, "N E"]:
        """CLIP's features of unit length, to be compared with those of texts;
        ImageError as for `patches`."""
        assert isinstance(self.model, CLIP)
        return torch.cat(list(self._look(images, self.model.encode_images)))

    def pooled(self, images: Sequence[Image]) -> Float[Tensor, "N E"]:
        """One feature of unit length for each picture: CLIP's, else the mean over
        patches; ImageError as above."""
        if isinstance(self.model, CLIP):
            return self.images(images)
        means = [features.mean(1) for features in self.patches(images)]
        return F.normalize(torch.cat(means), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """CLIP's features of unit length; texts are read as captions are, up to the
        text tower's full length."""
        model = self.model
        tokenizer = self.renderer.tokenizer
        found = []
        assert isinstance(model, CLIP)
        context = model.text.config.max_length
        for members in in_step(cut(texts, TEXTS_PER_BATCH)):
            captions = [
                caption(tokenizer.encode(text), tokenizer, context)
                for text in members or [""]
            ]
            tokens, lengths = pad_captions(captions, tokenizer, context)
            features = model.encode_texts(
                tokens.to(self.device), lengths.to(self.device)
            )
            found.append(features[: len(members)].float().cpu())
        return torch.cat(found)

    def _look(
        self, images: Sequence[Image], encode: Callable[..., Tensor]
    ) -> Iterator[Tensor]:
        for members in in_step(cut(images, IMAGES_PER_BATCH[self.device.type])):
            # as a decorator it would not reach a generator that shape checks have
            # wrapped
            with torch.no_grad():
                features = encode(self._pixels(members).to(self.device))
            yield features[: len(members)].float().cpu()

    def _pixels(self, images: Sequence[Image]) -> UInt8[Tensor, "n 3 H W"]:
        """Each image whole, unsplit; one blank image where there are none."""
        assert self.renderer.image_processor is not None
        if not images:
            return torch.zeros(
                1, 3, *self.renderer.image_processor.size, dtype=torch.uint8
            )
        return torch.stack([self.renderer.sub_images(image)[0] for image in images])
