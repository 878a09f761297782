"""Features from a trained image encoder: of images, and of texts where it was trained
with them."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mm1.data.document import Image
from mm1.infer.ranks import chunked, in_step
from mm1.infer.trained_model import TrainedModel
from mm1.loader.pairs import caption_tokens, pad_captions
from mm1.nn.clip import CLIP
from mm1.nn.mm1 import MM1

IMAGES_PER_BATCH = {"cpu": 32, "cuda": 256}
TEXTS_PER_BATCH = 256


class Encoder(TrainedModel):
    """Features in fp32 on the CPU, in the order of the inputs.

    In a distributed run each rank passes its own inputs. All ranks must call together,
    and at least one of them must pass something.
    """

    def patches(
        self, images: Sequence[Image]
    ) -> Iterator[Float[Tensor, "n P E"]]:
        """Patch features, batch by batch: what a probe is trained on. Of an MM1, those
        of its encoder.

        Raises:
            ImageError: an image cannot be decoded.
        """
        encode = (
            self.model.encoder
            if isinstance(self.model, MM1)
            else self.model.encode_patches
        )
        return self._encode(images, encode)  # type: ignore[arg-type]

    def images(self, images: Sequence[Image]) -> Float[Tensor, "N E"]:
        """CLIP's image features of unit length, comparable with those of texts.

        Raises:
            ImageError: an image cannot be decoded.
        """
        assert isinstance(self.model, CLIP)
        return torch.cat(list(self._encode(images, self.model.encode_images)))

    def pooled(self, images: Sequence[Image]) -> Float[Tensor, "N E"]:
        """One feature of unit length for each image: CLIP's own, else the mean over
        patches.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if isinstance(self.model, CLIP):
            return self.images(images)
        means = [features.mean(1) for features in self.patches(images)]
        return F.normalize(torch.cat(means), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """CLIP's text features of unit length.

        Texts are tokenised as captions are, up to the full context of the text tower.
        """
        model = self.model
        tokenizer = self.renderer.tokenizer
        batches = []
        assert isinstance(model, CLIP)
        context = model.text.config.max_length
        for members in in_step(chunked(texts, TEXTS_PER_BATCH)):
            captions = [
                caption_tokens(tokenizer.encode(text), tokenizer, context)
                for text in members or [""]
            ]
            tokens, lengths = pad_captions(captions, tokenizer, context)
            features = model.encode_texts(
                tokens.to(self.device), lengths.to(self.device)
            )
            batches.append(features[: len(members)].float().cpu())
        return torch.cat(batches)

    def _encode(
        self, images: Sequence[Image], encode: Callable[..., Tensor]
    ) -> Iterator[Tensor]:
        for members in in_step(
            chunked(images, IMAGES_PER_BATCH[self.device.type])
        ):
            # as a decorator, no_grad would not reach into a generator that the shape
            # checks have wrapped
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
        return torch.stack(
            [self.renderer.sub_images(image)[0] for image in images]
        )
