"""A real Prometheus in a namespace, with rules whose waiting is shortened, and what it says."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from support.traffic import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from mcrelay.commands.lab import Namespace

ADDRESS = "127.0.0.1:19090"
CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: mcrelay
    static_configs: [{{targets: ["{target}"]}}]
"""
# What an alert waits for, and what stands for it here: nothing else of the file is changed.
SHORTER = (
    (r"for: \w+", "for: 1s"),
    (r"\[\w+\]", "[5s]"),
    (r"(last_packet_timestamp_seconds) > 30", r"\1 > 3"),
    (r"(querier_last_seen_timestamp_seconds) > 260", r"\1 > 3"),
)


def shortened(rules: str) -> str:
    """The alert rules with everything that they wait for made seconds."""
    for pattern, short in SHORTER:
        rules, count = re.subn(pattern, short, rules)
        assert count, f"nothing in the alert rules is {pattern}"
    return rules


def filled_in(expression: str, interval: str) -> str:
    """A query of the dashboard as Grafana would ask it, with All chosen."""
    for variable in ("$instance", "$rule"):
        expression = expression.replace(variable, ".*")
    return expression.replace("$__rate_interval", interval)


def installed() -> bool:
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


class Prometheus:
    """It scrapes one relay twice a second, as long as it is open."""

    def __init__(self, namespace: Namespace, rules: str, folder: Path, target: str) -> None:
        self._namespace = namespace
        (folder / "alerts.yml").write_text(rules)
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=folder / "alerts.yml", target=target))
        with (folder / "prometheus.log").open("w") as log:
            self._child = namespace.popen(
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={ADDRESS}", stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Prometheus:
        wait_for(lambda: self.query("up == 1"), "a scrape", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(timeout=20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression comes to now (prometheus.io, HTTP API); nothing while nobody answers."""
        found = self._ask("query?" + urllib.parse.urlencode({"query": expression}))
        return found["data"]["result"] if found else []

    def history(self, expression: str, seconds: int) -> list[dict[str, Any]]:
        """What an expression came to in each of the last seconds."""
        end = time.time()
        asked = {"query": expression, "start": end - seconds, "end": end, "step": 1}
        return self._ask("query_range?" + urllib.parse.urlencode(asked))["data"]["result"]

    def firing(self) -> dict[str, dict[str, str]]:
        """The alerts that fire, by name, with their labels."""
        found = self._ask("alerts")
        alerts = found["data"]["alerts"] if found else []
        return {each["labels"]["alertname"]: each["labels"] for each in alerts if each["state"] == "firing"}

    def _ask(self, what: str) -> Any:
        def answer() -> Any:
            try:
                with urllib.request.urlopen(f"http://{ADDRESS}/api/v1/{what}", timeout=10) as got:
                    return json.load(got)
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # it starts
                    return None
                raise AssertionError(f"{what}: {error.read().decode()}") from error
            except OSError:
                return None

        return self._namespace.call(answer)
