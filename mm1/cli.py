"""The command line. Each command is one function; heavy imports wait until it runs, so
that help answers at once."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mm1.study.arguments import add_arguments

Command = Callable[[argparse.Namespace], int | None]


def main() -> None:
    """Runs one command. A mistake is one line and exit code 2; a diverged run ends with
    3, an interruption with 130."""
    arguments = _arguments()
    # Before torch is loaded: threads that wait by spinning are many times slower as
    # soon as anything else runs here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mm1.config import UserError

    try:
        code = arguments.command(arguments) or 0
    except KeyboardInterrupt:
        code = 130
    except (UserError, OSError) as error:
        print(f"mm1: {error}", file=sys.stderr)
        code = {"Interrupted": 130, "Diverged": 3}.get(type(error).__name__, 2)
    sys.exit(code)


def _arguments() -> argparse.Namespace:
    """Overrides may stand anywhere; argparse takes them only side by side."""
    arguments, others = (parser := _parser()).parse_known_args()
    words = getattr(arguments, "overrides", getattr(arguments, "words", None))
    if wrong := [
        other
        for other in others
        if words is None or "=" not in other or other.startswith("-")
    ]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if words is not None:
        words += others
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mm1", description="Multimodal pre-training as in MM1, from raw data to scores."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Command, name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    sub = command(
        demo,
        "demo",
        "All of MM1 in miniature, in minutes on two CPU cores; goes on where it was.",
    )
    sub.add_argument("--out", type=Path, default=Path("runs/demo"))

    _data_commands(command)
    _run_commands(command)
    add_arguments(
        command(
            study,
            "study",
            "Train an ablation's rows over seeds and judge it; or the law of rates.",
        )
    )
    _weights_commands(command)
    return parser


def _data_commands(
    command: "Callable[[Command, str, str], argparse.ArgumentParser]",
) -> None:
    sub = command(tokenizer, "tokenizer", "Learn a tokenizer from text files.")
    sub.add_argument(
        "paths",
        nargs="+",
        type=Path,
        help="JSON lines with a field `text`, text files, or folders",
    )
    sub.add_argument(
        "--out", type=Path, required=True, help="the tokenizer.json to write"
    )
    sub.add_argument("--vocab-size", type=int, default=8192)

    sub = command(prepare, "prepare", "Turn raw data into shards that training reads.")
    sub.add_argument(
        "kind",
        help=(
            "captions, interleaved, text, instructions, or any file in mm1/data/sources"
        ),
    )
    sub.add_argument("paths", nargs="+", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        help="a tokenizer.json, or a folder with one",
    )
    sub.add_argument(
        "--validation",
        type=float,
        default=0.0,
        help="share of documents kept for held-out losses",
    )
    sub.add_argument(
        "--validation-by",
        choices=["text", "image"],
        default="text",
        help="what keeps documents on one side of the split",
    )
    sub.add_argument(
        "--source",
        nargs="+",
        default=[],
        metavar="a=value",
        help="the source's options, as field=body",
    )
    sub.add_argument(
        "--filters", help="a set of filters to begin with: web_pages or web_text"
    )
    sub.add_argument(
        "--filter",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help="such as images.min_side=100",
    )
    sub.add_argument(
        "--workers",
        type=int,
        default=1,
        help="files that are read at a time, each in a process",
    )
    sub.add_argument(
        "--on",
        choices=["processes", "ray"],
        default="processes",
        help="ray: as tasks of a cluster",
    )

    sub = command(
        filter_captions,
        "filter-captions",
        "Write prepared captions again without those of low CLIP score.",
    )
    sub.add_argument(
        "run", type=Path, help="a CLIP: a finished run, or an imported model"
    )
    sub.add_argument("prepared", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument(
        "--keep", type=float, help="the share of pairs that stay, the best"
    )
    sub.add_argument(
        "--min-score", type=float, help="the least cosine between picture and caption"
    )
    sub.add_argument("--workers", type=int, default=1, help="processes that write")

    sub = command(
        recaption,
        "recaption",
        "Have a model describe the pictures of prepared captions, as a table.",
    )
    sub.add_argument(
        "run", type=Path, help="a finished run that writes, or an imported model"
    )
    sub.add_argument("prepared", type=Path)
    sub.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a folder for parquet files with file, key, caption",
    )
    sub.add_argument(
        "--prompt", default="", help='what follows the picture, as "A photo of"'
    )
    sub.add_argument("--max-tokens", type=int, default=64)


def _run_commands(
    command: "Callable[[Command, str, str], argparse.ArgumentParser]",
) -> None:
    command(list_recipes, "list", "Show all recipes.")

    sub = command(show, "show", "Print a recipe, spelled out in full.")
    _recipe_and_overrides(sub)

    sub = command(
        diff, "diff", "Print what differs between two recipes, runs or config files."
    )
    sub.add_argument("a")
    sub.add_argument("b")

    sub = command(train, "train", "Run a recipe.")
    _recipe_and_overrides(sub)
    sub.add_argument("--out", type=Path, required=True, help="the run folder")
    sub.add_argument(
        "--resume",
        action="store_true",
        help="go on from the folder's newest checkpoint",
    )

    sub = command(evaluate, "eval", "Ask a trained run its benchmarks.")
    sub.add_argument("run", type=Path)
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="a.b=value",
        help="such as benchmarks.coco.root=data/coco",
    )
    sub.add_argument(
        "--benchmarks", nargs="+", help="names in the run's config; all by default"
    )
    sub.add_argument("--shots", nargs="+", type=int, help="the run's own by default")
    sub.add_argument(
        "--out",
        type=Path,
        help="where predictions and scores go; the run folder by default",
    )

    sub = command(
        view, "view", "Write a page that shows packed rows as a person can read them."
    )
    sub.add_argument("what", help="a run folder or a recipe")
    sub.add_argument("overrides", nargs="*", metavar="a.b=value")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--rows", type=int, default=6)


def _weights_commands(
    command: "Callable[[Command, str, str], argparse.ArgumentParser]",
) -> None:
    sub = command(
        import_weights,
        "import",
        "Make a run folder from a published model, to go on from.",
    )
    sub.add_argument(
        "name",
        metavar="PATH_OR_ID",
        help="a folder, or owner/model[@revision] on the Hugging Face hub",
    )
    sub.add_argument("--out", type=Path, required=True, help="the run folder")
    sub.add_argument(
        "--pickle",
        action="store_true",
        help="read pickled weights, with torch.load(weights_only=True)",
    )

    sub = command(
        export_weights,
        "export",
        "Write a finished run for transformers, with tokenizer and model card.",
    )
    sub.add_argument("run", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument(
        "--part", choices=["encoder"], help="only the image encoder of a larger model"
    )


def _recipe_and_overrides(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", help="a name from `mm1 list`")
    sub.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="changes to the recipe"
    )


def _config(name: str, overrides: Sequence[str] = ()) -> Any:
    """Of a recipe, a run folder or a config.json, with overrides; parts that start from
    other runs take their shape."""
    from mm1 import config as configs
    from mm1.catalog import recipe
    from mm1.overrides import override
    from mm1.runs.folder import read_config
    from mm1.train.origins import adopt
    from mm1.train.trainer import Trainer

    path = Path(name)
    found = (
        read_config(path) if path.is_dir() or path.suffix == ".json" else recipe(name)
    )
    if not isinstance(found, Trainer.Config):
        raise configs.ConfigError(
            f"{name} is the config of a {configs.path_of(found)}, not of a run"
        )
    before = dict(found.init)
    for assignment in overrides:
        override(found, assignment)
    changed = {
        part: Path(origin)
        for part, origin in found.init.items()
        if before.get(part) != origin
    }
    adopt(found, changed, overrides)
    return found


def demo(arguments: argparse.Namespace) -> int:
    from mm1.miniature.demo import run_demo

    return run_demo(arguments.out)


def tokenizer(arguments: argparse.Namespace) -> None:
    from mm1.data.tokenizer import train_tokenizer
    from mm1.prepare.sources.text import read_texts

    made = train_tokenizer(
        read_texts(arguments.paths), arguments.out, vocab_size=arguments.vocab_size
    )
    print(f"{arguments.out}: {made.vocab_size} tokens, fingerprint {made.fingerprint}")


def prepare(arguments: argparse.Namespace) -> None:
    from mm1.overrides import override
    from mm1.prepare.pipeline import config_of
    from mm1.prepare.pipeline import prepare as run
    from mm1.recipes.filters import filters_named

    source = config_of(arguments.kind)
    filters = filters_named(arguments.filters)
    for config, assignments in (
        (source, arguments.source),
        (filters, arguments.filter),
    ):
        for assignment in assignments:
            override(config, assignment)
    run(
        source,
        arguments.paths,
        arguments.out,
        arguments.tokenizer,
        validation=arguments.validation,
        validation_by=arguments.validation_by,
        filters=filters,
        workers=arguments.workers,
        on=arguments.on,
    )


def filter_captions(arguments: argparse.Namespace) -> None:
    from mm1.infer.filter_captions import filter_captions as run
    from mm1.runs.folder import load_trained

    trained, name = load_trained(arguments.run)
    keep = arguments.keep
    least = arguments.min_score
    workers = arguments.workers
    run(
        trained,
        arguments.prepared,
        arguments.out,
        model=name,
        keep=keep,
        min_score=least,
        workers=workers,
    )


def recaption(arguments: argparse.Namespace) -> None:
    from mm1.infer.recaption import recaption as run
    from mm1.runs.folder import load_trained

    trained, name = load_trained(arguments.run)
    prompt = arguments.prompt
    longest = arguments.max_tokens
    run(
        trained,
        arguments.prepared,
        arguments.out,
        model=name,
        prompt=prompt,
        max_tokens=longest,
    )


def list_recipes(_: argparse.Namespace) -> None:
    from mm1.catalog import all_recipes

    recipes = all_recipes()
    width = max(len(name) for name in recipes)
    for name, function in recipes.items():
        print(f"{name:{width}}  {(function.__doc__ or '').strip().splitlines()[0]}")


def show(arguments: argparse.Namespace) -> None:
    from mm1 import config as configs

    print(configs.to_text(_config(arguments.recipe, arguments.overrides)), end="")


def diff(arguments: argparse.Namespace) -> None:
    from mm1 import config as configs

    for key, (old, new) in configs.differences(
        _config(arguments.a), _config(arguments.b)
    ).items():
        print(f"{key}: {old!r} -> {new!r}")


def train(arguments: argparse.Namespace) -> None:
    from mm1 import dist
    from mm1.train.checkpoint import whole_steps
    from mm1.train.origins import say_kept

    try:
        goes_on = arguments.resume and whole_steps(arguments.out / "checkpoints")
        config = _config(
            str(arguments.out) if goes_on else arguments.recipe, arguments.overrides
        )
        if goes_on:
            say_kept(arguments.out, arguments.recipe, _config(arguments.recipe))
        config.build(folder=arguments.out, resume=arguments.resume).fit()
    finally:
        dist.stop()


def evaluate(arguments: argparse.Namespace) -> None:
    from mm1 import dist
    from mm1.eval.evaluate import evaluate_run, format_scores

    config = _config(str(arguments.run), arguments.overrides)
    out = arguments.out or arguments.run
    scores = evaluate_run(
        arguments.run,
        config,
        names=arguments.benchmarks,
        shots=arguments.shots,
        out=out,
    )
    if dist.rank() == 0:
        print(format_scores(scores))


def view(arguments: argparse.Namespace) -> None:
    from mm1.report.packed_rows import view_rows
    from mm1.report.view import write_view

    config = _config(arguments.what, arguments.overrides)
    write_view(view_rows(config, arguments.rows), arguments.out, title=arguments.what)
    print(arguments.out)


def study(arguments: argparse.Namespace) -> int | None:
    from mm1.catalog import study_command

    return study_command(
        **{key: value for key, value in vars(arguments).items() if key != "command"}
    )


def import_weights(arguments: argparse.Namespace) -> None:
    from mm1.export.import_model import import_model

    import_model(arguments.name, arguments.out, pickle=arguments.pickle)


def export_weights(arguments: argparse.Namespace) -> None:
    from mm1.export.export_run import export_run

    export_run(arguments.run, arguments.out, part=arguments.part)


if __name__ == "__main__":
    main()
