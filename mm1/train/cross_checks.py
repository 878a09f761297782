"""Numbers of a run that are each in range and do not go together."""

from typing import Any

from mm1.config import ConfigError, check_ranges
from mm1.dist import say
from mm1.nn.features import Features, NotTrainable
from mm1.runs.trackers import check_trackers
from mm1.train.centering import check_centering


def check_together(config: Any) -> None:
    """Checks a `Trainer.Config` before anything is built; what may be meant, such as a
    trial of a few steps, is only said.

    Raises:
        ConfigError: a number is out of range, a tracker is not installed, weights would
            not survive their decay, captions are too long for the model, or it has no
            features that could be centred.
        NotTrainable: the model has no loss.
    """
    if isinstance(config.model, Features.Config):
        raise NotTrainable
    check_ranges(config)
    if config.steps == 0:  # what an import says of its weights
        raise ConfigError(
            "steps=0 must be at least 1 for a run that is trained"
        )
    if config.lora is not None and config.layout.tensor > 1:
        raise ConfigError(
            f"layout.tensor={config.layout.tensor} shares no adapters: set"
            " layout.tensor=1 to train with lora"
        )
    if config.center_features:
        check_centering(config.model)
    check_trackers(config.trackers)
    _check_decay(config.optimizer)
    warmup = config.scheduler.warmup_steps
    if warmup > config.steps:
        peak = config.optimizer.peak_lr
        say(
            f"scheduler.warmup_steps={warmup} are more than steps={config.steps}: the"
            f" learning rate ends at {peak * config.steps / warmup:.3g}, below"
            f" optimizer.peak_lr={peak:.3g}"
        )
    context = getattr(config.loader, "context", 0)
    text = getattr(config.model, "text", None)
    if text is not None and context > text.max_length:
        raise ConfigError(
            f"loader.context={context} is more than model.text.max_length="
            f"{text.max_length}, the longest caption that the text tower reads"
        )
    schedule = getattr(config.loader, "schedule", {})
    if late := [step for step in schedule if step >= config.steps]:
        say(
            f"loader.schedule has weights from step {min(late)} on, which steps="
            f"{config.steps} never reaches"
        )


def _check_decay(optimizer: Any) -> None:
    factor = max([1.0, *optimizer.lr_factors.values()])
    decay = optimizer.peak_lr * factor * optimizer.weight_decay
    if decay >= 1:
        raise ConfigError(
            f"optimizer.weight_decay={optimizer.weight_decay} times the learning rate"
            f" (up to {optimizer.peak_lr * factor}) is {decay:.3g}: a step multiplies"
            f" weights by {1 - decay:.3g}; keep the product below 1"
        )
