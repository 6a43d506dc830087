"""The door `reporters`, by entry point: findings.csv, a line for each budget on each slice."""

import csv
import io


class CsvReporter:
    """`gate run` writes it into the run's folder; `--format csv` prints it."""

    key = "csv"
    filename = "findings.csv"

    def render(self, record):
        """It reads the record and nothing else."""
        lines = io.StringIO()
        table = csv.writer(lines)
        table.writerow(["model", "budget", "slice", "outcome", "blocking", "reason"])
        for found in record.verdict.findings:
            slice_ = found.slice or ""
            words = [record.policy.model, found.budget, slice_, found.outcome]
            table.writerow([*words, found.blocking, found.reason])
        return lines.getvalue()


REPORTER = CsvReporter()
