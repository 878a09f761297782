"""Configs as published encoders carry them: as many weights at full size as
transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from mm1.export.encoders.read import PublishedEncoder, read_published_encoder
from mm1.export.mapping import theirs_of
from mm1.export.weights import Weights

OLD = {  # what transformers 4.20 wrote into each tower
    "_name_or_path": "", "add_cross_attention": False, "architectures": None,
    "attention_dropout": 0.0,
    "bos_token_id": 0, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
    "do_sample": False, "dropout": 0.0,
    "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "id2label": {"0": "LABEL_0"},
    "initializer_factor": 1.0,
    "length_penalty": 1.0, "max_length": 20, "num_beam_groups": 1, "pad_token_id": 1,
    "prefix": None,
    "pruned_heads": {}, "repetition_penalty": 1.0, "tie_word_embeddings": True,
    "top_k": 50, "torch_dtype": None,
    "transformers_version": "4.24.0", "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
LAION_TEXT = {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
              "num_attention_heads": 16,
              "num_hidden_layers": 24, "model_type": "clip_text_model",
              "max_position_embeddings": 77}  # fmt: skip
LAION_VISION = {"hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120,
                "num_attention_heads": 16,
                "num_hidden_layers": 32, "patch_size": 14, "image_size": 224,
                "model_type": "clip_vision_model"}  # fmt: skip
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip", "projection_dim": 768, "torch_dtype": "float32",
        "transformers_version": "4.21.3",
        "text_config": {"dropout": 0.0, "hidden_size": 768, "intermediate_size": 3072,
                        "model_type": "clip_text_model", "num_attention_heads": 12,
                        "projection_dim": 768},
        "vision_config": {"dropout": 0.0, "hidden_size": 1024, "image_size": 336,
                          "intermediate_size": 4096,
                          "model_type": "clip_vision_model", "num_attention_heads": 16,
                          "num_hidden_layers": 24,
                          "patch_size": 14, "projection_dim": 768},
    },
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 1024,
        "text_config": OLD | LAION_TEXT, "vision_config": OLD | LAION_VISION,
        "text_config_dict": {"hidden_act": "gelu", "hidden_size": 1024,
                             "intermediate_size": 4096,
                             "num_attention_heads": 16, "num_hidden_layers": 24},
        "vision_config_dict": {"hidden_act": "gelu", "hidden_size": 1280,
                               "intermediate_size": 5120,
                               "num_attention_heads": 16, "num_hidden_layers": 32,
                               "patch_size": 14},
    },
    "google/siglip-so400m-patch14-384": {
        "architectures": ["SiglipModel"], "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": {**SO400M, "model_type": "siglip_text_model"},
        "vision_config": {**SO400M, "image_size": 384, "patch_size": 14,
                          "model_type": "siglip_vision_model"},
    },
    "facebook/dinov2-giant": {
        "architectures": ["Dinov2Model"], "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 1536,
        "image_size": 518,
        "initializer_range": 0.02, "layer_norm_eps": 1e-06, "layerscale_value": 1.0,
        "mlp_ratio": 4,
        "model_type": "dinov2", "num_attention_heads": 24, "num_channels": 3,
        "num_hidden_layers": 40,
        "patch_size": 14, "qkv_bias": True, "torch_dtype": "float32",
        "use_swiglu_ffn": True,
    },
    "apple/aimv2-large-patch14-448": {
        "architectures": ["Aimv2VisionModel"], "attention_dropout": 0.0,
        "hidden_act": "silu", "hidden_size": 1024,
        "image_size": 448, "intermediate_size": 2816, "is_native": False,
        "mlp_bias": False,
        "auto_map": {"AutoModel": "modeling_aimv2.AIMv2Model"},
        "model_type": "aimv2_vision_model",
        "num_attention_heads": 8, "num_channels": 3, "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dropout": 0.0, "qkv_bias": False, "rms_norm_eps": 1e-05,
        "use_bias": False, "use_head": False,
    },
}  # fmt: skip

DFN = {
    "model_cfg": {
        "embed_dim": 1024, "quick_gelu": True,
        "vision_cfg": {"image_size": 378, "layers": 32, "width": 1280,
                       "head_width": 80, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024,
                     "heads": 16, "layers": 24},
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073],
                       "std": [0.26862954, 0.26130258, 0.27577711],
                       "interpolation": "bicubic", "resize_mode": "squash"},
}  # fmt: skip


class Nameless(Weights):
    """Weights with these names alone, which decide the prefix and the family."""

    def __init__(self, *names: str) -> None:
        self.names = dict.fromkeys(names).keys()  # type: ignore[assignment]


def num_weights(found: PublishedEncoder) -> int:
    """Of theirs, by our links from our model."""
    with torch.device("meta"):
        model = found.model.build(vocab_size=1)
        return sum(
            t.numel()
            for t in theirs_of(found.links, model.state_dict()).values()
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_transformers(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    found = read_published_encoder(tmp_path, Nameless())
    assert found is not None
    plain = {
        key: value for key, value in CONFIGS[name].items() if key != "auto_map"
    }
    with torch.device("meta"):
        theirs = AutoModel.from_config(AutoConfig.for_model(**plain))
    unused = sum(
        p.numel()
        for n, p in theirs.named_parameters()
        if n == "embeddings.mask_token"
    )
    assert (
        num_weights(found)
        == sum(p.numel() for p in theirs.parameters()) - unused
    )


def test_so400m_is_told_apart_from_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(CONFIGS["google/siglip-so400m-patch14-384"])
    )
    found = read_published_encoder(tmp_path, Nameless())
    assert found is not None
    assert found.model.encoder.image_size == 378
    assert any(
        "patches of 14 cover 378 of the 384 pixels" in note
        for note in found.notes
    )


def test_dfn_s_vit_h_14_378(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(DFN))
    found = read_published_encoder(tmp_path, Nameless("visual.conv1.weight"))
    assert found is not None
    encoder = found.model.encoder
    assert (encoder.resize, encoder.num_heads, encoder.activation) == (
        "squash",
        16,
        "quick_gelu",
    )
    assert num_weights(found) == pytest.approx(
        986.71e6, abs=5e3
    )  # open_clip's own count
