"""MM1 for transformers: image encoder -> connector -> decoder (McKinzie et al. 2024,
arXiv:2403.09611, figure 3).

Encoder and decoder are transformers' own classes, and this is its LLaVA with another
connector between them, which has a file of its own. Each sub-image takes as many image
tokens as the connector gives.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto import modeling_auto

from mm1.nn.connectors.c_abstractor import CAbstractor


class MM1Config(LlavaConfig):
    model_type = "mm1"

    connector: dict[str, Any] | None = None
    """Options of the connector."""
    num_extra_tokens: int = 0
    """Tokens of the encoder before the patches: class token and registers."""
    norm_features: bool = False
    """Whether the encoder's last norm is applied here: transformers' CLIP applies it to
    the class token only."""


class MM1Model(LlavaModel):
    config_class = MM1Config

    def __init__(self, config: Any) -> None:
        # Not LLaVA's own `__init__`, which makes LLaVA's connector.
        LlavaPreTrainedModel.__init__(self, config)
        vision = config.vision_config
        text = config.text_config
        self.vision_tower = AutoModel.from_config(vision)
        side = vision.image_size // vision.patch_size
        self.connector = CAbstractor(
            CAbstractor.Config(**config.connector),
            grid=(side, side),
            input_dim=vision.hidden_size,
            output_dim=text.hidden_size,
        )
        self.language_model = AutoModel.from_config(text)
        self.post_init()

    def get_image_features(  # type: ignore[override]
        self, pixel_values: Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` holds the tokens [tokens, width] of each sub-image [3,
        height, width]."""
        features = self.vision_tower(pixel_values, return_dict=True)
        patches = features.last_hidden_state[:, self.config.num_extra_tokens :]
        if self.config.norm_features:
            patches = self.vision_tower.post_layernorm(patches)
        tokens: Any = list(self.connector(patches))
        return BaseModelOutputWithPooling(
            last_hidden_state=features.last_hidden_state, pooler_output=tokens
        )


class MM1ForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = MM1Config

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = MM1Model(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size,
            config.text_config.vocab_size,
            bias=False,
        )
        self.post_init()


# The kinds of models that `transformers serve` serves, in versions with this table.
served: Any = getattr(
    modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}
)
served["mm1"] = "MM1ForConditionalGeneration"
