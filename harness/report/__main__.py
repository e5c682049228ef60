# SPDX-License-Identifier: GPL-2.0
"""python3 harness/report COMMAND ARG...; COMMAND --help says what that does."""
import argparse
import pathlib
import sys

if not __package__:             # the folder is run by its path
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
from report import bench, cost, judge, klog, suite, uncovered, walk

FLAG = {"action": "store_true"}
COMMANDS = {
    walk: {"--markdown": FLAG, "unit": {}, "unpatched": {}, "patched": {}, "before": {"nargs": "?"}},
    bench: {"--readme": FLAG, "--plot": {"choices": ["sweep", "wait"]}, "dir": {}, "unit": {}},
    cost: {"unpatched": {}, "patched": {}},
    klog: {"console": {}},
    suite: {"unpatched": {}, "patched": {}},
    uncovered: {"json": {}, "diff": {}, "known": {}},
    judge: {"--log": {"required": True, "help": "the TAP log (with --live: where to write it)"},
            "--kernel-log": {"help": "the guest's dmesg"},
            "--known": {"help": "the list of known results"},
            "--expect-plan": {"nargs": "?", "type": int, "default": 1, "const": 1, "metavar": "N",
                              "help": "how many times run_vmtests.sh was run: each prints a plan (1)"},
            "--status": {"type": int, "default": 0, "help": "the guest's status; 124: time limit"},
            "--list": {**FLAG, "help": "print the results in --log"},
            "--live": {**FLAG, "help": "copy stdin to --log, show progress"}}}


def main(argv):
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="report")
    commands = parser.add_subparsers(dest="command", required=True)
    for module, arguments in COMMANDS.items():
        command = commands.add_parser(module.__name__.rpartition(".")[2], description=module.__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.set_defaults(main=module.main)
        for name, options in arguments.items():
            command.add_argument(name, **options)
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    return args.main(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
