"""Our configs, read so that no field is passed over: a field is placed, refused, or an
error.

This is for exports what `options` is for imports. A format that holds a module of ours
reads the module's config through `Fields` and accounts for every field. One that it
does not mention is refused even at its default value: whoever adds a field to a config
first has to say, in each format, what becomes of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from mm1.config import ConfigError, Configurable, path_of


class Fields:
    """The fields of one config on their way into one published format.

    A format writes a field (`take`, `choice`), supports some of its values only
    (`only`), or notes that nothing of it belongs into this file (`leave`). `misfits`
    lists everything that it refuses and every field that it did not mention.
    """

    def __init__(
        self,
        config: Any,
        owner: type[Configurable],
        path: str,
        writer: Callable[..., Any],
    ) -> None:
        """`path` is where the config lies in the model ("" for the model itself),
        `writer` the function that places its fields: error messages name both.

        A config of another class than `owner`, even of a subclass, is a misfit: the
        format knows nothing of what that class computes.
        """
        self.config = config
        self.path = path
        self.writer = writer
        self.left = {field.name: None for field in fields(config)}
        self.wrong: list[str] = []
        self.nested: list[Fields] = []
        if config.owner is not owner:
            self.wrong.append(
                f"{path or 'the model'}={path_of(config)}, which must be"
                f" {owner.__name__} itself"
            )

    def take(self, name: str) -> Any:
        """The value of a field that has its place here."""
        del self.left[name]
        return getattr(self.config, name)

    def only(self, name: str, *supported: Any) -> Any:
        """As `take`, but all other values are refused."""
        value = self.take(name)
        if value not in supported:
            allowed = " or ".join(repr(other) for other in supported)
            self.refuse(name, f"which must be {allowed}")
        return value

    def choice(self, name: str, known: Mapping[Any, Any]) -> Any:
        """What the format calls the field's value; unknown values are refused."""
        return known.get(self.only(name, *known))

    def leave(self, *names: str) -> None:
        """Fields of which this file says nothing: they are told by the weights, stand
        in another file, or matter in training alone."""
        for name in names:
            del self.left[name]

    def within(self, name: str, owner: type[Configurable]) -> "Fields":
        """The fields of a config inside this one."""
        inner = Fields(self.take(name), owner, self._path(name), self.writer)
        self.nested.append(inner)
        return inner

    def refuse(self, name: str, why: str) -> None:
        value = getattr(self.config, name)
        self.wrong.append(f"{self._path(name)}={value!r}, {why}")

    def misfits(self) -> list[str]:
        """The fields that have no place in the format, with their values and why."""
        file = f"{self.writer.__module__.replace('.', '/')}.py"
        unplaced = [
            f"{self._path(name)}, which {self.writer.__name__} in {file} neither"
            " places nor refuses"
            for name in self.left
        ]
        inner = [misfit for each in self.nested for misfit in each.misfits()]
        return [*self.wrong, *unplaced, *inner]

    def finish(self, format_name: str) -> None:
        """Raises ConfigError that names all misfits, where there are any."""
        if misfits := self.misfits():
            raise ConfigError(
                f"{format_name} has no room for {', '.join(misfits)}"
            )

    def _path(self, name: str) -> str:
        return f"{self.path}.{name}".lstrip(".")
