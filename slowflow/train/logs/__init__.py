"""Where the numbers of a training go while it runs; the registry finds every module of this folder."""

from slowflow.train.logs.base import EVERY, LOGS, Log, Numbers, check, open_logs

__all__ = ["EVERY", "LOGS", "Log", "Numbers", "check", "open_logs"]
