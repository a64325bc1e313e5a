"""The command line of SlowFlow, installed as `slowflow_cli`. Verbs parse, call the library and print; no logic here."""
