"""Runs programs as children and tells what each one took: time, memory, and how quiet the box was."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# Lines of a failed child's own words that are shown.
SHOWN_LINES = 8


class Failed(Exception):
    """A child could not be started, ran too long, or did not end well."""


@dataclass
class Outcome:
    """What one child left behind."""

    command: list
    output: str
    errors: str
    wall_s: float
    # Largest resident set over the child's life, as the kernel counts it.
    peak_bytes: int
    # Share of all cores that other processes took meanwhile; None where the system does not say.
    others_share: float | None


def run(command: list, timeout_s: float, given: str = "") -> Outcome:
    """Runs `command` to its end with `given` as its standard input.

    Raises `Failed` with the command and the child's last words.
    """
    command = [str(word) for word in command]
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output, \
            tempfile.TemporaryFile() as errors:
        source.write(given.encode())
        source.seek(0)
        busy_before, began = busy_seconds(), time.monotonic()
        try:
            # A session of its own: Linux shares out the processor by session, so a child in ours
            # would be weighed against whatever else this terminal runs.
            child = subprocess.Popen(command, stdin=source, stdout=output, stderr=errors,
                                     start_new_session=True)
        except OSError as error:
            raise Failed(f"cannot start {command[0]}: {error.strerror}") from error
        usage = wait(child, timeout_s)
        wall_s = time.monotonic() - began
        words = []
        for file in (output, errors):
            file.seek(0)
            words.append(file.read().decode(errors="replace"))
    own_s = usage.ru_utime + usage.ru_stime
    outcome = Outcome(command, *words, wall_s, peak_bytes(usage),
                      others_share(busy_before, own_s, wall_s))
    if child.returncode != 0:
        raise Failed(failure(outcome, child.returncode, timeout_s))
    return outcome


class Server:
    """A child that answers until it is told to stop."""

    def __init__(self, command: list):
        """Raises `Failed` where it cannot be started."""
        self.command = [str(word) for word in command]
        self.output, self.errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.busy_before, self.asker_before = busy_seconds(), time.process_time()
        self.began = time.monotonic()
        try:
            # A session of its own, as in `run`.
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                          stdout=self.output, stderr=self.errors,
                                          start_new_session=True)
        except OSError as error:
            raise Failed(f"cannot start {self.command[0]}: {error.strerror}") from error

    def has_ended(self) -> bool:
        # The child is left to be waited for: only that tells what it took.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self.child.returncode is not None or bool(os.waitid(os.P_PID, self.child.pid, flags))

    def end(self):
        """Ends it at once, where it has not ended."""
        if self.child.returncode is None:
            kill(self.child.pid)
            self.child.wait()

    def stop(self, timeout_s: float) -> Outcome:
        """Asks it to end and waits. Raises `Failed` where it had ended, or does not end well."""
        ended_alone = self.has_ended()
        if not ended_alone:
            self.child.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        usage = wait(self.child, timeout_s)
        ended = time.monotonic()
        words = []
        for file in (self.output, self.errors):
            file.seek(0)
            words.append(file.read().decode(errors="replace"))
            file.close()
        # What this process took was for the server's sake.
        own_s = usage.ru_utime + usage.ru_stime + time.process_time() - self.asker_before
        outcome = Outcome(self.command, *words, ended - self.began, peak_bytes(usage),
                          others_share(self.busy_before, own_s, ended - self.began))
        code = self.child.returncode
        if ended_alone or code not in (0, -signal.SIGTERM):
            late = Outcome(self.command, *words, ended - asked, 0, None)
            raise Failed(failure(late, code, timeout_s))
        return outcome


def wait(child: subprocess.Popen, timeout_s: float):
    """Waits as `Popen.wait` does, and gives what the kernel counted for this child alone."""
    # A timer, not a loop of questions: nothing wakes up beside the child while it is timed.
    timer = threading.Timer(timeout_s, kill, [child.pid])
    timer.daemon = True
    timer.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        kill(child.pid)
        child.wait()
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage


def kill(group: int):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def failure(outcome: Outcome, code: int, timeout_s: float) -> str:
    if outcome.wall_s >= timeout_s:
        why = f"took longer than {timeout_s:g} s (--timeout) and was ended"
    elif code < 0:
        why = f"was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            why += "; the system does that when memory runs out"
    else:
        why = f"ended with code {code}"
    lines = (outcome.errors.strip() or outcome.output.strip()).splitlines()[-SHOWN_LINES:]
    return "\n  ".join([f"{' '.join(outcome.command)}", why, *lines])


def peak_bytes(usage) -> int:
    # Linux counts in KiB, macOS in bytes.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the system started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def others_share(busy_before: float | None, own_s: float, wall_s: float) -> float | None:
    # The kernel counts in hundredths: shorter runs say nothing.
    if busy_before is None or wall_s < 1:
        return None
    others = busy_seconds() - busy_before - own_s
    return max(0.0, others / (wall_s * os.cpu_count()))
