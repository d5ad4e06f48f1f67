"""Times whole processes in alternation, with the operating system's own accounting of each."""

import os
import pathlib
import statistics
import subprocess
import sys
import time


def run_once(command):
    """Runs a command; returns (seconds, peak resident MB, exit code)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code != 0:
        sys.stderr.write(error.decode(errors="replace")[-2000:])
    return seconds, usage.ru_maxrss / 1024, code


def alternate(commands, runs, warmup=1, targets=()):
    """commands: {name: argv or callable that returns argv}. Runs them in turn; returns {name: (seconds, peak MB)}
    medians. A command that fails is dropped after its first failure and reported as None. `targets`: files that are
    removed before every run, so that none pays for those of another."""
    samples = {name: [] for name in commands}
    failed = set()
    for i in range(warmup + runs):
        for name, command in commands.items():
            if name in failed:
                continue
            for target in targets:
                pathlib.Path(target).unlink(missing_ok=True)
            seconds, peak, code = run_once(command() if callable(command) else command)
            if code != 0:
                failed.add(name)
            elif i >= warmup:
                samples[name].append((seconds, peak))
    return {
        name: None if name in failed else tuple(statistics.median(column) for column in zip(*rows))
        for name, rows in samples.items()
    }


def print_table(title, results, reference):
    """One row a command: median seconds, peak MB, and both as a ratio to the reference command."""
    print(f"\n{title}\n{'':28}{'seconds':>10}{'ratio':>8}{'peak MB':>10}{'ratio':>8}")
    base = results[reference]
    for name, row in results.items():
        if row is None:
            print(f"{name:28}{'failed':>10}")
            continue
        ratios = ("", "") if base is None else (f"{row[0] / base[0]:.1f}x", f"{row[1] / base[1]:.1f}x")
        print(f"{name:28}{row[0]:10.2f}{ratios[0]:>8}{row[1]:10.0f}{ratios[1]:>8}")
