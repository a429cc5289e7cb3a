"""Reports on runs: the paper's five tables beside ours, comparisons of runs from `results/runs.csv`, and figures.

python -m avb.reports paper [--results results/runs.csv] [--output results]   # see avb.reports.paper
python -m avb.reports runs  [--results results/runs.csv] [--output results]   # see avb.reports.summaries
python -m avb.reports add RUN [RUN ...] [--results results/runs.csv]        # rows of finished runs into the table
python -m avb.reports compare RUN [RUN ...] --against RUN [RUN ...]         # see avb.reports.comparison
python -m avb.reports analyse RUN [RUN ...] [--results results/runs.csv]    # RUN/analysis: see avb.reports.analysis
python -m avb.reports transfer MODEL TABLE [TABLE ...] [--output FOLDER]    # see avb.reports.transfer
python -m avb.reports audit MODEL DATA [--split test] [--output FOLDER]     # see avb.reports.audit
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from avb.commands import as_command
from avb.corpus_arguments import OPTIONS, given_options
from avb.corpus_arguments import add_arguments as add_corpus_arguments
from avb.errors import AvbError
from avb.files import make_folder, write_table, write_text
from avb.recipes import FOLDER
from avb.reports import comparison
from avb.reports.run_table import add_runs, read_results
from avb.reports.summaries import Summary, runs_table, summarize
from avb.run_files import SCORED_SPLITS


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.reports", description="Tables and figures of the results of runs."
    )
    commands = parser.add_subparsers(dest="report", required=True)
    for name, what in (("paper", "the paper's Tables I-V and ours"), ("runs", "all runs")):
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--results",
            default="results/runs.csv",
            help="table of runs, written by train_avb.py --results; default: results/runs.csv",
        )
        default = "results" if name == "paper" else "none"
        command.add_argument("--output", help=f"folder for {name}.md and {name}.csv; default: {default}")
        if name == "paper":
            command.add_argument(
                "--changes",
                default="",
                metavar='"--NAME VALUE ..."',
                help="use runs that changed every recipe in this way, such as "
                '"--encoder facebook/wav2vec2-xls-r-300m", or those of a recipe such as kinds/wavlm; no --output then',
            )
    command = commands.add_parser("add", help="add finished runs to the table, if --results was left out")
    command.add_argument("runs", metavar="RUN", nargs="+", help="folder of a finished run")
    command.add_argument("--results", default="results/runs.csv", help="table of runs; default: results/runs.csv")
    command = commands.add_parser("analyse", help="figures and a page about a run: errors, calibration, speakers, …")
    command.add_argument(
        "runs", metavar="RUN", nargs="+", help="folder of a finished run; further runs are compared with the first"
    )
    command.add_argument(
        "--split",
        choices=SCORED_SPLITS,
        help="split to report; default: test if it was scored, otherwise cross_validation or validation",
    )
    command.add_argument("--results", help="table of runs, for the ablation of recipes/emogator/frozen")
    command.add_argument("--output", help="folder of the report; default: RUN/analysis")
    command = commands.add_parser(
        "compare",
        help="two systems on the same clips: the difference of their scores, with an interval",
        description=comparison.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    comparison.add_arguments(command)
    _add_transfer(commands)
    _add_audit(commands)
    return parser.parse_args(argv)


def _add_transfer(commands: argparse._SubParsersAction):
    command = commands.add_parser(
        "transfer",
        help="compare a model's frames with openSMILE features on other corpora: a linear model, cross-validated",
    )
    command.add_argument("model", metavar="MODEL", help="a model, as for predict_avb.py")
    command.add_argument("tables", metavar="TABLE", nargs="+", help="tables or folders of clips: values of --data_dir")
    command.add_argument(
        "--feature_sets",
        nargs="*",
        default=["eGeMAPSv02", "ComParE_2016"],
        metavar="NAME",
        help="openSMILE feature sets to compare with; without a value, none. Default: eGeMAPSv02 ComParE_2016",
    )
    command.add_argument(
        "--folds", type=int, default=5, metavar="N", help="number of speaker-independent folds; default: 5"
    )
    command.add_argument("--layer", type=int, metavar="N", help="encoder layer; default: the one that the head reads")
    _add_common(command, "transfer")


def _add_audit(commands: argparse._SubParsersAction):
    command = commands.add_parser(
        "audit",
        help="measure how noise, codecs, rooms, clipping, ... affect a model, and compare groups of speakers",
    )
    command.add_argument("model", metavar="MODEL", help="a model, as for predict_avb.py")
    command.add_argument("data_dir", metavar="DATA", help="a labelled corpus: a value of --data_dir")
    command.add_argument("--split", default="test", help="train, validation or test; default: test")
    command.add_argument(
        "--groups", metavar="TABLE", help="table with one row per speaker and columns such as sex, age, language"
    )
    command.add_argument(
        "--background", metavar="FOLDER", help="background speech to mix in, one sub-folder per language"
    )
    command.add_argument("--max_clips", type=int, metavar="N", help="draw this many clips at random; default: all")
    _add_common(command, "audit")


def _add_common(command: argparse.ArgumentParser, name: str):
    """Adds the options of reports that run a model on a corpus."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    command.add_argument("--num_decode_workers", type=int, metavar="N", help="processes that decode audio; default: 1")
    command.add_argument("--cache_dir", metavar="FOLDER", help="folder for decoded audio and computed features")
    command.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be read")
    command.add_argument("--output", metavar="FOLDER", help=f"folder for {name}.csv and {name}.md; default: none")
    add_corpus_arguments(command, ["corpus", "task", *OPTIONS])


@as_command("avb.reports")
def main(argv: list[str] | None = None) -> int:
    """Prints a report as Markdown and writes it to a folder, with its numbers as CSV; or analyses a run."""
    args = parse_arguments(argv)
    if args.report == "analyse":
        print(_analyse(args))
        return 0
    if args.report == "compare":
        comparison.print_comparison(args)
        return 0
    if args.report == "transfer":
        _transfer(args)
        return 0
    if args.report == "audit":
        _audit(args)
        return 0
    if args.report == "add":
        added, known = add_runs(args.results, args.runs)
        print(f"{args.results}: {added} rows added, {known} were already there")
        return 0
    results = read_results(args.results)
    if not results:
        print(f"avb.reports: {args.results} has no results yet", file=sys.stderr)
    if args.report == "paper":
        # Imported here, so that --help needs no torch.
        from avb.reports.paper import compare_with_paper, paper_report, read_paper_rows

        changes = _normalize_changes(args.changes)
        rows, others = compare_with_paper(read_paper_rows(), results, changes)
        text, names = paper_report(rows, others, changes), list(rows[0])
        if not any(row["num_seeds"] for row in rows):
            print(
                f"avb.reports: no run in {args.results} is a row of the paper{changes and ' with ' + changes}; "
                f"train_avb.py notes its run there with --results {args.results}",
                file=sys.stderr,
            )
    else:
        summaries = summarize(results)
        rows, names = [asdict(summary) for summary in summaries], [field.name for field in fields(Summary)]
        text = "\n".join(runs_table(summaries)) + "\n"
    output = args.output or ("results" if args.report == "paper" and not args.changes else None)
    if output:
        folder = make_folder(output)
        write_table(folder / f"{args.report}.csv", rows, names)
        write_text(folder / f"{args.report}.md", text)
    print(text, end="")  # after the files, which a reader that stops must not prevent
    return 0


def _normalize_changes(typed: str) -> str:
    """Normalizes arguments, in any order, to the form of `Result.changes`; a recipe of another kind is unchanged."""
    from avb.command_line import typed_changes
    from avb.reports.paper import KINDS

    if typed.startswith(KINDS) and (FOLDER / f"{typed}.yaml").is_file():
        return typed
    try:
        argv = shlex.split(typed)
    except ValueError as error:
        raise AvbError(f"--changes {typed}: {error}") from error
    changes = typed_changes(argv)
    if (argv and not argv[0].startswith("--")) or (typed and not changes):
        raise AvbError(f'--changes {typed}: give what was typed behind the recipe, such as "--encoder_layer 9"')
    return changes


def _transfer(args: argparse.Namespace):
    from avb.reports.transfer import Transfer, markdown, transfer  # imported here: the other reports need no torch

    rows = transfer(
        args.model,
        args.tables,
        feature_sets=args.feature_sets,
        num_folds=args.folds,
        layer=args.layer,
        **_common(args),
    )
    _write_and_print(args, markdown(rows), rows, Transfer)


def _audit(args: argparse.Namespace):
    from avb.reports.audit import Finding, audit_model, markdown

    found = audit_model(
        args.model,
        args.data_dir,
        split=args.split,
        groups=args.groups,
        background=args.background,
        max_clips=args.max_clips,
        **_common(args),
    )
    _write_and_print(args, markdown(found), found.findings, Finding)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    names = ("task", "device", "cache_dir", "num_decode_workers", "strict")
    return {"corpus": args.corpus or "folder", **{name: getattr(args, name) for name in names}, **given_options(args)}


def _write_and_print(args: argparse.Namespace, text: str, rows: Sequence[Any], kind: type):
    """Writes a report to a folder, with a table of its rows, dataclasses of type `kind`, and prints it."""
    if args.output:
        folder = make_folder(args.output)
        write_table(folder / f"{args.report}.csv", map(asdict, rows), [field.name for field in fields(kind)])
        write_text(folder / f"{args.report}.md", text)
    print(text, end="")


def _analyse(args: argparse.Namespace) -> Path:
    summaries = None
    if args.results:
        if not Path(args.results).is_file():
            raise AvbError(f"--results {args.results}: no such file; it is the table that train_avb.py --results wrote")
        summaries = summarize(read_results(args.results))
    try:
        from avb.reports.analysis import analyse  # imported here: tables and model cards need no matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise AvbError('analyse draws with matplotlib: pip install "avb[report]"') from error
    return analyse(args.runs, args.split, args.output, summaries, args.results)
