"""The rows of a step, shared out among the ranks of a job."""

from typing import Any

from mm1.config import ConfigError


def micro_batch_override(config: Any, ranks: int) -> str | None:
    """An override that lets a config's steps be shared out among so many ranks, where
    its micro-batches are too large for that; None where they are not. What a step
    learns stays the same.

    Raises:
        ConfigError: the rows of a step do not divide over the ranks.
    """
    rows = config.loader.batch_size
    micro = getattr(config.loader, "micro_batch_size", None)
    data_ranks = max(1, ranks // config.layout.tensor)
    rows_per_rank, rest = divmod(rows, data_ranks)
    if rest:
        raise ConfigError(
            f"loader.batch_size={rows} does not divide over the {data_ranks} ranks of"
            " the job: make it a multiple of them, or change --nodes"
        )
    if not micro or rows_per_rank % micro == 0:
        return None
    fitting = max(size for size in range(1, micro) if rows_per_rank % size == 0)
    return f"loader.micro_batch_size={fitting}"
