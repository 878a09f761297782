"""The types of the trainer's config, by stage: which model it trains with which
loader."""

from typing import TypeAlias

from mm1.loader.image_only import ImageLoader
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.decoder import LanguageModel
from mm1.nn.mm1 import MM1
from mm1.train.trainer import Trainer

CLIPTrainerConfig: TypeAlias = Trainer.Config[CLIP.Config, PairLoader.Config]
AIMTrainerConfig: TypeAlias = Trainer.Config[AIM.Config, ImageLoader.Config]
LanguageModelTrainerConfig: TypeAlias = Trainer.Config[
    LanguageModel.Config, PackedLoader.Config
]
MM1TrainerConfig: TypeAlias = Trainer.Config[MM1.Config, PackedLoader.Config]
"""Of pre-training and fine-tuning."""
