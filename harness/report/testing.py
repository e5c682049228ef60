# SPDX-License-Identifier: GPL-2.0
"""What the tests share. In the folder above, python3 -m unittest report.test_NAME runs one file of them."""
import contextlib
import io
import os
import tempfile

from .__main__ import main

REPORT = os.path.dirname(os.path.abspath(__file__))


def report(*args, **files):
    """Exit status and output of report in a folder with these FILES (name -> text)."""
    out, back = io.TextIOWrapper(io.BytesIO(), write_through=True), os.getcwd()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for name, text in files.items():
            with open(os.path.join(d, name), "w", encoding="ascii") as f:
                f.write(text)
        os.chdir(d)
        try:
            status = main(args)
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else print(e.code) or 1
        finally:
            os.chdir(back)
    return int(status), out.buffer.getvalue().decode()
