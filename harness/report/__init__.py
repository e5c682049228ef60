# SPDX-License-Identifier: GPL-2.0
"""Reads logs and figures of the tests and benchmarks, judges them, and makes tables of them."""
