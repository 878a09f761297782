"""`mm1 plan`: what a run takes, before anything is rented."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import add_command, add_overrides

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


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
    parser.add_argument("--nodes", type=_number, default=1)
    parser.add_argument("--gpus-per-node", type=_number, default=8)
    parser.add_argument(
        "--gpu",
        default="h100",
        help="a100, h100, h200, b200, or a JSON file with the same keys",
    )
    parser.add_argument(
        "--price", type=float, metavar="P", help="of a GPU and hour"
    )
    parser.add_argument(
        "--images-per-sequence",
        type=float,
        metavar="N",
        help="default: 93%% of loader.max_images",
    )
    parser.add_argument("--vocab-size", type=_number, default=32_768)
    parser.add_argument(
        "--no-search",
        action="store_true",
        help="plan the recipe's own settings alone, which takes half the time",
    )
    parser.add_argument("--json", action="store_true", help="print numbers")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="also write a page"
    )


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _plan(arguments: argparse.Namespace) -> None:
    import json
    import logging
    import sys

    import torch._logging

    from mm1.catalog import run_config
    from mm1.plan.accelerator import accelerator
    from mm1.plan.plan import Assumptions, Planner, worth_a_change
    from mm1.plan.tables import as_dict, as_text

    # The compiler has advice about checkpointing that is none for a plan.
    torch._logging.set_logs(all=logging.ERROR)
    planner = Planner(
        run_config(arguments.recipe, arguments.overrides),
        accelerator(arguments.gpu),
        nodes=arguments.nodes,
        gpus_per_node=arguments.gpus_per_node,
        assumptions=Assumptions(
            vocab_size=arguments.vocab_size,
            images_per_sequence=arguments.images_per_sequence,
            price=arguments.price,
        ),
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
        from mm1.plan.page import write_plan_page

        write_plan_page(arguments.out, arguments.recipe, planner, outcome, best)
