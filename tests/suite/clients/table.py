"""A table of checks that a client's API holds: one line for each, and the exit status of all of them."""
import asyncio
import inspect
import sys
import time
import traceback


class Table:
    """Checks in the order of their definition, run one by one."""

    def __init__(self):
        self.checks = []

    def check(self, name):
        def add(function):
            self.checks.append((name, function))
            return function

        return add

    def run(self):
        """Prints `ok NAME` or `FAIL NAME: why` for each check and ends the program. A third argument picks checks by a part of
        their names.
        """
        bad = 0
        loop = asyncio.new_event_loop()
        wanted = sys.argv[3] if len(sys.argv) > 3 else ""
        self.checks = [check for check in self.checks if wanted in check[0]]
        for name, function in self.checks:
            try:
                outcome = function()
                if inspect.isawaitable(outcome):
                    loop.run_until_complete(asyncio.wait_for(outcome, 120))
                print("ok  ", name, flush=True)
            except Exception as error:
                bad += 1
                print("FAIL", name + ":", type(error).__name__, str(error)[:400].replace("\n", " "), flush=True)
                traceback.print_exc(limit=-3, file=sys.stderr)
        print(f"{len(self.checks) - bad} of {len(self.checks)} checks hold")
        sys.exit(1 if bad else 0)


def eventually(attempt, seconds=120):
    """What `attempt` gives, as soon as it gives something."""
    end = time.monotonic() + seconds
    while True:
        found = attempt()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def raises(kind, function, **wanted):
    """Calls `function`, which must raise `kind` with these attributes, and gives the exception."""
    try:
        function()
    except kind as error:
        for name, value in wanted.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}, not {value!r}"
        return error
    raise AssertionError(f"accepted, where {kind.__name__} belongs")
