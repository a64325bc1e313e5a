"""`python -m slowflow_cli`, which launchers such as torchrun start."""

from slowflow_cli.main import main

main()
