# SPDX-License-Identifier: GPL-2.0
"""python3 scripts/report COMMAND ARG...; COMMAND --help says what that does."""
import argparse
import pathlib
import sys

if not __package__:             # the folder is run by its path
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
from report import bench, cost, suite, uncovered, walk

FLAG = {"action": "store_true"}
COMMANDS = {
    walk: {"--markdown": FLAG, "unit": {}, "unpatched": {}, "patched": {}, "before": {"nargs": "?"}},
    bench: {"--readme": FLAG, "dir": {}, "unit": {}},
    cost: {"unpatched": {}, "patched": {}},
    suite: {"unpatched": {}, "patched": {}},
    uncovered: {"json": {}, "diff": {}, "known": {}},
}


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
