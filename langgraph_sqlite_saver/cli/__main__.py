"""`python -m langgraph_sqlite_saver.cli` is `langgraph-sqlite`."""

from . import main

main()
