"""`mm1 plan`: what a run takes, before anything is rented."""

import argparse
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    add_command,
    add_out,
    add_overrides,
    count,
    non_negative,
    refuse_beside,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands
    from mm1.plan.plan import Assumptions
    from mm1.train.trainer import Trainer


def add_plan_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "plan",
        _plan,
        "Say what a run takes: memory, time, cost, disk.",
        "For packed sequences, on any number of GPUs that need not be there. It also"
        " looks for the fastest layout, micro-batch and checkpointing that fit.",
    )
    parser.add_argument("recipe", help="a recipe or a run's folder")
    add_overrides(parser, "settings, as for `mm1 train`")
    parser.add_argument("--nodes", type=count, metavar="N", help="default: 1")
    parser.add_argument(
        "--gpus-per-node", type=count, metavar="N", help="default: 8"
    )
    parser.add_argument(
        "--gpu",
        help="a100, h100 (the default), h200, b200, or a JSON file with the same keys",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="take some real steps on what is here, on synthetic rows, and put them"
        " beside the plan; on several ranks under torchrun",
    )
    parser.add_argument(
        "--price", type=non_negative, metavar="P", help="of a GPU and hour"
    )
    parser.add_argument(
        "--images-per-sequence",
        type=non_negative,
        metavar="N",
        help="default: 93%% of loader.max_images",
    )
    parser.add_argument("--vocab-size", type=count, default=32_768)
    parser.add_argument(
        "--no-search",
        action="store_true",
        help="plan the recipe's own settings alone, which takes half the time",
    )
    parser.add_argument("--json", action="store_true", help="print numbers")
    add_out(parser, "FILE.html", "also write a page", required=False)


def _plan(arguments: argparse.Namespace) -> None:
    import logging

    import torch._logging

    from mm1.catalog import run_config
    from mm1.plan.plan import Assumptions

    # The compiler has advice about checkpointing that is none for a plan.
    torch._logging.set_logs(all=logging.ERROR)
    config = run_config(arguments.recipe, arguments.overrides)
    assumptions = Assumptions(
        vocab_size=arguments.vocab_size,
        images_per_sequence=arguments.images_per_sequence,
        price=arguments.price,
    )
    if arguments.measure:
        _measure(arguments, config, assumptions)
    else:
        _ahead(arguments, config, assumptions)


def _ahead(
    arguments: argparse.Namespace,
    config: "Trainer.Config",
    assumptions: "Assumptions",
) -> None:
    """For machines that need not be there."""
    import json
    import sys

    from mm1.plan.accelerator import accelerator
    from mm1.plan.page import write_plan_page
    from mm1.plan.plan import Planner, worth_a_change
    from mm1.plan.tables import as_dict, as_text

    planner = Planner(
        config,
        accelerator(arguments.gpu or "h100"),
        nodes=arguments.nodes or 1,
        gpus_per_node=arguments.gpus_per_node or 8,
        assumptions=assumptions,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    outcome = planner.outcome(planner.as_configured())
    best = None if arguments.no_search else planner.fastest()
    if arguments.json:
        plans = {"configured": as_dict(planner, outcome)}
        if best is not None:
            plans["fastest"] = as_dict(planner, best)
        print(json.dumps(plans, indent=2))
    else:
        print(as_text(planner, outcome))
        if best is not None and worth_a_change(planner, outcome, best):
            print(f"\nfastest that fits: {best.setting.overrides()}")
            print(
                f"  {best.step_seconds:,.2f} s a step,"
                f" {best.total_memory / 2**30:,.1f} GiB"
            )
        elif best is not None:
            print("\nno other setting tried that fits is faster by 1%")
    if arguments.out:
        write_plan_page(arguments.out, arguments.recipe, planner, outcome, best)


def _measure(
    arguments: argparse.Namespace,
    config: "Trainer.Config",
    assumptions: "Assumptions",
) -> None:
    """What is here: planned by single units, and measured."""
    import json

    from mm1 import dist
    from mm1.config import ConfigError
    from mm1.plan.comparison import comparison_dict, comparison_text
    from mm1.plan.here import measure_here
    from mm1.plan.page import write_plan_page
    from mm1.plan.tables import as_dict, as_text

    refuse_beside(
        "--measure, which looks for nothing,",
        {"--no-search": arguments.no_search},
    )
    if arguments.nodes or arguments.gpus_per_node:
        raise ConfigError(
            "--measure is of the ranks that are here: leave out --nodes and"
            " --gpus-per-node, and start several ranks with torchrun"
        )
    try:
        measured = measure_here(
            config, assumptions, gpu=arguments.gpu, say=dist.say
        )
        planner = measured.planner
        outcome = planner.outcome(planner.as_configured())
        if dist.rank() > 0:
            return
        if arguments.json:
            plans = {
                "configured": as_dict(planner, outcome),
                "compared": comparison_dict(measured),
            }
            print(json.dumps(plans, indent=2))
        else:
            print(as_text(planner, outcome))
            print(f"\n{comparison_text(measured)}")
        if arguments.out:
            write_plan_page(
                arguments.out,
                arguments.recipe,
                planner,
                outcome,
                None,
                measured=measured,
            )
    finally:
        dist.stop()
