# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What a kernel configuration has of what was asked for. Sourced after lib.sh.

# Prints the options of the FRAGMENTs, the last of which decides, that a configuration does
# not have as asked
unmet() { # CONFIG FRAGMENT...
	awk '
		!/^CONFIG_/ { next }
		{ split($0, a, "="); value = substr($0, length(a[1]) + 2) }
		FILENAME == ARGV[1] { is[a[1]] = value; next }
		{ want[a[1]] = value }
		END {
			for (o in want) {
				got = (o in is) ? is[o] : "n"
				if (got != want[o] && !(want[o] == "m" && got == "y"))
					print o "=" want[o]
			}
		}
	' "$@" | sort
}
