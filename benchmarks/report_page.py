"""How long does a run's page take to write, to open, and to search? Needs a Chromium.

    ./launch.sh benchmarks/report_page.py                                     10,000 rollouts of 200 tokens on average
    ./launch.sh benchmarks/report_page.py --steps 200 --rollouts 512 --tokens 1000    a record beyond the page's limits

A record of random tokens, weights and rewards is written, `rlft report` runs in a process of its own (its processor
time and its peak memory are measured), and a headless browser opens the page over its debugging pipe: `opened` is from
the navigation to the first group on the screen, `searched` a search for a text through all rollouts of the page, both
wall time in seconds; `load` is the machine's load average meanwhile.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlft.record import RolloutLog, RolloutRow, record_dir
from rlft.tiny.tokenizer import char_tokenizer

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
GROUP = 8
OPENED = "!!document.querySelector('.rollout')"
SEARCH = """(async () => {
  const started = performance.now(), said = () => document.getElementById('found').textContent;
  document.getElementById('text').value = 'zz9';
  document.getElementById('find').requestSubmit();
  while (!said().includes('hold it')) await new Promise(later => setTimeout(later, 10));
  return (performance.now() - started) / 1000;
})()"""


class Browser:
    """A headless browser, asked over its debugging pipe (messages of JSON, each ended by a zero byte)."""

    def __init__(self, command: str) -> None:
        (there, self._write), (self._read, back) = os.pipe(), os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe about:blank"
        shell = f"exec {command} {flags} 3<&{there} 4>&{back} 2>/dev/null"
        self.process = subprocess.Popen(["bash", "-c", shell], pass_fds=(there, back))
        os.close(there)
        os.close(back)
        self._session, self._number, self._rest = "", 0, b""
        page = next(one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message | session).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 1 << 16)
            answer, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(answer)
            if found.get("id") == self._number:
                return dict(found["result"])

    def value(self, script: str) -> Any:
        """Value of an expression in the page."""
        asked = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return asked["result"].get("value")


def write_record(folder: Path, steps: int, rollouts: int, tokens: int) -> None:
    """Random rollouts, half to one and a half times `tokens` long."""
    log, noise, tokenizer = RolloutLog(record_dir(folder), 0), random.Random(0), char_tokenizer()
    tokenizer.save_pretrained(folder)
    for step in range(steps):
        rows = []
        for number in range(rollouts):
            ids = [noise.randrange(5, 95) for _ in range(noise.randrange(tokens // 2, tokens * 3 // 2))]
            reward, weights = float(noise.random() < 0.5), [noise.lognormvariate(0, 0.4) for _ in ids]
            row = RolloutRow(
                step, step, number // GROUP, f"question {step}.{number // GROUP}", tokenizer.decode(ids), ids,
                {"exact": reward}, reward, reward - 0.5, weights, "stop", "t" * len(ids), {"exact": 0.1},
            )  # fmt: skip
            rows.append(row)
        log.append(rows)


def write_page(folder: Path) -> dict[str, float]:
    """Processor seconds and peak memory of `rlft report`, and the size of the page."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "rlft", "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "written_cpu_seconds": round(seconds, 2),
        "peak_mb": round(after.ru_maxrss / 1000),
        "page_mb": round((folder / "report.html").stat().st_size / 1e6, 2),
    }


def look(page: Path, command: str) -> dict[str, Any]:
    """Seconds to open and to search, and what the page says it lists."""
    browser = Browser(command)
    try:
        started = time.perf_counter()
        browser.ask("Page.navigate", url=page.as_uri())
        while not browser.value(OPENED):
            time.sleep(0.01)
        opened = time.perf_counter() - started
        listed = browser.value("document.getElementById('found').textContent")
        return {"opened": round(opened, 2), "searched": round(browser.value(SEARCH), 2), "listed": listed}
    finally:
        browser.process.kill()
        browser.process.wait()


def main() -> None:
    """Write, open, search; print and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rollouts", type=int, default=200, help="of a step")
    parser.add_argument("--tokens", type=int, default=200, help="of a rollout, on average")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/report_page.json")
    options = parser.parse_args()
    command = next(filter(None, map(shutil.which, BROWSERS)), None)
    if command is None:
        sys.exit(f"error: no browser; install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), options.steps, options.rollouts, options.tokens)
        recorded = sum(path.stat().st_size for path in (Path(folder) / "record").iterdir())
        found = {
            "settings": {name: getattr(options, name) for name in ("steps", "rollouts", "tokens")},
            "record_mb": round(recorded / 1e6, 2),
            **write_page(Path(folder)),
            **look(Path(folder) / "report.html", command),
            "load": os.getloadavg()[0],
        }
    kept = json.loads(options.output.read_text()) if options.output.exists() else []
    same = [one for one in kept if one["settings"] != found["settings"]]
    options.output.write_text(json.dumps([*same, found], indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
