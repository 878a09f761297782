"""Jobs on a Ray cluster: connect, submit, wait, cancel.

`mm1.prepare` submits one job for each raw file, `mm1.study` one for each run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mm1.config import UserError
from mm1.extras import needs_extra

ANSWER_SECONDS = 5.0
"""How long an actor is waited for."""


class RayJob:
    """One submitted call."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray = ray
        self.reference = reference

    def done(self) -> bool:
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self) -> Any:
        """Wait for the call and return its value; raises `ray.exceptions.RayError`."""
        return self.ray.get(self.reference)

    def cancel(self, *, force: bool = False) -> None:
        """Interrupt the call; `force` kills its process."""
        self.ray.cancel(self.reference, force=force)


class RayJobs:
    """Calls of one function, on the cluster of `RAY_ADDRESS` or one started here."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        max_retries: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are those of a Ray task, such as `num_gpus`.

        Raises:
            UserError: Ray is not installed or does not start, or has no such option.
        """
        with needs_extra("ray", "--on ray"):
            import ray  # type: ignore[import-not-found]
        self.ray: Any = ray
        self.is_ours: bool = not ray.is_initialized()
        try:
            if self.is_ours:
                self.ray.init(
                    log_to_driver=False,
                    include_dashboard=False,
                    logging_level="warning",
                )
            self.task: Any = self.ray.remote(function).options(
                max_retries=max_retries, **options or {}
            )
        # Ray raises bare Exceptions, for example when a raylet starts too late.
        except Exception as error:
            raise UserError(f"--on ray: {error}") from error

    @property
    def num_cpus(self) -> int:
        """CPUs of the whole cluster as it is now; at least 1."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def start_actor(self, cls: type) -> Any:
        """An actor beside the jobs, which takes none of their CPUs and begins anew when
        its node is lost."""
        return (
            self.ray.remote(cls).options(num_cpus=0, max_restarts=-1).remote()
        )

    def read(self, method: Any) -> dict[Any, Any]:
        """What a method of an actor returns; nothing while the actor cannot answer."""
        try:
            return self.ray.get(method.remote(), timeout=ANSWER_SECONDS)
        except self.ray.exceptions.RayError:
            return {}

    def submit(self, *arguments: Any) -> RayJob:
        return RayJob(self.ray, self.task.remote(*arguments))

    def wait(self, jobs: Sequence[RayJob], timeout: float) -> list[RayJob]:
        """Wait up to `timeout` seconds for one job; return those that are done."""
        by_reference = {job.reference: job for job in jobs}
        ready, _ = self.ray.wait(
            list(by_reference), num_returns=1, timeout=timeout
        )
        return [by_reference[reference] for reference in ready]

    def shut_down(self) -> None:
        """Stop Ray if it was started here."""
        if self.is_ours:
            self.ray.shutdown()
